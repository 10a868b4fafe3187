"""What a distillation loss gains: one student, one teacher, the same epochs, with each loss and without a teacher.

    python benchmarks/distill.py --teacher models/cifar10/teacher.onnx --data CIFAR [--epochs 30] [--seeds 0,1,2]
        [--losses labels soft_targets dkd dist] [--views 8]

CIFAR is a folder with train/CLASS/* and test/CLASS/*. The student is ResNet8 of MLPerf Tiny (edgeopt:residual) unless
`--student` names another. A loss is a kind with its settings, `dkd:beta=2,temperature=1,labels=0.5`; `labels` is plain
training. Runs of one seed start from the same weights and see the same batches: gains are paired by seed. With
`--views V` every run repeats order and augmentation of its first V epochs, and the teacher is asked in those alone,
once for all losses of a seed that compare outputs; those that compare inner layers ask it for every batch.

Each finished run is a line of `--work`/runs.jsonl and is not repeated; one that was stopped goes on. The table goes to
`--out`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from printed import Printed
from torch import nn

from edgeopt.data import Data, DataSpec, Split, load_data
from edgeopt.distill import Distill
from edgeopt.distill.cache import Kept
from edgeopt.distill.lesson import prepare_lesson
from edgeopt.errors import StageFailed
from edgeopt.machine import cpu_name
from edgeopt.model import Model
from edgeopt.model.load import load_model, read_onnx, save_model
from edgeopt.model.runtime import open_session, run
from edgeopt.model.to_torch import from_torch, to_torch
from edgeopt.spec import digest
from edgeopt.stage import Context
from edgeopt.train import Fit
from edgeopt.train.fit import fit
from edgeopt.train.objectives import HardLabels
from edgeopt.train.stage import trained_on

BATCH = 250
PLAIN, REFERENCE = "labels", "soft_targets"


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    options: argparse.Namespace
    teacher: Model
    data: Data
    test: Split

    def student(self, seed: int) -> Model:
        """Fresh weights, drawn by the seed."""
        return load_model(self.options.student, settings=dict(self.options.student_setting), seed=seed)

    def fit(self) -> Fit:
        """How every student is trained."""
        return Fit.model_validate(
            {
                "epochs": self.options.epochs,
                "batch_size": self.options.batch_size,
                "lr": self.options.lr,
                "augment": {"flip": True, "crop_pad": 4},
            }
        )


def main() -> None:
    options = read_options()
    teacher = read_onnx(options.teacher)
    data = load_data(DataSpec(source=str(options.data)), model=teacher, seed=0)
    if options.images is not None:
        data = Data(**{**vars(data), "train": data.train.sample(options.images, 0)})
    test = data.test if options.test_images is None else data.test.sample(options.test_images, 0)
    setting = Setting(options, teacher, data, test)
    options.work.mkdir(parents=True, exist_ok=True)
    lines = [line for seed in options.seeds for line in runs_of(seed, setting)]
    text = table(lines, accuracy(teacher, test), setting)
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--student", default="edgeopt:residual")
    parser.add_argument("--student-setting", type=_setting, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--losses", nargs="+", default=[PLAIN, REFERENCE, "dkd", "dist"])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--views", type=int, default=8, help="0: fresh draws in every epoch, the teacher never rests")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=None)
    parser.add_argument("--images", type=int, default=None, help="training images; default: all")
    parser.add_argument("--test-images", type=int, default=None, help="default: all")
    parser.add_argument("--work", type=Path, default=Path("out/distill"))
    parser.add_argument("--out", type=Path, help="write the table here, such as docs/benchmarks/distill.md")
    return parser.parse_args()


def _setting(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    return key, yaml.safe_load(value)


def stage_of(loss: str, setting: Setting) -> Distill:
    """`dkd:beta=2,labels=0.5` as a stage."""
    kind, _, rest = loss.partition(":")
    own = dict(_setting(part) for part in rest.split(",") if part)
    labels = own.pop("labels", None)
    return Distill.model_validate(
        {
            "teacher": str(setting.options.teacher),
            "loss": {"kind": kind} | own,
            "labels": labels,
            "fit": setting.fit(),
        }
    )


def runs_of(seed: int, setting: Setting) -> list[dict[str, Any]]:
    """A line for each loss, those that are there already and those that are missing."""
    file = setting.options.work / "runs.jsonl"
    known = {line["key"]: line for line in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    memory: list[Kept] = []
    lines = []
    for loss in setting.options.losses:
        key = _key(loss, seed, setting)
        if key not in known:
            print(f"{loss}, seed {seed}", flush=True)
            try:
                known[key] = {"key": key, **one_run(loss, seed, setting, key, memory)}
            except StageFailed as error:  # it diverged, which is a result
                print(f"  {error}", flush=True)
                known[key] = {"key": key, "loss": loss, "seed": seed, "failed": str(error)}
            with file.open("a") as out:
                out.write(json.dumps(known[key]) + "\n")
        lines.append(known[key])
    return lines


def _key(loss: str, seed: int, setting: Setting) -> str:
    options = setting.options
    said = loss if loss == PLAIN else stage_of(loss, setting).model_dump(mode="json", include={"loss", "labels"})
    what = [said, seed, options.views, options.images, options.student, dict(options.student_setting)]
    return digest([*what, setting.fit().digest(), setting.teacher.fingerprint(), setting.data.fingerprint])[:16]


def one_run(loss: str, seed: int, setting: Setting, key: str, memory: list[Kept]) -> dict[str, Any]:
    """Train one student; its accuracy on the test images, fraction of 1."""
    folder = setting.options.work / key
    folder.mkdir(parents=True, exist_ok=True)
    student, began = setting.student(seed), time.perf_counter()
    module, objective = (
        (to_torch(student), HardLabels()) if loss == PLAIN else taught(loss, student, seed, setting, memory)
    )
    history = fit(
        module,
        setting.data.train,
        setting.fit(),
        objective,
        seed=seed,
        progress=Printed(),
        scratch=folder,
        views=setting.options.views or None,
    )
    trained = trained_on(from_torch(module, student), setting.data)
    save_model(trained, folder / "student.onnx")
    found = accuracy(trained, setting.test)
    print(f"  {loss}, seed {seed}: {100 * found:.2f} %", flush=True)
    return {
        "loss": loss,
        "seed": seed,
        "accuracy": found,
        "epochs": len(history),
        "seconds": time.perf_counter() - began,
        "training_accuracy": history[-1].get("accuracy"),
    }


def taught(loss: str, student: Model, seed: int, setting: Setting, memory: list[Kept]) -> tuple[nn.Module, nn.Module]:
    """The student as a module and its objective, with what the teacher has answered to other losses of the seed."""
    stage = stage_of(loss, setting)
    inner = any(part.reads_layers for part in stage.loss.parts)
    if setting.options.views and not inner:
        stage = stage.model_copy(update={"views": setting.options.views})
    context = Context(data=setting.data, seed=seed)
    lesson = prepare_lesson(stage, student, [setting.teacher], setting.data, context)
    kept = lesson.objective.teacher
    if isinstance(kept, Kept):
        memory.append(kept)
        lesson.objective.teacher = memory[0]
    return lesson.module, lesson.objective


def accuracy(model: Model, images: Split) -> float:
    """Fraction of 1 that onnxruntime answers right."""
    session = open_session(model)
    assert images.labels is not None
    answers = [run(session, batch.x)[0].argmax(1) for batch in images.batches(BATCH)]
    return float((np.concatenate(answers) == images.labels).mean())


def table(lines: Sequence[dict[str, Any]], teacher: float, setting: Setting) -> str:
    """Markdown."""
    options, data = setting.options, setting.data
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines:
        found.setdefault(line["loss"], {})[line["seed"]] = line
    again = f", order and augmentation of the first {options.views} epochs repeated" if options.views else ""
    rows = [
        "# Distillation losses",
        "",
        f"{options.student} taught by `{options.teacher}` ({100 * teacher:.2f} %), {len(data.train):,} training images "
        f"of {data.name}, {len(setting.test):,} test images, {options.epochs} epochs of one-cycle SGD{again}. "
        f"{len(options.seeds)} seeds; runs of one seed start from the same weights and see the same batches, so gains "
        f"are paired by seed. ± is the standard deviation over the seeds. {cpu_name()}.",
        "",
        "| loss | accuracy | gain over plain training, pt | gain over soft targets, pt | minutes a run |",
        "|---|---|---|---|---|",
    ]
    for loss in options.losses:
        own = found[loss]
        failed = [str(seed) for seed, line in own.items() if "failed" in line]
        if failed:
            rows.append(f"| {loss} | diverged with seed {', '.join(failed)} | | | |")
            continue
        minutes = statistics.median(line["seconds"] for line in own.values()) / 60
        gains = [_gain(own, found.get(other)) if other != loss else "" for other in (PLAIN, REFERENCE)]
        values = [100 * line["accuracy"] for line in own.values()]
        rows.append(f"| {loss} | {_spread(values)} % | {gains[0]} | {gains[1]} | {minutes:.1f} |")
    command = f"python benchmarks/distill.py --teacher {options.teacher} --data CIFAR --epochs {options.epochs}"
    return "\n".join([*rows, "", f"`{command} --views {options.views} --losses {' '.join(options.losses)}`"])


def _gain(own: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]] | None) -> str:
    """Points that `own` is above `other`, seed by seed."""
    if other is None or any("failed" in line for line in other.values()):
        return ""
    return _spread([100 * (own[seed]["accuracy"] - other[seed]["accuracy"]) for seed in own], sign="+")


def _spread(values: Sequence[float], sign: str = "") -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.2f}{deviation}"


if __name__ == "__main__":
    main()
