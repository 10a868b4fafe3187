"""`edgeopt gate`: check a report, or a bare .onnx file, against limits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from edgeopt import gate as gates
from edgeopt.cli.console import console, print_json
from edgeopt.errors import GateFailed, UsageError
from edgeopt.report.report import Report, read_report

Flag = list[str] | None


def gate(
    path: Annotated[Path, typer.Argument(help="A run's report.json (or its folder), or an .onnx file.")],
    max_size: Annotated[
        Flag, typer.Option(metavar="[TIER=]SIZE", help="Largest file, such as 100KB; mcu=100KB for one tier.")
    ] = None,
    max_drop: Annotated[
        Flag,
        typer.Option(metavar="[TIER=]POINTS", help="Largest accuracy drop in percentage points, such as 2pt."),
    ] = None,
    min_accuracy: Annotated[
        Flag, typer.Option(metavar="[TIER=]SHARE", help="Lowest accuracy, such as 97% or 0.97.")
    ] = None,
    min_speedup: Annotated[
        Flag, typer.Option(metavar="[TIER=]RATIO", help="Lowest speedup over the float model, such as 1.5.")
    ] = None,
    max_latency: Annotated[Flag, typer.Option(metavar="[TIER=]MS", help="Highest median latency, such as 5ms.")] = None,
    max_macs: Annotated[
        Flag, typer.Option(metavar="[TIER=]COUNT", help="Most multiply-adds for one input, such as 1.5M.")
    ] = None,
    max_params: Annotated[Flag, typer.Option(metavar="[TIER=]COUNT", help="Most parameters, such as 25k.")] = None,
    max_ram: Annotated[Flag, typer.Option(metavar="[TIER=]SIZE", help="Largest peak of RAM, such as 64KiB.")] = None,
    max_flash: Annotated[
        Flag, typer.Option(metavar="[TIER=]SIZE", help="Most code and constants of the C program, such as 100KB.")
    ] = None,
    max_instructions: Annotated[
        Flag, typer.Option(metavar="[TIER=]COUNT", help="Most instructions of one inference on a core, such as 20M.")
    ] = None,
    max_mismatches: Annotated[
        Flag, typer.Option(metavar="[TIER=]COUNT", help="Most outputs of the C program that differ, such as 0.")
    ] = None,
    limits: Annotated[
        Path | None,
        typer.Option(help="YAML file of limits, shaped as a recipe's gate; flags go before it."),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Do not look for the artifact files beside the report.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Exit 0 when every limit holds, 1 when one does not.

    Limits come from the flags and --limits; without any, from the recipe that made the report. A limit on a
    figure that the report does not have fails, and so does an artifact that changed since it was measured.
    """
    flags = {
        "size": max_size,
        "drop": max_drop,
        "accuracy": min_accuracy,
        "speedup": min_speedup,
        "latency": max_latency,
        "macs": max_macs,
        "params": max_params,
        "ram": max_ram,
        "flash": max_flash,
        "instructions": max_instructions,
        "mismatches": max_mismatches,
    }
    given = gates.parse_flags({limit: texts or [] for limit, texts in flags.items()})
    verdicts = _verdicts(path / "report.json" if path.is_dir() else path, given, limits, report_only)
    _show(verdicts, as_json)
    failed = sum(not verdict.ok for verdict in verdicts)
    if failed:
        raise GateFailed(f"{failed} of {len(verdicts)} checks failed", where=str(path))


def _verdicts(
    path: Path, given: dict[str, gates.Limits], limits: Path | None, report_only: bool
) -> list[gates.Verdict]:
    if path.suffix == ".onnx":
        from edgeopt.report.onnx_file import read_onnx_file

        wanted = gates.merge_limits(gates.read_limits(limits) if limits else {}, given)
        if not wanted:
            raise UsageError("there is no limit to check", fix="give --max-size, --max-params or --limits")
        return gates.check_file(read_onnx_file(path), path.name, wanted)
    report = read_report(path)
    wanted = _wanted(report, path, given, limits)
    files = [] if report_only else gates.check_files(report, path.parent)
    order = [row.tier for row in report.tiers]
    return sorted(files + gates.check(report, wanted), key=lambda verdict: order.index(verdict.tier))


def _wanted(report: Report, path: Path, given: dict[str, gates.Limits], limits: Path | None) -> dict[str, gates.Limits]:
    tiers = [row.tier for row in report.tiers]
    wanted = gates.merge_limits(gates.read_limits(limits, tiers) if limits else {}, given)
    if wanted or report.limits:
        return wanted or report.limits
    raise UsageError(
        "neither the command nor the report's recipe gives a limit",
        where=str(path),
        fix="give one, such as --max-size mcu=100KB or --max-drop 2pt, or a file of them with --limits",
    )


def _show(verdicts: list[gates.Verdict], as_json: bool) -> None:
    if as_json:
        ok = all(verdict.ok for verdict in verdicts)
        print_json({"ok": ok, "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts]})
        return
    terminal = console()
    tier_width = max((len(verdict.tier) for verdict in verdicts), default=0)
    limit_width = max((len(verdict.limit) for verdict in verdicts), default=0)
    for verdict in verdicts:
        line = Text("pass", "green") if verdict.ok else Text("FAIL", "bold red")
        terminal.print(line + f"  {verdict.tier:<{tier_width}}  {verdict.limit:<{limit_width}}  {verdict.sentence}")
