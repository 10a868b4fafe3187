"""What was done, stage by stage: settings, time, curves of training, widths before and after pruning."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pydantic import JsonValue

from edgeopt.report.figures import describe, duration, histories, number, stage_figures
from edgeopt.report.markup import chip, pairs, plot, section
from edgeopt.report.report import Report, StageRow

__all__ = ["stages"]

DRAWN_METRICS = ("loss", "accuracy", "lr")
"""Columns of a training history that are drawn: those whose name has one of these."""
MOST_EPOCHS = 200
"""Points of a curve; longer histories are thinned."""
HUGE = 1e100
"""A diverged loss beyond this is drawn as this."""
MOST_GROUPS = 40


def stages(report: Report) -> str:
    """A card for each stage, in order."""
    most = max((stage.seconds for stage in report.stages), default=0.0)
    items = "".join(_stage(stage, most) for stage in report.stages)
    return section("stages", "What was done", f'<ol class="stages">{items}</ol>' if items else "")


def _stage(stage: StageRow, most: float) -> str:
    chips = [stage.kind, f"for {stage.tier}" if stage.tier else "", duration(stage.seconds)]
    chips.append("reused" if stage.reused else "")
    title = f'<span class="number">{stage.index}</span>{escape(stage.title)}'
    figures = stage_figures(stage)
    facts = {name: fact for name, fact in stage.facts.items() if name != "groups" or not _widths(stage)}
    did = (pairs([("result", figures)], "result") if figures else "") + pairs(describe(facts))
    width = 100 * stage.seconds / most if most else 0.0
    return (
        f'<li class="card"><div class="top"><h3>{title}</h3>'
        f"<span>{''.join(chip(text) for text in chips if text)}</span></div>"
        f'<span class="took" style="--w:{width:.1f}%"></span>'
        f"{_curves(stage)}{_widths(stage)}{_folded('What it did', did)}"
        f"{_folded('Settings', pairs(describe(stage.settings)))}</li>"
    )


def _folded(title: str, content: str) -> str:
    """Open at once for a sheet of paper and for a search; folded by whoever has seen it."""
    return f"<details open><summary>{title}</summary>{content}</details>" if content else ""


def _curves(stage: StageRow) -> str:
    figures = []
    for place, rows in histories(stage.facts):
        for metric in dict.fromkeys(key for row in rows for key in row):
            if any(word in metric for word in DRAWN_METRICS):
                figures.append(_curve(stage, f"{place} {metric}".strip(), metric, rows))
    return f'<div class="curves">{"".join(figures)}</div>' if any(figures) else ""


def _curve(stage: StageRow, name: str, metric: str, rows: Sequence[dict[str, float]]) -> str:
    known = [(row.get("epoch", n), row[metric]) for n, row in enumerate(rows) if metric in row]
    if len(known) < 2:
        return ""
    first, last = known[0][1], known[-1][1]
    step = -(-len(known) // MOST_EPOCHS)
    kept = [*known[:-1:step], known[-1]]
    figures = {
        "epochs": [epoch for epoch, _ in kept],
        "values": [max(-HUGE, min(HUGE, value)) for _, value in kept],
        "tips": [f"epoch {epoch:g}: {name} {number(value)}" for epoch, value in kept],
    }
    words = f"{number(first)} to {number(last)} over {len(known)} epochs"
    drawn = plot("curve", f"{stage.title}, {name}", figures)
    return f"<figure><figcaption><b>{escape(name)}</b> {words}</figcaption>{drawn}</figure>"


def _widths(stage: StageRow) -> str:
    """Channels of each group before and after pruning."""
    groups = stage.facts.get("groups")
    found = [own for group in groups if (own := _group(group)) is not None] if isinstance(groups, list) else []
    if not found:
        return ""
    most = max(before for _, before, _ in found)
    items = "".join(
        f'<li><span class="what">{escape(name)}</span><span class="width" style="--before:{100 * before / most:.1f}%;'
        f'--after:{100 * after / most:.1f}%"></span><span class="many">{before:,} → {after:,}</span></li>'
        for name, before, after in found[:MOST_GROUPS]
    )
    rest = len(found) - MOST_GROUPS
    more = f'<p class="soft small">and {rest:,} more groups</p>' if rest > 0 else ""
    return f'<h4>Channels before and after</h4><ul class="widths">{items}</ul>{more}'


def _group(group: JsonValue) -> tuple[str, int, int] | None:
    """Name, channels before, channels after; None where that is not what the stage wrote."""
    if not isinstance(group, dict):
        return None
    name, before, after = (group.get(key) for key in ("name", "channels_before", "channels_after"))
    if not isinstance(before, int) or not isinstance(after, int) or before <= 0:
        return None
    return str(name).removesuffix(".weight"), before, after
