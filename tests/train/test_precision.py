import pytest
import torch
from torch import nn

from edgeopt.networks import residual, separable
from edgeopt.train import precision
from edgeopt.train.precision import Arithmetic, choose_precision, choose_threads, count_arithmetic

CPU = torch.device("cpu")


def test_macs_are_counted_as_published():
    network = residual()
    assert count_arithmetic(network, torch.zeros(1, 3, 32, 32)) == Arithmetic(12_501_632, 0)
    assert network.training


def test_grouped_and_matrix_products_are_told_apart():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(1), nn.Linear(16, 5), nn.Linear(5, 2, bias=False))
    assert count_arithmetic(network, torch.zeros(1, 4, 4, 4)) == Arithmetic(16 * 5 + 10, 9 * 16)


@pytest.mark.parametrize(
    ("network", "size", "expected"),
    [(residual(), 32, "bf16"), (residual(size=8, width=8), 8, "fp32"), (separable(), 32, "fp32")],
)
def test_bf16_is_for_large_dense_networks_on_machines_that_have_it(monkeypatch, network, size, expected):
    arithmetic = count_arithmetic(network, torch.zeros(1, 3, size, size))
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: True)
    assert choose_precision("auto", CPU, arithmetic) == expected
    assert choose_precision("bf16", CPU, arithmetic) == "bf16"
    monkeypatch.setattr(precision, "_cpu_has_bf16", lambda: False)
    assert choose_precision("auto", CPU, arithmetic) == "fp32"


def test_tiny_networks_run_on_one_thread():
    assert choose_threads(8, 64, Arithmetic(100_000, 0)) == 1
    assert choose_threads(8, 64, Arithmetic(10_000_000, 0)) == 8
    assert choose_threads(0, 64, Arithmetic(10_000_000, 0)) == 1
