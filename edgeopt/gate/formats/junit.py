"""JUnit XML, as Jenkins (xunit-plugin's junit-10.xsd), GitLab and most others read it: a suite for each file, a test
case for each limit. What failed, or could not be told and is not allowed to pass, is a `failure`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from edgeopt.gate.formats.checked import Checked
from edgeopt.report.limits import Verdict

__all__ = ["to_junit"]

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, escaped or not (section 2.2)."""


def to_junit(checked: Sequence[Checked]) -> str:
    """A whole XML document."""
    root = Element("testsuites", {"name": "edgeopt gate", **_counts([v for one in checked for v in one.verdicts])})
    for one in checked:
        root.append(_suite(one))
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _counts(verdicts: Sequence[Verdict]) -> dict[str, str]:
    failed = sum(not verdict.ok for verdict in verdicts)
    return {"tests": str(len(verdicts)), "failures": str(failed), "errors": "0", "time": "0"}


def _suite(one: Checked) -> Element:
    suite = Element("testsuite", {"name": _text(f"edgeopt gate {one.path}"), "skipped": "0", **_counts(one.verdicts)})
    if one.report is not None and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", one.report.created):
        suite.set("timestamp", one.report.created[:19])
    for verdict in one.verdicts:
        suite.append(_case(one, verdict))
    return suite


def _case(one: Checked, verdict: Verdict) -> Element:
    case = Element("testcase", classname=_text(f"{one.name}.{verdict.tier}"), name=_text(verdict.limit), time="0")
    if not verdict.ok:
        failure = SubElement(case, "failure", type=verdict.outcome, message=_text(verdict.sentence))
        failure.text = _text(f"{one.path}: {verdict.tier} {verdict.limit}: {verdict.sentence}")
    else:
        SubElement(case, "system-out").text = _text(verdict.sentence)
    return case


def _text(value: str) -> str:
    return NOT_XML.sub("�", value)
