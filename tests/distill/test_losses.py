"""Every loss that a recipe can name, alone and in sums."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt.distill import Dist, Distill, Dkd, Hint, Loss, SoftTargets, Sum
from edgeopt.distill.objective import Imitation, Part, Side
from edgeopt.keys import members_of, tag_of
from edgeopt.model.runtime import open_session, run
from edgeopt.stage import Context
from edgeopt.train.losses import cross_entropy, decoupled, dist, soft_targets
from edgeopt.train.objectives import HardLabels

KINDS = [tag_of(spec) for spec in members_of(Loss) if tag_of(spec) != "boxes"]  # which wants a detector
SETTINGS = {"sum": {"of": [{"kind": "dist"}, {"kind": "similarity_preserving", "weight": 10}]}}
LAYERS = {
    "hint": [("b_r", "b_r")],
    "attention_transfer": [("a_r", "a_r"), ("b_r", "b_r")],
    "rkd": [("b_r", "b_r")],
    "similarity_preserving": [("b_r", "b_r")],
    "sum": [("b_r", "b_r")],
}

X = torch.linspace(-1, 1, 12).reshape(4, 3)
LABELS = torch.tensor([0, 1, 1, 0])


def imitation(*losses, labels_weight=0.0, labels=True):
    torch.manual_seed(0)
    return Imitation(
        nn.Linear(3, 2),
        [Part(loss) for loss in losses],
        HardLabels(0.1) if labels else None,
        labels_weight,
        student_side=Side(),
        teacher_side=Side(),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_trains_a_student_and_leaves_nothing_behind(kind, deep, data, given):
    student, teacher = deep(2, seed=1), deep(3)
    stage = Distill.model_validate(
        {
            "teacher": "t.onnx",
            "loss": {"kind": kind} | SETTINGS.get(kind, {}),
            "fit": {"epochs": 2, "batch_size": 64, "lr": 0.01},
        }
    )
    result = given(stage, teacher).apply(student, Context(data=data, seed=0))
    assert json.loads(json.dumps(result.facts)) == result.facts
    assert [(pair["student"], pair["teacher"]) for pair in result.facts.get("layers", ())] == LAYERS.get(kind, [])
    assert result.model.weights().keys() == student.weights().keys()
    assert len(result.model.outputs) == 1
    assert result.facts["student_params"] == sum(
        array.size for name, array in student.weights().items() if name not in ("n_m", "n_v")
    )
    assert result.facts["history"][1]["loss"] != result.facts["history"][0]["loss"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("sum", "hint")])
def test_a_perfect_student_has_nothing_to_learn(kind):
    loss = next(spec for spec in members_of(Loss) if tag_of(spec) == kind)()
    objective = imitation(loss, labels=False)
    tensors = (objective.teacher(X).detach(), torch.randn(4, 3, 2, 2))
    part = Part(loss, _pairs()) if loss.reads_layers else Part(loss)
    objective.parts = (part,)
    objective.student_side = objective.teacher_side = Side(1, {"a": 1})
    objective.teacher = Fixed(tensors)
    assert objective(tensors, X, None).item() == pytest.approx(0, abs=1e-4)
    other = (tensors[0].flip(1) * 2, tensors[1].flip(2) ** 2)
    assert objective(other, X, None).item() > 1e-3


def _pairs():
    from edgeopt.distill.answers import Pair

    return (Pair("a", "a", (1, 3, 2, 2), (1, 3, 2, 2)),)


class Fixed(nn.Module):
    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, x):
        return self.answers


def test_weights_and_the_share_of_the_labels():
    outputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    objective = imitation(SoftTargets(weight=0.5, temperature=2), Dist(weight=3.0, temperature=1), labels_weight=0.25)
    answer = objective.teacher(X).detach()
    expected = 0.5 * soft_targets(outputs, answer, 2) + 3 * dist(outputs, answer, 1, 2, 2)
    expected = expected + 0.25 * cross_entropy(outputs, LABELS, 0.1)
    torch.testing.assert_close(objective(outputs, X, LABELS), expected)
    torch.testing.assert_close(objective(outputs, X, None), expected - 0.25 * cross_entropy(outputs, LABELS, 0.1))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.1),
        ({"loss": {"kind": "soft_targets", "weight": 0.6}}, 0.4),
        ({"loss": {"kind": "dist"}}, 1.0),
        ({"loss": {"kind": "outputs"}}, 0.0),
        ({"loss": {"kind": "sum", "of": [{"kind": "dist"}, {"kind": "hint"}]}}, 1.0),
        ({"loss": {"kind": "sum", "of": [{"kind": "soft_targets"}, {"kind": "hint"}]}}, 0.1),
        ({"loss": {"kind": "dist"}, "labels": 0.25}, 0.25),
    ],
)
def test_what_labels_count_for(settings, expected):
    assert Distill.model_validate({"teacher": "t.onnx"} | settings).labels_weight == pytest.approx(expected)


def test_a_sum_scales_its_parts():
    parts = Sum(of=(SoftTargets(weight=0.5), Hint(weight=4.0)), weight=2.0).parts
    assert [(part.kind, part.weight) for part in parts] == [("soft_targets", 1.0), ("hint", 8.0)]


def test_decoupled_without_labels_takes_the_teachers_first_class():
    outputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    objective = imitation(Dkd(temperature=2.0, beta=3.0), labels=False)
    answer = objective.teacher(X).detach()
    expected = decoupled(outputs, answer, answer.argmax(1), 2.0, 1.0, 3.0)
    torch.testing.assert_close(objective(outputs, X, None), expected)
    mixed = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [1.0, 0.0]])
    torch.testing.assert_close(objective(outputs, X, mixed), objective(outputs, X, mixed.argmax(1)))


def test_losses_are_computed_in_fp32_under_autocast():
    outputs = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(2))
    loss = next(spec for spec in members_of(Loss) if tag_of(spec) == "similarity_preserving")()
    objective = imitation(loss)
    objective.parts = (Part(loss, _pairs()),)
    objective.student_side = objective.teacher_side = Side(1, {"a": 0})
    objective.teacher = Fixed((x,))
    plain = objective(outputs, x, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert objective(outputs, x, None).item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_hint_pulls_the_layer_towards_the_teachers(deep, data, given):
    """With the hint alone: a linear map of the student's tensor predicts the teacher's better than before."""
    student, teacher = deep(3, seed=1), deep(4)
    stage = Distill.model_validate(
        {
            "teacher": "t.onnx",
            "loss": {"kind": "hint", "layers": {"b_r": "b_r"}, "weight": 1},
            "labels": 0,
            "fit": {"epochs": 30, "batch_size": 32, "lr": 0.1, "weight_decay": 0},
        }
    )
    result = given(stage, teacher).apply(student, Context(data=data, seed=0))
    assert left(result.model, teacher, data) < 0.8 * left(student, teacher, data)


def left(student, teacher, data):
    """What no linear map of the student's tensor explains of the teacher's."""
    from edgeopt.distill.layers import show

    x = data.train.read(np.arange(192)).x
    sides = []
    for model in (student, teacher):
        shown, places = show(model, ["b_r"])
        tensor = run(open_session(shown, threads=1), x)[places["b_r"]]
        sides.append(tensor.transpose(0, 2, 3, 1).reshape(-1, tensor.shape[1]))
    ours = np.hstack([sides[0], np.ones((len(sides[0]), 1))])
    solution = np.linalg.lstsq(ours, sides[1], rcond=None)[0]
    return ((ours @ solution - sides[1]) ** 2).mean()
