import pytest
import torch
from torch import nn

from edgeopt.train.losses import cross_entropy, soft_targets
from edgeopt.train.objectives import HardLabels, WithTeacher, all_outputs, ask, first_output, own_parameters

X = torch.linspace(-1, 1, 12).reshape(4, 3)
LABELS = torch.tensor([0, 1, 1, 0])


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))


@pytest.fixture
def outputs():
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(1), requires_grad=True)


def test_alpha_weighs_the_teacher_against_the_labels(teacher, outputs):
    loss = WithTeacher(teacher, temperature=3.0, alpha=0.7, labels=HardLabels(0.1))(outputs, X, LABELS)
    soft = soft_targets(outputs, teacher(X), 3.0)
    hard = cross_entropy(outputs, LABELS, 0.1)
    torch.testing.assert_close(loss, 0.7 * soft + 0.3 * hard)


@pytest.mark.parametrize(("labels", "batch_labels"), [(HardLabels(), None), (None, LABELS)])
def test_without_labels_the_soft_targets_are_all(teacher, outputs, labels, batch_labels):
    loss = WithTeacher(teacher, temperature=2.0, alpha=0.5, labels=labels)(outputs, X, batch_labels)
    torch.testing.assert_close(loss, soft_targets(outputs, teacher(X), 2.0))


def test_the_teacher_is_left_alone(teacher, outputs):
    """No gradient, no dropout, no moving statistics: the same answer however often it is asked."""
    objective = WithTeacher(teacher, labels=HardLabels())
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    objective(outputs, X, LABELS).backward()
    assert outputs.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert torch.equal(objective.teach(X), objective.teach(X))
    assert not objective.teach(X).is_inference()  # a loss may save it for the backward pass


def test_networks_that_end_in_softmax_are_compared_by_their_logits(teacher, outputs):
    plain = WithTeacher(teacher, 4.0, 0.5, HardLabels())(outputs, X, LABELS)
    soft_teacher = nn.Sequential(teacher, nn.Softmax(1))
    wrapped = WithTeacher(
        soft_teacher,
        4.0,
        0.5,
        HardLabels(probabilities=True),
        student_probabilities=True,
        teacher_probabilities=True,
    )(outputs.softmax(1), X, LABELS)
    torch.testing.assert_close(wrapped, plain)


def test_the_first_of_several_outputs_counts():
    one, two = torch.zeros(1), torch.ones(1)
    assert first_output((one, two)) is one
    assert first_output(one) is one


def test_losses_on_classes_read_the_first_output(teacher, outputs):
    several = (outputs, torch.full((4, 9), torch.nan))
    for objective in (HardLabels(0.1), WithTeacher(teacher, labels=HardLabels())):
        torch.testing.assert_close(objective(several, X, LABELS), objective(outputs, X, LABELS))
    assert all_outputs(outputs) == (outputs,)
    assert all_outputs(list(several)) == several


def test_a_teacher_answers_in_fp32_and_without_gradient():
    class Half(nn.Linear):
        def forward(self, x):
            return super().forward(x).to(torch.bfloat16), x

    one, other = ask(Half(3, 2), X)
    assert (one.dtype, other.dtype) == (torch.float32, torch.float32)
    assert not one.requires_grad
    assert not one.is_inference()  # a loss may save it for the backward pass
    assert other is not X


def test_what_an_objective_learns_itself_is_not_the_teachers(teacher):
    objective = WithTeacher(teacher, labels=HardLabels())
    assert own_parameters(objective) == {}
    objective.projection = nn.Linear(2, 2)
    assert list(own_parameters(objective)) == ["projection.weight", "projection.bias"]
    assert own_parameters(lambda outputs, x, labels: outputs.sum()) == {}
