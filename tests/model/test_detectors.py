"""Detectors as plain graphs: torchvision's own finds the same boxes in the same images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from edgeopt.errors import UsageError
from edgeopt.model.anchors import Anchors
from edgeopt.model.boxes import decode
from edgeopt.model.load import load_model, read_onnx, save_model
from edgeopt.model.runtime import open_session, run

SETTINGS = {"num_classes": 4, "size": 96}


@pytest.mark.slow
def test_torchvisions_ssdlite_finds_the_same_boxes(tmp_path):
    model = load_model("torchvision:ssdlite320_mobilenet_v3_large", weights="none", settings=SETTINGS, seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        detector = torchvision.models.get_model(
            "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4
        ).eval()
    detector.transform.fixed_size = (96, 96)
    anchors, preprocess = model.meta.anchors, model.meta.preprocess
    assert model.meta.task == "detection"
    assert model.outputs[0].shape[1:] == (anchors.count, 8)
    assert preprocess.mean == preprocess.std == (0.5, 0.5, 0.5)
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = detector(list(images))
    save_model(model, tmp_path / "model.onnx")
    back = read_onnx(tmp_path / "model.onnx")
    assert back.meta.anchors == anchors
    outputs = run(open_session(back), {model.inputs[0].name: ((images - 0.5) / 0.5).numpy()})[0]
    for own, other in zip(decode(torch.from_numpy(outputs), anchors), expected, strict=True):
        assert len(own["boxes"]) > 20
        torch.testing.assert_close(own["scores"], other["scores"], atol=1e-4, rtol=1e-3)
        # random weights give many equal scores: boxes are compared as sets of what is found anywhere
        assert abs(len(own["boxes"]) - len(other["boxes"])) <= 2


def test_a_module_with_anchors_is_a_detector(tmp_path):
    model = load_model("edgeopt:ssd", settings={"width": 4, "size": 32, "classes": 2, "blocks": [1, 1], "maps": 2})
    anchors = model.meta.anchors
    assert anchors.grids == ((8, 8), (4, 4))
    assert anchors.count == 4 * (64 + 16)
    assert model.outputs[0].shape == ("batch", anchors.count, 7)
    assert anchors.classes(model.outputs[0].shape) == 2
    outputs = run(open_session(model), {"input": np.zeros((3, 3, 32, 32), np.float32)})[0]
    assert all(len(own["boxes"]) == 0 for own in decode(torch.from_numpy(outputs), anchors))  # nothing learned yet


def test_the_order_of_places_is_that_of_the_anchors():
    """What the heads say of a place is read with the anchor of that place."""
    from edgeopt.model.boxes import default_boxes
    from edgeopt.networks import ssd

    network = ssd(classes=1, channels=1, size=32, width=2, blocks=(1, 1), maps=2).eval()
    channel = torch.arange(4 * 6.0).view(1, 24, 1, 1)
    place = 100 * torch.arange(6.0).view(1, 1, 2, 3)
    read = network._by_anchor(channel + place)
    assert read.shape == (1, 24, 6)
    assert read[0, 4 * 5 + 2].tolist() == [500 + 12 + value for value in range(6)]
    boxes = default_boxes(Anchors(size=(32, 48), grids=((2, 3),), scales=(0.2, 0.4), aspect_ratios=((2.0,),)))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    torch.testing.assert_close(centres[4 * 5 + 2], torch.tensor([40.0, 24.0]))


@pytest.mark.parametrize(
    "wrong",
    [{"scales": (0.2,)}, {"aspect_ratios": ()}, {"grids": ()}, {"steps": (8, 8)}, {"overlap": 0.0}],
    ids=lambda own: next(iter(own)),
)
def test_contradicting_anchors_are_refused(tmp_path, wrong):
    fields = {"size": (32, 32), "grids": ((2, 2),), "scales": (0.2, 0.4), "aspect_ratios": ((2.0,),)} | wrong
    source = (
        "import torch\n\ndef net():\n    module = torch.nn.Conv2d(3, 4, 1)\n    module.input_shape = (3, 32, 32)\n"
        f"    module.anchors = {fields!r}\n    return module\n"
    )
    (tmp_path / "net.py").write_text(source)
    with pytest.raises(UsageError, match="anchors"):
        load_model(f"{tmp_path}/net.py:net")
