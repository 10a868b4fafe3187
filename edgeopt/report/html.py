"""report.html: one page that opens from disk, asks the network for nothing, and prints.

Everything that comes from a recipe, a model or a file name passes through `escape`. The content security
policy in the page's head is the second fence: it allows the one script by its hash, and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from edgeopt.report.chart import line
from edgeopt.report.figures import (
    NONE,
    c_program,
    columns_of,
    count,
    describe,
    duration,
    histories,
    milliseconds,
    percent,
    points,
    ratio,
    stage_figures,
    summary,
)
from edgeopt.report.limits import Verdict
from edgeopt.report.points import CHARTS, draw
from edgeopt.report.report import Baseline, Environment, Layer, Moment, Report, Row, StageRow
from edgeopt.units import format_bytes

__all__ = ["to_html"]

HERE = Path(__file__).parent
TOP_LAYERS = 10
FOOTER = (
    "1 KB is 1000 bytes. One multiply-add is one MAC. A drop is in percentage points under the float model "
    "on the same images. Intervals are 95 %. Latencies are medians, taken in turn with the float model."
)
DRAWN_METRICS = ("loss", "accuracy")
"""Columns of a training history that are drawn: those whose name has one of these."""


def to_html(report: Report) -> str:
    """The page, complete in itself."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = [
        _tiers(report),
        _artifacts(report),
        _charts(report),
        _layers(report),
        _memory(report),
        _stages(report),
        _reproduce(report),
    ]
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{report.name}: edgeopt report"),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
        header=_header(report),
        main="\n".join(filter(None, sections)),
        footer=FOOTER,
    )


def _header(report: Report) -> str:
    ok, words = summary(report)
    state = "none" if ok is None else "pass" if ok else "fail"
    parts = [escape(report.created.replace("T", " ")[:16]), f"took {duration(report.seconds)}"]
    if report.data is not None:
        parts.insert(0, f"{escape(report.data.name)}, {report.data.test:,} test images")
    return (
        f"<h1>{escape(report.name)}</h1>"
        f'<p class="facts">{" · ".join(filter(None, parts))}</p>'
        f'<p class="banner {state}">{escape(words)}</p>{_warnings(report.warnings)}'
    )


def _warnings(warnings: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<ul class="warnings" aria-label="Warnings">{items}</ul>' if items else ""


def _tiers(report: Report) -> str:
    cards = [_tier(row, [v for v in report.gate if v.tier == row.tier], n) for n, row in enumerate(report.tiers)]
    return _section("tiers", "Tiers", f'<div class="grid">{"".join(cards)}</div>') if cards else ""


def _tier(row: Row, verdicts: Sequence[Verdict], n: int) -> str:
    figures = "".join(
        f"<div><dt>{name}</dt><dd><b>{escape(value)}</b><span>{escape(note)}</span></dd></div>"
        for name, value, note in _headlines(row)
    )
    limits = "".join(_limit(verdict) for verdict in verdicts)
    return (
        f'<article class="card"><div class="top"><h3 class="c{n % 6}">{escape(row.tier)}</h3>'
        f'<span class="chip">{escape(row.precision)}</span></div><dl class="big">{figures}</dl>'
        + (f'<ul class="limits" aria-label="Limits">{limits}</ul>' if limits else "")
        + _warnings(row.warnings)
        + "</article>"
    )


def _headlines(row: Row) -> list[tuple[str, str, str]]:
    """Name, value and a comparison with the float model, of what was measured."""
    base = row.baseline
    lines = [("Size", format_bytes(row.size_bytes), _smaller(row.size_bytes, base.size_bytes))]
    if row.accuracy is not None:
        drop = row.drop_points
        note = "" if drop is None else f"{points(drop)} drop" if drop >= 0 else f"{points(-drop)} gain"
        lines.append(("Accuracy", percent(row.accuracy), note))
    elif row.agreement is not None:
        lines.append(("Agreement", percent(row.agreement), "with the float model"))
    if row.latency_ms is not None:
        note = "" if row.speedup is None else f"{ratio(row.speedup)} as fast"
        lines.append(("Latency", milliseconds(row.latency_ms), note))
    if row.flash_bytes is not None:
        ram = "" if row.ram_bytes is None else f"{format_bytes(row.ram_bytes)} RAM"
        lines.append(("Flash, as C", format_bytes(row.flash_bytes), ram))
    if row.instructions is not None:
        wrong = "" if row.mismatches is None else f"{count(row.mismatches)} mismatches"
        lines.append(("Instructions", count(row.instructions), wrong))
    return lines


def _smaller(size: int, base: int | None) -> str:
    if not base or not size:
        return ""
    return f"{base / size:.1f}x smaller" if size <= base else f"{size / base:.1f}x larger"


def _limit(verdict: Verdict) -> str:
    name, word = ("pass", "✓ pass") if verdict.ok else ("fail", "✗ fail")
    return (
        f'<li><span class="mark {name}">{word}</span>'
        f"<span>{escape(verdict.limit)}: {_together(escape(verdict.sentence))}</span></li>"
    )


def _together(text: str) -> str:
    """Numbers stay on one line with their units."""
    return re.sub(r"(\d) (%|pt|ms|[KMG]?B)", "\\1&nbsp;\\2", text)


def _artifacts(report: Report) -> str:
    if not report.tiers:
        return ""
    columns = columns_of(report)
    heads = "".join(f'<th scope="col">{column.heading}</th>' for column in columns)
    rows = []
    for row in report.tiers:
        cells = "".join(_cell(column.artifact(row), column.detail(row)) for column in columns)
        rows.append(f'<tr><th scope="row">{escape(row.tier)}</th>{cells}</tr>')
    for base in _baselines(report):
        cells = "".join(_cell(column.baseline(base), "") for column in columns)
        rows.append(f'<tr class="float"><th scope="row">{escape(base.name)}</th>{cells}</tr>')
    head = f'<thead><tr><th scope="col">Tier</th>{heads}</tr></thead>'
    table = f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"
    return _section(
        "artifacts",
        "Artifacts",
        f'<div class="card scroll" role="region" aria-labelledby="artifacts-h" tabindex="0">{table}</div>',
    )


def _baselines(report: Report) -> Iterable[Baseline]:
    return dict.fromkeys(row.baseline for row in report.tiers)


def _cell(value: str, detail: str) -> str:
    return f"<td>{escape(value)}{f'<small>{escape(detail)}</small>' if detail else ''}</td>"


def _charts(report: Report) -> str:
    drawn = [found for chart in CHARTS if (found := draw(report, chart)) is not None]
    cards = "".join(f'<figure class="card"><h3>{escape(title)}</h3>{svg}</figure>' for title, svg in drawn)
    if not cards:
        return ""
    note = (
        '<p class="soft small">The diamond is the float model, numbered circles are the stages in order, '
        "bars are 95 % intervals. Up and to the left is better.</p>"
    )
    return _section("charts", "What it costs", f'{note}<div class="grid">{cards}</div>')


def _layers(report: Report) -> str:
    heavy = [(n, row) for n, row in enumerate(report.tiers) if any(layer.bytes for layer in row.layers)]
    cards = "".join(_layer_card(row, n) for n, row in heavy)
    return _section("layers", "Where the bytes are", f'<div class="grid">{cards}</div>') if cards else ""


def _layer_card(row: Row, n: int) -> str:
    weighted = [layer for layer in row.layers if layer.bytes]
    ordered = sorted(weighted, key=lambda layer: layer.bytes, reverse=True)
    shown, rest = ordered[:TOP_LAYERS], ordered[TOP_LAYERS:]
    lines = "".join(_layer(layer, shown[0].bytes, n) for layer in shown)
    more = f"{len(rest)} smaller layers: {format_bytes(sum(layer.bytes for layer in rest))}" if rest else ""
    return (
        f'<article class="card"><div class="top"><h3>{escape(row.tier)}</h3>'
        f'<span class="chip">{len(ordered)} with weights</span></div><div class="scroll">'
        '<table class="layers"><thead><tr><th scope="col">Layer</th><th scope="col"></th>'
        '<th scope="col">Weights</th><th scope="col">MACs</th></tr></thead>'
        f"<tbody>{lines}</tbody></table></div>" + (f'<p class="soft small">{more}</p>' if more else "") + "</article>"
    )


def _layer(layer: Layer, largest: int, color: int) -> str:
    name = escape(layer.name)
    return (
        f'<tr><th scope="row">{name}<br><small class="soft">{escape(layer.op)}</small></th>'
        f'<td><span class="bar c{color % 6}" style="width:{100 * layer.bytes / largest:.1f}%"></span></td>'
        f"<td>{format_bytes(layer.bytes)}</td><td>{count(layer.macs) if layer.macs else NONE}</td></tr>"
    )


def _memory(report: Report) -> str:
    planned = [(n, row) for n, row in enumerate(report.tiers) if row.memory_timeline]
    cards = "".join(_memory_card(row, n) for n, row in planned)
    return _section("memory", "Memory of the C program", f'<div class="grid">{cards}</div>') if cards else ""


def _memory_card(row: Row, n: int) -> str:
    peak = max(row.memory_timeline, key=lambda moment: moment.bytes)
    lines = "".join(_moment(moment, peak.bytes, n) for moment in row.memory_timeline)
    return (
        f'<article class="card"><div class="top"><h3>{escape(row.tier)}</h3>'
        f'<span class="chip">peak at {escape(peak.layer)}</span></div><div class="scroll">'
        '<table class="layers"><thead><tr><th scope="col">Layer</th><th scope="col"></th>'
        f'<th scope="col">In use</th></tr></thead><tbody>{lines}</tbody></table></div>'
        + (f'<p class="soft small">{escape(c_program(row))}</p>' if c_program(row) else "")
        + "</article>"
    )


def _moment(moment: Moment, most: int, color: int) -> str:
    width = 100 * moment.bytes / most if most else 0
    return (
        f'<tr><th scope="row">{escape(moment.layer)}</th>'
        f'<td><span class="bar c{color % 6}" style="width:{width:.1f}%"></span></td>'
        f"<td>{format_bytes(moment.bytes)}</td></tr>"
    )


def _stages(report: Report) -> str:
    items = "".join(_stage(stage) for stage in report.stages)
    return _section("stages", "What was done", f'<ol class="stages">{items}</ol>') if items else ""


def _stage(stage: StageRow) -> str:
    chips = [stage.kind, f"for {stage.tier}" if stage.tier else "", duration(stage.seconds)]
    chips.append("reused" if stage.reused else "")
    title = f'<span class="number">{stage.index}</span>{escape(stage.title)}'
    figures = stage_figures(stage)
    result = _pairs([("result", figures)], "result") if figures else ""
    done = result + _pairs(describe(stage.facts)) + _curves(stage)
    columns = [f"<div>{column}</div>" for column in (done, _pairs(describe(stage.settings))) if column]
    return (
        f'<li class="card"><div class="top"><h3>{title}</h3>'
        f"<span>{' '.join(_chip(chip) for chip in chips if chip)}</span></div>{''.join(columns)}</li>"
    )


def _chip(text: str) -> str:
    return f'<span class="chip">{escape(text)}</span>'


def _pairs(pairs: Iterable[tuple[str, str]], style: str = "") -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f'<dl class="pairs {style}">{items}</dl>' if items else ""


def _curves(stage: StageRow) -> str:
    figures = []
    for place, rows in histories(stage.facts):
        for metric in dict.fromkeys(key for row in rows for key in row):
            values = [row[metric] for row in rows if metric in row]
            if len(values) > 1 and any(word in metric for word in DRAWN_METRICS):
                name = f"{place} {metric}".strip()
                words = f"{values[0]:.4g} to {values[-1]:.4g} over {len(values)} epochs"
                figures.append(
                    f"<figure>{line(values, name, words)}<figcaption>{escape(name)}: {words}</figcaption></figure>"
                )
    return f'<div class="lines">{"".join(figures)}</div>' if figures else ""


def _reproduce(report: Report) -> str:
    run = [("recipe hash", report.recipe_hash), ("seed", str(report.seed))]
    if report.data is not None:
        data = report.data
        split = f"{data.train:,} train, {data.calibration:,} calibration, {data.test:,} test"
        run += [("data", f"{data.name}: {split}"), ("data hash", data.fingerprint)]
        run += [("left out", f"{data.skipped:,} files that could not be decoded")] if data.skipped else []
    run += [(row.path, f"sha256 {row.sha256}") for row in report.tiers]
    command = f"<pre><code>{escape(report.command)}</code></pre>" if report.command else ""
    cards = [f'<article class="card"><h3>The run</h3>{_pairs(run)}</article>']
    for environment in dict.fromkeys(row.environment for row in report.tiers):
        cards.append(f'<article class="card"><h3>Measured on</h3>{_pairs(_environment(environment))}</article>')
    return _section("reproduce", "To reproduce", f'{command}<div class="grid wide spaced">{"".join(cards)}</div>')


def _environment(environment: Environment) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in environment if value not in (None, "")]


def _section(name: str, heading: str, content: str) -> str:
    return f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{heading}</h2>{content}</section>'
