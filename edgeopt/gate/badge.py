"""A badge: a small SVG for a README, drawn here, so that no server has to know the figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edgeopt.report.figures import percent
from edgeopt.report.limits import Verdict
from edgeopt.report.report import ACCURACY, Row
from edgeopt.units import format_bytes

__all__ = ["gate_badge", "tier_badge"]

GREEN, RED, AMBER = "#1a7f46", "#b3261e", "#8f5b00"
CHARACTER = 6.6
"""About what a character of 11 px Verdana measures; `textLength` makes it exact."""
PAD = 8


def gate_badge(verdicts: Sequence[Verdict]) -> str:
    """`gate | passing`, `gate | failing` or `gate | cannot tell`."""
    return _draw("gate", _word(verdicts), _color(verdicts))


def tier_badge(row: Row, verdicts: Sequence[Verdict]) -> str:
    """`mcu | 15.6 KB, 99.44 %`, in the colour of the tier's verdicts."""
    figures = [format_bytes(row.size_bytes)]
    metric = "" if row.metric == ACCURACY else f" {row.metric}"
    figures += [] if row.accuracy is None else [f"{percent(row.accuracy)}{metric}"]
    return _draw(row.tier, ", ".join(figures), _color([v for v in verdicts if v.tier == row.tier]))


def _word(verdicts: Sequence[Verdict]) -> str:
    failed = [verdict for verdict in verdicts if not verdict.ok]
    if not failed:
        return "passing"
    return "cannot tell" if all(verdict.uncertain for verdict in failed) else "failing"


def _color(verdicts: Sequence[Verdict]) -> str:
    return {"passing": GREEN, "failing": RED, "cannot tell": AMBER}[_word(verdicts)]


def _draw(label: str, value: str, color: str) -> str:
    left, right = (round(len(text) * CHARACTER) + 2 * PAD for text in (label, value))
    width = left + right

    def text(words: str, middle: float, length: int) -> str:
        return f'<text x="{middle}" y="14" textLength="{length - 2 * PAD}">{escape(words)}</text>'

    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" '
        f'aria-label="{escape(f"{label}: {value}")}"><title>{escape(f"{label}: {value}")}</title>'
        f'<clipPath id="r"><rect width="{width}" height="20" rx="3"/></clipPath><g clip-path="url(#r)">'
        f'<rect width="{left}" height="20" fill="#444"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{color}"/></g>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f"{text(label, left / 2, left)}{text(value, left + right / 2, right)}</g></svg>\n"
    )
