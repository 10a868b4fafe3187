"""The end of a run on the screen: at most ten lines that say what came out, and what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edgeopt.cli.console import NARROW
from edgeopt.report.figures import NONE, duration, milliseconds, percent, points, ratio, summary
from edgeopt.units import format_bytes

if TYPE_CHECKING:
    from edgeopt.report import Baseline, Report, Row, Verdict

__all__ = ["summarize", "verdict_line"]

MOST_LINES = 10
MOST_FAILURES = 2
STYLES = {True: "green", False: "bold red", None: "dim"}


def verdict_line(report: Report) -> Text:
    """`digits: All 5 limits hold, 38.2 s`."""
    ok, words = summary(report)
    return Text.assemble((report.name, "bold"), ": ", (words, STYLES[ok]), f", {duration(report.seconds)}")


def summarize(report: Report, folder: Path, width: int) -> list[RenderableType]:
    """The lines, for a terminal of `width` columns; `folder` is where the run left its files."""
    failures = [verdict for verdict in report.gate if not verdict.ok]
    shown = [_failure(verdict) for verdict in failures[:MOST_FAILURES]]
    steps = _next_steps(report, folder)
    room = MOST_LINES - 1 - len(shown) - len(steps)
    return [verdict_line(report), _table(report, room, roomy=width >= NARROW), *shown, *steps]


def _table(report: Report, room: int, *, roomy: bool) -> Table:
    """One line a tier after the float model; tiers that are too many are counted."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    bases = list(dict.fromkeys(row.baseline for row in report.tiers))[:1]
    fitting = len(report.tiers) if len(report.tiers) + len(bases) <= room else room - len(bases) - 1
    for base in bases:
        table.add_row(*_baseline_cells(base, roomy=roomy), style="dim")
    for row in report.tiers[:fitting]:
        table.add_row(*_cells(row, _verdict_of(report, row.tier), roomy=roomy))
    if fitting < len(report.tiers):
        table.add_row(Text(f"and {len(report.tiers) - fitting} more", "dim"))
    return table


def _cells(row: Row, verdict: Text, *, roomy: bool) -> list[Text]:
    if row.accuracy is not None:
        told = [_share(row), f"drop {points(row.drop_points)}" if row.drop_points is not None else ""]
    else:
        told = [f"{percent(row.agreement)} as float" if row.agreement is not None else ""]
        told.append(f"{row.sqnr_db:.1f} dB" if row.sqnr_db is not None else "")
    speed = [
        NONE if row.latency_ms is None else milliseconds(row.latency_ms),
        NONE if row.speedup is None else ratio(row.speedup),
    ]
    cells = [format_bytes(row.size_bytes), *told, *(speed if roomy else [])]
    return [Text(row.tier, "bold"), *map(Text, cells), verdict]


def _share(row: Row) -> str:
    """`97.00 %`, and the name of the metric where it is another than accuracy."""
    return f"{percent(row.accuracy or 0.0)}{'' if row.metric == 'accuracy' else f' {row.metric}'}"


def _baseline_cells(base: Baseline, *, roomy: bool) -> list[Text]:
    size = NONE if base.size_bytes is None else format_bytes(base.size_bytes)
    speed = [NONE if base.latency_ms is None else milliseconds(base.latency_ms), ""]
    cells = [base.name, size, "" if base.accuracy is None else percent(base.accuracy), "", *(speed if roomy else [])]
    return [*map(Text, cells), Text("")]


def _verdict_of(report: Report, tier: str) -> Text:
    own = [verdict.ok for verdict in report.gate if verdict.tier == tier]
    if not own:
        return Text("")
    return Text("pass", STYLES[True]) if all(own) else Text("FAIL", STYLES[False])


def _failure(verdict: Verdict) -> Text:
    line = Text.assemble(("FAIL", STYLES[False]), f"  {verdict.tier}  {verdict.limit}  {verdict.sentence}")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _next_steps(report: Report, folder: Path) -> list[Text]:
    """Commands and paths stand at the end of their lines, whole, so that they can be copied."""
    place = shlex.quote(str(folder))
    limits = "" if report.limits else " --max-drop 1pt" if _has_drop(report) else " --max-size 100KB"
    steps = [("page", str(folder / "report.html")), ("tables", f"edgeopt report {place}")]
    for row in report.tiers:
        model = folder / row.path
        if row.tier != "any" and any(model.parent.glob("*.c")):
            steps.append(("C code", f"edgeopt verify {shlex.quote(str(model))}"))
            break
    steps.append(("gate", f"edgeopt gate {place}{limits}"))
    return [Text.assemble((f"{name:<8}", "dim"), words) for name, words in steps]


def _has_drop(report: Report) -> bool:
    return any(row.drop_points is not None for row in report.tiers)
