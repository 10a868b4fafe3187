"""Latency targets, with a clock that is made up: what it says is exact, and not what the table says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeopt.errors import StageFailed
from edgeopt.measure import Latency
from edgeopt.model import Model
from edgeopt.model.profile import node_label
from edgeopt.prune.aim import Aim
from edgeopt.prune.criteria import L2
from edgeopt.prune.stopwatch import Stopwatch
from edgeopt.prune.surgery import remove
from edgeopt.prune.target import Target
from edgeopt.stage import Context


class Clock(Stopwatch):
    """A machine whose convolutions work on blocks of 16 channels and pay for every one of them."""

    def __init__(self, factor: float = 1.0, overhead_ms: float = 0.0) -> None:
        super().__init__()
        self.factor = factor
        """What a layer takes inside of a pruned model, over what it takes by itself."""
        self.overhead_ms = overhead_ms
        self.asked = 0

    def node(self, node: ir.Node, shapes: Sequence[tuple[int, ...]]) -> float:
        self.asked += 1
        (out, into, *kernel), image = shapes[1], shapes[0][2:]
        return math.ceil(out / 16) * 16 * math.ceil(into / 16) * 16 * math.prod(kernel) * math.prod(image) / 1e6

    def layers(self, model: Model, whole_ms: float) -> dict[str, float]:
        proto = onnx.shape_inference.infer_shapes(model.to_proto())
        dims = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim] for v in proto.graph.value_info}
        dims |= {w.name: list(w.dims) for w in proto.graph.initializer} | {"x": [1, 3, 8, 8]}
        return {
            node_label(node): self.node(node, [tuple(dims[value.name]) for value in node.inputs])  # type: ignore
            for node in model.graph.graph
            if node.op_type in ("Conv", "Gemm")
        }

    def whole(self, models: Mapping[str, Model]) -> dict[str, Latency]:
        def of(name: str, model: Model) -> float:
            layers = sum(self.layers(model, 0.0).values())
            return self.overhead_ms + layers * (1.0 if name == "before" else self.factor)

        return {name: Latency(of(name, m), of(name, m), of(name, m), 7, 1) for name, m in models.items()}


@pytest.fixture
def chain(make: SimpleNamespace) -> Model:
    model: Model = make.build(
        """a = Conv<pads=[1,1,1,1]>(x, c1) ar = Relu(a) b = Conv<pads=[1,1,1,1]>(ar, c2) br = Relu(b)
           c = Conv(br, c3) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm<transB=1>(f, head)""",
        {"c1": (64, 3, 3, 3), "c2": (96, 64, 3, 3), "c3": (48, 96, 1, 1), "head": (5, 48)},
    )
    return model


def pruned(model: Model, target: str, clock: Clock, make: SimpleNamespace, **settings: object) -> tuple[Model, Aim]:
    plan = make.plan_of(model)
    aim = Aim(
        model,
        Target.model_validate(target),
        Context(),
        rule=settings.get("rule", "local"),  # type: ignore[arg-type]
        multiple=int(settings.get("multiple", 4)),  # type: ignore[call-overload]
        seconds=float(settings.get("seconds", 60.0)),  # type: ignore[arg-type]
        stopwatch=clock,
    )
    kept = aim.choose(model, plan, L2().scores(model, plan.groups, Context()), float(settings.get("share", 1.0)))  # type: ignore[arg-type]
    return remove(model, plan, kept)[0], aim


def share(model: Model, after: Model, clock: Clock) -> float:
    times = clock.whole({"before": model, "after": after})
    return times["after"].median_ms / times["before"].median_ms


@pytest.mark.parametrize("clock", [Clock(), Clock(1.3), Clock(0.8), Clock(1.0, overhead_ms=0.5)], ids=range(4))
@pytest.mark.parametrize("rule", ["local", "global"])
def test_the_target_is_reached_by_measurement_even_where_the_table_is_wrong(
    chain: Model, make: SimpleNamespace, clock: Clock, rule: str
) -> None:
    model, aim = pruned(chain, "latency=-40%", clock, make, rule=rule)
    assert 0.35 < share(chain, model, clock) <= 0.6  # three layers in blocks of 16: steps are coarse
    facts = aim.facts()
    assert facts["latency_share"] == pytest.approx(share(chain, model, clock), abs=1e-3)
    assert facts["latency_after_ms"] < facts["latency_before_ms"]


def test_an_absolute_target_is_in_milliseconds(chain: Model, make: SimpleNamespace) -> None:
    clock = Clock(1.1)
    limit = 0.5 * clock.whole({"before": chain})["before"].median_ms
    model, _ = pruned(chain, f"latency={limit:.4f}ms", clock, make)
    assert clock.whole({"after": model})["after"].median_ms <= limit


def test_aligned_widths_are_found_because_they_are_faster(chain: Model, make: SimpleNamespace) -> None:
    """Nobody says 16: multiples of 4 are allowed. Widths in between cost as much, and are worth less."""
    model, _ = pruned(chain, "latency=-50%", Clock(), make, multiple=4)
    widths = [model.weights()[name].shape[0] for name in ("c1", "c2", "c3")]
    assert all(width % 16 == 0 for width in widths), widths
    assert widths != [64, 96, 48]


def test_the_multiple_is_the_finest_there_is(chain: Model, make: SimpleNamespace) -> None:
    model, _ = pruned(chain, "latency=-50%", Clock(), make, multiple=32)
    widths = {name: model.weights()[name].shape[0] for name in ("c1", "c2", "c3")}
    assert all(width % 32 == 0 or width == 48 for width in widths.values()), widths


def test_other_targets_are_reached_beside_the_latency(chain: Model, make: SimpleNamespace) -> None:
    clock = Clock(1.2)
    for target in ("latency=-20%,params=-60%", "latency=-70%,params=-20%"):
        model, _ = pruned(chain, target, clock, make)
        wanted = Target.model_validate(target).wanted
        count = [sum(array.size for array in m.weights().values()) for m in (chain, model)]
        assert share(chain, model, clock) <= 1 + wanted["latency"]
        assert count[1] <= (1 + wanted["params"]) * count[0]


def test_half_of_the_way_is_slower_than_all_of_it(chain: Model, make: SimpleNamespace) -> None:
    clock = Clock()
    half, _ = pruned(chain, "latency=-75%", clock, make, share=0.5)
    assert 0.35 < share(chain, half, clock) <= 0.5


def test_an_unreachable_latency_says_how_far_it_gets(chain: Model, make: SimpleNamespace) -> None:
    clock = Clock(overhead_ms=1e3)
    with pytest.raises(StageFailed, match=r"latency=-40% cannot be reached.*latency=1e\+03 ms \(-0\.\d+%\)"):
        pruned(chain, "latency=-40%", clock, make)


def test_a_network_without_anything_to_narrow_is_refused(make: SimpleNamespace) -> None:
    model = make.build("f = Flatten(x) y = Gemm<transB=1>(f, head)", {"head": (5, 192)})
    clock = Clock()
    clock.layers = lambda model, whole_ms: {node_label(node): 1.0 for node in model.graph.graph}  # type: ignore[method-assign]
    with pytest.raises(StageFailed, match=r"latency=-40% cannot be reached.*head is an output of the model"):
        pruned(model, "latency=-40%", clock, make)


def test_without_time_for_a_table_the_target_is_reached_all_the_same(chain: Model, make: SimpleNamespace) -> None:
    clock = Clock()
    model, aim = pruned(chain, "latency=-40%", clock, make, seconds=1e-9)
    assert aim.facts()["layers_timed"] == 0
    assert share(chain, model, clock) <= 0.6


def test_a_near_miss_is_followed_by_narrower_choices(chain: Model, make: SimpleNamespace) -> None:
    """The clock adds a hair to whatever is exactly at the limit."""

    class Reluctant(Clock):
        missed = 0

        def whole(self, models: Mapping[str, Model]) -> dict[str, Latency]:
            times = super().whole(models)
            if "after" in times and self.missed < 4:
                self.missed += 1
                times["after"] = Latency(*[0.6001 * times["before"].median_ms] * 3, 7, 1)
            return times

    clock = Reluctant()
    model, _ = pruned(chain, "latency=-40%", clock, make)
    assert clock.missed == 4
    assert share(chain, model, clock) <= 0.6


def test_cheap_layers_are_left_alone(make: SimpleNamespace) -> None:
    """Two layers of equal width: the one on a large image is where time is saved."""
    model = make.build(
        """a = Conv<pads=[1,1,1,1]>(x, c1) ar = Relu(a) b = Conv<pads=[1,1,1,1],strides=[4,4]>(ar, c2) br = Relu(b)
           c = Conv<pads=[1,1,1,1]>(br, c3) cr = Relu(c) p = GlobalAveragePool(cr) f = Flatten(p)
           y = Gemm<transB=1>(f, head)""",
        {"c1": (64, 3, 3, 3), "c2": (64, 64, 3, 3), "c3": (64, 64, 3, 3), "head": (5, 64)},
    )
    found, _ = pruned(model, "latency=-30%", Clock(), make)
    widths = {name: found.weights()[name].shape[0] for name in ("c1", "c2", "c3")}
    assert widths["c1"] < min(widths["c2"], widths["c3"])


def test_a_real_clock_times_what_it_is_given(chain: Model) -> None:
    """No more is said of the times than that there are some."""
    watch = Stopwatch()
    node = next(node for node in chain.graph.graph if node.op_type == "Conv")
    assert watch.node(node, [(1, 3, 8, 8), (16, 3, 3, 3)]) > 0
    times = watch.whole({"before": chain})["before"]
    assert 0 < times.low_ms <= times.median_ms <= times.high_ms
    assert times.threads == 1
    assert np.isfinite(list(watch.layers(chain, times.median_ms).values())).all()
    with pytest.raises(StageFailed):
        watch.node(node, [(1, 3, 8, 8), (16, 5, 3, 3)])
