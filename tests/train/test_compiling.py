"""torch.compile: the same training, or the same training without it."""

import shutil

import pytest
import torch
from small import SGD, Listening, network, same_weights
from torch import nn

from edgeopt.train.fit import fit
from edgeopt.train.objectives import HardLabels
from edgeopt.train.precision import COMPILE_FROM_STEPS, choose_compile

COMPILED = SGD.model_copy(update={"compile": True, "precision": "fp32", "epochs": 2})
PLAIN = COMPILED.model_copy(update={"compile": False})


def test_auto_is_a_rule():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert choose_compile("auto", gpu, COMPILE_FROM_STEPS)
    assert not choose_compile("auto", gpu, COMPILE_FROM_STEPS - 1)
    assert not choose_compile("auto", cpu, 10**9)
    assert choose_compile(True, cpu, 1)
    assert not choose_compile(False, gpu, 10**9)


def broken(self, **settings):
    def call(*arguments):
        self[1].running_mean.add_(1.0)  # what a compiler that fails half-way leaves behind
        raise RuntimeError("no working C++ compiler\nfound")

    self._compiled_call_impl = call


def test_a_compiler_that_fails_costs_a_warning_and_nothing_else(split, monkeypatch):
    expected, module, listener = network(), network(), Listening()
    fit(expected, split, PLAIN, HardLabels(), seed=0)
    monkeypatch.setattr(nn.Module, "compile", broken)
    fit(module, split, COMPILED, HardLabels(), seed=0, progress=listener)
    (warning,) = listener.warnings
    assert "torch.compile failed (no working C++ compiler found)" in warning
    assert same_weights(module, expected)
    assert module._compiled_call_impl is None


def dense():
    """Few kernels to compile."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_compiled_network_learns_the_same_and_goes_on_to_the_bit(split, tmp_path):
    plain, compiled, resumed, listener = dense(), dense(), dense(), Listening()
    settings = COMPILED.model_copy(update={"validation": 0.25, "accumulate": 2})
    fit(plain, split, settings.model_copy(update={"compile": False}), HardLabels(), seed=0)
    fit(compiled, split, settings, HardLabels(), seed=0, progress=listener)
    assert listener.warnings == []
    assert compiled._compiled_call_impl is None
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

    class Stumbling(HardLabels):
        left = 12

        def forward(self, outputs, x, labels):
            self.left -= torch.is_grad_enabled()
            assert self.left, "power cut"
            return super().forward(outputs, x, labels)

    with pytest.raises(AssertionError, match="power cut"):
        fit(dense(), split, settings, Stumbling(), seed=0, scratch=tmp_path)
    fit(resumed, split, settings, HardLabels(), seed=0, scratch=tmp_path)
    assert same_weights(resumed, compiled)
