"""`edgeopt tiers`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeopt.cli.complete import complete_tier
from edgeopt.cli.console import console, print_json
from edgeopt.tiers import list_tiers, load_tier
from edgeopt.units import format_bytes

__all__ = ["tiers"]


def tiers(
    name: Annotated[
        str | None,
        typer.Argument(help="Show one tier's every property; a name or a file.", autocompletion=complete_tier),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List the tiers and their limits. A tier of your own is a copy of one of these files, named by its path."""
    chosen = [load_tier(name)] if name else [load_tier(known) for known in list_tiers()]
    if as_json or name:
        print_json([tier.model_dump(mode="json") for tier in chosen] if not name else chosen[0].model_dump(mode="json"))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("tier", "precision", "max file", "max RAM", "what it is"):
        table.add_column(column, overflow="fold", no_wrap=column.startswith("max"))
    for tier in chosen:
        size = format_bytes(tier.max_bytes) if tier.max_bytes else "-"
        ram = format_bytes(tier.max_peak_ram_bytes) if tier.max_peak_ram_bytes else "-"
        table.add_row(tier.name, ", ".join(tier.precisions), size, ram, tier.description)
    console().print(table)
