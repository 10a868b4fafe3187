"""The record goes back to torch modules; what does not fit is refused before anything is cut."""

from __future__ import annotations

import pytest

from edgeopt.errors import UsageError
from edgeopt.prune import apply_pruning

torch = pytest.importorskip("torch")
nn = torch.nn


def network() -> torch.nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, groups=4, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


NORM = ("weight", "bias", "running_mean", "running_var")
RECORD = [
    {"name": "0.weight", "axis": 0, "kept": [2, 3, 6, 7]},
    {"name": "0.bias", "axis": 0, "kept": [2, 3, 6, 7]},
    *(
        {"name": f"1.{part}", "axis": 0, "kept": [2, 3, 6, 7]}
        for part in ("weight", "bias", "running_mean", "running_var")
    ),
    {"name": "2.weight", "axis": 0, "kept": [4, 5, 6, 7, 12, 13, 14, 15]},
    {"name": "5.weight", "axis": 1, "kept": [4, 5, 6, 7, 12, 13, 14, 15]},
]


def test_weights_and_stated_widths_are_cut() -> None:
    module = network().eval()
    whole = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    apply_pruning(module, RECORD)
    conv, bn, grouped, linear = module[0], module[1], module[2], module[5]
    assert (conv.in_channels, conv.out_channels) == (3, 4)
    assert bn.num_features == 4
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (4, 8, 2)
    assert (linear.in_features, linear.out_features) == (8, 5)
    torch.testing.assert_close(conv.weight, whole["0.weight"][[2, 3, 6, 7]])
    assert module(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "9.weight", "axis": 0, "kept": [0]}, "no parameter '9.weight'"),
        ({"name": "0.weight", "axis": 0, "kept": [99]}, "does not fit"),
        ({"name": "0.bias", "axis": 1, "kept": [0]}, "does not fit"),
    ],
)
def test_a_record_that_does_not_fit_changes_nothing(entry: dict[str, object], message: str) -> None:
    module = network()
    with pytest.raises(UsageError, match=message):
        apply_pruning(module, [*RECORD, entry])
    assert module[0].weight.shape[0] == 8
