"""Latency targets, measured: milliseconds and multiply-adds beside widths that a user rounds by hand.

    python benchmarks/prune_latency.py networks [--only resnet18 ...] [--rounds 150]
    python benchmarks/prune_latency.py accuracy --images CIFAR10/test

`networks`: resnet18 and mobilenet_v2 at 224 px, random weights. By hand: 45 % of every group leaves by L2 norm, as it
falls, and rounded to multiples of 8, of 16 downwards (as torch-pruning does) and of 16 to the nearest. edgeopt is then
asked for the time of the last of them, for a little more, and for less, with the multiple of 8 that tier `any` has: it
has to find better widths by itself. All models are timed in turns at the end, onnxruntime, one thread, one image. The
weights are random, so accuracy cannot be compared; what stands for it is `kept`, the geometric mean over layers of the
share of L2 norm that their output channels keep.

Time over MACs depends on how small the network is: what no layer owns weighs more in a small one. So the last lines
compare at a point that is equal: `readings` are the time, the MACs and what is kept where the targets, joined by lines,
have the same time as the widths by hand, the same MACs, and as much kept.

`accuracy`: the shipped ResNet8 on CIFAR-10's test images, with the same comparison and real accuracy: nothing is
trained, the layers behind the pruned ones are fitted by least squares to half of the images and judged on the others.
Each line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeopt.data import DataSpec, load_data
from edgeopt.measure import Latency, one_input, time_sessions
from edgeopt.model import Model
from edgeopt.model.load import load_model, read_onnx
from edgeopt.model.profile import profile
from edgeopt.model.runtime import open_session
from edgeopt.prune.accept import Proven, prune_proven
from edgeopt.prune.aim import Aim
from edgeopt.prune.choose import kept_units
from edgeopt.prune.correct import LeastSquares, correct
from edgeopt.prune.criteria import L2
from edgeopt.prune.groups import Plan, make_plan
from edgeopt.prune.stopwatch import Stopwatch
from edgeopt.prune.target import Target
from edgeopt.prune.trace import trace
from edgeopt.stage import Context

NETWORKS = ("resnet18", "mobilenet_v2")
RESNET8 = Path(__file__).parent.parent / "models" / "cifar10" / "resnet8.onnx"


BY_HAND = ((0.5, 1, math.floor), (0.45, 1, math.floor), (0.45, 8, round), (0.45, 16, math.floor), (0.45, 16, round))
"""(share of every group that leaves, multiple, how widths are rounded); targets are asked for the time of the last."""
SHARES = (1.06, 1.0, 0.88)
"""Of that time, that targets ask for."""
Rounding = Callable[[float], int]


class Remembering(Stopwatch):
    """Times a layer of given shapes once, whichever target asks."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[object, ...], float] = {}

    def node(self, node: ir.Node, shapes: Sequence[tuple[int, ...]]) -> float:
        key = (node.op_type, *sorted((a.name, str(a.value)) for a in node.attributes.values()), *shapes)
        if key not in self._known:
            self._known[key] = super().node(node, shapes)
        return self._known[key]


def by_hand(model: Model, plan: Plan, ratio: float, multiple: int, rounding: Rounding) -> Proven:
    """The same share of every group leaves, widths rounded to a multiple, one at least."""

    def pick(left: Plan) -> np.ndarray:
        scores = L2().scores(model, left.groups, Context())
        counts = [max(1, rounding(len(group) * (1 - ratio) / multiple)) * multiple for group in left.groups]
        counts = [min(len(group), count) for group, count in zip(left.groups, counts, strict=True)]
        return kept_units(left, scores, counts)

    return prune_proven(model, plan, pick, seed=0)


def by_target(model: Model, plan: Plan, target: str, multiple: int, watch: Stopwatch) -> Proven:
    """What `edgeopt prune --target` chooses."""
    aim = Aim(model, Target.model_validate(target), Context(), rule="local", multiple=multiple, stopwatch=watch)
    return prune_proven(
        model, plan, lambda left: aim.choose(model, left, L2().scores(model, left.groups, Context())), seed=0
    )


def kept_share(model: Model, plan: Plan, kept: np.ndarray) -> float:
    """Geometric mean over the layers that make channels of the share of L2 norm that stays."""
    logs, layers = 0.0, 0
    for group, scores in zip(plan.groups, L2().scores(model, plan.groups, Context()), strict=True):
        makers = sum(part.produces and len(plan.trace.shapes[part.name]) > 1 for part in group.slices)
        logs += makers * math.log(scores[kept[group.units]].sum() / scores.sum())
        layers += makers
    return math.exp(logs / max(1, layers))


def in_turns(models: Mapping[str, Model], rounds: int) -> dict[str, Latency]:
    """One image on one thread, every model once a round."""
    sessions = {name: open_session(model, threads=1) for name, model in models.items()}
    return time_sessions(
        sessions, {name: one_input(session, None) for name, session in sessions.items()}, rounds=rounds
    )


def compare(
    name: str,
    model: Model,
    context: Context,
    multiple: int,
    hand: Sequence[tuple[float, int, Rounding]],
    rounds: int,
) -> None:
    """Print a line for each way, all timed together, and the readings at equal time, MACs and norm kept."""
    plan, watch = make_plan(trace(model)), Remembering()
    found = {way_of(*settings): by_hand(model, plan, *settings) for settings in hand}
    reference = list(found)[-1]
    times = in_turns({"before": model, "after": found[reference].model}, rounds)
    share = times["after"].median_ms / times["before"].median_ms
    seconds, asked = {}, []
    for part in SHARES:
        began = time.perf_counter()
        target = f"latency=-{100 * (1 - min(part * share, 0.98)):.1f}%"
        asked.append(f"{target}, multiple {multiple}")
        found[asked[-1]] = by_target(model, plan, target, multiple, watch)
        seconds[asked[-1]] = round(time.perf_counter() - began, 1)
    times = in_turns({"before": model} | {way: proven.model for way, proven in found.items()}, rounds)
    rows = {}
    for way, proven in found.items():
        rows[way] = row_of(model, plan, proven, times[way], times["before"]) | accuracy(model, proven, context)
        if way in asked:
            rows[way] |= {"seconds": seconds[way], "multiples_of_16": aligned(plan, proven)}
        print(json.dumps({"network": name, "way": way} | rows[way]), flush=True)
    own = [rows[way] for way in asked]
    print(json.dumps({"network": name, "against": reference, "readings": readings(rows[reference], own)}), flush=True)


def way_of(ratio: float, multiple: int, rounding: Rounding) -> str:
    """What a row by hand is called."""
    downwards = " downwards" if rounding is math.floor and multiple > 1 else ""
    return f"{ratio:.0%} by hand, multiples of {multiple}{downwards}"


def row_of(model: Model, plan: Plan, proven: Proven, own: Latency, whole: Latency) -> dict[str, Any]:
    """Shares of the unpruned model."""
    before, after = profile(model), profile(proven.model)
    share, macs = own.median_ms / whole.median_ms, after.macs / before.macs
    return {
        "time": round(share, 3),
        "macs": round(macs, 3),
        "time_over_macs": round(share / macs, 2),
        "params": round(after.params / before.params, 3),
        "kept": round(kept_share(model, plan, proven.kept), 3),
        "ms": round(own.median_ms, 3),
        "rounds": own.rounds,
    }


def aligned(plan: Plan, proven: Proven) -> str:
    widths = [int(proven.kept[group.units].sum()) for group in plan.groups]
    return f"{sum(width % 16 == 0 for width in widths)} of {len(widths)} groups"


def readings(hand: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """At the same time, MACs and norm kept as by hand: what the targets have there, between two of them by a line."""
    wanted = [key for key in ("time", "macs", "kept", "accuracy_after") if key in hand]
    found: dict[str, Any] = {"by_hand": {key: hand[key] for key in wanted} | {"time_over_macs": hand["time_over_macs"]}}
    for equal in ("time", "macs", "kept"):
        line = sorted(own, key=lambda row: float(row[equal]))
        at = {
            key: round(float(np.interp(hand[equal], [row[equal] for row in line], [row[key] for row in line])), 3)
            for key in wanted
        }
        inside = line[0][equal] <= hand[equal] <= line[-1][equal]
        found[f"equal_{equal}"] = at | {"time_over_macs": round(at["time"] / at["macs"], 2)}
        found[f"equal_{equal}"] |= {} if inside else {"note": f"no target has that {equal}: this is the nearest"}
    return found


def accuracy(model: Model, proven: Proven, context: Context) -> dict[str, float]:
    """On the test images, after least squares on the others; nothing without images."""
    from edgeopt.measure import evaluate

    if context.data is None:
        return {}
    fitted = correct(model, proven.model, proven.record, context, LeastSquares()).model
    sessions = {"before": open_session(model), "after": open_session(fitted)}
    found = evaluate(sessions, context.data.test, reference="before")
    return {f"accuracy_{name}": round(outcome.accuracy or 0.0, 4) for name, outcome in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["networks", "accuracy"])
    parser.add_argument("--only", nargs="*", default=NETWORKS)
    parser.add_argument("--images", help="CIFAR-10's test images, a folder for each class")
    parser.add_argument("--rounds", type=int, default=150, help="that every model is timed in")
    options = parser.parse_args()
    if options.what == "accuracy":
        model = read_onnx(RESNET8)
        data = load_data(DataSpec(source=options.images), model=model)
        for multiple, hand in ((4, ((0.25, 8, math.floor), (0.25, 16, math.floor))), (8, ((0.4, 8, math.floor),))):
            compare("resnet8-cifar10", model, Context(data=data), multiple, hand, options.rounds)
        return
    for name in options.only:
        model = load_model(f"torchvision:{name}", weights="none")
        compare(name, model, Context(), 8, BY_HAND, options.rounds)


if __name__ == "__main__":
    main()
