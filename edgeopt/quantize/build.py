"""Builder: all that was learned about a float model in one pass over the samples, and the Q/DQ models it makes.

A search over placements (for speed, for accuracy) builds dozens of versions of one model. What each of them needs is
seen once: the builder keeps a histogram of every tensor that any placement may want, and reads no sample again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from edgeopt.model.model import Model
from edgeopt.quantize.calibrators import Calibrator
from edgeopt.quantize.eligible import is_float, why_float
from edgeopt.quantize.histogram import Histogram
from edgeopt.quantize.insert import insert
from edgeopt.quantize.operators import ONNXRUNTIME, data_inputs
from edgeopt.quantize.placement import plan
from edgeopt.quantize.plan import Plan
from edgeopt.quantize.ranges import Grid, make_grid
from edgeopt.quantize.saturation import limit, useful_range
from edgeopt.quantize.weights import WeightScale
from edgeopt.tiers import Tier

__all__ = ["Builder", "Built", "candidates", "wanted_tensors"]


@dataclass(frozen=True)
class Built:
    """A Q/DQ model and how it came about."""

    model: Model
    plan: Plan
    grids: dict[str, Grid]
    """Group of points -> scale and zero point."""
    histograms: dict[str, Histogram]
    """Group of points -> what its tensors held."""

    def with_model(self, model: Model) -> Built:
        """The same placement with other constants."""
        return replace(self, model=model)


@dataclass(frozen=True)
class Builder:
    """A prepared float model with what was observed of it."""

    model: Model
    tier: Tier
    observed: Mapping[str, Histogram]
    """Tensor -> what it held."""
    calibrator: Calibrator
    weights: WeightScale
    excluded: frozenset[str] = frozenset()
    """Nodes that stay in float whatever else is decided."""

    def candidates(self) -> tuple[str, ...]:
        """Names of the nodes that could run in integers here, in the order of the graph."""
        return tuple(name for name in candidates(self.model, self.tier) if name not in self.excluded)

    def leaving(self, floating: Collection[str]) -> Builder:
        """A builder that leaves these nodes in float too, whatever is asked of it."""
        return replace(self, excluded=self.excluded | set(floating))

    def plan(self, floating: Collection[str] = ()) -> Plan:
        """What `build` would quantize. Raises what it raises."""
        return plan(self.model, self.tier, self.excluded | set(floating))

    def build(self, floating: Collection[str] = ()) -> Built:
        """The Q/DQ model with the nodes named in `floating` kept in float.

        Raises StageFailed when the tier wants integers only and a node cannot have them.
        """
        decided = self.plan(floating)
        histograms = _merge(decided, self.observed, self.model)
        grids = {group: self._choose_grid(histogram) for group, histogram in histograms.items()}
        model = insert(self.model, decided, grids, self.tier.placement, self.weights)
        return Built(model, decided, grids, histograms)

    def _choose_grid(self, histogram: Histogram) -> Grid:
        placement = self.tier.placement
        symmetric = placement.activations == "symmetric"
        chosen = self.calibrator.choose_range(histogram, symmetric=symmetric)
        return make_grid(chosen, symmetric=symmetric, dtype=placement.activation_type)


def candidates(model: Model, tier: Tier) -> tuple[str, ...]:
    """Names of the nodes that could run in integers on `tier`, in the order of the graph."""
    operators = tier.placement.operators or ONNXRUNTIME
    return tuple(node.name or "" for node in model.graph.graph if why_float(node, operators, set()) is None)


def wanted_tensors(model: Model, tier: Tier) -> tuple[str, ...]:
    """Every tensor that some placement may put a Q/DQ pair on, each once."""
    names = set(candidates(model, tier))
    found: dict[str, None] = {}
    for node in model.graph.graph:
        if node.name in names:
            values = [*(node.inputs[i] for i in data_inputs(node)), *node.outputs]
            found |= {value.name or "": None for value in values if value is not None and is_float(value)}
    return tuple(found)


def _merge(decided: Plan, observed: Mapping[str, Histogram], model: Model) -> dict[str, Histogram]:
    """Group -> one histogram of all that its tensors hold and that matters to who reads them."""
    made = {value.name or "": value for node in model.graph.graph for value in node.outputs}
    merged: dict[str, Histogram] = {}
    for group, tensors in decided.sources.items():
        merged[group] = Histogram()
        for tensor in tensors:
            seen, value = observed[tensor], made.get(tensor)
            merged[group].merge(seen if value is None else limit(seen, useful_range(value)))
    return merged
