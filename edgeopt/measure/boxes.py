"""Mean average precision of boxes, as COCO defines it, by torchmetrics; and how sure it is.

An average precision is no mean over images, so that no formula gives its interval. Images are drawn anew with
replacement instead (the bootstrap; Efron and Tibshirani 1993, chapter 13), which detection matched to which box stays,
and COCO's accumulation is repeated with each image as often as it was drawn. Images that come twice make an average
precision a little too good; that bias, the median draw less the figure, is taken off. Two models see the same draws, so
that the interval of their difference is a paired one.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeopt.data.data import CLASS, CROWD, PADDING
from edgeopt.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Precision", "mean_precision"]

DRAWS = 200
SEED = 0
TAILS = (2.5, 97.5)
"""Percentiles of a 95 % interval."""
RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads the precision."""
Found = Sequence[dict[str, "Tensor"]]


@dataclass(frozen=True, eq=False)
class Precision:
    """Fractions of 1, over so many images."""

    images: int
    map: float
    """Mean over classes and over IoU thresholds 0.5, 0.55, ... 0.95: COCO's own figure."""
    map50: float
    """At IoU 0.5 alone."""
    drawn: np.ndarray
    """`map` of each redrawn set of images, the same sets for every model."""

    @property
    def interval(self) -> tuple[float, float]:
        """Of `map`, 95 %."""
        low, high = _ends(self.drawn, self.map)
        return max(low, 0.0), min(high, 1.0)

    def drop_to(self, other: Precision) -> tuple[float, float, float]:
        """How far `other` is below: (drop, low, high) in percentage points, 95 %, both on the same images."""
        drop = 100 * (self.map - other.map)
        return drop, *_ends(100 * (self.drawn - other.drawn), drop)


def _ends(drawn: np.ndarray, measured: float) -> tuple[float, float]:
    """Percentiles of the draws around what was measured."""
    low, high = np.percentile(drawn - np.median(drawn), TAILS) + measured
    return float(low), float(high)


def mean_precision(found: Found, boxes: np.ndarray) -> Precision:
    """Precision of what `edgeopt.model.boxes.decode` found in each image, beside `boxes` [n, most, 6] (`Split.boxes`).

    Raises UsageError where torchmetrics or pycocotools are missing, or no image has a box.
    """
    if not (boxes[:, :, CLASS] != PADDING).any():
        raise UsageError("the test images have no boxes to find", fix="use more images, or another split")
    metric = _metric()
    with _quiet():
        metric.update(list(found), [_target(own) for own in boxes])
        said = metric.compute()
        classes = _match(found, boxes)
    draws = np.random.default_rng(SEED).multinomial(len(boxes), np.full(len(boxes), 1 / len(boxes)), DRAWS)
    drawn = np.array([_accumulate(classes, draw) for draw in draws])
    return Precision(len(boxes), float(said["map"]), float(said["map_50"]), drawn)


def _metric() -> Any:
    try:
        import pycocotools  # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise UsageError(
            f"mean average precision needs {error.name or 'torchmetrics'}, which is not installed",
            fix="pip install 'edgeopt[detection]'",
        ) from error
    return MeanAveragePrecision(box_format="xyxy", iou_type="bbox", backend="pycocotools")


def _target(boxes: np.ndarray) -> dict[str, Tensor]:
    import torch

    own = torch.from_numpy(boxes[boxes[:, CLASS] != PADDING])
    return {"boxes": own[:, :CLASS], "labels": own[:, CLASS].long(), "iscrowd": own[:, CROWD].long()}


@contextlib.contextmanager
def _quiet() -> Any:
    """pycocotools prints its progress, torchmetrics warns of more than a hundred boxes in an image."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True)
class _Class:
    """Every detection of one class, best first, and the boxes that there were."""

    image: np.ndarray
    """int64 [d]: in which image."""
    right: np.ndarray
    """bool [thresholds, d]."""
    counts: np.ndarray
    """bool [thresholds, d]: false of what matched a crowd."""
    boxes: np.ndarray
    """int64 [images]: boxes to find in each."""


def _match(found: Found, boxes: np.ndarray) -> list[_Class]:
    """Which detections match a box, by pycocotools: it looks at each image by itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    real = boxes[..., CLASS] != PADDING
    numbers = np.unique(boxes[..., CLASS][real]).astype(int).tolist()
    truth, answers = COCO(), COCO()
    truth.dataset = _content(_marked(boxes, real), len(boxes), numbers)
    answers.dataset = _content(_answered(found), len(boxes), numbers)
    truth.createIndex()
    answers.createIndex()
    evaluation = COCOeval(truth, answers, "bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    by_class = np.array(evaluation.evalImgs, object).reshape(len(numbers), len(boxes))
    return [_joined(list(own), len(evaluation.params.iouThrs)) for own in by_class]


def _content(annotations: list[dict[str, Any]], images: int, numbers: Sequence[int]) -> dict[str, Any]:
    numbered = [own | {"id": at} for at, own in enumerate(annotations, 1)]
    listed = {"images": [{"id": at} for at in range(images)], "categories": [{"id": number} for number in numbers]}
    return listed | {"annotations": numbered}


def _annotation(image: int, box: Sequence[float], number: int) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    size = (x2 - x1, y2 - y1)
    return {"image_id": image, "category_id": number, "bbox": [x1, y1, *size], "area": size[0] * size[1], "iscrowd": 0}


def _marked(boxes: np.ndarray, real: np.ndarray) -> list[dict[str, Any]]:
    rows = zip(real.nonzero()[0].tolist(), boxes[real].tolist(), strict=True)
    return [_annotation(at, row[:CLASS], int(row[CLASS])) | {"iscrowd": int(row[CROWD])} for at, row in rows]


def _answered(found: Found) -> list[dict[str, Any]]:
    return [
        _annotation(at, box, number) | {"score": score}
        for at, own in enumerate(found)
        for box, number, score in zip(*(own[key].tolist() for key in ("boxes", "labels", "scores")), strict=True)
    ]


def _joined(images: list[dict[str, Any] | None], thresholds: int) -> _Class:
    """The images of one class as one list of detections; pycocotools has None where there was nothing to look at."""
    there = [(at, own) for at, own in enumerate(images) if own is not None]
    counted = np.zeros(len(images), np.int64)
    for at, own in there:
        counted[at] = np.sum(~np.asarray(own["gtIgnore"], bool))
    scores = np.concatenate([np.zeros(0), *(own["dtScores"] for _, own in there)])
    order = np.argsort(-scores, kind="mergesort")
    nothing = np.zeros((thresholds, 0), bool)
    matched, ignored = (
        np.concatenate([nothing, *(np.asarray(own[key], bool) for _, own in there)], axis=1)[:, order]
        for key in ("dtMatches", "dtIgnore")
    )
    image = np.repeat([at for at, _ in there], [len(own["dtScores"]) for _, own in there]).astype(np.int64)[order]
    return _Class(image, matched & ~ignored, ~ignored, counted)


def _accumulate(classes: Sequence[_Class], times: np.ndarray) -> float:
    """`map` with image i counted `times[i]` times: COCOeval.accumulate and summarize of pycocotools."""
    means = [_average_precision(own, times) for own in classes if own.boxes @ times]
    return float(np.mean(means)) if means else 0.0


def _average_precision(own: _Class, times: np.ndarray) -> float:
    weight, total = times[own.image], own.boxes @ times
    right = np.cumsum(own.right * weight, axis=1)
    shown = np.cumsum(own.counts * weight, axis=1)
    precision = right / np.maximum(shown, np.spacing(1))
    # the best that a higher recall has too
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    means = []
    for row, recall in zip(envelope, right / total, strict=True):
        at = np.searchsorted(recall, RECALLS, side="left")
        means.append(np.append(row, 0.0)[np.minimum(at, len(row))].mean())
    return float(np.mean(means))
