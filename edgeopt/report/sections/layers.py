"""Layer by layer: where the bytes, the work, the time, the memory and the noise are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from edgeopt.report.figures import NONE, c_program, count, decibels, milliseconds
from edgeopt.report.markup import chip, pairs, plot, region, section, table
from edgeopt.report.report import Layer, Moment, Report, Row
from edgeopt.units import format_bytes

__all__ = ["layers"]

MOST_ROWS = 200
"""Layers in a table; of more, those with the largest figures."""
MOST_COLUMNS = 600
"""Layers on a chart: the first of them where there are more."""


@dataclass(frozen=True)
class Metric:
    """One figure of a layer."""

    name: str
    heading: str
    of: Callable[[Layer], float | None]
    write: Callable[[float], str]
    best_low: bool = True
    """Whether a large figure is what a reader looks for trouble at; of an SQNR it is a small one."""

    def peak(self, layers: Sequence[Layer]) -> int | None:
        """The layer with the figure to look at first."""
        known = [(value, n) for n, layer in enumerate(layers) if (value := self.of(layer))]
        if not known:
            return None
        return max(known, key=lambda own: own[0])[1] if self.best_low else min(known, key=lambda own: own[0])[1]


METRICS = (
    Metric("Weights", "Weights", lambda layer: layer.bytes, format_bytes),
    Metric("MACs", "MACs", lambda layer: layer.macs, count),
    Metric("Time", "Time", lambda layer: layer.time_ms, milliseconds),
    Metric("RAM", "RAM in use", lambda layer: layer.live_bytes, format_bytes),
    Metric("SQNR", "SQNR", lambda layer: layer.sqnr_db, decibels, best_low=False),
)


def layers(report: Report) -> str:
    """A card for each artifact: strips of bars from input to output, and a table that can be sorted."""
    cards = "".join(_card(row, n) for n, row in enumerate(report.tiers) if row.layers or row.memory_timeline)
    note = (
        '<p class="soft small">From input to output; the highlighted bar is the one to look at first. RAM is what is '
        "alive while the layer runs. Time is the median of its kernels in onnxruntime's profile on this machine; a "
        "layer without one runs inside a neighbour's kernel. SQNR is the layer's own output against the float model's: "
        "the lower it is, the more it suffers from integers.</p>"
    )
    return section("layers", "Layer by layer", note + cards if cards else "")


def _card(row: Row, n: int) -> str:
    known = [metric for metric in METRICS if any(metric.of(layer) for layer in row.layers)]
    parts = _strips(row, known, n) + _arena(row, n)
    tables = _table(row, known)
    return (
        f'<article class="card layered"><div class="top"><h3><span class="dot c{n % 6}" aria-hidden="true"></span>'
        f"{escape(row.tier)}</h3><span>{chip(f'{len(row.layers)} layers')} {_peak_chip(row)}</span></div>"
        f'<div class="halves"><div>{parts}</div><div>{tables}</div></div></article>'
    )


def _peak_chip(row: Row) -> str:
    """Which layer is at the peak of memory: of the C program where there is one."""
    if row.memory_timeline:
        peak = max(row.memory_timeline, key=lambda moment: moment.bytes)
        return chip(f"arena peak at {peak.layer}")
    at = METRICS[3].peak(row.layers)
    return "" if at is None else chip(f"RAM peak at {row.layers[at].name}")


def _strips(row: Row, known: Sequence[Metric], n: int) -> str:
    if not known:
        return ""
    shown = row.layers[:MOST_COLUMNS]
    figures = {
        "color": n,
        "metrics": [_strip(metric, shown) for metric in known],
        "layers": [{"tip": _tip(layer, known), "values": [metric.of(layer) for metric in known]} for layer in shown],
    }
    return f"<figure>{plot('strips', f'{row.tier}, layer by layer', figures)}</figure>"


def _strip(metric: Metric, shown: Sequence[Layer]) -> dict[str, Any]:
    """Its name and scale; bars are drawn in shares of the largest figure."""
    most = max((metric.of(layer) or 0.0 for layer in shown), default=0.0)
    at = metric.peak(shown)
    first = None if at is None else metric.of(shown[at])
    note = "" if first is None else f"{'max' if metric.best_low else 'min'} {metric.write(first)}"
    return {"name": metric.name, "note": note, "most": most if most > 0 else 1, "peak": at}


def _tip(layer: Layer, known: Sequence[Metric]) -> str:
    told = [f"{metric.name} {metric.write(value)}" for metric in known if (value := metric.of(layer))]
    return f"{layer.name} ({layer.op}): {', '.join(told) or 'costs nothing'}"


def _arena(row: Row, n: int) -> str:
    """Memory of the C program, step by step."""
    if not row.memory_timeline:
        return ""
    moments = row.memory_timeline[:MOST_COLUMNS]
    peak = max(range(len(moments)), key=lambda index: moments[index].bytes)
    strip = {"name": "C arena", "note": f"max {format_bytes(moments[peak].bytes)}", "most": moments[peak].bytes or 1}
    figures = {
        "color": n,
        "metrics": [strip | {"peak": peak}],
        "layers": [{"tip": _moment_tip(own, own is moments[peak]), "values": [own.bytes]} for own in moments],
    }
    drawn = plot("strips", f"{row.tier}, memory of the C program", figures)
    return f"<figure>{drawn}</figure>{pairs([('C program', c_program(row))] if c_program(row) else [])}"


def _moment_tip(moment: Moment, peak: bool) -> str:
    return f"{moment.layer}: {format_bytes(moment.bytes)} of the arena in use{', the peak' if peak else ''}"


def _table(row: Row, known: Sequence[Metric]) -> str:
    if not known:
        return ""
    most = {metric: max(abs(metric.of(layer) or 0.0) for layer in row.layers) or 1.0 for metric in known}
    shown = _largest(row.layers, most)
    rest = len(row.layers) - len(shown)
    heads = [_head("Layer"), *(_head(metric.heading) for metric in known)]
    rows = [_row(layer, number, known, most) for number, layer in shown]
    more = f'<p class="soft small">{rest:,} smaller layers are not shown.</p>' if rest else ""
    drawn = table(heads, rows, f"{row.tier}, layer by layer; a heading's button sorts", "layers")
    return region(drawn, f"{row.tier}, table of layers", "tall") + more


def _largest(layers: Sequence[Layer], most: dict[Metric, float]) -> list[tuple[int, Layer]]:
    """At most MOST_ROWS, in the network's order: those whose largest share of a column is largest."""
    ranked = sorted(
        enumerate(layers),
        key=lambda own: max(
            (abs(metric.of(own[1]) or 0) / most[metric] for metric in most if metric.best_low), default=0
        ),
        reverse=True,
    )
    return sorted(ranked[:MOST_ROWS], key=lambda own: own[0])


def _head(heading: str) -> str:
    return f'<th scope="col"><button type="button">{heading}</button></th>'


def _row(layer: Layer, number: int, known: Sequence[Metric], most: dict[Metric, float]) -> str:
    cells = "".join(_cell(metric, metric.of(layer), most[metric]) for metric in known)
    name = f"{escape(layer.name)} <small>{escape(layer.op)}</small>"
    return f'<tr><th scope="row" data-value="{number}">{name}</th>{cells}</tr>'


def _cell(metric: Metric, value: float | None, most: float) -> str:
    if not value:
        return f'<td data-value="">{NONE}</td>'
    width = 100 * max(0.0, value) / most
    return f'<td data-value="{value:g}" style="--w:{width:.1f}%">{metric.write(value)}</td>'
