"""Every operator that is claimed passes every node test the onnx package has for it."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.backend.test.case.node import collect_testcases

from edgeopt.model import Model
from edgeopt.model.to_torch import to_torch
from edgeopt.model.torch_ops import OPERATORS
from edgeopt.model.torch_ops.dtypes import tensor_from

SKIPPED = {
    r"test_training_dropout(_default)?(_mask)?$": "expects the very numbers of numpy's random generator",
    r".*_string(_broadcast)?$": "torch has no string tensors",
    r".*(FLOAT4E2M1|float4e2m1).*": "torch computes with no 4-bit float",
    r"test_attention_.*(bf16|fp16)_expanded$": "many nodes in half precision; the order of rounding is not specified, "
    "and the tolerance of 1e-3 is finer than one bfloat16 step",
}
"""Names of node tests that are left out, and why."""

FEWEST_NODE_TESTS = 1390
"""Of the onnx release this was written with; a later one has more."""


@cache
def node_tests() -> dict[str, list]:
    """Operator -> its node tests; those of several nodes (expanded function bodies) under `several nodes`."""
    found = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        nodes = case.model.graph.node
        if all(node.op_type in OPERATORS and node.domain == "" for node in nodes):
            found[nodes[0].op_type if len(nodes) == 1 else "several nodes"].append(case)
    return found


def reason_to_skip(name: str) -> str | None:
    return next((reason for pattern, reason in SKIPPED.items() if re.match(pattern, name)), None)


def as_tensor(value) -> torch.Tensor | None:
    if value is None:
        return None
    array = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    return tensor_from(ir.tensor(array))


def as_numbers(tensor: torch.Tensor) -> np.ndarray:
    exotic = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
    return (tensor.float() if exotic else tensor).numpy()


def run_node_test(case) -> None:
    """Same shapes, same types, same numbers within the tolerance of the test."""
    module = to_torch(Model.from_proto(case.model))
    for inputs, expected in case.data_sets:
        with torch.no_grad():
            results = module(*[as_tensor(value) for value in inputs])
        results = results if isinstance(results, tuple) else (results,)
        assert len(results) == len(expected)
        for result, value in zip(results, expected, strict=True):
            wanted = as_tensor(value)
            assert (result.dtype, result.shape) == (wanted.dtype, wanted.shape)
            np.testing.assert_allclose(as_numbers(result), as_numbers(wanted), rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("operator", [*sorted(OPERATORS), "several nodes"])
def test_every_node_test_of_the_operator_passes(operator):
    cases = [case for case in node_tests()[operator] if reason_to_skip(case.name) is None]
    assert cases, f"the onnx package has no node test for {operator}: it cannot be claimed"
    failed = {}
    for case in cases:
        try:
            run_node_test(case)
        except Exception as error:
            failed[case.name] = f"{type(error).__name__}: {error}"
    assert not failed


def test_how_many_operators_and_node_tests(note):
    names = [case.name for cases in node_tests().values() for case in cases]
    passed = [name for name in names if reason_to_skip(name) is None]
    left_out = len(names) - len(passed)
    note(f"to_torch: {len(OPERATORS)} operators, {len(passed)} node tests of the onnx package, {left_out} left out")
    assert len(passed) >= FEWEST_NODE_TESTS


def test_no_skip_without_a_test_that_it_skips():
    names = [case.name for cases in node_tests().values() for case in cases]
    assert all(any(re.match(pattern, name) for name in names) for pattern in SKIPPED)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_take_part_in_autocast_on_a_cpu(rank, transposed):
    """Fabric casts the input to bf16 and leaves the weight to autocast."""
    operator = OPERATORS["ConvTranspose" if transposed else "Conv"].function
    x, weight = torch.ones(1, 4, *[5] * rank, dtype=torch.bfloat16), torch.ones(4, 4, *[3] * rank)
    with torch.autocast("cpu", torch.bfloat16):
        assert operator(x, weight).dtype == torch.bfloat16
        assert operator(x.float(), weight, pads=[1, 0] * rank).dtype == torch.bfloat16
