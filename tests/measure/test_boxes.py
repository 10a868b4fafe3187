"""Mean average precision with its interval, beside pycocotools and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeopt.errors import UsageError
from edgeopt.measure import boxes as measured
from edgeopt.measure.boxes import mean_precision

IMAGES, CLASSES = 30, 3


def truth(seed: int = 0) -> np.ndarray:
    """float32 [IMAGES, 4, 6]: up to four boxes an image, none in some, a crowd in one."""
    rng = np.random.default_rng(seed)
    boxes = np.zeros((IMAGES, 4, 6), np.float32)
    boxes[..., :2] = rng.uniform(0, 50, (IMAGES, 4, 2))
    boxes[..., 2:4] = boxes[..., :2] + rng.uniform(8, 40, (IMAGES, 4, 2))
    boxes[..., 4] = rng.integers(0, CLASSES, (IMAGES, 4))
    boxes[rng.random((IMAGES, 4)) < 0.4, 4] = -1
    boxes[0, 0, 4:] = (1, 1)
    return boxes


def guesses(boxes: np.ndarray, noise: float, seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """The boxes moved by `noise` pixels, some with a wrong class, and one more of nothing in each image."""
    rng = np.random.default_rng(seed)
    found = []
    for own in boxes:
        own = own[own[:, 4] >= 0]
        own = np.concatenate([own, rng.uniform(0, 40, (1, 6))])
        own[-1, 2:4] += 45
        labels = np.where(rng.random(len(own)) < 0.1, 0, own[:, 4].astype(int) % CLASSES)
        moved = own[:, :4] + rng.normal(0, noise, (len(own), 4))
        found.append(
            {
                "boxes": torch.tensor(moved, dtype=torch.float32),
                "scores": torch.tensor(rng.random(len(own)), dtype=torch.float32),
                "labels": torch.tensor(labels),
            }
        )
    return found


def exact(boxes: np.ndarray) -> list[dict[str, torch.Tensor]]:
    rows = [torch.from_numpy(own[(own[:, 4] >= 0) & (own[:, 5] == 0)]) for own in boxes]
    return [{"boxes": own[:, :4], "scores": torch.ones(len(own)), "labels": own[:, 4].long()} for own in rows]


def test_every_box_found_and_nothing_else_is_one():
    found = mean_precision(exact(truth()), truth())
    assert (found.map, found.map50, found.images) == (1.0, 1.0, IMAGES)
    assert found.interval == (1.0, 1.0)


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_an_undisturbed_draw_gives_what_torchmetrics_gives(noise):
    boxes = truth()
    found = guesses(boxes, noise)
    precision = mean_precision(found, boxes)
    assert 0.1 < precision.map < precision.map50 < 1
    with measured._quiet():
        classes = measured._match(found, boxes)
    assert measured._accumulate(classes, np.ones(IMAGES, np.int64)) == pytest.approx(precision.map, abs=1e-6)


def test_a_draw_is_the_set_with_these_images():
    """Counting an image twice is having it twice."""
    boxes = truth()
    found = guesses(boxes, 1.0)
    times = np.random.default_rng(2).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES))
    rows = np.repeat(np.arange(IMAGES), times)
    expected = mean_precision([found[at] for at in rows], boxes[rows]).map
    with measured._quiet():
        classes = measured._match(found, boxes)
    assert measured._accumulate(classes, times) == pytest.approx(expected, abs=1e-3)  # equal scores, other order


def test_the_interval_of_a_difference_is_paired():
    boxes = truth()
    good, same, bad = (mean_precision(guesses(boxes, noise), boxes) for noise in (1.0, 1.0, 6.0))
    assert good.drop_to(same) == (0.0, 0.0, 0.0)
    drop, low, high = good.drop_to(bad)
    assert 0 < low < drop < high
    assert drop == pytest.approx(100 * (good.map - bad.map))
    low, high = good.interval
    assert low < good.map < high
    assert high - low < 0.4


def test_without_a_single_box_there_is_nothing_to_measure():
    boxes = truth()
    boxes[..., 4] = -1
    with pytest.raises(UsageError, match="no boxes to find"):
        mean_precision(exact(boxes), boxes)


def test_what_is_missing_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    with pytest.raises(UsageError, match=r"pycocotools, which is not installed; pip install 'edgeopt\[detection\]'"):
        mean_precision(exact(truth()), truth())
