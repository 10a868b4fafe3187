"""Arrays by the names of a model's inputs, out of one .npz."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from edgeopt.data import Data, DataSpec, load_data
from edgeopt.errors import UsageError
from edgeopt.measure import evaluate, one_input
from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run

rng = np.random.default_rng(5)
IDS = rng.integers(0, 9, (20, 6))
MASK = rng.integers(0, 2, (20, 6))


@pytest.fixture
def model() -> Model:
    """Two logits: sums over the words that the mask leaves."""
    text = """<ir_version: 9, opset_import: ["" : 20]>
        net (int64[batch,length] ids, int32[batch,length] mask) => (float[batch,2] y) {
            numbers = Cast<to = 1>(ids)
            seen = Cast<to = 1>(mask)
            kept = Mul(numbers, seen)
            axis = Constant<value_ints = [1]>()
            total = ReduceSum<keepdims = 1>(kept, axis)
            negative = Neg(total)
            y = Concat<axis = 1>(total, negative)
        }"""
    return Model(Model.from_proto(onnx.parser.parse_model(text)).graph)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save(**arrays: np.ndarray) -> Path:
        np.savez(tmp_path / "ids.npz", **arrays)
        return tmp_path / "ids.npz"

    return save


def load(path: Path, model: Model) -> Data:
    return load_data(DataSpec(source=str(path)), model=model)


def test_each_input_gets_the_array_of_its_name_in_its_dtype(save: Callable[..., Path], model: Model) -> None:
    data = load(save(ids=IDS, mask=MASK, y=IDS[:, 0] % 2, other=np.zeros(3)), model)
    assert data.preprocess is None
    batch = next(data.train.batches(7))
    feeds = batch.feeds(["mask", "ids"])
    assert [array.dtype for array in feeds.values()] == [np.int32, np.int64]
    rows = data.train.index[batch.index]
    np.testing.assert_array_equal(feeds["ids"], IDS[rows])
    np.testing.assert_array_equal(feeds["mask"], MASK[rows])
    np.testing.assert_array_equal(batch.y, IDS[rows, 0] % 2)


def test_its_own_test_split(save: Callable[..., Path], model: Model) -> None:
    data = load(save(ids=IDS, mask=MASK, ids_test=IDS[:4] + 1, mask_test=MASK[:4]), model)
    assert (len(data.train), len(data.test)) == (20, 4)
    np.testing.assert_array_equal(next(data.test.batches(9)).feeds(["ids"])["ids"], IDS[:4] + 1)


def test_samples_that_are_test_samples_too_are_left_out_only_if_all_arrays_agree(
    save: Callable[..., Path], model: Model
) -> None:
    data = load(save(ids=IDS, mask=MASK, ids_test=IDS[:4], mask_test=np.append(MASK[:3], 1 - MASK[3:4], 0)), model)
    assert len(data.train) == 17


def test_the_fingerprint_follows_content_and_names(save: Callable[..., Path], model: Model) -> None:
    first = load(save(ids=IDS, mask=MASK), model).fingerprint
    assert load(save(mask=MASK, ids=IDS), model).fingerprint == first
    assert load(save(ids=IDS, mask=1 - MASK), model).fingerprint != first
    assert load(save(ids=MASK, mask=IDS), model).fingerprint != first


def test_x_will_do_for_the_only_input(save: Callable[..., Path]) -> None:
    text = """<ir_version: 9, opset_import: ["" : 20]>
        net (int64[batch,6] tokens) => (float[batch,6] y) { y = Cast<to = 1>(tokens) }"""
    model = Model(Model.from_proto(onnx.parser.parse_model(text)).graph)
    for name in ("x", "tokens"):
        data = load(save(**{name: IDS, f"{name}_test": IDS[:2] + 1}), model)
        assert next(data.test.batches(2)).feeds(["tokens"])["tokens"].tolist() == (IDS[:2] + 1).tolist()


def test_floats_by_the_inputs_name_are_one_array(save: Callable[..., Path], make_model: Callable[..., Model]) -> None:
    model = make_model("3,4,4")
    model.graph.graph.inputs[0].name = "pixels"
    data = load(save(pixels=rng.random((6, 3, 4, 4))), model)
    assert next(data.train.batches(2)).x.dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"ids": IDS}, "has no array mask, which is an input of the model \\(it has ids\\)"),
        ({"ids": IDS.astype(np.float32), "mask": MASK}, "ids: is float32, the model's input is int64"),
        ({"ids": IDS, "mask": MASK[:9]}, "mask holds 9 samples, ids holds 20"),
        ({"ids": IDS, "mask": MASK + 2**40}, "mask: holds .* beyond int32"),
        ({"ids": IDS, "mask": MASK, "ids_test": IDS}, "has no array mask_test"),
        ({"ids": IDS, "mask": MASK[:, :, None]}, "mask: samples are 6 x 1, the model's input is length"),
        ({"ids": IDS, "mask": np.int64(3)}, "has shape \\[\\]"),
    ],
)
def test_files_that_are_refused(
    save: Callable[..., Path], model: Model, arrays: dict[str, np.ndarray], found: str
) -> None:
    with pytest.raises(UsageError, match=found):
        load(save(**arrays), model)


def test_what_trains_says_that_it_takes_one_array(save: Callable[..., Path], model: Model) -> None:
    data = load(save(ids=IDS, mask=MASK), model)
    with pytest.raises(UsageError, match="leave out the stages that train"):
        data.train.raw(np.arange(2))


def test_sessions_are_measured_on_them(save: Callable[..., Path], model: Model) -> None:
    data = load(save(ids=IDS, mask=MASK, y=np.zeros(20, int)), model)
    session = open_session(model)
    outcome = evaluate({"a": session, "b": open_session(model)}, data.test, reference="a", batch_size=3)["b"]
    rows = data.test.index
    assert outcome.answers.tolist() == ((IDS[rows] * MASK[rows]).sum(axis=1) < 0).astype(int).tolist()
    assert outcome.accuracy == 1
    shown = one_input(session, data.test)
    assert shown["ids"].tolist() == IDS[rows[:1]].tolist()
    assert run(session, one_input(session))[0].tolist() == [[0, 0]]
