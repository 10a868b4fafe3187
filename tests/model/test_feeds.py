"""Made-up inputs that a graph can be tried on: several of them, ids in range, masks that hide nothing."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.feeds import random_feeds
from edgeopt.model.load import load_model
from edgeopt.model.runtime import open_session, run
from edgeopt.model.simplify import simplify, try_out


def parse(text: str, **weights: np.ndarray) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return Model.from_proto(proto)


LOOK_UP = """agraph (int64[n, s] ids, int32[n, s] kinds, int64[n, s] mask, bool[n] flag) => (float[n, s, 4] y) {
    flat = Cast <to = 7> (kinds)
    a = Gather <axis = 0> (table, ids)
    b = Gather <axis = 0> (small, flat)
    y = Add (a, b)
}"""


def test_ids_are_in_range_and_masks_are_one() -> None:
    model = parse(LOOK_UP, table=np.ones((500, 4), np.float32), small=np.ones((2, 4), np.float32))
    feeds = random_feeds(model, 16)
    assert {name: array.shape for name, array in feeds.items()} == {
        "ids": (16, 8),
        "kinds": (16, 8),
        "mask": (16, 8),
        "flag": (16,),
    }
    assert feeds["ids"].max() > 100
    assert feeds["ids"].max() < 500
    assert set(np.unique(feeds["kinds"])) == {0, 1}
    assert feeds["kinds"].dtype == np.int32
    assert (feeds["mask"] == 1).all()
    assert feeds["flag"].all()
    run(open_session(model), feeds)


def test_one_name_has_one_size_and_images_are_images() -> None:
    model = parse(
        "agraph (float[n, 3, h, w] x, float[n, h] rows, uint8[n, 4, 4] y) => (float[n, 3, h, w] z) { z = Relu (x) }"
    )
    feeds = random_feeds(model, 2, side=32)
    assert feeds["x"].shape == (2, 3, 32, 32)
    assert feeds["rows"].shape == (2, 32)
    assert feeds["y"].max() > 100


def test_a_size_that_the_network_takes_is_found() -> None:
    """A convolution of 100 pixels cannot run on 64."""
    model = parse(
        "agraph (float[n, 1, h, w] x) => (float[n, 1, p, q] y) { y = Conv (x, k) }",
        k=np.ones((1, 1, 100, 100), np.float32),
    )
    feeds, outputs = try_out(model, 1)
    assert feeds["x"].shape == (1, 1, 224, 224)
    assert outputs[0].shape == (1, 1, 125, 125)


def test_what_never_runs_is_refused_in_the_runtimes_words() -> None:
    model = parse("agraph (float[n, 3] x) => (float[n, 3] y) { y = Reshape (x, s) }", s=np.array([7, 7]))
    with pytest.raises(StageFailed, match="could not run the model"):
        try_out(model, 2)


@pytest.mark.slow
def test_an_encoder_with_three_inputs_is_exported_from_its_code(tmp_path) -> None:
    """`example_inputs` and `dynamic_axes` on the module say what it takes."""
    from pathlib import Path

    import torch
    from encoder import encoder, ids

    reference = f"{Path(__file__).parents[1] / 'encoder.py'}:encoder"
    model = load_model(reference, settings={"width": 64, "layers": 1})
    assert [(info.name, info.shape, info.dtype) for info in model.inputs] == [
        (name, ("batch", "sequence"), np.dtype(np.int64)) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    x = ids(5, 13)
    expected = encoder(width=64, layers=1)(**{name: torch.from_numpy(array) for name, array in x.items()})
    np.testing.assert_allclose(run(open_session(model), x)[0], expected.detach().numpy(), atol=1e-5)
    simple = simplify(model)
    assert len(list(simple.graph.graph)) > 20
    np.testing.assert_allclose(run(open_session(simple), x)[0], expected.detach().numpy(), atol=1e-5)
