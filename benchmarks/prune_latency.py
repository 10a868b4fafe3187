"""Latency targets, measured: time of the pruned model over its MAC share, beside widths that a user rounds by hand.

    python benchmarks/prune_latency.py networks [--only resnet18 ...]
    python benchmarks/prune_latency.py accuracy --images CIFAR10/test

`networks`: resnet18 and mobilenet_v2 at 224 px, random weights. By hand: 45 % of every group leaves by L2 norm, as it
falls and rounded down to multiples of 8 and of 16. Then edgeopt is asked for the time of multiples of 16, with the
multiple of 8 that tier `any` has: it has to find better widths by itself. All models are timed in turns at the end,
onnxruntime, one thread, one image. The weights are random, so accuracy cannot be compared; what stands for it is
`kept`, the geometric mean over layers of the share of L2 norm that their output channels keep.

`accuracy`: the shipped ResNet8 on CIFAR-10's test images, with the same comparison and real accuracy: nothing is
trained, the layers behind the pruned ones are fitted by least squares to half of the images and judged on the others.
Each line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np

from edgeopt.data import DataSpec, load_data
from edgeopt.model import Model
from edgeopt.model.load import load_model, read_onnx
from edgeopt.model.profile import profile
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


def by_hand(model: Model, plan: Plan, ratio: float, multiple: int) -> Proven:
    """The same share of every group leaves, widths rounded down to a multiple, one at least, as torch-pruning does."""

    def pick(left: Plan) -> np.ndarray:
        scores = L2().scores(model, left.groups, Context())
        counts = [max(multiple, int(len(group) * (1 - ratio)) // multiple * multiple) for group in left.groups]
        counts = [min(len(group), count) for group, count in zip(left.groups, counts, strict=True)]
        return kept_units(left, scores, counts)

    return prune_proven(model, plan, pick, seed=0)


def by_target(model: Model, plan: Plan, target: str, multiple: int) -> Proven:
    """What `edgeopt prune --target` chooses."""
    aim = Aim(model, Target.model_validate(target), Context(), rule="local", multiple=multiple)
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


def compare(name: str, model: Model, context: Context, multiple: int, hand: tuple[tuple[float, int], ...]) -> None:
    """Print a line for each way, timed together; the target is the time of the last one by hand."""
    plan = make_plan(trace(model))
    watch = Stopwatch()
    found = {f"{ratio:.0%} by hand, multiples of {step}": by_hand(model, plan, ratio, step) for ratio, step in hand}
    last = list(found.values())[-1].model
    times = watch.whole({"before": model, "after": last})
    share = times["after"].median_ms / times["before"].median_ms
    began = time.perf_counter()
    own = by_target(model, plan, f"latency=-{100 * (1 - share):.1f}%", multiple)
    found[f"target latency=-{100 * (1 - share):.1f}%, multiple {multiple}"] = own
    seconds = time.perf_counter() - began
    times = watch.whole({"before": model} | {way: proven.model for way, proven in found.items()})
    before = profile(model)
    for way, proven in found.items():
        after = profile(proven.model)
        time_share = times[way].median_ms / times["before"].median_ms
        row = {
            "network": name,
            "way": way,
            "time": round(time_share, 3),
            "macs": round(after.macs / before.macs, 3),
            "time_over_macs": round(time_share * before.macs / after.macs, 2),
            "params": round(after.params / before.params, 3),
            "kept": round(kept_share(model, plan, proven.kept), 3),
            "ms": round(times[way].median_ms, 3),
            "rounds": times[way].rounds,
            **accuracy(model, proven, context),
        }
        if proven is own:
            widths = [int(proven.kept[group.units].sum()) for group in plan.groups]
            aligned = sum(width % 16 == 0 for width in widths)
            row |= {"seconds": round(seconds, 1), "multiples_of_16": f"{aligned} of {len(widths)} groups"}
        print(json.dumps(row), flush=True)


def accuracy(model: Model, proven: Proven, context: Context) -> dict[str, float]:
    """On the test images, after least squares on the others; nothing without images."""
    from edgeopt.measure import evaluate
    from edgeopt.model.runtime import open_session

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
    options = parser.parse_args()
    if options.what == "accuracy":
        model = read_onnx(RESNET8)
        data = load_data(DataSpec(source=options.images), model=model)
        compare("resnet8-cifar10", model, Context(data=data), 4, ((0.25, 8), (0.25, 16)))
        compare("resnet8-cifar10", model, Context(data=data), 8, ((0.4, 8),))
        return
    for name in options.only:
        model = load_model(f"torchvision:{name}", weights="none")
        compare(name, model, Context(), 8, ((0.5, 1), (0.45, 1), (0.45, 8), (0.45, 16)))


if __name__ == "__main__":
    main()
