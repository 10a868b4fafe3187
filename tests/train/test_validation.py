from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small import SGD, Listening, network, same_weights
from torch import nn

from edgeopt.errors import UsageError
from edgeopt.train import Augment, Fit
from edgeopt.train.fit import fit
from edgeopt.train.objectives import HardLabels
from edgeopt.train.validation import best_epoch, hold_out

WATCHED = SGD.model_copy(update={"validation": 0.25})


def test_a_share_of_each_class_is_held_out_by_the_seed(split):
    held = hold_out(split, 0.25, 3)
    assert len(held) == 48
    assert np.bincount(split.labels[held]).tolist() == [12, 12, 12, 12]
    assert np.array_equal(held, hold_out(split, 0.25, 3))
    assert not np.array_equal(held, hold_out(split, 0.25, 4))
    assert len(hold_out(replace(split, labels=None), 0.25, 3)) == 48
    assert len(hold_out(split, 0.0, 3)) == 0


def images_of(split):
    return {image.tobytes(): position for position, image in enumerate(split.read(np.arange(len(split))).x)}


class Looking(HardLabels):
    """Keeps the images that it was shown for training and for watching."""

    def __init__(self):
        super().__init__()
        self.shown = {True: [], False: []}

    def forward(self, outputs, x, labels):
        self.shown[torch.is_grad_enabled()] += [image.numpy().tobytes() for image in x]
        return super().forward(outputs, x, labels)


def test_held_out_images_are_never_trained_on_and_never_augmented(split):
    objective, place = Looking(), images_of(split)
    settings = WATCHED.model_copy(update={"batch_size": 20, "augment": Augment(crop_pad=1, mixup=0.4)})
    fit(network(), split, settings, objective, seed=0)
    assert sorted(place[image] for image in objective.shown[False][:48]) == hold_out(split, 0.25, 0).tolist()
    plain = Looking()
    fit(network(), split, WATCHED.model_copy(update={"batch_size": 20}), plain, seed=0)
    trained = {place[image] for image in plain.shown[True]}
    assert trained == set(range(192)) - set(hold_out(split, 0.25, 0).tolist())


def test_the_history_says_what_the_result_is_worth(split):
    module = network()
    settings = WATCHED.model_copy(update={"epochs": 6, "ema": 0.9, "batch_size": 20, "precision": "fp32"})
    history = fit(module, split, settings, HardLabels(), seed=0)
    held = split.take(hold_out(split, 0.25, 0))
    with torch.no_grad():
        logits = module(torch.from_numpy(held.read(np.arange(48)).x))
    labels = torch.from_numpy(held.labels)
    assert history[-1]["validation_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    expected = nn.functional.cross_entropy(logits, labels).item()
    assert history[-1]["validation_loss"] == pytest.approx(expected, rel=1e-4)


def test_watching_changes_no_weight(split):
    """Validation draws nothing, and leaves running statistics and moving averages alone."""
    held = hold_out(split, 0.25, 0)
    rest = split.take(np.delete(np.arange(192), held))
    settings = SGD.model_copy(update={"ema": 0.9, "augment": Augment(crop_pad=1)})
    watched, plain = network(), network()
    fit(watched, split, settings.model_copy(update={"validation": 0.25}), HardLabels(), seed=0)
    fit(plain, rest, settings, HardLabels(), seed=0)
    assert same_weights(watched, plain)


class Worse(HardLabels):
    """Learns for three epochs of nine steps, then unlearns."""

    steps = 0

    def forward(self, outputs, x, labels):
        loss = super().forward(outputs, x, labels)
        if not torch.is_grad_enabled():
            return loss
        self.steps += 1
        return loss if self.steps <= 27 else -loss


LONG = Fit.model_validate(
    {"epochs": 12, "batch_size": 16, "validation": 0.25, "clip_norm": 1.0, "schedule": {"kind": "cosine", "final": 1.0}}
)


def test_patience_ends_a_run_that_gets_worse(split):
    listener = Listening()
    settings = LONG.model_copy(update={"patience": 2})
    history = fit(network(), split, settings, Worse(), seed=0, progress=listener)
    best = best_epoch(history)
    assert 1 <= best <= 4
    assert len(history) == best + 2
    assert listener.done == listener.total == 12 * 9
    assert f"best epoch {best}" in listener.metrics[-1]


@pytest.mark.parametrize("ema", [None, 0.8])
def test_the_best_epoch_is_kept(split, ema):
    settings = LONG.model_copy(update={"keep": "best", "ema": ema})
    module, short = network(), network()
    history = fit(module, split, settings, Worse(), seed=0)
    best = best_epoch(history)
    assert best < 12
    assert history[-1]["validation_loss"] > history[best - 1]["validation_loss"]
    held = split.take(hold_out(split, 0.25, 0))
    with torch.no_grad():
        logits = module(torch.from_numpy(held.read(np.arange(48)).x))
    found = nn.functional.cross_entropy(logits, torch.from_numpy(held.labels)).item()
    assert found == pytest.approx(history[best - 1]["validation_loss"], rel=1e-4)
    last = LONG.model_copy(update={"ema": ema})
    fit(short, split, last, Worse(), seed=0)
    assert not same_weights(module, short)


def test_the_best_has_most_right_answers_then_the_least_loss_then_comes_first():
    def entry(epoch, loss, accuracy=None):
        return {"epoch": epoch, "validation_loss": loss} | (
            {} if accuracy is None else {"validation_accuracy": accuracy}
        )

    assert best_epoch([entry(1, 0.5, 0.7), entry(2, 0.9, 0.8), entry(3, 0.8, 0.8), entry(4, 0.8, 0.8)]) == 3
    assert best_epoch([entry(1, 0.5), entry(2, 0.3), entry(3, 0.4)]) == 2


@pytest.mark.parametrize("settings", [{"patience": 3}, {"keep": "best"}])
def test_what_needs_held_out_images_says_so(settings):
    with pytest.raises(ValidationError, match="add `validation"):
        Fit.model_validate(settings)
    Fit.model_validate(settings | {"validation": 0.1})


def test_more_processes_than_held_out_images_is_refused(split):
    few = split.take(np.arange(4))
    with pytest.raises(UsageError, match="no training images"):
        fit(network(), few.take(np.arange(0)), WATCHED, HardLabels(), seed=0)
    fit(network(), split.take(np.arange(16)), WATCHED, HardLabels(), seed=0)
