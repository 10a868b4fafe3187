"""A text encoder, exported with an open length, from the command line: quantize, inspect, measure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from encoder import encoder, ids
from typer.testing import CliRunner, Result

from edgeopt.cli import app
from edgeopt.model.export import export_module
from edgeopt.model.load import read_onnx, save_model

LENGTH = 24


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder's file; `ids.npz` beside it has its inputs by name, and no labels."""
    folder = tmp_path_factory.mktemp("bert")
    module = encoder()
    save_model(export_module(module, module.example_inputs, dynamic_axes=module.dynamic_axes), folder / "bert.onnx")
    np.savez(folder / "ids.npz", **ids(48, LENGTH))
    return folder / "bert.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["static", "dynamic", "float"])
def test_an_encoder_is_quantized_end_to_end(activations: str, bert: Path, tmp_path: Path) -> None:
    data = bert.with_name("ids.npz")
    flags = ("--tier", "any", "--activations", activations, "--samples", 8, "--out", tmp_path)
    done = call("quantize", bert, "--data", data, *flags)
    assert done.exit_code == 0, done.output
    [row] = json.loads((tmp_path / "report.json").read_text())["tiers"]
    assert row["size_bytes"] < 0.5 * row["baseline"]["size_bytes"]
    assert row["agreement"] > 0.8
    assert row["sqnr_db"] > 15
    assert row["sizes"] == {"sequence": LENGTH}
    assert f"{100 * row['agreement']:.2f} %" in done.stdout
    assert f"sequence {LENGTH}" in (tmp_path / "report.md").read_text()
    inputs = read_onnx(tmp_path / "any" / "model.onnx").inputs
    assert [info.shape[1] for info in inputs] == ["sequence"] * 3  # the artifact takes any length


def test_inspect_says_the_length_that_its_figures_are_for(bert: Path) -> None:
    done = call("inspect", bert)
    assert done.exit_code == 0, done.output
    assert "for one input of sequence 8" in done.stdout
    facts = json.loads(call("inspect", bert, "--json").stdout)
    assert facts["sizes"] == {"sequence": 8}
    assert facts["macs"] > 8 * 2 * 12 * 128 * 128  # two layers of four square and two wide matrices for each token


def test_measure_takes_the_length_of_the_data(bert: Path) -> None:
    shown = call("measure", bert, "--data", bert.with_name("ids.npz"), "--json")
    assert shown.exit_code == 0, shown.output
    [with_data] = json.loads(shown.stdout)
    [without] = json.loads(call("measure", bert, "--json").stdout)
    assert with_data["sizes"] == {"sequence": LENGTH}
    assert without["sizes"] == {"sequence": 8}
    assert with_data["macs"] > 3 * without["macs"]
    assert f"sizes sequence {LENGTH}" in call("measure", bert, "--data", bert.with_name("ids.npz")).stdout
