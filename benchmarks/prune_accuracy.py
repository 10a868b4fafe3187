"""What pruning costs in accuracy: a trained network, its images, two targets, at most 15 epochs of fine-tuning.

    python benchmarks/prune_accuracy.py --model models/cifar10/resnet20.onnx --data CIFAR10

`--data` is a folder with train/CLASS/* and test/CLASS/*. For each target: accuracy on the test images of the network as
it is, after pruning and its correction (no training yet), and after fine-tuning, each drop with the 95 % interval of
the paired difference on the same images; parameters, MACs, and the median latency of one image on one thread of
onnxruntime, all models in turns. Finished runs are kept in `--work` and go on where they were stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from printed import Printed

from edgeopt.data import Data, Split, load_data
from edgeopt.data.spec import DataSpec
from edgeopt.machine import cpu_name
from edgeopt.measure.statistics import paired_drop, wilson
from edgeopt.model import Model
from edgeopt.model.load import read_onnx, save_model
from edgeopt.model.profile import profile
from edgeopt.model.runtime import open_session, run
from edgeopt.prune import Prune
from edgeopt.stage import Context

TARGETS = ("macs=-50%", "params=-60%")
BATCH = 250


@dataclass(frozen=True)
class Line:
    """One model of the table."""

    name: str
    model: Model
    right: np.ndarray
    """bool [test images]."""


def main() -> None:
    options = read_options()
    model = read_onnx(options.model)
    data = load_data(DataSpec(source=str(options.data)), model=model, seed=options.seed)
    test = data.test if options.test_images is None else data.test.sample(options.test_images, options.seed)
    lines = [Line("unpruned", model, answers_right(model, test))]
    for target in options.target:
        lines += prune(model, target, data, test, options)
    times = latencies([line.model for line in lines], options.rounds)
    text = table(lines, times, len(test), options)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/cifar10/resnet20.onnx"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--target", action="append", help="may be repeated; default: half the MACs, then 60 %% of the parameters"
    )
    parser.add_argument("--epochs", type=int, default=15, help="in all, those between the steps of a schedule included")
    parser.add_argument(
        "--steps", type=int, default=1, help="of an iterative schedule, an epoch between two; 1: one_shot"
    )
    parser.add_argument("--criterion", default="l2")
    parser.add_argument("--ranking", default="sensitivity")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--round-to", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-images", type=int, default=None, help="default: all of them")
    parser.add_argument("--rounds", type=int, default=200, help="of timing; 0: none")
    parser.add_argument("--work", type=Path, default=Path("out/prune_accuracy"))
    parser.add_argument("--out", type=Path, help="write the table to a file, too")
    options = parser.parse_args()
    options.target = options.target or list(TARGETS)
    return options


def stage_for(target: str, options: argparse.Namespace) -> Prune:
    """The stage that reaches `target` with all epochs that there are."""
    between = options.steps - 1
    tuned = options.epochs - between
    settings: dict[str, Any] = {
        "target": target,
        "criterion": {"kind": options.criterion},
        "ranking": {"kind": options.ranking},
        "round_to": options.round_to,
        "schedule": {"kind": "iterative", "steps": options.steps} if between else {"kind": "one_shot"},
        "finetune": {"epochs": tuned, "lr": options.lr, "augment": {"flip": True, "crop_pad": 4}}
        if tuned > 0
        else None,
    }
    return Prune.model_validate(settings)


def prune(model: Model, target: str, data: Data, test: Split, options: argparse.Namespace) -> list[Line]:
    """The pruned network before and after its fine-tuning; from disk where it was made before."""
    stage = stage_for(target, options)
    place = options.work / f"{options.model.stem}-{target.replace('=', '')}-{stage.digest()[:8]}-{options.seed}"
    context = Context(data=data, seed=options.seed, progress=Printed())
    untuned = stage.model_copy(update={"finetune": None, "schedule": type(stage).model_fields["schedule"].default})
    lines = []
    for name, one in ((f"{target}, corrected", untuned), (f"{target}, fine-tuned", stage)):
        if one.finetune is None and name.endswith("fine-tuned"):
            continue
        file = place / f"{name.rpartition(' ')[2]}.onnx"
        if not file.exists():
            print(f"{name}: {one.model_dump_json(exclude_defaults=True)}", flush=True)
            scratch = place / f"scratch-{name.rpartition(' ')[2]}"
            scratch.mkdir(parents=True, exist_ok=True)
            began = time.perf_counter()
            result = one.apply(model, replace(context, scratch=scratch))
            if result.unfinished:
                raise SystemExit("stopped: the same command goes on")
            facts = result.facts | {"seconds": time.perf_counter() - began}
            (place / f"{file.stem}.json").write_text(json.dumps(facts, indent=1, default=str))
            save_model(result.model, file)
        pruned = read_onnx(file)
        lines.append(Line(name, pruned, answers_right(pruned, test)))
        print(f"{name}: {100 * lines[-1].right.mean():.2f} %", flush=True)
    return lines


def answers_right(model: Model, images: Split) -> np.ndarray:
    """bool [n]."""
    session = open_session(model)
    assert images.labels is not None
    answers = [run(session, batch.x)[0].argmax(1) for batch in images.batches(BATCH)]
    right: np.ndarray = np.concatenate(answers) == images.labels
    return right


def latencies(models: list[Model], rounds: int) -> list[float]:
    """Median ms of one input on one thread, the models in turns; nothing for no rounds."""
    sessions = [open_session(model, threads=1) for model in models]
    shape = [1, *(int(size) for size in models[0].inputs[0].shape[1:])]
    x = np.random.default_rng(0).random(shape, np.float32)
    found: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for session, times in zip(sessions, found, strict=True):
            run(session, x)
            began = time.perf_counter()
            run(session, x)
            times.append(1e3 * (time.perf_counter() - began))
    return [float(np.median(times)) if times else float("nan") for times in found]


def table(lines: list[Line], times: list[float], images: int, options: argparse.Namespace) -> str:
    """Markdown."""
    first, cost = lines[0], profile(lines[0].model)
    rows = [
        f"{options.model}, {images:,} test images, {options.epochs} epochs at most, {cpu_name()}, "
        "onnxruntime on one thread",
        "",
        "| | accuracy (95 %) | drop, pt (95 %) | of the accuracy | parameters | MACs | latency |",
        "|---|---|---|---|---|---|---|",
    ]
    for line, ms in zip(lines, times, strict=True):
        own = profile(line.model)
        low, high = wilson(int(line.right.sum()), images)
        drop, least, most = paired_drop(first.right, line.right)
        rows.append(
            f"| {line.name} | {100 * line.right.mean():.2f} % ({100 * low:.2f} to {100 * high:.2f}) "
            + (f"| {drop:.2f} ({least:.2f} to {most:.2f}) " if line is not first else "| ")
            + f"| {100 * line.right.mean() / first.right.mean():.1f} % "
            f"| {own.params:,} ({own.params / cost.params:.2f}) | {own.macs:,} ({own.macs / cost.macs:.2f}) "
            f"| {ms:.3f} ms ({ms / times[0]:.2f}) |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
