"""`edgeopt compare`: what changed between two reports, or between two models that are measured now."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgeopt.cli.complete import complete_tier
from edgeopt.cli.console import TerminalProgress, printed
from edgeopt.errors import UsageError
from edgeopt.report.compare import Comparison, Pair, compare_reports, compare_rows
from edgeopt.report.report import Row, read_report, report_path


class Format(StrEnum):
    """The views of a comparison."""

    text = "text"
    markdown = "markdown"
    html = "html"
    json = "json"


SUFFIXES = {".html": Format.html, ".md": Format.markdown, ".json": Format.json}


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="BEFORE", help="A run's report.json (or its folder), or an .onnx file.")
    ],
    second: Annotated[Path, typer.Argument(metavar="AFTER", help="Another of the same kind.")],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="For two models: digits, a folder of images, x.npz ... to measure both on."),
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(
            "--tier",
            "-t",
            help="Run two models with this tier's onnxruntime session options.",
            autocompletion=complete_tier,
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of the latency measurement of two models.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the split of --data.")] = 0,
    format: Annotated[
        Format | None, typer.Option(help="What to show it as; otherwise as the name of --out says, else text.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of the screen.")] = None,
) -> None:
    """Show every figure's change, with its interval.

    Reports are compared as they were measured. Two .onnx files are measured now: accuracy on the same images in one
    pass, latencies in turns.
    """
    models = [path.suffix == ".onnx" for path in (first, second)]
    if any(models) and not all(models):
        raise UsageError(
            "a report and a model cannot be compared", where=f"{first}, {second}", fix="give two of the same kind"
        )
    if all(models):
        found = _compare_models(first, second, data, tier, threads, seed)
    else:
        _refuse_measuring(data, tier)
        found = _compare_reports(first, second)
    _show(found, format or (SUFFIXES.get(out.suffix, Format.text) if out else Format.text), out)


def _refuse_measuring(data: str | None, tier: str | None) -> None:
    if data is not None or tier is not None:
        raise UsageError(
            "reports are compared as they were measured",
            where="--data" if data else "--tier",
            fix="give two .onnx files",
        )


def _compare_reports(first: Path, second: Path) -> Comparison:
    paths = [report_path(path) for path in (first, second)]
    return compare_reports(read_report(paths[0]), read_report(paths[1]), [str(path) for path in paths])


def _compare_models(
    first: Path, second: Path, data: str | None, tier: str | None, threads: int, seed: int
) -> Comparison:
    from edgeopt.cli.measure import measure_models
    from edgeopt.measure import environment
    from edgeopt.report.onnx_file import identify
    from edgeopt.report.report import Baseline, Environment
    from edgeopt.tiers import load_tier

    if first.resolve() == second.resolve():
        raise UsageError("the same model is named twice", where=str(first), fix="name two files")
    paths = [first, second]
    with TerminalProgress() as progress:
        measured = measure_models(paths, data, load_tier(tier).session if tier else {}, threads, seed, progress)
    hashes = [identify(path)[0] for path in paths]
    here = Environment(**environment(threads))
    base = Baseline(name=str(first), sha256=hashes[0], latency_ms=measured[0]["latency_ms"])
    rows = [
        Row(tier="model", path=str(path), sha256=sha256, baseline=base, environment=here, **_fields(figures))
        for path, sha256, figures in zip(paths, hashes, measured, strict=True)
    ]
    differences = [own for own in compare_rows(*rows, paired=True) if own.quantity.limit != "speedup"]
    note = "the same content" if hashes[0] == hashes[1] else ""
    pair = Pair(second.name if first.name == second.name else f"{first.name} → {second.name}", tuple(differences), note)
    return Comparison(str(first), str(second), (pair,))


def _fields(figures: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in figures.items() if name != "model"}


def _show(found: Comparison, format: Format, out: Path | None) -> None:
    text = _text(found, format, to_file=out is not None)
    if out is None:
        sys.stdout.write(text)
        return
    from edgeopt.atomic import write_atomic

    write_atomic(out, text)


def _text(found: Comparison, format: Format, *, to_file: bool) -> str:
    from edgeopt.report import compare_views as views

    if format is Format.json:
        import json

        return json.dumps(views.compare_data(found), indent=2) + "\n"
    if format is Format.html:
        return views.compare_html(found)
    if format is Format.markdown:
        return views.compare_markdown(found)
    return printed(views.compare_terminal(found), to_file=to_file)
