"""What users get wrong, or what is broken: one sentence, exit code 2 or 3, and existing outputs as they were."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image
from typer.testing import CliRunner, Result

from edgeopt.cli import app
from edgeopt.model.load import load_model, save_model

SIZE = 8
TINY_TIER = "description: too small\nprecisions: [int8]\ndynamic_batch: false\nmax_bytes: 1KB\n"


def edgeopt(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def snapshot(folder: Path) -> dict[str, str]:
    """Hash of every published file."""
    files = [path for path in folder.rglob("*") if path.is_file() and "stages" not in path.parts]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def sentence(result: Result, code: int) -> str:
    """The one sentence on stderr; fails on another exit code or on a traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("edgeopt: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small float network for 8x8 gray images, untrained."""
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    settings = {"channels": 1, "size": SIZE, "width": 4, "blocks": [1]}
    save_model(load_model("edgeopt:residual", settings=settings), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """120 labelled 8x8 gray images in ten classes."""
    random = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


def test_a_misspelt_key_is_named_with_file_and_line(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: edgeopt:residual\nstages:\n  - kind: prune\n    target: params=-20%\n    criterium: l2\n")
    said = sentence(edgeopt("run", recipe, "--out", tmp_path / "out"), 2)
    assert "mine.yaml:5" in said
    assert "did you mean 'criterion'" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"not a model", "is not an ONNX"), (b"", "is not an ONNX")],
)
def test_a_missing_or_foreign_model(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    assert said in sentence(edgeopt("quantize", path, "--data", "digits", "--out", tmp_path / "out"), 2)


def test_a_truncated_model(tmp_path: Path, net: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(net.read_bytes()[:-500])
    assert "x.onnx" in sentence(edgeopt("quantize", path, "--data", "digits", "--out", tmp_path / "out"), 2)


def test_a_model_with_nan_weights(tmp_path: Path, net: Path) -> None:
    proto = onnx.load(net)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "classifier.weight")
    array = numpy_helper.to_array(weight).copy()
    array[0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(proto, tmp_path / "nan.onnx")
    said = sentence(edgeopt("quantize", tmp_path / "nan.onnx", "--data", "digits", "--out", tmp_path / "out"), 2)
    assert "'classifier.weight' has 1 of" in said


def test_an_already_quantized_model(tmp_path: Path, net: Path) -> None:
    assert edgeopt("quantize", net, "--data", "digits", "--samples", "16", "--out", tmp_path / "once").exit_code == 0
    before = snapshot(tmp_path / "once")
    again = edgeopt("quantize", tmp_path / "once" / "model.onnx", "--data", "digits", "--out", tmp_path / "x")
    said = sentence(again, 2)
    assert "quantized already" in said or "already quantized" in said
    assert snapshot(tmp_path / "once") == before
    target = ("--target", "params=-20%", "--epochs", "0")
    pruned = edgeopt("prune", tmp_path / "once" / "model.onnx", *target, "--out", tmp_path / "y")
    assert "quantized already" in sentence(pruned, 2)
    exported = edgeopt("export", tmp_path / "once" / "model.onnx", "--tier", "gpu", "--out", tmp_path / "gpu")
    assert "give the float model" in sentence(exported, 3)


def test_an_empty_folder_and_one_without_images(tmp_path: Path, net: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in sentence(edgeopt("quantize", net, "--data", empty, "--out", tmp_path / "out"), 2)
    (empty / "notes.txt").write_text("no image")
    assert "image" in sentence(edgeopt("quantize", net, "--data", empty, "--out", tmp_path / "out"), 2)
    assert "missing" in sentence(edgeopt("quantize", net, "--data", tmp_path / "missing", "--out", tmp_path / "out"), 2)


def test_one_corrupt_image_is_named_and_counted_and_not_fatal(tmp_path: Path, net: Path, images: Path) -> None:
    (images / "3" / "5.png").write_bytes(b"\x89PNG broken")
    for label in range(10):  # 1 in 200 and more: below 1 %
        for number in range(12, 24):
            source = images / str(label) / f"{number - 12}.png"
            pixels = np.random.default_rng(100 * label + number).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
            Image.fromarray(pixels).save(source.with_name(f"{number}.png"))
    result = edgeopt("quantize", net, "--data", images, "--samples", "16", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    warnings = " ".join(result.stderr.split())
    assert "5.png" in warnings.replace(" ", "")
    assert "1 " in warnings


def test_many_corrupt_images_are_fatal(tmp_path: Path, net: Path, images: Path) -> None:
    for number in range(4):
        (images / "3" / f"{number}.png").write_bytes(b"\x89PNG broken")
    assert "4 of 120" in sentence(edgeopt("quantize", net, "--data", images, "--out", tmp_path / "out"), 2)


def test_more_classes_than_outputs(tmp_path: Path, net: Path, images: Path) -> None:
    (images / "another").mkdir()
    (images / "0" / "0.png").rename(images / "another" / "0.png")
    (images / "0" / "1.png").rename(images / "another" / "1.png")
    said = sentence(edgeopt("quantize", net, "--data", images, "--out", tmp_path / "out"), 2)
    assert "11" in said
    assert "10" in said


def test_arrays_of_another_shape(tmp_path: Path, net: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((20, 3, 16, 16), np.float32), y=np.zeros(20, np.int64))
    said = sentence(edgeopt("quantize", net, "--data", tmp_path / "x.npz", "--out", tmp_path / "out"), 2)
    assert "x.npz" in said


def test_a_tier_that_cannot_be_met_says_by_how_much_and_leaves_the_last_run_alone(tmp_path: Path, net: Path) -> None:
    tier, out = tmp_path / "tiny.yaml", tmp_path / "out"
    tier.write_text(TINY_TIER.replace("1KB", "100KB"))
    arguments = ("quantize", net, "--data", "digits", "--samples", "16", "--tier", tier, "--out", out)
    assert edgeopt(*arguments).exit_code == 0
    before = snapshot(out)
    assert len(before) >= 4
    tier.write_text(TINY_TIER)
    said = sentence(edgeopt(*arguments), 3)
    assert "over the limit of 1 KB" in said
    assert "heaviest tensors" in said
    assert snapshot(out) == before


def test_an_integer_tier_refuses_a_float_model(tmp_path: Path, net: Path) -> None:
    said = sentence(edgeopt("export", net, "--tier", "mcu", "--out", tmp_path / "out"), 3)
    assert "add a quantize stage" in said


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_run_alone(tmp_path: Path, net: Path) -> None:
    """A limit on the size of files stands in for a full disk: the same OSError out of the same write."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "edgeopt", "quantize", str(net), "--data", "digits", "--out", str(out)]
    assert subprocess.run([*command, "--samples", "16"], capture_output=True, check=False).returncode == 0
    before = snapshot(out)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    command += ["--samples", "17"]
    failed = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert failed.returncode == 3, failed.stderr
    assert "Traceback" not in failed.stderr
    assert "File too large" in failed.stderr
    assert snapshot(out) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody may write to")
def test_no_write_permission(net: Path) -> None:
    said = sentence(edgeopt("quantize", net, "--data", "digits", "--out", "/proc/edgeopt"), 2)
    assert "/proc/edgeopt" in said


def test_a_file_where_the_folder_should_be(tmp_path: Path, net: Path) -> None:
    (tmp_path / "out").write_text("mine")
    said = sentence(edgeopt("quantize", net, "--data", "digits", "--out", tmp_path / "out"), 2)
    assert "out" in said
    assert (tmp_path / "out").read_text() == "mine"


def test_a_negative_seed_is_refused_at_once(tmp_path: Path, net: Path) -> None:
    for command in (("run", "digits"), ("quantize", net), ("measure", net)):
        result = edgeopt(*command, "--seed", "-1")
        assert result.exit_code == 2, result.output
        assert "--seed" in result.output


def test_a_setting_is_shown_as_it_was_given(tmp_path: Path, net: Path) -> None:
    said = sentence(edgeopt("quantize", net, "--samples", "0", "--out", tmp_path / "out"), 2)
    assert "samples: 0 should be greater than or equal to 1" in said


@pytest.mark.parametrize("size", ["abc", "-3", "0"])
def test_a_size_that_is_none(size: str) -> None:
    command = ("inspect", "torchvision:resnet18", "--weights", "none", "--model-setting", f"size={size}")
    assert "give a whole number of pixels" in sentence(edgeopt(*command), 2)


def test_ctrl_c_says_how_to_go_on_and_only_where_that_is_true(
    tmp_path: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeopt.pipeline.run", stop)
    monkeypatch.setattr("edgeopt.model.load.read_onnx", stop)
    assert "the same command goes on" in sentence(edgeopt("export", net, "--out", tmp_path / "out"), 130)
    said = sentence(edgeopt("measure", net), 130)
    assert said == "edgeopt: stopped; nothing was written, the same command starts again"


def test_measure_names_the_model_that_the_images_do_not_fit(tmp_path: Path, net: Path) -> None:
    other = tmp_path / "color.onnx"
    settings = {"channels": 3, "size": SIZE, "width": 4, "blocks": [1]}
    save_model(load_model("edgeopt:residual", settings=settings), other)
    assert "color.onnx: samples are" in sentence(edgeopt("measure", net, other, "--data", "digits"), 2)
    assert "edgeopt export" in sentence(edgeopt("measure", tmp_path / "net.pt2"), 2)


def test_weights_beside_the_model_count_in_its_size(tmp_path: Path, net: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(onnx.load(net), path, save_as_external_data=True, location="net.data", size_threshold=128)
    both = sum(file.stat().st_size for file in tmp_path.iterdir())
    shown = edgeopt("inspect", path, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["size_bytes"] == both
    assert json.loads(edgeopt("measure", path, "--json").stdout)[0]["size_bytes"] == both


def test_a_network_with_settings_can_be_inspected_and_exported(tmp_path: Path) -> None:
    network = ("edgeopt:residual", *(f"--model-setting={entry}" for entry in ("channels=1", "size=8", "width=4")))
    shown = edgeopt("inspect", *network, "--json")
    assert json.loads(shown.stdout)["inputs"][0][1] == ["batch", 1, 8, 8]
    assert edgeopt("export", *network, "--out", tmp_path / "out").exit_code == 0
