"""Time of each layer, from onnxruntime's own profiler.

onnxruntime fuses nodes, moves them and makes new ones, but derives the names of what it makes from the names of what it
makes them of. So every node gets a name that says where it stands, and a kernel's time goes to the node it is named
after, or from there to the nearest node upstream whose operator it is (a Conv with its Relu may be named after the
Relu). A Q/DQ pair that is a kernel of its own counts for the layer it belongs to, as everywhere; what onnxruntime puts
in by itself (a change of layout) belongs to no layer and is left out. Times hold what the profiler itself takes,
about a microsecond a kernel.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.measure.kernels import kernel_events
from edgeopt.model import Model
from edgeopt.model.profile import CONVERTERS, node_label

__all__ = ["time_layers"]

SECONDS = 0.5
"""About what the timed runs of one model may take in all."""
FEWEST, MOST = 3, 50
WARM_UP = 2
FUSED_DEPTH = 4
"""A Conv, its Add and its clip may be one kernel, with a pair between them."""
EVENT = re.compile(r"at_(\d+)_")


def time_layers(
    model: Model,
    feeds: Mapping[str, np.ndarray],
    layers: Iterable[str],
    *,
    latency_ms: float,
    entries: Mapping[str, str] | None = None,
    threads: int = 1,
) -> dict[str, float]:
    """Name of a layer -> median milliseconds of its kernels in one run on `feeds`.

    `layers` are the names that `edgeopt.model.profile` gives. `latency_ms`, of one run, says how many fit into about
    half a second. A layer whose work is done in a neighbour's kernel (a folded Relu) is not among the result. Raises
    StageFailed when the model cannot be run.
    """
    named = model.copy()
    nodes = list(named.graph.graph)
    owners = _Owners(nodes, frozenset(layers))
    for index, node in enumerate(nodes):
        node.name = f"at_{index}_"
        for place, value in enumerate(node.outputs):  # some kernels are named after what they write
            value.name = f"at_{index}_{place}"
    rounds = int(np.clip(1000 * SECONDS / max(latency_ms, 1e-6), FEWEST, MOST))
    events, _ = kernel_events(named, feeds, lambda _: rounds, warm_up=WARM_UP, threads=threads, entries=entries)
    return {name: float(np.median(own)) for name, own in _per_run(events, owners, WARM_UP + rounds).items()}


class _Owners:
    """Which layer a kernel's time counts for."""

    def __init__(self, nodes: list[ir.Node], layers: frozenset[str]) -> None:
        self._nodes = nodes
        self._layers = layers
        self._labels = {node: node_label(node) for node in nodes}

    def find(self, index: int, operator: str) -> str | None:
        """Of a kernel named after node `index` that does the work of `operator`, onnxruntime's name for it."""
        if operator in CONVERTERS:
            return self._of_converter(self._nodes[index])
        return self._labels[self._upstream(self._nodes[index], operator)]

    def _upstream(self, named: ir.Node, operator: str) -> ir.Node:
        """The nearest node from `named` on whose operator it is: Conv of FusedConv, Gemm of QGemm."""
        near = [named]
        for _ in range(FUSED_DEPTH):
            for node in near:
                if operator.endswith(node.op_type):
                    return node
            makers = (value.producer() for node in near for value in node.inputs if value is not None)
            near = [maker for maker in makers if maker is not None]
        return named

    def _of_converter(self, node: ir.Node) -> str | None:
        """Itself where it is a layer; else what reads it, or what it reads."""
        seen: set[ir.Node] = set()
        following: ir.Node | None = node
        while following is not None and following not in seen:
            seen.add(following)
            if following.op_type not in CONVERTERS or self._labels.get(following) in self._layers:
                return self._labels.get(following)
            readers = [use.node for use in following.outputs[0].uses()]
            makers = [value.producer() for value in following.inputs[:1] if value is not None]
            following = next(iter(readers if following.op_type == "DequantizeLinear" else makers), None)
        return None


def _per_run(events: list[dict[str, Any]], owners: _Owners, runs: int) -> dict[str, list[float]]:
    """Layer -> milliseconds of each run after the warm-up.

    Kernels come in the order they ran; one that is seen for the k-th time is of run k.
    """
    seen: dict[str, int] = defaultdict(int)
    spent: dict[str, list[float]] = {}
    for event in events:
        found = EVENT.search(event["name"])
        owner = owners.find(int(found[1]), event["args"]["op_name"]) if found is not None else None
        if owner is None:
            continue
        turn = seen[event["name"]]
        seen[event["name"]] += 1
        if turn >= WARM_UP:
            spent.setdefault(owner, [0.0] * (runs - WARM_UP))[turn - WARM_UP] += event["dur"] / 1000
    return spent
