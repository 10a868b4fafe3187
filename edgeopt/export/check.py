"""Does a model fit a tier? Every objection says by how much, and which tensors or operators are to blame."""

from __future__ import annotations

from collections import defaultdict

from edgeopt.errors import StageFailed
from edgeopt.export.precision import precision_of
from edgeopt.model.memory import constant_values, runs_in_integers
from edgeopt.model.model import Model
from edgeopt.model.profile import Profile
from edgeopt.tiers import Tier
from edgeopt.units import format_bytes

__all__ = ["check_tier", "heaviest", "objections", "ram_objections"]

HEAVIEST = 5
NAMED = 5
"""Nodes named in one objection."""


def check_tier(model: Model, tier: Tier, size_bytes: int, profile: Profile) -> None:
    """Raises StageFailed with every limit of `tier` that the artifact does not meet. `size_bytes` is its
    file's.
    """
    found = objections(model, tier, size_bytes=size_bytes, profile=profile)
    if found:
        raise StageFailed("; ".join(found), where=f"tier {tier.name}", fix=_fix(model, tier))


def objections(model: Model, tier: Tier, *, size_bytes: int | None = None, profile: Profile | None = None) -> list[str]:
    """One sentence for each property of `tier` that the model does not have; limits only where figures are
    given.
    """
    precision = precision_of(model)
    if precision not in tier.precisions:
        found = [f"{precision} is not accepted ({', '.join(tier.precisions)} is)"]
    else:
        found = _float_operators(model, tier) if tier.integer_only else []
    found += [
        f"input {info.name!r} has a dynamic dim ({dim}) besides the batch"
        for info in model.inputs
        for dim in info.shape[1:]
        if not tier.dynamic_batch and not isinstance(dim, int)
    ]
    if size_bytes is not None and tier.max_bytes is not None and size_bytes > tier.max_bytes:
        found.append(f"the file has {_over(size_bytes, tier.max_bytes)}; the heaviest tensors are {heaviest(model)}")
    if profile is not None and not (tier.c_code and precision == "int8"):  # the C program has a plan of its own
        found += ram_objections(tier, profile)
    return found


def ram_objections(tier: Tier, profile: Profile) -> list[str]:
    """A sentence if whole tensors, none written over another, take more than the tier's limit."""
    limit = tier.max_peak_ram_bytes
    if limit is None or profile.peak_ram_bytes <= limit:
        return []
    largest = sorted(profile.layers, key=lambda layer: -layer.output_bytes)[:HEAVIEST]
    return [
        f"activations take {_over(profile.peak_ram_bytes, limit)}, at {profile.peak_layer}; the largest are "
        + ", ".join(f"{layer.name} {format_bytes(layer.output_bytes)}" for layer in largest)
    ]


def heaviest(model: Model, number: int = HEAVIEST) -> str:
    """The largest constants and their bytes, as a phrase."""
    sizes = {name: array.nbytes for name, array in model.weights().items()}
    largest = sorted(sizes.items(), key=lambda entry: -entry[1])[:number]
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in largest)


def _over(size: int, limit: int) -> str:
    return f"{size:,} B, {size - limit:,} B over the limit of {format_bytes(limit)}"


def _float_operators(model: Model, tier: Tier) -> list[str]:
    """Operators left in float, and operators for which the tier has no integer kernel."""
    graph = model.graph.graph
    constants = constant_values(graph)
    left: dict[str, list[str]] = defaultdict(list)
    unknown: dict[str, list[str]] = defaultdict(list)
    for node in graph:
        if constants.issuperset(node.outputs) or node.op_type in tier.float_operators:
            continue
        name = node.name or node.outputs[0].name or "?"
        if tier.placement.operators and not _known(node.op_type, tier):
            unknown[node.op_type].append(name)
        elif not runs_in_integers(node, constants):
            left[node.op_type].append(name)
    found = []
    if left:
        found.append(f"operators left in float: {_phrase(left)}")
    if unknown:
        found.append(f"operators without an integer kernel: {_phrase(unknown)}")
    return found


def _known(operator: str, tier: Tier) -> bool:
    return operator in (*tier.placement.operators, "QuantizeLinear", "DequantizeLinear") or operator.startswith("Q")


def _phrase(nodes: dict[str, list[str]]) -> str:
    return ", ".join(
        f"{operator} ({', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''})"
        for operator, names in nodes.items()
    )


def _fix(model: Model, tier: Tier) -> str:
    if precision_of(model) not in tier.precisions and "int8" in tier.precisions:
        return "add a quantize stage"
    if precision_of(model) not in tier.precisions:
        return "give the float model it was made from"
    return "prune or distill to a smaller network, replace the operators named, or choose another tier"
