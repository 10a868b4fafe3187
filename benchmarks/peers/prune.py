"""Prune one network of the zoo with torch-pruning, with its defaults; run by benchmarks/prune.py.

    PYTHONPATH=<torch-pruning>:benchmarks python prune.py NETWORK

Half of the channels of each group leave by L2 norm. Layers that make the model's outputs are ignored, as its own tests
do: the last layer of a classifier, the heads of a detector. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from prune_networks import ZOO
from torch import nn

LAYERS = nn.Linear, nn.modules.conv._ConvNd
HEADS = ("rpn.head", "roi_heads", "head")


def is_head(name: str, layer: nn.Module, classes: set[int]) -> bool:
    """Whether the layer makes an output: it has as many channels, or is part of a detector's head."""
    inside = any(f".{head}." in f".{name}." for head in HEADS) and "inner" in name
    return inside or getattr(layer, "out_features", getattr(layer, "out_channels", None)) in classes


def prune(module: nn.Module, example: tuple[torch.Tensor, ...], ignored: list[nn.Module]) -> None:
    import torch_pruning as tp

    tp.pruner.BasePruner(
        module,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=ignored,
    ).step()


def shapes(answer: Any) -> Iterator[tuple[int, ...]]:
    for tensor in answer if isinstance(answer, tuple | list) else [answer]:
        yield tuple(tensor.shape)


def check(name: str) -> dict[str, Any]:
    network = ZOO[name]
    assert network.module is not None
    module, example = network.module()
    detects = network.group == "detection"
    with torch.no_grad():
        before = list(shapes(module(*example)))
    classes = set() if detects else {shape[1] for shape in before if len(shape) > 1}
    named = dict(module.named_modules())
    layers = {key: layer for key, layer in named.items() if isinstance(layer, LAYERS)}
    widths = {key: layer.weight.shape for key, layer in layers.items()}
    ignored = [layer for key, layer in layers.items() if is_head(key, layer, classes)]
    began = time.perf_counter()
    row: dict[str, Any] = {"result": "failed", "layers": len(layers), "narrowed": 0}
    try:
        prune(module, example, ignored)
        row["seconds"] = round(time.perf_counter() - began, 2)
        row["narrowed"] = sum(layer.weight.shape != widths[key] for key, layer in layers.items())
        with torch.no_grad():
            after = list(shapes(module.eval()(*example)))
    except Exception as error:  # whatever it raises, the row says it
        return row | {"seconds": row.get("seconds", round(time.perf_counter() - began, 2)),
                      "note": f"{type(error).__name__}: {error}"[:200]}  # fmt: skip
    kept = [shape[1:] for shape in before] == [shape[1:] for shape in after] if detects else before == after
    return row | {"shape_kept": kept, "result": "ok" if kept and row["narrowed"] else "failed"}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(check(sys.argv[1])))
