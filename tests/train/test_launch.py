import pytest
import torch
from quarters import Failing
from torch import nn

from edgeopt.errors import StageFailed
from edgeopt.model.to_torch import to_torch
from edgeopt.progress import Progress
from edgeopt.train import Fit
from edgeopt.train.fit import fit
from edgeopt.train.objectives import HardLabels, WithTeacher

SETTINGS = Fit(epochs=3, batch_size=32)


def network():
    """No BatchNormalization: its statistics are of each process's own half of a batch."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))


class Listening(Progress):
    done = total = 0

    def start(self, label, total):
        self.total = total

    def advance(self, steps=1, metric=""):
        self.done += steps


@pytest.mark.slow
def test_two_processes_train_as_one(split, classifier, tmp_path):
    one, two, listener = network(), network(), Listening()
    objective = WithTeacher(to_torch(classifier(seed=5)), temperature=2.0, alpha=0.5, labels=HardLabels())
    history = fit(one, split, SETTINGS, objective, seed=0)
    settings = SETTINGS.model_copy(update={"devices": 2, "accelerator": "cpu"})
    spread = fit(two, split, settings, objective, seed=0, progress=listener, scratch=tmp_path)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    for ours, theirs in zip(history, spread, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-3)
        assert theirs["accuracy"] == pytest.approx(ours["accuracy"], abs=0.01)
    assert listener.done == listener.total == 18
    assert (tmp_path / "checkpoint.pt").exists()


@pytest.mark.slow
def test_a_failure_in_a_process_is_the_same_sentence(split):
    settings = SETTINGS.model_copy(update={"devices": 2, "accelerator": "cpu"})
    with pytest.raises(StageFailed, match="the loss is not finite at epoch 1, step 1 of 6"):
        fit(network(), split, settings, Failing(), seed=0)
