"""`edgeopt sensitivity`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeopt.cli.console import TerminalProgress, console, print_json
from edgeopt.cli.running import (
    DataOption,
    ModelArgument,
    ModelSettingOption,
    SeedOption,
    WeightsOption,
    read_settings,
)
from edgeopt.errors import UsageError

if TYPE_CHECKING:
    from edgeopt.quantize.examine import Examination

__all__ = ["sensitivity"]

ENTRANCES = 3
WIDTH = 80


def sensitivity(
    model: ModelArgument,
    data: DataOption = None,
    tier: Annotated[
        str | None, typer.Option("--tier", "-t", help="Quantize as this tier wants it; none: for onnxruntime.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Calibration images that the figures use.")] = 16,
    calibrator: Annotated[
        str | None, typer.Option("--calibrator", help="How ranges are chosen, as in `edgeopt quantize`.")
    ] = None,
    worst: Annotated[int, typer.Option("--worst", min=1, help="Layers in the exclude list.")] = 5,
    rows: Annotated[int, typer.Option("--layers", min=0, help="Layers to list; 0: all of them.")] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.json", help="Write everything to a file, too.")
    ] = None,
    weights: WeightsOption = None,
    settings: ModelSettingOption = None,
    seed: SeedOption = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output, every layer.")] = False,
) -> None:
    """Rank the layers by what int8 costs them, show where error enters, and print an exclude list.

    Nothing is written but --out. Labels are not needed.
    """
    from edgeopt.cli.flags import build
    from edgeopt.data import load_data
    from edgeopt.data.spec import DataSpec
    from edgeopt.model.load import load_model
    from edgeopt.quantize.examine import examine
    from edgeopt.quantize.stage import Quantize
    from edgeopt.stage import Context
    from edgeopt.tiers import load_tier

    if data is None:
        raise UsageError("sensitivity needs images", fix="give it --data, such as the images it was trained on")
    _refuse_folder(out)
    chosen = load_tier(tier or "any")
    quantize = build(Quantize, {("calibrator",): calibrator} if calibrator else {})
    assert isinstance(quantize, Quantize)
    with TerminalProgress() as progress:
        progress.stage("sensitivity")
        loaded = load_model(model, weights=weights, settings=read_settings(settings))
        images = load_data(DataSpec(source=data), model=loaded, seed=seed, progress=progress)
        context = Context(data=images, seed=seed, progress=progress, tier=chosen)
        found = examine(loaded, quantize, context, count=samples)
    facts = {"model": model, "tier": chosen.name, "seed": seed, **_facts(found, worst)}
    if out is not None:
        _write(out, facts)
    if as_json:
        print_json(facts)
    else:
        _show(facts, rows, integer_only=chosen.integer_only)


def _facts(found: Examination, worst: int) -> dict[str, Any]:
    from edgeopt.quantize.sensitivity import entrances, exclude_list

    return {
        "samples": found.samples,
        "int8_sqnr_db": round(found.int8_db, 2),
        "layers": [_rounded(layer.facts()) for layer in found.layers],
        "error_enters": [layer.name for layer in entrances(found.layers, ENTRANCES)],
        "exclude": exclude_list(found.layers, worst),
    }


def _rounded(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in facts.items()}


def _refuse_folder(out: Path | None) -> None:
    if out is not None and (out.is_dir() or out.suffix != ".json"):
        raise UsageError("is no .json file", where=f"--out {out}", fix="name the file to write, such as layers.json")


def _write(path: Path, facts: dict[str, Any]) -> None:
    import json

    from edgeopt.atomic import write_atomic

    write_atomic(path, json.dumps(facts, indent=2) + "\n")


def _show(facts: dict[str, Any], rows: int, *, integer_only: bool) -> None:
    from rich.table import Table

    terminal = console()
    layers = facts["layers"]
    if not layers:
        terminal.print("no layer would run in integers here")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("node", max_width=26, no_wrap=True, overflow="ellipsis")
    table.add_column("operator", max_width=17, no_wrap=True)
    for heading in ("alone", "output", "weights"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers[: rows or None]:
        share = f"{100 * layer['weight_share']:.1f} %" if layer["weight_share"] else "-"
        table.add_row(layer["name"], layer["operator"], _db(layer["alone_db"]), _db(layer["output_db"]), share)
    terminal.print(table)
    if 0 < rows < len(layers):
        terminal.print(f"... and {len(layers) - rows} more (--layers 0 lists all)", style="dim")
    terminal.print(
        f"\nalone: SQNR of the model's output with only this layer in int8\n"
        f"output: SQNR of the layer's own output with everything in int8\n"
        f"{facts['samples']} samples; the whole model in int8: {_db(facts['int8_sqnr_db'])}",
        style="dim",
        markup=False,
    )
    _show_entrances(facts)
    if integer_only:
        terminal.print(f"\ntier {facts['tier']} has no float kernels: nothing can be excluded", markup=False)
    else:
        _show_exclude(facts["exclude"])


def _show_entrances(facts: dict[str, Any]) -> None:
    by_name = {layer["name"]: layer for layer in facts["layers"]}
    console().print("\n[bold]error enters most at[/]")
    for name in facts["error_enters"]:
        layer = by_name[name]
        label = f" ({layer['layer']})" if layer["layer"] != name else ""
        console().print(
            f"  {name}{label}: reads {_db(layer['input_db'])}, makes {_db(layer['output_db'])}", markup=False
        )


def _show_exclude(names: list[str]) -> None:
    """In a recipe and as flags; each takes a line that can be copied whole."""
    import re
    import shlex

    import yaml

    literal = [name if re.fullmatch(r"[\w./-]+", name) else re.escape(name) for name in names]
    listed = yaml.safe_dump(literal, default_flow_style=True, width=10_000).strip()
    terminal = console()
    terminal.print(f"\n[bold]to keep the {len(names)} worst in float[/]")
    terminal.print(f"exclude: {listed}", markup=False, soft_wrap=True)
    terminal.print(" ".join(f"--exclude {shlex.quote(name)}" for name in literal), markup=False, soft_wrap=True)


def _db(value: float | None) -> str:
    from edgeopt.quantize.sensitivity import HIGHEST_DB

    if value is None:
        return "-"
    return "exact" if value >= HIGHEST_DB else f"{value:.1f} dB"
