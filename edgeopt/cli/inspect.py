"""`edgeopt inspect`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeopt.cli.complete import complete_tier
from edgeopt.cli.console import NARROW, bar, console, print_json
from edgeopt.cli.running import ModelArgument, ModelSettingOption, WeightsOption, read_settings
from edgeopt.report.onnx_file import read_onnx_file
from edgeopt.units import format_bytes, format_sizes

if TYPE_CHECKING:
    from edgeopt.model import Model
    from edgeopt.model.profile import Profile
    from edgeopt.tiers import Tier

__all__ = ["inspect"]


def inspect(
    model: ModelArgument,
    weights: WeightsOption = None,
    settings: ModelSettingOption = None,
    tier: Annotated[
        str | None,
        typer.Option("--tier", "-t", help="Say what this tier would object to.", autocompletion=complete_tier),
    ] = None,
    layers: Annotated[int, typer.Option("--layers", help="Heaviest layers to list; 0: none.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output, every layer.")] = False,
) -> None:
    """Show what is in a model: inputs, operators, parameters, MACs, peak activation RAM, the heaviest layers."""
    from edgeopt.model.load import load_model
    from edgeopt.model.profile import profile
    from edgeopt.tiers import load_tier

    chosen = load_tier(tier) if tier else None
    loaded = load_model(model, weights=weights, settings=read_settings(settings))
    costs = profile(loaded)
    facts = describe(loaded, model, costs)
    if chosen is not None:
        facts["tier"] = {"name": chosen.name, "objections": _objections(loaded, chosen, facts["size_bytes"], costs)}
    if as_json:
        print_json(facts)
        return
    _show(facts, layers)


def _objections(model: Model, tier: Tier, size_bytes: int, costs: Profile) -> list[str]:
    """What keeps the model from being this tier's artifact as it is, and what its runtime would be slow at."""
    from edgeopt.export.check import objections
    from edgeopt.export.lint import lint

    found = objections(model, tier, size_bytes=size_bytes, profile=costs)
    if tier.c_code:
        from edgeopt import mcu

        found += mcu.objections(model)
    return found + [f"{finding} [{finding.rule}]" for finding in lint(model, tier.placement)]


def describe(model: Model, source: str, costs: Profile) -> dict[str, Any]:
    """Everything that a model's graph says, as JSON-ready facts."""
    return {
        "model": source,
        "size_bytes": read_onnx_file(Path(source)).size_bytes if source.endswith(".onnx") else costs.file_bytes,
        "opset": model.graph.opset_imports.get("", 0),
        "inputs": [[info.name, list(info.shape), info.dtype.name] for info in model.inputs],
        "outputs": [[info.name, list(info.shape), info.dtype.name] for info in model.outputs],
        "params": costs.params,
        "macs": costs.macs,
        "sizes": costs.sizes,
        "peak_ram_bytes": costs.peak_ram_bytes,
        "peak_layer": costs.peak_layer,
        "operators": dict(Counter(node.op_type for node in model.graph.graph).most_common()),
        "meta": model.meta.model_dump(mode="json", exclude_defaults=True),
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "params": layer.params,
                "macs": layer.macs,
                "weight_bytes": layer.weight_bytes,
                "output_bytes": layer.output_bytes,
            }
            for layer in costs.layers
        ],
    }


def _show(facts: dict[str, Any], layers: int) -> None:
    from rich.table import Table

    terminal = console()
    head = Table(box=None, pad_edge=False, show_header=False)
    for key in ("inputs", "outputs"):
        for name, shape, dtype in facts[key]:
            head.add_row(f"[bold]{key[:-1]}[/]", f"{name} {dtype} {' x '.join(map(str, shape))}")
    head.add_row("[bold]file[/]", f"{format_bytes(facts['size_bytes'])}, opset {facts['opset']}")
    head.add_row("[bold]parameters[/]", f"{facts['params']:,}")
    sizes = f" of {format_sizes(facts['sizes'])}" if facts["sizes"] else ""
    head.add_row("[bold]MACs[/]", f"{facts['macs']:,} for one input{sizes}")
    head.add_row(
        "[bold]peak RAM[/]",
        f"{format_bytes(facts['peak_ram_bytes'])} of activations, at {facts['peak_layer']}",
    )
    head.add_row("[bold]operators[/]", ", ".join(f"{op} {n}" for op, n in facts["operators"].items()))
    terminal.print(head)
    heaviest = sorted(facts["layers"], key=lambda layer: -layer["weight_bytes"])[:layers]
    if heaviest:
        table = Table(box=None, pad_edge=False, header_style="bold", title="heaviest layers", title_justify="left")
        roomy = terminal.width >= NARROW
        for column in ("layer", "operator"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        for column in ("weights", *([""] if roomy else []), "MACs", "output"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        most = max(heaviest[0]["weight_bytes"], 1)
        for layer in heaviest:
            table.add_row(
                layer["name"],
                layer["op"],
                format_bytes(layer["weight_bytes"]),
                *([bar(layer["weight_bytes"] / most)] if roomy else []),
                f"{layer['macs']:,}",
                format_bytes(layer["output_bytes"]),
            )
        terminal.print()
        terminal.print(table)
    if "tier" in facts:
        said = facts["tier"]["objections"]
        terminal.print(f"\n[bold]tier {facts['tier']['name']}[/]: {'nothing against it' if not said else ''}")
        for sentence in said:
            terminal.print(f"  {sentence}", markup=False)
