"""Annotations: workflow commands, which GitHub shows on the run and on the changed files.

The form and its escapes are those of actions/toolkit (packages/core/src/command.ts).
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeopt.gate.formats.checked import Checked
from edgeopt.report.limits import Verdict

__all__ = ["to_annotations"]


def to_annotations(checked: Sequence[Checked]) -> str:
    """A line for each verdict that failed (`::error`) or passed in doubt (`::warning`), and one for the whole."""
    lines = [line for one in checked for verdict in one.verdicts if (line := _annotation(one, verdict))]
    count = sum(len(one.verdicts) for one in checked)
    failed = sum(not verdict.ok for one in checked for verdict in one.verdicts)
    summary = f"{failed} of {count} checks failed" if failed else f"all {count} checks passed"
    return "".join(f"{line}\n" for line in [*lines, f"::notice title=edgeopt gate::{_data(summary)}"])


def _annotation(one: Checked, verdict: Verdict) -> str:
    if verdict.ok and not verdict.uncertain:
        return ""
    level = "warning" if verdict.ok else "error"
    title = f"edgeopt gate: {verdict.tier} {verdict.limit}"
    return f"::{level} file={_property(one.path)},title={_property(title)}::{_data(verdict.sentence)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
