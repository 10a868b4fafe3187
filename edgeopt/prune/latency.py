"""What each layer takes at each width, measured: the table that a latency target is reached by.

A layer does not get faster as its MACs shrink. Its kernel works on blocks of channels, so that a width between two
multiples of the block costs as much as the larger one, or leaves the fast kernel altogether. So each convolution and
matrix product is timed by itself, as a graph of one node, at a handful of widths: multiples of 16 from narrow to full,
and beside them some of the odd widths that the tier would accept, which have a factor of their own. What lies between
is interpolated. Equal layers are timed once. Only ratios are taken from there: what a layer takes at full width is its
kernel's time inside of the whole model.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.macs import COUNTERS, count_macs
from edgeopt.model.profile import node_label, with_shapes
from edgeopt.model.shapes import static_shape
from edgeopt.prune.groups import Plan
from edgeopt.prune.lengths import Form, Lengths
from edgeopt.prune.stopwatch import Stopwatch

__all__ = ["Curve", "LayerTimes", "Table", "curve_widths"]

BLOCK = 16
"""Channels that a kernel works on at once: AVX-512 and NEON with onnxruntime; where it is 8, 16 is a multiple too."""
SHARES = (1.0, 0.7, 0.45, 0.2)
"""Of the full width, at which multiples of the block are timed."""
ODD_SHARES = (0.85, 0.4)
FEW = 6
"""A dim with no more widths than this is timed at every one."""

Key = tuple[object, ...]
"""Operator, attributes, shapes, which inputs are weights."""
Times = Callable[[tuple[int, ...]], float]
"""Lengths of a layer's own dims -> milliseconds."""


@dataclass(frozen=True)
class Curve:
    """Widths of one dim that are timed: `regular` ones are interpolated, `odd` ones give a factor to widths alike."""

    full: int
    regular: tuple[int, ...]
    odd: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Largest power of two up to BLOCK that divides a width -> widths timed of that kind."""

    def kind(self, width: int) -> int:
        """The key in `odd` that the width falls under; 0 for a regular one."""
        divisor = math.gcd(width, BLOCK)
        return divisor if divisor in self.odd else 0


def curve_widths(full: int, multiple: int) -> Curve:
    """What to time of a dim of `full` channels whose widths will be multiples of `multiple`."""
    step = math.gcd(multiple, BLOCK)
    every = sorted({*range(step, full, step), full})
    if len(every) <= FEW:
        return Curve(full, tuple(every))
    regular = {max(BLOCK, math.ceil(share * full / BLOCK) * BLOCK) for share in SHARES}
    kinds = [kind for kind in (8, 4, 2, 1) if kind >= step]
    odd = {kind: tuple(sorted({_odd(share * full, kind) for share in ODD_SHARES})) for kind in kinds}
    return Curve(full, tuple(sorted(regular)), odd)


def _odd(near: float, kind: int) -> int:
    """The width next to `near` of which `kind` is the largest power of two that divides it."""
    return max(kind, (round((near / kind - 1) / 2) * 2 + 1) * kind)


class LayerTimes:
    """Milliseconds of one layer at any lengths of its dims, from those of its curves."""

    def __init__(self, curves: Sequence[Curve], measure: Times) -> None:
        self._curves = tuple(curves)
        grid = [measure(widths) for widths in itertools.product(*(curve.regular for curve in curves))]
        self._grid = np.array(grid).reshape([len(curve.regular) for curve in curves])
        self._odd = [self._factors(axis, measure) for axis in range(len(self._curves))]
        self.full = self.at([curve.full for curve in curves])

    def at(self, lengths: Sequence[int]) -> float:
        """Multilinear between regular widths, times the factor of each dim that is odd."""
        factor = 1.0
        for curve, odd, length in zip(self._curves, self._odd, lengths, strict=True):
            kind = curve.kind(length)
            if kind:
                factor *= float(np.interp(length, *odd[kind]))
        return self._regular(lengths) * factor

    def _regular(self, lengths: Sequence[int]) -> float:
        values = self._grid
        for curve, length in zip(self._curves, lengths, strict=True):
            place = float(np.interp(length, curve.regular, np.arange(len(curve.regular))))
            low = min(int(place), len(curve.regular) - 1)
            high = min(low + 1, len(curve.regular) - 1)
            values = values[low] * (1 - place + low) + values[high] * (place - low)
        return float(values)

    def _factors(self, axis: int, measure: Times) -> dict[int, tuple[list[int], list[float]]]:
        """Kind -> widths, and the time there over that of regular widths; the other dims are at their widest."""
        top = [curve.regular[-1] for curve in self._curves]
        found = {}
        for kind, widths in self._curves[axis].odd.items():
            tried = [(*top[:axis], width, *top[axis + 1 :]) for width in widths]
            found[kind] = (list(widths), [measure(own) / max(self._regular(own), 1e-9) for own in tried])
        return found


@dataclass(frozen=True)
class _Layer:
    """A node of the model."""

    variables: tuple[Form, ...]
    """Different lengths that depend on what is kept: its time is taken to be proportional to each of them where it has
    no `times`."""
    whole_ms: float
    """Its kernel's time inside of the whole model."""
    full: int
    """Product of the variables when nothing has left."""
    times: LayerTimes | None


class Table:
    """Milliseconds of a model for any widths."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        stopwatch: Stopwatch,
        *,
        multiple: int,
        seconds: float,
        whole_ms: float,
        known: dict[Key, float] | None = None,
    ) -> None:
        """Times layers for `seconds` at most, those with the most MACs first; what is not reached goes by its MACs.

        `whole_ms` is what the whole model takes; `known` keeps timings from one table to the next.
        """
        shaped, _ = with_shapes(model)
        graph = shaped.graph.graph
        values = [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]
        shapes = {value.name or "": shape for value in values if (shape := static_shape(value)) is not None}
        self._lengths = Lengths(plan, shapes)
        self._stopwatch = stopwatch
        self._multiple = multiple
        self._until = time.monotonic() + seconds
        self._known = {} if known is None else known
        inside = stopwatch.layers(model, whole_ms)
        nodes = sorted(graph, key=lambda node: -_macs(node, shapes))
        self.layers = [layer for node in nodes if (layer := self._layer(node, inside)) is not None]
        in_layers = sum(layer.whole_ms for layer in self.layers)
        self._scale = min(1.0, whole_ms / in_layers) if in_layers else 1.0
        self._rest = max(0.0, whole_ms - in_layers * self._scale)
        self._in_layers = in_layers * self._scale
        self._by_group: dict[int, list[int]] = {}
        for index, layer in enumerate(self.layers):
            for group in {group for form in layer.variables for group, _ in form.slices}:
                self._by_group.setdefault(group, []).append(index)

    @property
    def timed(self) -> int:
        """Layers that have a table of their own."""
        return sum(layer.times is not None for layer in self.layers)

    def touching(self, group: int) -> Sequence[int]:
        """Numbers of the layers whose time depends on the group."""
        return self._by_group.get(group, ())

    def layer_ms(self, index: int, counts: np.ndarray) -> float:
        """Time of one layer when group g keeps `counts[g]` units."""
        layer = self.layers[index]
        lengths = tuple(form.at(counts) for form in layer.variables)
        if layer.times is None:
            ratio = math.prod(lengths) / layer.full
        else:
            ratio = layer.times.at(lengths) / max(layer.times.full, 1e-9)
        return self._scale * layer.whole_ms * ratio

    def total_ms(self, layers_ms: float) -> float:
        """Time of the whole model whose layers take `layers_ms`; what belongs to none shrinks like them."""
        return layers_ms + self._rest * (layers_ms / self._in_layers if self._in_layers else 1.0)

    def of(self, kept: np.ndarray) -> float:
        """Milliseconds of the whole model with the units kept."""
        counts = self._lengths.counts(kept)
        return self.total_ms(sum(self.layer_ms(index, counts) for index in range(len(self.layers))))

    # ---- building

    def _layer(self, node: ir.Node, inside: Mapping[str, float]) -> _Layer | None:
        whole_ms = inside.get(node_label(node), 0.0)
        output = self._lengths.shape(node.outputs[0].name or "")
        if whole_ms <= 0 or output is None:
            return None
        shapes = [self._lengths.shape(value.name or "") if value is not None else () for value in node.inputs]
        known = [shape for shape in shapes if shape is not None]
        product = node.op_type in COUNTERS and len(known) == len(shapes)
        variables = tuple(
            dict.fromkeys(form for shape in (known if product else [output]) for form in shape if form.slices)
        )
        full = math.prod(form.at(self._lengths.full) for form in variables)
        times = self._time(node, known, variables) if product and variables else None
        return _Layer(variables, whole_ms, full, times)

    def _time(self, node: ir.Node, shapes: list[tuple[Form, ...]], variables: tuple[Form, ...]) -> LayerTimes | None:
        """The layer's own table; None where time is up, or where the layer does not run at such widths."""
        curves = [curve_widths(form.at(self._lengths.full), self._multiple) for form in variables]

        def measure(lengths: tuple[int, ...]) -> float:
            given = dict(zip(variables, lengths, strict=True))
            return self._measure(
                node, [tuple(given.get(form, round(form.fixed)) for form in shape) for shape in shapes]
            )

        try:
            return LayerTimes(curves, measure)
        except (_TimeIsUp, StageFailed):
            return None

    def _measure(self, node: ir.Node, shapes: list[tuple[int, ...]]) -> float:
        attributes = tuple(
            sorted((name, str(value.value)) for name, value in node.attributes.items() if name != "group")
        )
        constant = tuple(value is not None and value.const_value is not None for value in node.inputs)
        key = (node.op_type, attributes, tuple(shapes), constant)
        if key not in self._known:
            if time.monotonic() > self._until:
                raise _TimeIsUp
            self._known[key] = self._stopwatch.node(node, shapes)
        return self._known[key]


def _macs(node: ir.Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    sides = [
        [shapes.get(v.name or "", ()) if v is not None else () for v in side] for side in (node.inputs, node.outputs)
    ]
    return count_macs(node, *sides) if node.op_type in COUNTERS and all(sides[0][:2]) and sides[1][0] else 0


class _TimeIsUp(Exception):
    """No more layers are timed."""
