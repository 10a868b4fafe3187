"""From an int8 model to the texts of its C program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import numpy as np

from edgeopt.errors import StageFailed
from edgeopt.mcu.arena import Arena, plan_arena
from edgeopt.mcu.call import Call
from edgeopt.mcu.cores import PACKINGS, PAIRS
from edgeopt.mcu.fit import fit
from edgeopt.mcu.lower import lower
from edgeopt.mcu.lower_conv import choose_alternate, join_rows
from edgeopt.mcu.program import Program
from edgeopt.mcu.read import read_program
from edgeopt.mcu.reference import Reference
from edgeopt.mcu.stripes import Striped
from edgeopt.mcu.write import Source, write_header, write_source, write_tests
from edgeopt.model.model import Model
from edgeopt.tiers import Tier
from edgeopt.units import format_bytes

__all__ = ["Compiled", "check_ram", "compile_model", "describe"]

VECTORS = 4
NAMED = 3


@dataclass(frozen=True)
class Compiled:
    """The C program of a model."""

    name: str
    program: Program
    calls: tuple[Call, ...]
    arena: Arena
    files: dict[str, str]
    """Texts by file name: NAME.c, NAME.h, NAME_test.h, NAME.mk and README."""


def compile_model(
    model: Model, name: str = "model", *, samples: np.ndarray | None = None, ram_limit: int | None = None
) -> Compiled:
    """C for an int8 Q/DQ model with one input and one output, batch 1.

    `samples` float [count, *input shape], for the test vectors; noise over the input's range by default. When the arena
    would take more than `ram_limit` bytes, the first operators run by stripes of rows; it may still take more (see
    `check_ram`). Raises StageFailed naming the first operator that has no kernel.
    """
    program = read_program(model)
    whole = program.ops
    program, calls, arena = _smallest(program)
    if ram_limit is not None:
        calls, arena = fit(program, whole, calls, ram_limit)
    source = Source(name, _title(model), program, calls, arena)
    reference = Reference(model, program)
    inputs = reference.noise(VECTORS) if samples is None else reference.quantize(samples[:VECTORS])
    texts = {
        f"{name}.c": write_source(source),
        f"{name}.h": write_header(source),
        f"{name}_test.h": write_tests(source, inputs, reference.run(inputs)),
        f"{name}.mk": _filled("model.mk", source),
        "README": _filled("README", source),
    }
    return Compiled(name, program, calls, arena, texts)


def _smallest(program: Program) -> tuple[Program, tuple[Call, ...], Arena]:
    """The program with its kernels and its memory: rows joined, which is faster, unless that takes more memory."""
    found = []
    for ops in (join_rows(program.ops), program.ops):
        chosen = replace(program, ops=choose_alternate(ops))
        calls = tuple(lower(op) for op in chosen.ops)
        found.append((chosen, calls, plan_arena(chosen, calls)))
    return min(found, key=lambda choice: sum(plan.size for plan in choice[2].plans.values()))


def check_ram(compiled: Compiled, tier: Tier) -> None:
    """Raise StageFailed when the arena is over the tier's RAM limit, naming the layers that need most."""
    limit, plan = tier.max_peak_ram_bytes, max(compiled.arena.plans.values(), key=lambda plan: plan.size)
    if limit is None or plan.size <= limit:
        return
    heaviest = sorted(plan.steps, key=lambda step: -step.live_bytes)[:NAMED]
    raise StageFailed(
        f"the C code's arena takes {plan.size:,} B, {plan.size - limit:,} B over the limit of {format_bytes(limit)}; "
        "most is in use at " + ", ".join(f"{step.layer} {format_bytes(step.live_bytes)}" for step in heaviest),
        where=f"tier {tier.name}",
        fix="prune or shrink these layers, or reduce the input's size",
    )


def describe(compiled: Compiled) -> dict[str, Any]:
    """Facts for the report: the arena's bytes and, step by step, those in use, at most at `peak_layer`.

    `recomputed_macs` come on top of `macs`: of rows that two stripes need.
    """
    plans = compiled.arena.plans
    return {
        "arena_bytes": {packing.name: plans[packing].size for packing in PACKINGS},
        "peak_layer": plans[PAIRS].peak.layer,
        "timeline": [[step.layer, step.live_bytes] for step in plans[PAIRS].steps],
        "macs": compiled.program.macs,
        "recomputed_macs": sum(call.op.recomputed for call in compiled.calls if isinstance(call.op, Striped)),
    }


def _title(model: Model) -> str:
    provenance = model.meta.provenance
    recipe = provenance.get("recipe", "")
    return f"A network by edgeopt{' (' + recipe + ')' if recipe else ''}"


def _filled(template: str, source: Source) -> str:
    text = (files("edgeopt.mcu") / "templates" / template).read_text()
    answers = {"title": source.title, "name": source.name, "NAME": source.name.upper()}
    for key, value in answers.items():
        text = text.replace(f"@{key}@", value)
    return text
