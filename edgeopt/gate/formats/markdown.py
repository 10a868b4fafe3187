"""Markdown for a pull request's comment or a job's summary."""

from __future__ import annotations

from collections.abc import Sequence

from edgeopt.gate.formats.checked import Checked
from edgeopt.report.figures import columns_of
from edgeopt.report.limits import Verdict
from edgeopt.report.markdown import escape_markdown, markdown_table

__all__ = ["MARKER", "to_markdown"]

MARKER = "<!-- edgeopt-gate -->"
"""First line of the comment, not shown: by it an action finds its own comment and updates it."""
WORDS = {"pass": "✅ pass", "fail": "❌ **fail**", "cannot tell": "❓ **cannot tell**"}
MOST_CHARACTERS = 60_000
"""A comment on GitHub may have 65,536."""


def to_markdown(checked: Sequence[Checked]) -> str:
    """The verdicts, those that need somebody first, and each report's figures folded away."""
    sections = [MARKER, _head(checked), *(_verdicts(one, alone=len(checked) == 1) for one in checked)]
    for figures in filter(None, map(_figures, checked)):
        if sum(map(len, sections)) + len(figures) < MOST_CHARACTERS:
            sections.append(figures)
    return "\n\n".join(sections) + "\n"


def _head(checked: Sequence[Checked]) -> str:
    verdicts = [verdict for one in checked for verdict in one.verdicts]
    failed = sum(not verdict.ok for verdict in verdicts)
    doubts = sum(verdict.uncertain for verdict in verdicts)
    words = f"❌ {failed} of {len(verdicts)} checks failed" if failed else f"✅ all {len(verdicts)} checks passed"
    return f"### edgeopt gate: {words}" + (f" ({doubts} cannot be told)" if doubts else "")


def _verdicts(one: Checked, *, alone: bool) -> str:
    ordered = sorted(one.verdicts, key=lambda verdict: (verdict.ok, not verdict.uncertain))
    rows = [
        [_word(verdict), *map(escape_markdown, (verdict.tier, verdict.limit, verdict.sentence))] for verdict in ordered
    ]
    table = markdown_table(["", "Tier", "Limit", "Found"], rows).replace("---:", "---")
    return table if alone else f"**{escape_markdown(one.path)}**\n\n{table}"


def _word(verdict: Verdict) -> str:
    return "✅ pass, in doubt" if verdict.ok and verdict.uncertain else WORDS[verdict.outcome]


def _figures(one: Checked) -> str:
    if one.report is None or not one.report.tiers:
        return ""
    columns = columns_of(one.report)
    rows = [
        [f"**{escape_markdown(row.tier)}**", *(escape_markdown(column.artifact(row)) for column in columns)]
        for row in one.report.tiers
    ]
    table = markdown_table(["Tier", *(column.heading for column in columns)], rows)
    return f"<details><summary>Figures of {escape_markdown(one.name)}</summary>\n\n{table}\n\n</details>"
