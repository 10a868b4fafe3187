"""`edgeopt sensitivity`: a table for people, JSON for programs, and an exclude list that quantize takes as it is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from edgeopt.cli import app
from edgeopt.cli.sensitivity import _show_exclude

STUDENT = str(Path(__file__).parents[2] / "models" / "digits" / "student.onnx")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["sensitivity", *map(str, arguments)])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict]:
    out = tmp_path_factory.mktemp("sensitivity") / "layers.json"
    return call(STUDENT, "--data", "digits", "--worst", 2, "--samples", 8, "--out", out), json.loads(out.read_text())


def test_the_layers_are_listed_worst_first_in_80_columns(shown: tuple[Result, dict]) -> None:
    done, facts = shown
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    table = done.stdout.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert table[0].split() == ["node", "operator", "alone", "output", "weights"]
    assert [line.split()[0] for line in table[1:]] == [layer["name"] for layer in facts["layers"]]
    figures = [layer["alone_db"] for layer in facts["layers"]]
    assert figures == sorted(figures)
    assert figures[0] < figures[-1] - 3
    assert facts["samples"] == 8
    assert f"the whole model in int8: {facts['int8_sqnr_db']:.1f} dB" in done.stdout


def test_the_exclude_list_is_what_quantize_takes(shown: tuple[Result, dict], tmp_path: Path) -> None:
    done, facts = shown
    line = next(line for line in done.stdout.splitlines() if line.startswith("exclude:"))
    names = yaml.safe_load(line)["exclude"]
    assert names == facts["exclude"] == [layer["name"] for layer in facts["layers"][:2]]
    flags = shlex.split(next(line for line in done.stdout.splitlines() if line.startswith("--exclude")))
    assert flags == [part for name in names for part in ("--exclude", name)]
    made = CliRunner().invoke(
        app, ["quantize", STUDENT, "--data", "digits", "--samples", "16", "--out", str(tmp_path), *flags]
    )
    assert made.exit_code == 0, made.output
    stage = next(json.loads(p.read_text()) for p in tmp_path.glob("stages/*quantize*/stage.json"))
    assert re.search(rf'"{names[0]}": "excluded"', json.dumps(stage))


def test_names_that_are_patterns_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    _show_exclude(["a+b", "plain/Conv_1"])
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("exclude:"))
    pattern, plain = yaml.safe_load(line)["exclude"]
    assert re.fullmatch(pattern, "a+b")
    assert not re.fullmatch(pattern, "aab")
    assert plain == "plain/Conv_1"


def test_json_alone_on_stdout() -> None:
    done = call(STUDENT, "--data", "digits", "--samples", 4, "--json", "--tier", "mcu")
    facts = json.loads(done.stdout)
    assert facts["tier"] == "mcu"
    assert {"name", "layer", "operator", "alone_db", "input_db", "output_db", "weight_share"} == set(facts["layers"][0])
    assert set(facts["error_enters"]) <= {layer["name"] for layer in facts["layers"]}


def test_an_integer_only_tier_is_offered_no_exclude_list() -> None:
    done = call(STUDENT, "--data", "digits", "--samples", 4, "--tier", "mcu")
    assert "nothing can be excluded" in done.stdout
    assert "--exclude" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([STUDENT], "give it --data"),
        ([STUDENT, "--data", "digits", "--tier", "moon"], "there is no tier 'moon'"),
        ([STUDENT, "--data", "digits", "--out", "layers.txt"], "is no .json file"),
        ([STUDENT, "--data", "digits", "--calibrator", "magic"], "'magic'"),
        ([str(Path(STUDENT).parent / "mcu" / "model.onnx"), "--data", "digits"], "quantized"),
        (["nowhere.onnx", "--data", "digits"], "nowhere.onnx"),
    ],
)
def test_mistakes_get_a_sentence_and_exit_2(arguments: list[str], said: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output
