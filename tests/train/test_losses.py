"""Losses against their papers' formulas, written out in numpy, sample by sample."""

import itertools

import numpy as np
import pytest
import torch

from edgeopt.train.losses import (
    attention_transfer,
    cross_entropy,
    decoupled,
    dist,
    hint,
    log_probabilities,
    match_outputs,
    relational_angle,
    relational_distance,
    similarity_preserving,
    soft_targets,
)

STUDENT = np.array([[1.0, -2.0, 0.5], [0.3, 0.1, 4.0]])
TEACHER = np.array([[3.0, 0.0, -1.0], [0.0, 2.0, 2.5]])
LABELS = np.array([2, 1])

RNG = np.random.default_rng(0)
OURS = RNG.standard_normal((5, 3, 2, 4))
THEIRS = RNG.standard_normal((5, 6, 2, 4))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def divergence(p, q):
    return sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))


def huber(x):
    return np.where(np.abs(x) <= 1, 0.5 * x**2, np.abs(x) - 0.5)


def found(formula, *arrays, **settings):
    return formula(*[torch.tensor(array) for array in arrays], **settings).item()


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_soft_targets_is_hintons_formula(temperature):
    p, q = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1).mean()
    assert found(soft_targets, STUDENT, TEACHER, temperature=temperature) == pytest.approx(expected, rel=1e-4)


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


@pytest.mark.parametrize(("temperature", "alpha", "beta"), [(1.0, 1.0, 0.0), (1.0, 0.0, 1.0), (4.0, 0.5, 8.0)])
def test_decoupled_is_equation_7_of_the_paper(temperature, alpha, beta):
    total = 0.0
    for student, teacher, label in zip(STUDENT / temperature, TEACHER / temperature, LABELS, strict=True):
        q, p = softmax(student), softmax(teacher)
        target = divergence([p[label], 1 - p[label]], [q[label], 1 - q[label]])
        others = [c for c in range(3) if c != label]
        rest = divergence(softmax(teacher[others]), softmax(student[others]))
        total += alpha * target + beta * rest
    expected = temperature**2 * total / 2
    assert found(decoupled, STUDENT, TEACHER, LABELS, temperature=temperature, alpha=alpha, beta=beta) == pytest.approx(
        expected, rel=1e-4
    )


def test_decoupled_with_the_teachers_own_weights_is_soft_targets():
    """Equation 6: KD = TCKD + (1 - p_label) NCKD."""
    one = slice(0, 1)
    rest = 1 - softmax(TEACHER)[0, LABELS[0]]
    whole = found(soft_targets, STUDENT[one], TEACHER[one], temperature=1.0)
    assert found(
        decoupled, STUDENT[one], TEACHER[one], LABELS[one], temperature=1.0, alpha=1.0, beta=rest
    ) == pytest.approx(whole, rel=1e-4)


def test_dist_is_pearsons_correlation_over_classes_and_over_the_batch():
    student, teacher = RNG.standard_normal((4, 3)), RNG.standard_normal((4, 3))
    temperature, beta, gamma = 2.0, 1.5, 0.5
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    inter = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(4)])
    intra = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(3)])
    expected = temperature**2 * (beta * inter + gamma * intra)
    assert found(dist, student, teacher, temperature=temperature, beta=beta, gamma=gamma) == pytest.approx(
        expected, rel=1e-4
    )


def test_hint_is_the_mean_squared_difference_over_the_teachers_variance():
    theirs = THEIRS[:, :3]
    expected = ((OURS - theirs) ** 2).sum() / ((theirs - theirs.mean()) ** 2).sum()
    assert found(hint, OURS, THEIRS[:, :3]) == pytest.approx(expected, rel=1e-4)


def test_attention_maps_are_sums_of_squares_of_length_one():
    total = 0.0
    for student, teacher in zip(OURS, THEIRS, strict=True):
        maps = [(side**2).sum(0).reshape(-1) for side in (student, teacher)]
        ours, theirs = (one / np.sqrt((one**2).sum()) for one in maps)
        total += ((ours - theirs) ** 2).sum()
    assert found(attention_transfer, OURS, THEIRS) == pytest.approx(total / (5 * 8), rel=1e-4)


def test_relational_distances_are_relative_to_their_mean():
    def relative(features):
        rows = features.reshape(5, -1)
        table = np.array([[np.linalg.norm(a - b) for a in rows] for b in rows])
        return table / (table.sum() / (5 * 4))

    expected = huber(relative(4 * OURS**3) - relative(THEIRS)).sum() / 25
    assert found(relational_distance, 4 * OURS**3, THEIRS) == pytest.approx(expected, rel=1e-4)


def test_relational_angles_are_those_of_all_triples():
    def cosine(rows, i, j, k):
        if i == j or k == j:
            return 0.0
        one, other = rows[i] - rows[j], rows[k] - rows[j]
        return one @ other / np.linalg.norm(one) / np.linalg.norm(other)

    triples = itertools.product(range(5), repeat=3)
    ours, theirs = OURS.reshape(5, -1), THEIRS.reshape(5, -1)
    expected = sum(huber(cosine(ours, *t) - cosine(theirs, *t)) for t in triples) / 5**3
    assert found(relational_angle, OURS, THEIRS) == pytest.approx(expected, rel=1e-4)


def test_similarities_are_rows_of_length_one_of_the_products():
    def similarities(features):
        rows = features.reshape(5, -1)
        table = rows @ rows.T
        return table / np.linalg.norm(table, axis=1, keepdims=True)

    expected = ((similarities(OURS) - similarities(THEIRS)) ** 2).sum() / 5**2
    assert found(similarity_preserving, OURS, THEIRS) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("robust", [False, True])
def test_every_output_counts_by_the_teachers_variance(robust):
    student, teacher = [OURS, 30 * OURS[:, 0]], [THEIRS[:, :3], 100 * THEIRS[:, 0] + 7]
    error = huber if robust else np.square
    parts = [error((a - b) / b.std()).mean() for a, b in zip(student, teacher, strict=True)]
    ours, theirs = ([torch.tensor(array) for array in arrays] for arrays in (student, teacher))
    assert match_outputs(ours, theirs, robust=robust).item() == pytest.approx(np.mean(parts), rel=1e-4)


def test_a_constant_output_of_the_teacher_gives_no_nan():
    outputs = [torch.ones(4, 2)]
    assert match_outputs(outputs, outputs).item() == 0
    assert match_outputs([torch.zeros(4, 2)], outputs).isfinite()


@pytest.mark.parametrize(
    "formula",
    [
        lambda a, b: relational_distance(a, b),
        lambda a, b: relational_angle(a, b),
        lambda a, b: similarity_preserving(a, b),
        lambda a, b: attention_transfer(a, b),
        lambda a, b: dist(a.flatten(1), b.flatten(1), 1.0, 1.0, 1.0),
    ],
    ids=["distance", "angle", "similarity", "attention", "dist"],
)
def test_dead_and_equal_samples_give_finite_gradients(formula):
    """Two equal images, and a layer that is all zeros: norms and distances are zero there."""
    student = torch.tensor(OURS).float()
    student[1] = student[0]
    student[2] = 0
    student.requires_grad_()
    formula(student, torch.tensor(THEIRS[:, :3]).float()).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0


def test_cross_entropy_spreads_the_smoothed_share_over_all_classes():
    labels, smoothing = np.array([0, 2]), 0.3
    target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    expected = -(target * np.log(softmax(STUDENT))).sum(-1).mean()
    assert found(cross_entropy, STUDENT, labels, label_smoothing=smoothing) == pytest.approx(expected, rel=1e-4)


def test_cross_entropy_takes_shares_of_classes():
    shares = np.array([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    expected = -(shares * np.log(softmax(STUDENT))).sum(-1).mean()
    assert found(cross_entropy, STUDENT, shares.astype(np.float32)) == pytest.approx(expected, rel=1e-4)


def test_probabilities_give_the_loss_of_the_logits_they_came_from():
    probabilities = torch.tensor(softmax(STUDENT))
    labels = torch.tensor([1, 2])
    direct = cross_entropy(torch.tensor(STUDENT), labels)
    assert cross_entropy(log_probabilities(probabilities), labels).item() == pytest.approx(direct.item(), 1e-5)
    assert log_probabilities(torch.zeros(1, 3)).isfinite().all()
