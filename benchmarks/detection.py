"""Distilling a detector: the mAP of a student with and without its teacher, and how much faster it is.

    python benchmarks/detection.py --images CIFAR10          # about 25 minutes on one core
    python benchmarks/detection.py --images digits --quick   # seconds of training: does it run?

The detection set is made here, and is no more than that: real CIFAR-10 images (`--images` is a folder with
train/CLASS/* and test/CLASS/*), or the UCI digits that ship, pasted at random places and in random sizes on canvases of
96 x 96, one to four on each, none covering more than a tenth of another; behind CIFAR images another one, blurred,
behind digits noise. Training canvases hold training images only. It is seeded, and written in COCO's format to `--out`.

Teacher and student are `edgeopt:ssd`: the teacher with convolutions over all channels, as SSD's VGG, the student with
separable ones, as SSDLite's MobileNet. Both learn for as many passes, the student once with and once without the
teacher. Printed: COCO's mAP on the test canvases with its 95 % interval, the drop under the teacher, and the latency of
one image on one thread of onnxruntime, all three models in turns. Finished steps are kept in `--out`, and the same
command goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from printed import Printed

from edgeopt.atomic import write_atomic, writing_folder
from edgeopt.cli.measure import measure_models
from edgeopt.data import Data, DataSpec, load_data
from edgeopt.data.arrays import open_digits
from edgeopt.data.folder import open_folder
from edgeopt.distill import Distill
from edgeopt.machine import cpu_name
from edgeopt.model import Model
from edgeopt.model.load import load_model, save_model
from edgeopt.spec import digest
from edgeopt.stage import Context
from edgeopt.train.stage import Train

SIDE = 96
SMALLEST, LARGEST = 20, 56
"""Sides of what is pasted, pixels."""
MOST_OBJECTS = 4
MOST_COVERED = 0.1
TRIES = 30
STROKE = 64
"""Gray value from which a pixel belongs to a digit: its box is that of its strokes."""


@dataclass(frozen=True)
class Objects:
    """Images to paste and their classes, for one split."""

    images: list[Image.Image]
    labels: np.ndarray
    names: tuple[str, ...]

    def shuffled(self, rng: np.random.Generator) -> Iterator[int]:
        """Each image once, in random order, and again."""
        while True:
            yield from rng.permutation(len(self.images)).tolist()


@dataclass(frozen=True)
class Size:
    """How much is made, and how long is trained."""

    train: int
    test: int
    epochs: int
    teacher: int
    student: int
    """Width of the network."""


FULL = Size(train=24000, test=2000, epochs=8, teacher=24, student=28)
QUICK = Size(train=384, test=48, epochs=8, teacher=8, student=8)


def main() -> None:
    options = read_options()
    size, out = options.size, Path(options.out)
    gray = options.images == "digits"
    folder = make_set(out / "data", options.images, size, options.seed)
    began = time.monotonic()
    teacher, student = (network(size, gray, lite=lite, seed=options.seed) for lite in (False, True))
    preprocess = {"size": (SIDE, SIDE), "color": "gray" if gray else "rgb", "mean": (0.5,), "std": (0.25,)}
    spec = DataSpec.model_validate({"source": str(folder), "preprocess": preprocess})
    data = load_data(spec, model=teacher, seed=options.seed, progress=Printed())
    labels = {"kind": "train", "fit": fit(size)}
    paths = {"teacher": learn(out / "teacher.onnx", teacher, Train.model_validate(labels), data, options.seed)}
    both = {"teacher": {"source": str(paths["teacher"])}, "loss": {"kind": "boxes"}, "fit": fit(size)}
    paths["student, with the teacher"] = learn(
        out / "taught.onnx", student, Distill.model_validate(both), data, options.seed
    )
    paths["student, without"] = learn(out / "alone.onnx", student, Train.model_validate(labels), data, options.seed)
    rows = measure_models(list(paths.values()), str(folder), {}, 1, options.seed, Printed())
    text = table(dict(zip(paths, rows, strict=True)), size, time.monotonic() - began)
    print(text)
    write_atomic(out / "detection.json", json.dumps({"cpu": cpu_name(), "rows": rows}, indent=2) + "\n")
    write_atomic(out / "detection.md", text + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="digits", help="digits, or a folder with train/CLASS/* and test/CLASS/*")
    parser.add_argument("--out", default="out/detection", help="folder for the set, the models and the figures")
    parser.add_argument("--quick", action="store_true", help="a set and networks too small to learn much")
    for name in ("train", "test", "epochs", "teacher", "student"):
        parser.add_argument(f"--{name}", type=int, help=f"in place of {getattr(FULL, name)}")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base = QUICK if options.quick else FULL
    given = {name: getattr(options, name) or own for name, own in vars(base).items()}
    options.size = Size(**given)
    return options


def network(size: Size, gray: bool, *, lite: bool, seed: int) -> Model:
    """The student (`lite`) or the teacher, untrained."""
    width = size.student if lite else size.teacher
    settings = {"width": width, "lite": lite, "size": SIDE, "classes": 10, "channels": 1 if gray else 3}
    return load_model("edgeopt:ssd", settings=settings, seed=seed)


def fit(size: Size) -> dict[str, Any]:
    """How both are trained."""
    return {"epochs": size.epochs, "batch_size": 32, "optimizer": {"kind": "adamw"}, "clip_norm": 5.0}


def learn(path: Path, model: Model, stage: Train | Distill, data: Data, seed: int) -> Path:
    """The trained network as a file, which is kept; an interrupted training goes on from its last checkpoint."""
    references = [reference.fingerprint() for reference in stage.references()]
    made_of = digest([model.fingerprint(), stage.model_dump(mode="json"), references, data.fingerprint, seed])
    kept = path.with_suffix(".made_of")
    if path.is_file() and kept.is_file() and kept.read_text() == made_of:
        return path
    print(f"{path.stem}: {sum(array.size for array in model.weights().values()):,} weights", flush=True)
    scratch = path.parent / f"{path.stem}-checkpoint"
    scratch.mkdir(parents=True, exist_ok=True)
    result = stage.apply(model, Context(data=data, seed=seed, progress=Printed(), scratch=scratch))
    save_model(result.model, path)
    write_atomic(kept, made_of)
    print(f"{path.stem}: trained in {result.facts['seconds'] / 60:.1f} min", flush=True)
    return path


def table(rows: dict[str, dict[str, Any]], size: Size, seconds: float) -> str:
    """The figures as Markdown."""
    lines = ["| | mAP | mAP at IoU 0.5 | drop | size | MACs | latency | speedup |", "|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        ends = f"{100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f}"
        drop = f"{row['drop_points']:.2f} pt ({row['drop_low']:.2f} to {row['drop_high']:.2f})"
        lines.append(
            f"| {name} | {100 * row['accuracy']:.2f} % ({ends}) | {100 * row['map50']:.2f} % | {drop} "
            f"| {row['size_bytes'] / 1e6:.2f} MB | {row['macs'] / 1e6:.1f} M | {row['latency_ms']:.3f} ms "
            f"| {row['speedup']:.2f}x |"
        )
    note = f"{size.train} training and {size.test} test canvases, {size.epochs} passes, {seconds / 60:.1f} min in all"
    return "\n".join([*lines, "", f"{note}; {cpu_name()}"])


def make_set(folder: Path, images: str, size: Size, seed: int) -> Path:
    """The detection set in COCO's format; made once for the same arguments."""
    made_of = digest([images, size.train, size.test, seed, Path(__file__).read_text()])
    if (folder / "made_of").is_file() and (folder / "made_of").read_text() == made_of:
        return folder
    with writing_folder(folder) as new:
        for split, count in (("train", size.train), ("test", size.test)):
            rng = np.random.default_rng([seed, split == "test"])
            write_split(new / split, load_objects(images, split), count, gray=images == "digits", rng=rng)
        (new / "made_of").write_text(made_of)
    return folder


def load_objects(images: str, split: str) -> Objects:
    """What one split may paste."""
    if images == "digits":
        digits = open_digits()
        own = np.asarray(digits.test) == (split == "test")
        scans = (digits.x[own][..., 0].astype(np.uint16) * 255 // 16).astype(np.uint8)
        assert digits.labels is not None
        return Objects([Image.fromarray(scan) for scan in scans], digits.labels[own], digits.classes)
    origin = open_folder(Path(images) / split)
    assert origin.labels is not None
    return Objects([Image.open(path).convert("RGB") for path in origin.paths], origin.labels, origin.classes)


def write_split(folder: Path, objects: Objects, count: int, *, gray: bool, rng: np.random.Generator) -> None:
    """`count` canvases, and annotations.json beside their folder."""
    (folder / "images").mkdir(parents=True)
    order = objects.shuffled(rng)
    entries, annotations = [], []
    for number in range(count):
        canvas, marked = paint(objects, order, gray=gray, rng=rng)
        name = f"{number:06d}.{'png' if gray else 'jpg'}"
        canvas.save(folder / "images" / name, quality=92)
        entries.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for (x1, y1, x2, y2), label in marked:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(objects.names)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


Box = tuple[int, int, int, int]


def paint(
    objects: Objects, order: Iterator[int], *, gray: bool, rng: np.random.Generator
) -> tuple[Image.Image, list[tuple[Box, int]]]:
    """One canvas, and the box and class of each object on it."""
    canvas = noise(rng) if gray else blurred(objects.images[rng.integers(len(objects.images))], rng)
    marked: list[tuple[Box, int]] = []
    for _ in range(rng.integers(1, MOST_OBJECTS + 1)):
        at = next(order)
        patch = scaled(objects.images[at], rng)
        corner = free_place(patch.size, [box for box, _ in marked], rng)
        if corner is None:
            continue
        box = paste_strokes(canvas, patch, corner) if gray else paste(canvas, patch, corner)
        marked.append((box, int(objects.labels[at])))
    return canvas, marked


def scaled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """In a random size, its sides in a ratio of up to 1.25."""
    side, ratio = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST))), np.exp(rng.uniform(-0.11, 0.11))
    return image.resize((round(side * ratio), round(side / ratio)), Image.Resampling.BICUBIC)


def free_place(size: tuple[int, int], taken: list[Box], rng: np.random.Generator) -> tuple[int, int] | None:
    """A corner where it covers little of what is there, and little of it would be covered; None: no room was found."""
    for _ in range(TRIES):
        x, y = (int(rng.integers(0, SIDE - side + 1)) for side in size)
        if all(covered((x, y, x + size[0], y + size[1]), other) <= MOST_COVERED for other in taken):
            return x, y
    return None


def covered(one: Box, other: Box) -> float:
    """Their intersection, as a share of the smaller."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(wide, 0) * max(tall, 0) / min(areas)


def paste(canvas: Image.Image, patch: Image.Image, corner: tuple[int, int]) -> Box:
    """The patch as it is, and its box."""
    canvas.paste(patch, corner)
    return (*corner, corner[0] + patch.width, corner[1] + patch.height)


def paste_strokes(canvas: Image.Image, patch: Image.Image, corner: tuple[int, int]) -> Box:
    """What of the patch is brighter than the canvas, and the box of its strokes."""
    place = (*corner, corner[0] + patch.width, corner[1] + patch.height)
    pixels = np.asarray(patch)
    canvas.paste(Image.fromarray(np.maximum(np.asarray(canvas.crop(place)), pixels)), corner)
    rows, columns = (np.flatnonzero((pixels >= STROKE).any(axis)) for axis in (1, 0))
    return (
        corner[0] + int(columns[0]),
        corner[1] + int(rows[0]),
        corner[0] + int(columns[-1]) + 1,
        corner[1] + int(rows[-1]) + 1,
    )


def noise(rng: np.random.Generator) -> Image.Image:
    """Gray speckles, coarse and fine."""
    coarse = Image.fromarray(rng.integers(0, 90, (8, 8), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    fine = rng.integers(0, 50, (SIDE, SIDE), np.uint8)
    return Image.fromarray(np.asarray(coarse) // 2 + fine)


def blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """An image as background: enlarged, out of focus."""
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(rng.uniform(4, 10)))


if __name__ == "__main__":
    main()
