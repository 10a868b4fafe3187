"""`edgeopt measure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeopt.cli.console import TerminalProgress, console, print_json
from edgeopt.cli.running import DataOption, SeedOption
from edgeopt.errors import UsageError
from edgeopt.report.onnx_file import read_onnx_file
from edgeopt.units import format_bytes, format_sizes

__all__ = ["measure", "measure_models"]


def measure(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help=".onnx files; the first is what the others are compared with"),
    ],
    data: DataOption = None,
    tier: Annotated[
        str | None,
        typer.Option("--tier", "-t", help="Run them with this tier's onnxruntime session options."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of the latency measurement.")] = 1,
    seed: SeedOption = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Measure models side by side: accuracy on the same images in one pass, latencies in turns, size, MACs, RAM."""
    from edgeopt.tiers import load_tier

    entries = load_tier(tier).session if tier else {}
    if len({path.resolve() for path in models}) < len(models):
        raise UsageError("the same model is named twice", fix="name each once; the first is the reference")
    for path in models:
        if path.suffix != ".onnx":
            raise UsageError("is no .onnx file", where=str(path), fix="write one with `edgeopt export`")
    with TerminalProgress() as progress:
        rows = measure_models(models, data, entries, threads, seed, progress)
    if as_json:
        print_json(rows)
        return
    _show(rows, threads)


def measure_models(
    paths: list[Path],
    data: str | None,
    entries: dict[str, str],
    threads: int,
    seed: int,
    progress: TerminalProgress,
) -> list[dict[str, Any]]:
    """Fields of a report's row for each model, by their names there; the first is the baseline. Raises EdgeoptError."""
    from edgeopt.data import load_data
    from edgeopt.data.match import fit_input
    from edgeopt.data.spec import DataSpec
    from edgeopt.measure import evaluate, one_input, time_sessions
    from edgeopt.measure.changes import pack_bits
    from edgeopt.model.load import read_onnx
    from edgeopt.model.profile import profile
    from edgeopt.model.runtime import open_session
    from edgeopt.rows import accuracy_facts, against_facts

    models = [read_onnx(path) for path in paths]
    names = [str(path) for path in paths]
    outcomes, shown = {}, None
    if data is not None:
        images = load_data(DataSpec(source=data), model=models[0], seed=seed, progress=progress)
        shown = images.test
        for name, model in zip(names[1:], models[1:], strict=True):
            fit_input(images.test, model, name)
        sessions = {name: open_session(path, entries=entries) for name, path in zip(names, paths, strict=True)}
        anchors = models[0].meta.anchors
        outcomes = evaluate(sessions, images.test, reference=names[0], anchors=anchors, progress=progress)
    timed = {
        name: open_session(path, threads=threads, entries=entries) for name, path in zip(names, paths, strict=True)
    }
    feeds = {name: one_input(session, shown) for name, session in timed.items()}
    latencies = time_sessions(timed, feeds)
    rows = []
    for name, path, model in zip(names, paths, models, strict=True):
        costs, latency = profile(model, feeds=feeds[name]), latencies[name]
        row: dict[str, Any] = {
            "model": name,
            "size_bytes": read_onnx_file(path).size_bytes,
            "params": costs.params,
            "macs": costs.macs,
            "peak_ram_bytes": costs.peak_ram_bytes,
            "sizes": costs.sizes,
            "latency_ms": latency.median_ms,
            "latency_low_ms": latency.low_ms,
            "latency_high_ms": latency.high_ms,
            "speedup": latencies[names[0]].median_ms / latency.median_ms,
        }
        row["speedup_low"], row["speedup_high"] = latencies[names[0]].ratio_to(latency)
        row["correct_bits"] = pack_bits(outcomes[name].correct) if name in outcomes else ""
        rows.append(
            row | accuracy_facts(outcomes.get(name)) | against_facts(outcomes.get(name), outcomes.get(names[0]))
        )
    return rows


def _show(rows: list[dict[str, Any]], threads: int) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    for column in ("size", "MACs", "RAM", rows[0].get("metric", "accuracy"), "drop", "latency", "speedup"):
        table.add_column(column, justify="right")
    for row in rows:
        accuracy, drop = row.get("accuracy"), row.get("drop_points")
        table.add_row(
            row["model"],
            format_bytes(row["size_bytes"]),
            f"{row['macs'] / 1e6:.2f} M",
            format_bytes(row["peak_ram_bytes"]),
            "-" if accuracy is None else f"{100 * accuracy:.2f} %",
            "-" if drop is None else f"{drop:+.2f} pt",
            f"{row['latency_ms']:.3f} ms",
            f"{row['speedup']:.2f}x",
        )
    console().print(table)
    samples = rows[0].get("samples")
    note = f"{samples} test samples; " if samples else ""
    if rows[0]["sizes"]:
        note += f"sizes {format_sizes(rows[0]['sizes'])}; "
    console().print(f"[dim]{note}one input at a time, {threads} thread(s), medians, taken in turns[/]")
