"""Which operators a model may be made of."""

from __future__ import annotations

from collections.abc import Collection

from edgeopt.errors import UsageError
from edgeopt.report.limits import Verdict
from edgeopt.tiers import list_tiers, load_tier

__all__ = ["judge_operators"]

ALWAYS = frozenset({"Constant", "DequantizeLinear", "QuantizeLinear"})
"""What holds numbers, and what says where integers stand: no work of their own."""


def judge_operators(tier: str, used: Collection[str], allowed: Collection[str]) -> Verdict:
    """Whether every operator of `used` is among `allowed`, in which a tier's name or file stands for its own set.

    Raises UsageError when a tier does not restrict operators.
    """
    permitted = {name for entry in allowed for name in _meant(entry)} | ALWAYS
    foreign = sorted(set(used) - permitted)
    said = ", ".join(allowed)
    if not used:
        sentence = f"the report does not have its layers; allowed {said}"
    elif foreign:
        sentence = f"has {', '.join(foreign)}, allowed {said}"
    else:
        sentence = f"{len(set(used) - ALWAYS)} kinds, all of them allowed ({said})"
    return Verdict(
        tier=tier,
        limit="operators",
        found=", ".join(foreign) if used else None,
        allowed=said,
        ok=bool(used) and not foreign,
        sentence=sentence,
    )


def _meant(entry: str) -> tuple[str, ...]:
    if entry not in list_tiers() and not entry.endswith((".yaml", ".yml")):
        return (entry,)
    tier = load_tier(entry)
    if not tier.placement.operators:
        raise UsageError(
            f"tier {tier.name!r} takes every operator of onnxruntime", where="operators", fix="list the ones you allow"
        )
    return (*tier.placement.operators, *tier.float_operators)
