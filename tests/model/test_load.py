"""The one door in: what comes through, and what is turned away with a sentence."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from edgeopt.errors import UsageError
from edgeopt.model import Meta, Preprocess
from edgeopt.model.export import export_module
from edgeopt.model.load import load_model, read_onnx, save_model
from edgeopt.model.reference import ModelRef
from edgeopt.model.runtime import open_session, run


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, bias=False)
        self.bn = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def dense(weight: np.ndarray) -> onnx.ModelProto:
    """y = x @ weight."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_an_exported_module_keeps_names_batchnorm_and_a_free_batch() -> None:
    net = Net().eval()
    model = export_module(net, torch.zeros(2, 3, 8, 8))
    names = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    assert names <= set(model.weights())
    assert [node.op_type for node in model.graph.graph].count("BatchNormalization") == 1
    assert model.inputs[0].shape == ("batch", 3, 8, 8)
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = net(x).numpy()
    np.testing.assert_allclose(run(open_session(model), x.numpy())[0], expected, atol=1e-5)


def test_no_bias_is_invented_and_the_module_is_left_as_it_was() -> None:
    net = Net().train()
    model = export_module(net, torch.zeros(2, 3, 8, 8))
    conv = next(node for node in model.graph.graph if node.op_type == "Conv")
    assert len(conv.inputs) == 2
    assert net.training


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    meta = Meta(labels=("a", "b"), preprocess=Preprocess(size=(8, 8), mean=(0.5,), std=(0.2,)))
    model = export_module(Net(), torch.zeros(2, 3, 8, 8), meta)
    save_model(model, tmp_path / "net.onnx")
    again = read_onnx(tmp_path / "net.onnx")
    assert again.meta == meta
    assert again.fingerprint() == model.fingerprint()
    onnx.checker.check_model(str(tmp_path / "net.onnx"), full_check=True)


def test_random_weights_are_drawn_from_the_seed() -> None:
    def first(seed: int) -> np.ndarray:
        model = load_model("edgeopt:residual", settings={"width": 4, "blocks": (1,)}, seed=seed)
        return next(array for array in model.weights().values() if array.ndim == 4)

    np.testing.assert_array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2))


def external(folder: Path, location: str) -> Path:
    """The dense model with its weight in `location`; the data itself lies in `folder / "w.bin"`."""
    proto = dense(WEIGHT)
    (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    tensor = proto.graph.initializer[0]
    external_data_helper.set_external_data(tensor, location=location)
    tensor.ClearField("raw_data")
    path = folder / "dense.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    model = read_onnx(external(tmp_path, "w.bin"))
    np.testing.assert_array_equal(model.weights()["w"], WEIGHT)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "", "a/../../w.bin"])
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(UsageError, match="points outside the model's folder"):
        read_onnx(external(folder, location))


def test_a_symbolic_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    path = external(folder, "link.bin")
    (folder / "link.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match="points outside"):
        read_onnx(path)


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'gone.bin' is missing"):
        read_onnx(external(tmp_path, "gone.bin"))


def test_truncated_external_data_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    (tmp_path / "w.bin").write_bytes(b"\x00" * 4)
    with pytest.raises(UsageError, match=r"dense.onnx"):
        read_onnx(path)


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x08\x09", bytes(range(256)) * 20])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"x.onnx: is"):
        read_onnx(path)


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = dense(WEIGHT).SerializeToString()
    path = tmp_path / "x.onnx"
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError):
            read_onnx(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    weight = WEIGHT.copy()
    weight[0, 0] = value
    path = tmp_path / "x.onnx"
    path.write_bytes(dense(weight).SerializeToString())
    with pytest.raises(UsageError, match=r"weight 'w' has 1 of 6 values that are NaN or infinite"):
        read_onnx(path)


def padded_and_masked(filler: float, masked: float) -> onnx.ModelProto:
    """A maximum over an image padded with `filler`, and scores of which a mask hides some."""
    graph = onnx.parser.parse_graph(
        """test (float[N,1,2,2] x, float[N,2,2] s) => (float[N,1,2,2] y, float[N,2,2] p) {
           padded = Pad(x, pads, filler) y = MaxPool<kernel_shape=[3,3]>(padded)
           hidden = Add(s, mask) p = Softmax(hidden) }"""
    )
    arrays = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "filler": np.array(filler, np.float32)}
    arrays["mask"] = np.array([[0, masked], [0, 0]], np.float32)
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def test_infinities_that_pad_and_mask_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(padded_and_masked(-np.inf, -np.inf).SerializeToString())
    model = read_onnx(path)
    assert np.isneginf(model.weights()["filler"])
    feeds = {"x": np.zeros((1, 1, 2, 2), np.float32), "s": np.zeros((1, 2, 2), np.float32)}
    y, p = run(open_session(model), feeds)
    assert not y.any()
    np.testing.assert_array_equal(p, [[[1, 0], [0.5, 0.5]]])


@pytest.mark.parametrize(
    ("filler", "masked", "named"), [(np.nan, 0, "filler"), (0, np.inf, "mask"), (0, np.nan, "mask")]
)
def test_what_no_padding_or_mask_holds_is_refused(tmp_path: Path, filler: float, masked: float, named: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(padded_and_masked(filler, masked).SerializeToString())
    with pytest.raises(UsageError, match=f"weight '{named}' has 1 of"):
        read_onnx(path)


FACTORY = """
import torch
def net(width=4):
    m = torch.nn.Sequential(torch.nn.Conv2d(1, width, 3), torch.nn.Flatten(), torch.nn.Linear(width * 36, 10))
    m.input_shape = (1, 8, 8)
    return m
def shapeless(): return torch.nn.Linear(3, 3)
def wrong(): return 7
def broken(): return 1 / 0
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(FACTORY)
    return path


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_factory_takes_settings_and_weights(factory: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    state = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3), torch.nn.Flatten(), torch.nn.Linear(216, 10)).state_dict()
    weights = factory.with_suffix(f".{suffix}")
    if suffix == "pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, weights)
    else:
        save_file(state, weights)
    model = load_model(f"{factory}:net", weights=str(weights), settings={"width": 6})
    np.testing.assert_array_equal(model.weights()["0.weight"], state["0.weight"].numpy())


def test_weights_that_do_not_fit_are_named(factory: Path) -> None:
    weights = factory.with_suffix(".pt")
    torch.save({"0.weight": torch.zeros(9, 1, 3, 3)}, weights)
    with pytest.raises(UsageError, match=r"tensors have another shape \(0.weight"):
        load_model(f"{factory}:net", weights=str(weights))


def test_a_pickle_that_would_run_code_does_not(factory: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (__import__("os").system, (f"touch {factory.parent}/ran",))

    weights = factory.with_suffix(".pt")
    torch.save({"0.weight": Evil()}, weights)
    with pytest.raises(UsageError, match="cannot be read as a state dict"):
        load_model(f"{factory}:net", weights=str(weights))
    assert not (factory.parent / "ran").exists()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("shapeless", "input_shape"),
        ("wrong", "returned int, not a torch.nn.Module"),
        ("broken", r"ZeroDivisionError.*net.py:9"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_a_factory_that_does_not_work_is_one_sentence(factory: Path, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_model(f"{factory}:{name}")


def test_a_program_is_read(tmp_path: Path) -> None:
    net = Net().eval()
    path = tmp_path / "net.pt2"
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=dynamic), path)
    model = load_model(str(path))
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        np.testing.assert_allclose(run(open_session(model), x.numpy())[0], net(x).numpy(), atol=1e-5)


def test_a_damaged_program_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"PK nothing")
    with pytest.raises(UsageError, match=r"torch\.export\.save"):
        load_model(str(tmp_path / "net.pt2"))


def test_published_weights_that_cannot_be_fetched_say_what_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UsageError, match=r"could not be downloaded .*--weights none"):
        load_model("torchvision:squeezenet1_1")


def test_other_weights_in_the_data_file_are_another_model(tmp_path: Path) -> None:
    reference = ModelRef(source=str(external(tmp_path, "w.bin")))
    before = reference.fingerprint()
    (tmp_path / "w.bin").write_bytes((WEIGHT + 1).tobytes())
    assert reference.fingerprint() != before


def test_a_download_does_not_write_among_the_results(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def announce(*_: object, **__: object) -> None:
        sys.stdout.write("Downloading: ...")
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models.get_model", announce)
    with pytest.raises(UsageError, match="could not be downloaded"):
        load_model("torchvision:resnet18")
    assert capsys.readouterr().out == ""
