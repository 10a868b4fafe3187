"""Every torchvision classification network through to_torch and back, one by one, with random weights.

    python benchmarks/torch_roundtrip.py --out docs/benchmarks/torch_roundtrip.md [--only NAME ...] [--max-params 150e6]

For each network: load it (export to ONNX), compare the torch module with onnxruntime on another batch size than
the one it was exported with, take one SGD step in training mode on a random batch, count the trainable tensors
that it changed, bring the weights back with from_torch, and compare again. Differences are
max |torch - onnxruntime| / max |onnxruntime|. A line of JSON per network goes beside `--out`, so that a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torchvision
from torch import fx, nn

from edgeopt.model import Model
from edgeopt.model.load import load_model
from edgeopt.model.runtime import open_session, run
from edgeopt.model.to_torch import from_torch, to_torch

LIMIT = 1e-4
LIVELY = 1e-3
"""Least response of the output to the input, below which agreement would say nothing."""
SIZES = {"alexnet": 224, "inception_v3": 96, "maxvit_t": 224, "vgg": 224, "vit": 224}
"""Input side in pixels by the start of the name where 64 is too small for the network."""


def network_names() -> list[str]:
    return list(torchvision.models.list_models(module=torchvision.models))


def input_size(name: str) -> int:
    return next((size for start, size in SIZES.items() if name.startswith(start)), 64)


def parameter_count(name: str) -> int:
    return int(torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"])


def check(name: str) -> dict[str, Any]:
    """One network's row; `ok` says whether everything held."""
    started = time.monotonic()
    model = load_model(f"torchvision:{name}", weights="none", settings={"size": input_size(name)}, seed=0)
    loaded = time.monotonic()
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, *model.inputs[0].shape[1:]), dtype=np.float32)
    module = to_torch(model)
    converted = time.monotonic()
    if not response(module, x) > LIVELY:  # NaN too: an output of zeros
        model = from_torch(enliven(module), model)
    responds = response(module, x)
    before = difference(module, model, x)
    trainable, unchanged = train_step(module, torch.from_numpy(x))
    trained = from_torch(module, model)
    after = difference(module.eval(), trained, x)
    return {
        "network": name,
        "params": sum(p.numel() for p in module.parameters()),
        "size": input_size(name),
        "nodes": len(list(model.graph.graph)),
        "response": responds,
        "difference": before,
        "difference_trained": after,
        "trainable": trainable,
        "unchanged": unchanged,
        "load_seconds": round(loaded - started, 1),
        "to_torch_seconds": round(converted - loaded, 2),
        "seconds": round(time.monotonic() - started, 1),
        "ok": before < LIMIT and after < LIMIT and not unchanged and responds > LIVELY,
    }


def response(module: fx.GraphModule, x: np.ndarray) -> float:
    """max |y[0] - y[1]| / max |y|: about 0 when the signal dies on the way and a comparison would show nothing."""
    with torch.no_grad():
        y = module(torch.from_numpy(x))
    return float((y[0] - y[1]).abs().max() / y.abs().max())


def enliven(module: fx.GraphModule) -> fx.GraphModule:
    """Draw the kernels and matrices anew (He et al. 2015), so that signals reach the output."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    return module


def difference(module: fx.GraphModule, model: Model, x: np.ndarray) -> float:
    """max |torch - onnxruntime| / max |onnxruntime| of the first output."""
    reference = onnxruntime_output(model, x)
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    return float(np.abs(found - reference).max() / np.abs(reference).max())


def onnxruntime_output(model: Model, x: np.ndarray) -> np.ndarray:
    """A model over protobuf's 2 GB goes by way of a file with external data."""
    if sum(array.nbytes for array in model.weights().values()) < 1.9e9:
        return run(open_session(model, threads=1), x)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model.copy().graph, path, external_data="model.data")
        return run(open_session(path, threads=1), x)[0]


def train_step(module: nn.Module, x: torch.Tensor) -> tuple[int, list[str]]:
    """One SGD step on a random batch; how many tensors train, and which of them did not change.

    Each tensor's step is 1 % of its norm (LARS, You et al. 2017): a gradient that is small, behind a layer scale
    of 1e-6 say, would otherwise vanish in float32's rounding and look like one that is missing.
    """
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    y = module.train()(x)
    nn.functional.cross_entropy(y, torch.arange(len(x)) % y.shape[1]).backward()
    for p in module.parameters():
        if p.grad is not None and (norm := p.grad.norm()) > 0:
            p.grad *= (p.detach().norm() + 1e-3) / norm
    optimizer.step()
    return len(before), [name for name, p in module.named_parameters() if torch.equal(p, before[name])]


def write_table(rows: list[dict[str, Any]], path: Path) -> None:
    lines = [
        "| network | M params | input | nodes | response | difference | trainable | unchanged | after training | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['network']} | failed: {row['error']} ||||||||| ")
            continue
        lines.append(
            f"| {row['network']} | {row['params'] / 1e6:.1f} | {row['size']} | {row['nodes']} "
            f"| {row['response']:.1e} | {row['difference']:.1e} | {row['trainable']} | {len(row['unchanged'])} "
            f"| {row['difference_trained']:.1e} | {row['seconds']} |"
        )
    path.write_text("\n".join([*lines, "", summary(rows), ""]))


def summary(rows: list[dict[str, Any]]) -> str:
    good = [row for row in rows if row.get("ok")]
    worst = max((max(row["difference"], row["difference_trained"]) for row in good), default=0.0)
    seconds = sum(row.get("seconds", 0) for row in rows)
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads"
    return f"{len(good)} of {len(rows)} networks hold; largest difference {worst:.1e}; {seconds:.0f} s; {versions}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--max-params", type=float, default=150e6)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/torch_roundtrip.md"))
    arguments = parser.parse_args()
    log = arguments.out.with_suffix(".jsonl")
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    rows = {row["network"]: row for row in known if row.get("ok") and "response" in row}
    for name in arguments.only or network_names():
        if (name in rows and not arguments.only) or parameter_count(name) > arguments.max_params:
            continue
        try:
            rows[name] = check(name)
        except Exception as error:
            traceback.print_exc()
            rows[name] = {"network": name, "error": f"{type(error).__name__}: {error}"[:300]}
        with log.open("a") as file:
            file.write(json.dumps(rows[name]) + "\n")
        print(json.dumps(rows[name])[:600], flush=True)
        gc.collect()
    ordered = [rows[name] for name in network_names() if name in rows]
    write_table(ordered, arguments.out)
    print(summary(ordered))


if __name__ == "__main__":
    main()
