"""Networks as torchvision builds them: half of every group leaves, and the check passes."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeopt.model import Model
from edgeopt.model.runtime import open_session, run
from edgeopt.prune import apply_pruning
from edgeopt.prune.equivalence import compare
from edgeopt.prune.surgery import remove

NETWORKS = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "densenet121",
    "squeezenet1_1",
    "efficientnet_b0",
)


@cache
def exported(name: str) -> tuple[Any, Model]:
    """The torch module with random statistics, and its graph for 64 x 64 pixels."""
    import torch
    import torchvision

    from edgeopt.model.export import export_module

    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None).eval()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, 0, 0.1)
            torch.nn.init.normal_(layer.running_mean, 0, 0.1)
            torch.nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return module, export_module(module, torch.randn(2, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_accepted_with_at_least_nine_in_ten_convolutions_narrowed(name: str, make: SimpleNamespace) -> None:
    _, model = exported(name)
    plan = make.plan_of(model)
    kept = make.half(plan)
    pruned, _ = remove(model, plan, kept)
    assert compare(model, pruned, plan, kept, seed=0).relative < 1e-4
    (y,) = run(open_session(pruned), np.zeros((3, 3, 64, 64), np.float32))
    assert y.shape == (3, 1000)
    before, after = model.weights(), pruned.weights()
    kernels = [node.inputs[1].name or "" for node in pruned.graph.graph if node.op_type == "Conv" and node.inputs[1]]
    narrowed = sum(before[name].shape != after[name].shape for name in kernels)
    assert narrowed >= 0.9 * len(kernels)
    assert not plan.trace.unknown


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_torch_module_is_pruned_with_the_record(name: str, make: SimpleNamespace) -> None:
    import copy

    import torch

    module, model = exported(name)
    plan = make.plan_of(model)
    pruned, record = remove(model, plan, make.half(plan))
    own = copy.deepcopy(module)
    apply_pruning(own, record)
    state = {
        key: torch.from_numpy(np.array(array)) for key, array in pruned.weights().items() if key in own.state_dict()
    }
    missing, unexpected = own.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (expected,) = run(open_session(pruned), x.numpy())
        torch.testing.assert_close(own(x).numpy(), expected, rtol=1e-4, atol=1e-4)
    for layer in own.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        if isinstance(layer, torch.nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.num_features == len(layer.running_mean)
