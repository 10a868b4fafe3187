"""All timing that a latency target needs, in one object that tests replace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeopt.data import Data
from edgeopt.measure import Latency, one_input, time_sessions
from edgeopt.measure.kernels import kernel_events
from edgeopt.measure.layers import time_layers
from edgeopt.model import Model
from edgeopt.model.profile import node_label
from edgeopt.model.runtime import open_session

__all__ = ["Stopwatch"]

THREADS = 1
"""As in the report."""
WARM_UP = 3
FEWEST, MOST = 6, 30
SECONDS = 0.006
"""About what the runs of one layer at one width take together."""
WHOLE_SECONDS = 3.0
REORDERS = ("ReorderInput", "ReorderOutput")


class Stopwatch:
    """onnxruntime on this machine's CPU, one thread, one input, as the report measures."""

    def __init__(self, data: Data | None = None) -> None:
        self._data = data

    def whole(self, models: Mapping[str, Model]) -> dict[str, Latency]:
        """Latency of whole models, taken in turns."""
        sessions = {name: open_session(model, threads=THREADS) for name, model in models.items()}
        shown = self._data.test if self._data is not None else None
        feeds = {name: one_input(session, shown) for name, session in sessions.items()}
        return time_sessions(sessions, feeds, seconds=WHOLE_SECONDS)

    def layers(self, model: Model, whole_ms: float) -> dict[str, float]:
        """Milliseconds of each layer's kernels inside of the whole model, by the name that a profile gives it."""
        session = open_session(model, threads=THREADS)
        feeds = one_input(session, self._data.test if self._data is not None else None)
        names = [node_label(node) for node in model.graph.graph]
        return time_layers(model, feeds, names, latency_ms=whole_ms, threads=THREADS)

    def node(self, node: ir.Node, shapes: Sequence[tuple[int, ...]]) -> float:
        """Milliseconds of one node's kernel by itself, for inputs of these shapes. Raises StageFailed if it cannot.

        Changes of layout before and after are left out: inside of a network there are none between layers of the kind.
        """
        model, feeds = _alone(node, shapes)
        events, rounds = kernel_events(model, feeds, _rounds, warm_up=WARM_UP, threads=THREADS)
        own = [event["dur"] for event in events if event["args"]["op_name"] not in REORDERS]
        per_run = max(1, len(own) // (WARM_UP + rounds))
        times = np.array(own[WARM_UP * per_run :], float)[: rounds * per_run].reshape(-1, per_run).sum(axis=1)
        return float(np.median(times) + 0.5) / 1000  # the profiler cuts microseconds off


def _rounds(seconds: float) -> int:
    """Runs of one layer that takes so long."""
    return int(np.clip(SECONDS / max(seconds, 1e-9), FEWEST, MOST))


def _alone(node: ir.Node, shapes: Sequence[tuple[int, ...]]) -> tuple[Model, dict[str, np.ndarray]]:
    """A model of this one node; weights of noise where the node has weights."""
    rng = np.random.default_rng(0)
    values: list[ir.Value | None] = []
    feeds: dict[str, np.ndarray] = {}
    for index, (old, shape) in enumerate(zip(node.inputs, shapes, strict=True)):
        if old is None:
            values.append(None)
            continue
        name = f"input{index}"
        array = rng.standard_normal(shape, dtype=np.float32)
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        if old.const_value is not None:
            value.const_value = ir.tensor(array, name=name)
        else:
            feeds[name] = array
        values.append(value)
    attributes = dict(node.attributes)
    if node.op_type == "Conv":
        attributes["group"] = ir.AttrInt64("group", max(1, shapes[0][1] // shapes[1][1]))
    alone = ir.node(node.op_type, values, attributes, name="layer")
    alone.outputs[0].name = "output"
    alone.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    held = [value for value in values if value is not None]
    graph = ir.Graph(
        [value for value in held if value.const_value is None],
        alone.outputs,
        nodes=[alone],
        initializers=[value for value in held if value.const_value is not None],
        opset_imports={"": node.version or (node.graph.opset_imports.get("") if node.graph else None) or 20},
    )
    return Model(ir.Model(graph, ir_version=9)), feeds
