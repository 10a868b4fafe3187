"""Shapes that the graph computes: what is counted from a length that changes is written down, the batch stays open."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeopt.prune.equivalence import compare
from edgeopt.prune.surgery import remove
from edgeopt.prune.trace import trace


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


COUNTED = """a = Conv(x, c1) s = Shape(a) n = Slice(s, i0, i1) c = Slice(s, i1, i2) h = Slice(s, i2, i3)
             w = Slice(s, i3, i4) """
HEAD = " b = Conv(z, c2) p = GlobalAveragePool(b) f = Flatten(p) y = Gemm<transB=1>(f, head)"
PLACES: dict[str, Any] = {f"i{number}": ints(number) for number in range(5)}
CASES = {
    "channels merged with the batch, as attention's keys are": """m = Concat<axis=0>(minus, h, w)
        r = Reshape(a, m) t = Relu(r) k = Concat<axis=0>(n, twelve, h, w) z = Reshape(t, k)""",
    "a width that is counted per head": """d = Div(c, four) hw = Mul(h, w) m = Concat<axis=0>(n, four, d, hw)
        r = Reshape(a, m) t = Softmax<axis=1>(r) k = Concat<axis=0>(n, c, h, w) z = Reshape(t, k)""",
    "a count of heads from their width": """d = Div(c, three) hw = Mul(h, w) m = Concat<axis=0>(n, d, three, hw)
        r = Reshape(a, m) t = Softmax<axis=2>(r) k = Concat<axis=0>(n, c, h, w) z = Reshape(t, k)""",
}


@pytest.mark.parametrize("name", CASES)
def test_computed_shapes_fit_what_is_left_for_any_batch(name: str, make: SimpleNamespace) -> None:
    """`compare` runs two batches."""
    weights = {"c1": (12, 3, 1, 1), "c2": (6, 12, 1, 1), "head": (5, 6)} | PLACES
    weights |= {"minus": ints(-1), "twelve": ints(12), "four": ints(4), "three": ints(3)}
    model = make.build(COUNTED + CASES[name] + HEAD, weights)
    plan = make.plan_of(model)
    kept = make.half(plan)
    pruned, _ = remove(model, plan, kept)
    assert pruned.weights()["c1"].shape[0] < 12
    assert pruned.weights()["c2"].shape[0] == 3
    difference = compare(model, pruned, plan, kept, seed=0)
    assert difference.found == ""
    assert difference.relative < 1e-5


def test_only_dims_that_differ_between_batches_are_open(make: SimpleNamespace) -> None:
    body = COUNTED + CASES["a width that is counted per head"] + HEAD
    weights = {"c1": (12, 3, 1, 1), "c2": (6, 12, 1, 1), "head": (5, 6), "four": ints(4)} | PLACES
    assert trace(make.build(body, weights)).open_dims == {"r": frozenset({0}), "z": frozenset({0})}


@pytest.mark.parametrize("dynamo", [pytest.param(True, marks=pytest.mark.slow), False])
def test_heads_of_torch_attention_leave_through_both_exporters(
    dynamo: bool, make: SimpleNamespace, tmp_path: Path
) -> None:
    """TorchScript writes every length of attention's reshapes as a computation, torch.export those of the keys."""
    import torch

    from edgeopt.model.export import export_module
    from edgeopt.model.load import read_onnx

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(24, 4, batch_first=True)
            self.head = torch.nn.Linear(24, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.head(x + self.attention(x, x, x, need_weights=False)[0])
            return answer

    torch.manual_seed(0)
    module, x = (
        Block().train(not dynamo),
        torch.randn(2, 6, 24),
    )  # eval mode has a fused kernel TorchScript cannot export
    if dynamo:
        model = export_module(module, x)
    else:
        path = tmp_path / "attention.onnx"
        axes = {"x": {0: "n"}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, (x,), str(path), dynamo=False, opset_version=17, input_names=["x"], dynamic_axes=axes
            )
        model = read_onnx(path)
    plan = make.plan_of(model)
    kept = make.half(plan)
    pruned, _ = remove(model, plan, kept)
    assert compare(model, pruned, plan, kept, seed=0).relative < 1e-5
    packed = [array.shape for array in pruned.weights().values() if 36 in array.shape]
    assert packed  # query, key and value of two heads of six, for 24 channels
