import torch
from torch import nn

from edgeopt.train.average import Average


def test_the_average_follows_its_formula():
    module = nn.BatchNorm1d(3)
    average = Average(module, 0.5)
    expected = module.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            module.weight.add_(torch.randn(3))
            module.running_mean.add_(1)
            module.num_batches_tracked.add_(1)
        average.update(module)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    average.copy_to(module)
    torch.testing.assert_close(module.weight.detach(), expected)
    assert module.num_batches_tracked == 5
    assert 0 < module.running_mean[0] < 5


def test_a_loaded_state_goes_on_as_the_old_one():
    def change(module):
        with torch.no_grad():
            module.weight.mul_(1.3).add_(0.1)

    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    average = Average(module, 0.9)
    change(module)
    average.update(module)
    other = Average(module, 0.9)
    other.load({"steps": average.steps, "values": {k: v.clone() for k, v in average.values.items()}})
    change(module)
    average.update(module)
    other.update(module)
    assert torch.equal(average.values["weight"], other.values["weight"])
