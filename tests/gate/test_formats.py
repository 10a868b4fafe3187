"""Each form of the verdicts, read back by somebody else's parser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from example_report import example_report, example_row
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.gate import check, parse_flags
from edgeopt.gate.badge import gate_badge, tier_badge
from edgeopt.gate.formats import MARKER, Checked, to_annotations, to_json, to_junit, to_markdown
from edgeopt.report import Row, Verdict

SCHEMA = Path(__file__).parents[1] / "junit-10.xsd"
"""Of Jenkins' xunit-plugin (MIT, see the file), as pytest ships it in its own tests."""
HOSTILE = "a<b>&\"'%|`,:;\r\n::error::x\x00\x1b[31m]]>"


@pytest.fixture
def checked() -> Checked:
    """Passes, failures and a doubt."""
    report = example_report()
    verdicts = check(report, parse_flags({"size": ["mcu=20KB", "gpu=1KB"], "drop": ["mcu=1pt"], "macs": ["1k"]}))
    return Checked("out/report.json", tuple(verdicts), report)


def named(tier: str) -> Row:
    return example_row("mcu").model_copy(update={"tier": tier})


def hostile(text: str = HOSTILE) -> Checked:
    verdict = Verdict(tier=text, limit="size", found=1, allowed=0, ok=False, sentence=text)
    return Checked(text, (verdict,), example_report(name=text, tiers=(named(text),)))


def test_junit_is_what_the_schema_of_jenkins_takes(checked: Checked) -> None:
    xmlschema = pytest.importorskip("xmlschema")
    schema = xmlschema.XMLSchema(str(SCHEMA))
    for files in ([checked], [checked, hostile()], [Checked("m.onnx", checked.verdicts)], [Checked("m.onnx", ())]):
        schema.validate(to_junit(files))
    with pytest.raises(xmlschema.XMLSchemaValidationError):
        schema.validate(to_junit([checked]).replace("<testcase ", '<testcase line="1" '))


def test_junit_is_read_by_another_parser(checked: Checked) -> None:
    junitparser = pytest.importorskip("junitparser")
    (suite,) = junitparser.JUnitXml.fromstring(to_junit([checked]).encode())
    assert (suite.tests, suite.failures, suite.errors) == (6, 5, 0)
    failures = [(case.classname, case.name, found.type) for case in suite for found in case.result]
    failures = [failure for failure in failures if failure[2] is not None]
    assert ("digits.mcu", "drop", "cannot tell") in failures
    assert ("digits.gpu", "size", "fail") in failures
    assert len(failures) == 5


@given(st.text(max_size=30))
def test_any_text_makes_well_formed_xml(text: str) -> None:
    root = ElementTree.fromstring(to_junit([hostile(text)]))
    assert root.get("failures") == "1"


def unescape(text: str) -> str:
    for code, sign in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        text = text.replace(code, sign)
    return text


def test_annotations_are_workflow_commands_one_a_line(checked: Checked) -> None:
    lines = to_annotations([checked]).splitlines()
    assert len(lines) == 6
    form = re.compile(r"::(error|warning|notice) ?((?:\w+=[^,:]*,?)*)::(.*)")
    for line in lines:
        assert form.fullmatch(line)
    level, properties, message = form.fullmatch(lines[0]).groups()  # type: ignore[union-attr]
    assert level == "error"
    assert "file=out/report.json,title=edgeopt gate%3A mcu drop" in properties
    assert "cannot tell with 360 samples" in unescape(message)
    assert lines[-1] == "::notice title=edgeopt gate::5 of 6 checks failed"


def test_an_annotation_cannot_be_broken_out_of() -> None:
    lines = to_annotations([hostile()]).split("\n")
    assert len(lines) == 3
    assert unescape(lines[0].split("::", 2)[2]) == HOSTILE


def test_a_doubt_that_is_allowed_is_a_warning() -> None:
    report = example_report(tiers=(example_row("mcu"),))
    verdicts = check(report, parse_flags({"drop": ["1pt"]}), allow_uncertain=True)
    done = Checked("r.json", tuple(verdicts), report)
    assert to_annotations([done]).startswith("::warning file=r.json")
    assert "all 1 checks passed" in to_annotations([done])
    assert "✅ pass, in doubt" in to_markdown([done])


def test_markdown_opens_with_its_marker_and_with_what_failed(checked: Checked) -> None:
    lines = to_markdown([checked]).splitlines()
    assert lines[0] == MARKER
    assert lines[2] == "### edgeopt gate: ❌ 5 of 6 checks failed (1 cannot be told)"
    rows = [line for line in lines if line.startswith("| ") and ("pass" in line or "fail" in line or "tell" in line)]
    assert rows[0].startswith("| ❓ **cannot tell** | mcu | drop |")
    assert rows[-1].startswith("| ✅ pass | mcu | size |")
    assert "<details><summary>Figures of digits</summary>" in lines


def test_markdown_escapes_names_and_fits_a_comment() -> None:
    text = to_markdown([hostile()])
    assert "<b>" not in text
    assert "\n::error" not in text
    many = [Checked(f"{n}.json", (), example_report(name="x" * 3_000)) for n in range(40)]
    assert len(to_markdown(many)) < 65_536


def test_json_has_every_verdict_with_its_outcome(checked: Checked) -> None:
    content: dict[str, Any] = json.loads(to_json([checked]))
    assert content["ok"] is False
    assert [(v["tier"], v["limit"], v["outcome"]) for v in content["verdicts"]][:2] == [
        ("mcu", "size", "pass"),
        ("mcu", "drop", "cannot tell"),
    ]
    assert {v["path"] for v in content["verdicts"]} == {"out/report.json"}


def test_badges_are_svg_in_the_colour_of_the_verdict(checked: Checked) -> None:
    assert checked.report is not None
    failing = ElementTree.fromstring(gate_badge(checked.verdicts))
    passing = ElementTree.fromstring(gate_badge([v for v in checked.verdicts if v.ok]))
    doubt = ElementTree.fromstring(gate_badge([v for v in checked.verdicts if v.uncertain]))
    assert [svg.get("aria-label") for svg in (passing, failing, doubt)] == [
        "gate: passing",
        "gate: failing",
        "gate: cannot tell",
    ]
    tier = tier_badge(checked.report.tiers[0], checked.verdicts)
    assert ElementTree.fromstring(tier).get("aria-label") == "mcu: 18.2 KB, 98.06 %"
    ElementTree.fromstring(tier_badge(named('<&"'), ()))
