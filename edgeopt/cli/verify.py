"""`edgeopt verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeopt.cli.console import TerminalProgress, console, print_json
from edgeopt.cli.running import DataOption, SeedOption
from edgeopt.errors import GateFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from edgeopt.mcu.compile import Compiled
    from edgeopt.mcu.estimate import FrameRate
    from edgeopt.mcu.reference import Reference
    from edgeopt.mcu.verify import Verification
    from edgeopt.model import Model
    from edgeopt.progress import Progress
    from edgeopt.report import Row
    from edgeopt.tiers import Device

__all__ = ["verify"]

KEPT = "; sizes and instructions "
"""Between what a host run rests on, and what the figures that it left as they were rest on."""
STACK_BYTES = 1024
"""Of a device's RAM, kept for the stack: programs here use about 250 B of it."""
CORE_SAMPLES = 64
"""Samples that an emulated core runs unless --samples says otherwise; the host runs every test image."""


def verify(
    model: Annotated[Path, typer.Argument(help="An int8 .onnx file, as the mcu tier writes it.")],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="host, cortex-m3, -m4, -m7 or -m55; repeat for several. Default: host."),
    ] = None,
    data: DataOption = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", "-n", min=1, help="Inputs to run. Default: 64; on the host every test image."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="stm32h743, another that ships, or the file of your own: limits and frame rate."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="A run's report.json: write the figures into the model's row.")
    ] = None,
    seed: SeedOption = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Build a model's C program, run it, and hold every output value against onnxruntime's.

    On a core it runs in QEMU, where instructions are counted. Exit 1: an output differs, or the program does not
    fit the device.
    """
    from edgeopt.mcu.verify import HOST, check_target
    from edgeopt.tiers import load_device

    board = load_device(device) if device else None
    if board is not None and board.target == HOST:
        raise UsageError("target host counts no instructions", where=str(device), fix="name a core, such as cortex-m4")
    targets = list(dict.fromkeys(target or [board.target if board else "host"]))
    for name in targets:
        check_target(name)
    if board is not None and board.target not in targets:
        raise UsageError(
            f"{board.name} runs what --target {board.target} builds", where="--device", fix="add that target"
        )
    with TerminalProgress() as progress:
        limit = None if board is None else board.ram_bytes - STACK_BYTES
        compiled, found, source = _verify(model, targets, limit, data, samples, seed, progress)
    facts = _facts(model, compiled, found, source)
    if board is not None:
        facts["device"] = _device_facts(board, compiled, next(own for own in found if own.target == board.target))
    if report is not None:
        _record(report, model, found, source)
    if as_json:
        print_json(facts)
    else:
        _show(found, source, facts.get("device"))
    _judge(found, facts.get("device"), str(model))


def _verify(
    path: Path,
    targets: list[str],
    ram_limit: int | None,
    data: str | None,
    samples: int | None,
    seed: int,
    progress: Progress,
) -> tuple[Compiled, list[Verification], str]:
    """The program (by stripes of rows, where its arena would be over the limit), what each target made of it, and what
    it was fed."""
    from edgeopt.mcu import compile_model
    from edgeopt.mcu.reference import Reference
    from edgeopt.mcu.verify import HOST, verify
    from edgeopt.model.load import read_onnx

    if path.suffix != ".onnx":
        raise UsageError("is no .onnx file", where=str(path), fix="write one with `edgeopt quantize --tier mcu`")
    network = read_onnx(path)
    progress.stage("write the C program")
    compiled = compile_model(network, ram_limit=ram_limit)
    reference = Reference(network, compiled.program)
    inputs, source = _inputs(network, reference, data, samples, seed, progress, everything=HOST in targets)
    expected = reference.run(inputs)
    found = []
    for name in targets:
        progress.stage(f"run on {name}")
        count = len(inputs) if name == HOST or samples else CORE_SAMPLES
        found.append(verify(compiled, inputs[:count], expected[:count], name))
    return compiled, found, source


def _inputs(
    model: Model,
    reference: Reference,
    data: str | None,
    samples: int | None,
    seed: int,
    progress: Progress,
    *,
    everything: bool,
) -> tuple[np.ndarray, str]:
    """int8 [count, size] in memory order, and what they are."""
    import numpy as np

    from edgeopt.data import load_data
    from edgeopt.data.match import fit_input
    from edgeopt.data.spec import DataSpec

    if data is None:
        return reference.noise(samples or CORE_SAMPLES, seed), f"inputs of noise, seed {seed}"
    images = load_data(DataSpec(source=data), model=model, seed=seed, progress=progress)
    fit_input(images.test, model, data)
    count = min(samples or (len(images.test) if everything else CORE_SAMPLES), len(images.test))
    return reference.quantize(images.test.read(np.arange(count)).x), f"test images of {images.name}"


def _facts(path: Path, compiled: Compiled, found: Sequence[Verification], source: str) -> dict[str, Any]:
    from edgeopt.mcu.verify import totals

    per_mac = [own.instructions_per_mac for own in found if own.instructions_per_mac is not None]
    return {
        "model": str(path),
        "inputs": source,
        "macs": compiled.program.macs,
        "samples": max(own.samples for own in found),
        **totals(found),
        "instructions_per_mac": max(per_mac, default=None),
        "targets": [_target_facts(own) for own in found],
    }


def _target_facts(own: Verification) -> dict[str, Any]:
    parts = ("code_bytes", "constant_bytes", "static_bytes", "stack_bytes")
    return {
        "target": own.target,
        "samples": own.samples,
        "mismatches": own.mismatches,
        "wrong_samples": own.wrong_samples,
        "instructions": own.instructions,
        "instructions_per_mac": own.instructions_per_mac,
        "flash_bytes": own.flash_bytes,
        "ram_bytes": own.ram_bytes,
        **{part: getattr(own.run, part, None) for part in parts},
    }


def _device_facts(device: Device, compiled: Compiled, own: Verification) -> dict[str, Any]:
    """Its limits, and the frame rate that it may be expected to have."""
    from edgeopt.mcu.estimate import from_instructions, from_runtimes, work_of

    assert own.instructions is not None
    others = from_runtimes(work_of(compiled.program), device)
    return {
        "name": device.name,
        "description": device.description,
        "flash_limit_bytes": device.flash_bytes,
        "ram_limit_bytes": device.ram_bytes,
        "fits": (own.flash_bytes or 0) <= device.flash_bytes and (own.ram_bytes or 0) <= device.ram_bytes,
        "frames_per_second": _rate_facts(from_instructions(own.instructions, device)),
        "published_runtimes": None if others is None else _rate_facts(others),
    }


def _rate_facts(rate: FrameRate) -> dict[str, Any]:
    return {"low": rate.low, "middle": rate.middle, "high": rate.high, "basis": rate.basis}


def _record(path: Path, model: Path, found: Sequence[Verification], source: str) -> None:
    """Put the figures into the row of the report whose artifact `model` is, and judge its limits anew."""
    from edgeopt.gate import judge_again
    from edgeopt.mcu.verify import basis, totals
    from edgeopt.report import read_report, report_path, write_report
    from edgeopt.report.onnx_file import identify

    path = report_path(path)
    before = read_report(path)
    sha256, _ = identify(model)
    if all(row.sha256 != sha256 for row in before.tiers):
        raise UsageError(f"has no row for {model}", where=str(path), fix="give the report of the run that made it")
    told = {key: value for key, value in totals(found).items() if value is not None}
    rest = basis(found, source)
    rows = [
        row.model_copy(update=told | {"c_basis": _with_kept(rest, row, told)}) if row.sha256 == sha256 else row
        for row in before.tiers
    ]
    write_report(judge_again(before.model_copy(update={"tiers": tuple(rows)})), path.parent)


def _with_kept(rest: str, row: Row, told: dict[str, int]) -> str:
    """`rest`; and what the row's other figures rest on, where a host run told nothing of them."""
    if "flash_bytes" in told or row.ram_bytes is None:
        return rest
    return f"{rest}{KEPT}{row.c_basis.rpartition(KEPT)[2]}"


def _show(found: Sequence[Verification], source: str, device: dict[str, Any] | None) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for own in found:
        table.add_column(own.target, justify="right")
    for name, cells in _lines([_target_facts(own) for own in found]):
        table.add_row(name, *cells)
    terminal = console()
    terminal.print(table)
    terminal.print(f"[dim]{source}; against onnxruntime, every output value[/]")
    if device is not None:
        _show_device(device)


def _lines(facts: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows of the table; those that no target has a figure for are left out."""
    names = {
        "samples": "samples",
        "mismatches": "mismatches",
        "wrong_samples": "  in samples",
        "instructions": "instructions",
        "instructions_per_mac": "  per MAC",
        "flash_bytes": "flash, bytes",
        "code_bytes": "  code",
        "constant_bytes": "  constants",
        "ram_bytes": "RAM, bytes",
        "static_bytes": "  static",
        "stack_bytes": "  stack",
    }
    lines = []
    for key, name in names.items():
        values = [own[key] for own in facts]
        told = any(value is not None for value in values)
        if told and (key != "wrong_samples" or any(values)):
            style = "{:.3f}" if key == "instructions_per_mac" else "{:,.0f}"
            lines.append((name, ["-" if value is None else style.format(value) for value in values]))
    return lines


def _show_device(device: dict[str, Any]) -> None:
    from edgeopt.units import format_bytes

    terminal = console()
    limits = f"flash {format_bytes(device['flash_limit_bytes'])}, RAM {format_bytes(device['ram_limit_bytes'])}"
    verdict = "fits" if device["fits"] else "does not fit"
    terminal.print(f"\n{device['name']} ({device['description']}): {limits}: {verdict}")
    for title, rate in (
        ("estimate", device["frames_per_second"]),
        ("published runtimes", device["published_runtimes"]),
    ):
        if rate is not None:
            middle, low, high = (_frames(rate[key]) for key in ("middle", "low", "high"))
            frames = f"{middle} frames/s ({low} to {high})"
            terminal.print(f"{title}: {frames}\n  [dim]{rate['basis']}[/]")


def _frames(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _judge(found: Sequence[Verification], device: dict[str, Any] | None, where: str) -> None:
    """Raise GateFailed when an output differs or the program does not fit."""
    wrong = [own for own in found if own.mismatches]
    if wrong:
        said = ", ".join(f"{own.mismatches:,} on {own.target}" for own in wrong)
        raise GateFailed(f"outputs differ from onnxruntime's: {said}", where=where)
    if device is not None and not device["fits"]:
        raise GateFailed(f"does not fit {device['name']}", where=where)
