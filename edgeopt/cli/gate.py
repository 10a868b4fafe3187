"""`edgeopt gate`: check reports, or bare .onnx files, against limits and against a stored report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edgeopt import gate as gates
from edgeopt.cli.complete import complete_tier
from edgeopt.cli.gate_outputs import Output, parse_outputs, record, write_badges, write_outputs
from edgeopt.errors import GateFailed, UsageError
from edgeopt.gate.formats import Checked
from edgeopt.report.report import Report, read_report, report_path

Flag = list[str] | None


@dataclass(frozen=True)
class _Asked:
    """What is to hold, whatever file is looked at."""

    given: dict[str, gates.Limits]
    limits: Path | None
    regressions: list[gates.Regression]
    baseline: Path | None
    tier: str | None
    allow_uncertain: bool
    report_only: bool


def gate(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="REPORT...", help="A run's report.json (or its folder), or .onnx files; several."),
    ],
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
    max_lint: Annotated[
        Flag, typer.Option(metavar="[TIER=]COUNT", help="Most breaches of the tier's Q/DQ rules, such as jetson=0.")
    ] = None,
    operators: Annotated[
        Flag,
        typer.Option(
            metavar="[TIER=]NAMES", help="Operators it may be made of, such as Conv,Relu; a tier stands for its own."
        ),
    ] = None,
    limits: Annotated[
        Path | None,
        typer.Option(help="YAML file of limits, shaped as a recipe's gate; flags go before it."),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="A stored report.json, such as that of the main branch, to compare with.")
    ] = None,
    max_regression: Annotated[
        Flag,
        typer.Option(
            metavar="[TIER:]FIGURE=AMOUNT",
            help="How much worse than --baseline a figure may be: size=2% accuracy=0.3pt latency=10%.",
        ),
    ] = None,
    allow_uncertain: Annotated[
        bool,
        typer.Option("--allow-uncertain", help="Where the samples cannot tell, let the measured figure decide."),
    ] = False,
    tier: Annotated[
        str | None,
        typer.Option("--tier", "-t", help="What .onnx files were made for.", autocompletion=complete_tier),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Do not look for the artifact files beside the report.")
    ] = False,
    format: Annotated[
        Flag,
        typer.Option(
            metavar="NAME[=FILE]", help="text, json, junit, github or markdown, on the screen or in FILE; repeat."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    history: Annotated[
        Path | None, typer.Option(help="Append commit, time, figures and verdict to this file, one line a report.")
    ] = None,
    badge: Annotated[
        Flag, typer.Option(metavar="[TIER=]FILE", help="Write an SVG badge: the verdict, or a tier's figures.")
    ] = None,
) -> None:
    """Exit 0 when every limit holds, 1 when one does not or the samples cannot tell, 2 when the question is wrong.

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
        "lint": max_lint,
        "operators": operators,
    }
    outputs = parse_outputs([*(format or []), *(["json"] if as_json else [])])
    files, more = _split(paths)
    asked = _Asked(
        given=gates.parse_flags({limit: texts or [] for limit, texts in flags.items()}),
        limits=limits,
        regressions=[gates.parse_regression(part) for part in _parts([*(max_regression or []), *more])],
        baseline=baseline,
        tier=tier,
        allow_uncertain=allow_uncertain,
        report_only=report_only,
    )
    _check_asked(asked)
    checked = [_check(Path(path), asked) for path in files]
    _deliver(checked, outputs, history, badge or [])
    found = gates.failure([verdict for one in checked for verdict in one.verdicts])
    if found is not None:
        raise GateFailed(found, where=", ".join(one.path for one in checked if not one.ok))


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Files, and what else stands behind `--max-regression size=2% accuracy=0.3pt`."""
    more = [word for word in words if "=" in word and not Path(word).exists() and not word.endswith((".json", ".onnx"))]
    files = [word for word in words if word not in more]
    if not files:
        raise UsageError("there is no report to check", fix="name a report.json or an .onnx file first")
    return files, more


def _parts(texts: list[str]) -> list[str]:
    """`size=2%,accuracy=0.3pt` -> both."""
    return [part for text in texts for part in (text.replace(",", " ").split() or [text])]


def _check_asked(asked: _Asked) -> None:
    if asked.regressions and asked.baseline is None:
        raise UsageError("a regression needs something to compare with", fix="give --baseline main.json")
    if asked.baseline is not None and not asked.regressions:
        raise UsageError(
            "nothing is said of what may not get worse", where="--baseline", fix="give --max-regression size=2%"
        )


def _check(path: Path, asked: _Asked) -> Checked:
    if path.suffix == ".onnx":
        return Checked(str(path), tuple(_check_model(path, asked)))
    if asked.tier is not None:
        raise UsageError("--tier is for .onnx files; a report names its tiers", where=str(path))
    place = report_path(path)
    report = read_report(place)
    wanted = _wanted(report, place, asked)
    found = [] if asked.report_only else gates.check_files(report, place.parent)
    found += gates.check(report, wanted, allow_uncertain=asked.allow_uncertain)
    if asked.baseline is not None:
        found += gates.check_change(
            report,
            read_report(report_path(asked.baseline)),
            asked.regressions,
            limits=wanted,
            allow_uncertain=asked.allow_uncertain,
        )
    order = [row.tier for row in report.tiers]
    found.sort(key=lambda verdict: order.index(verdict.tier) if verdict.tier in order else len(order))
    return Checked(str(place), tuple(found), report)


def _check_model(path: Path, asked: _Asked) -> list[gates.Verdict]:
    from edgeopt.report.onnx_file import read_onnx_file

    if asked.baseline is not None:
        raise UsageError(
            "a model file has no stored figures to compare",
            where=str(path),
            fix="`edgeopt compare A.onnx B.onnx --data D` measures two, or give report.json files",
        )
    wanted = gates.merge_limits(gates.read_limits(asked.limits) if asked.limits else {}, asked.given)
    if gates.bounds_nothing(wanted):
        raise UsageError("there is no limit to check", fix="give --max-size, --max-params, --operators or --limits")
    file = read_onnx_file(path)
    lint = asked.tier is not None and gates.limits_of(asked.tier, wanted).lint is not None
    breaches = _count_breaches(path, str(asked.tier)) if lint else None
    return gates.check_file(file, str(path), wanted, tier=asked.tier, breaches=breaches)


def _count_breaches(path: Path, tier: str) -> int:
    """Of the tier's Q/DQ rules. Loads onnx, which nothing else here does."""
    from edgeopt.export.lint import lint
    from edgeopt.model.load import read_onnx
    from edgeopt.tiers import load_tier

    return len(lint(read_onnx(path), load_tier(tier).placement))


def _wanted(report: Report, path: Path, asked: _Asked) -> dict[str, gates.Limits]:
    tiers = [row.tier for row in report.tiers]
    wanted = gates.merge_limits(gates.read_limits(asked.limits, tiers) if asked.limits else {}, asked.given)
    if not gates.bounds_nothing(wanted) or (asked.regressions and asked.limits):
        return wanted
    if asked.limits:
        raise UsageError("gives no limit to check", where=str(asked.limits), fix="write one like mcu: {size: 100KB}")
    if report.limits or asked.regressions:
        return report.limits
    raise UsageError(
        "neither the command nor the report's recipe gives a limit",
        where=str(path),
        fix="give one, such as --max-size mcu=100KB or --max-drop 2pt, or a file of them with --limits",
    )


def _deliver(checked: list[Checked], outputs: list[Output], history: Path | None, badges: list[str]) -> None:
    write_outputs(checked, outputs)
    if badges:
        write_badges(checked, badges)
    if history is not None:
        record(checked, history)
