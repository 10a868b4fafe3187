"""Losses against their formulas, written out in numpy."""

import numpy as np
import pytest
import torch

from edgeopt.train.losses import cross_entropy, log_probabilities, soft_targets

STUDENT = np.array([[1.0, -2.0, 0.5], [0.3, 0.1, 4.0]])
TEACHER = np.array([[3.0, 0.0, -1.0], [0.0, 2.0, 2.5]])


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_targets_is_hintons_formula(temperature):
    p, q = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1).mean()
    found = soft_targets(torch.tensor(STUDENT), torch.tensor(TEACHER), temperature)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_soft_targets_at_high_temperature_matches_centred_logits():
    """Hinton et al., equation 4: the gradient tends to (z_student - z_teacher) / N for zero-mean logits."""
    student = torch.tensor(STUDENT - STUDENT.mean(1, keepdims=True), requires_grad=True)
    teacher = torch.tensor(TEACHER - TEACHER.mean(1, keepdims=True))
    soft_targets(student, teacher, 1e3).backward()
    expected = (student.detach() - teacher) / student.shape[1] / len(student)
    torch.testing.assert_close(student.grad, expected, rtol=1e-2, atol=1e-3)


def test_soft_targets_is_zero_only_for_equal_distributions():
    logits = torch.tensor(STUDENT)
    assert soft_targets(logits + 7, logits, 3.0).item() == pytest.approx(0, abs=1e-6)
    assert soft_targets(logits * 2, logits, 3.0).item() > 0.01


def test_cross_entropy_spreads_the_smoothed_share_over_all_classes():
    labels, smoothing = np.array([0, 2]), 0.3
    target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    expected = -(target * np.log(softmax(STUDENT))).sum(-1).mean()
    found = cross_entropy(torch.tensor(STUDENT), torch.tensor(labels), smoothing)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_probabilities_give_the_loss_of_the_logits_they_came_from():
    probabilities = torch.tensor(softmax(STUDENT))
    labels = torch.tensor([1, 2])
    direct = cross_entropy(torch.tensor(STUDENT), labels)
    assert cross_entropy(log_probabilities(probabilities), labels).item() == pytest.approx(direct.item(), 1e-5)
    assert log_probabilities(torch.zeros(1, 3)).isfinite().all()
