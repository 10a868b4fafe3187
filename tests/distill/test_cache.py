"""A teacher that is asked once answers as one that is asked every time."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt.distill import Distill, lesson
from edgeopt.distill.cache import Kept, answer_bytes
from edgeopt.distill.teacher import Teacher
from edgeopt.errors import UsageError
from edgeopt.stage import Context

AUGMENT = {"crop_pad": 1, "flip": True}


class Asked(nn.Module):
    """Answers with two tensors, and counts."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.flatten(1).sum(1, keepdim=True), x[:, 0] * 1e6


@pytest.fixture
def asked(monkeypatch):
    """Counts the batches that a real teacher answers."""
    counts = []
    forward = Teacher.forward

    def counting(self, x):
        counts.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Teacher, "forward", counting)
    return counts


def distill(student, teacher, data, given, scratch=None, **settings):
    fit = {"epochs": 6, "batch_size": 32, "augment": AUGMENT} | settings.pop("fit", {})
    stage = Distill.model_validate({"teacher": "teacher.onnx", "fit": fit} | settings)
    return given(stage, teacher).apply(student, Context(data=data, seed=3, scratch=scratch))


def test_each_sample_of_each_view_is_asked_for_once():
    teacher, x = Asked(), torch.randn(4, 1, 2, 2)
    kept = Kept(teacher, samples=10, views=2)
    answers = []
    for view, rows in ((0, [3, 1, 7, 0]), (1, [3, 1, 7, 0]), (2, [0, 7, 1, 3]), (0, [2, 4, 5, 6])):
        kept.locate(view, np.array(rows))
        answers.append(kept(x))
    assert teacher.calls == 3
    assert torch.equal(answers[2][0], answers[0][0].flip(0))
    torch.testing.assert_close(answers[0][0], x.flatten(1).sum(1, keepdim=True), rtol=1e-3, atol=1e-3)
    assert answers[0][1].isfinite().all()
    assert kept.size_bytes == 2 * 10 * (1 + 4) * 2


def test_without_augmentation_the_teacher_sees_each_image_once(classifier, data, given, asked):
    student, teacher = classifier(3, seed=1), classifier(8)
    kept = distill(student, teacher, data, given, fit={"augment": {}})
    assert sum(asked) <= 192 + 1
    assert kept.facts["teacher_views"] == 1
    assert kept.facts["teacher_cache_bytes"] == 192 * 4 * 2


def test_without_augmentation_memory_changes_nothing_but_rounding(classifier, data, given, monkeypatch):
    student, teacher = classifier(3, seed=1), classifier(8)
    kept = distill(student, teacher, data, given, fit={"augment": {}})
    monkeypatch.setattr(lesson, "room_bytes", lambda: 10)
    plain = distill(student, teacher, data, given, fit={"augment": {}})
    assert "teacher_cache_bytes" not in plain.facts
    for name, array in kept.model.weights().items():
        np.testing.assert_allclose(array, plain.model.weights()[name], rtol=5e-2, atol=5e-3)


@pytest.mark.parametrize("augment", [AUGMENT, {"mixup": 0.4, "cutmix": 1.0}], ids=["crops", "mixtures"])
def test_with_views_the_teacher_rests_after_the_first_epochs(classifier, data, given, asked, augment):
    student, teacher = classifier(3, seed=1), classifier(8)
    fit = {"augment": augment}
    kept = distill(student, teacher, data, given, views=2, fit=fit)
    assert sum(asked) == 2 * 192 + 1
    asked.clear()
    distill(student, teacher, data, given, fit=fit)
    assert sum(asked) == 6 * 192
    assert kept.facts["teacher_views"] == 2


def test_views_repeat_order_and_augmentation(classifier, data, given, monkeypatch):
    """What is kept for a view is what the teacher would answer: two views asked every time train the same student."""
    student, teacher = classifier(3, seed=1), classifier(8)
    kept = distill(student, teacher, data, given, views=2)
    monkeypatch.setattr(Kept, "forward", lambda self, x: tuple(a.half().float() for a in self.teacher(x)))
    asked_always = distill(student, teacher, data, given, views=2)
    assert kept.model.fingerprint() == asked_always.model.fingerprint()


@pytest.mark.parametrize("step", [8, 20, 33])
@pytest.mark.parametrize(
    "settings",
    [
        {"views": 2},
        {"fit": {"augment": {}}},
        {
            "loss": {
                "kind": "sum",
                "of": [{"kind": "dist"}, {"kind": "hint", "layers": {"c": "c"}, "weight": 1}],
            }
        },
    ],
    ids=["views", "images", "projection"],
)
def test_a_distillation_that_is_cut_off_ends_with_the_same_weights(
    classifier, data, given, tmp_path, monkeypatch, settings, step
):
    student, teacher = classifier(3, seed=1), classifier(8)
    undisturbed = distill(student, teacher, data, given, **settings)
    cut_after(step, monkeypatch)
    with pytest.raises(RuntimeError, match="power cut"):
        distill(student, teacher, data, given, tmp_path, **settings)
    monkeypatch.undo()
    resumed = distill(student, teacher, data, given, tmp_path, **settings)
    assert (tmp_path / "checkpoint.pt").exists()
    assert resumed.model.fingerprint() == undisturbed.model.fingerprint()
    losses = [[entry["loss"] for entry in result.facts["history"]] for result in (resumed, undisturbed)]
    assert losses[0] == losses[1]


def test_a_checkpoint_of_another_loss_is_not_gone_on_with(classifier, data, given, tmp_path, asked):
    student, teacher = classifier(3, seed=1), classifier(8)
    for loss in ({"kind": "dist"}, {"kind": "dist", "beta": 1.0}):
        before = len(asked)
        distill(student, teacher, data, given, tmp_path, views=1, loss=loss, fit={"epochs": 1})
        assert len(asked) > before + 1


def cut_after(steps, monkeypatch):
    from edgeopt.distill.objective import Imitation

    forward, left = Imitation.forward, [steps]

    def stumbling(self, outputs, x, labels):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("power cut")
        return forward(self, outputs, x, labels)

    monkeypatch.setattr(Imitation, "forward", stumbling)


def test_views_that_do_not_fit_in_memory_are_refused(classifier, data, given, monkeypatch):
    monkeypatch.setattr(lesson, "room_bytes", lambda: 5 * answer_bytes(Teacher(classifier(8), None), data.train))
    with pytest.raises(UsageError, match=r"take 5 views"):
        distill(classifier(3, seed=1), classifier(8), data, given, views=6)
