"""Pruning, measured: `zoo` tries every network and writes the section "Pruning" of docs/coverage.md.

    python benchmarks/prune.py zoo [--group classification ...] [--only NAME ...] [--again] [--no-peer]

Half of every group leaves by L2 norm; the classifier keeps its outputs. A network counts when the pruned model runs,
keeps the shapes of its outputs, passes the masked-equivalence check, takes one training step in torch, and answers in
torch what it answers in onnxruntime (where torch can run it: files with control flow it cannot). Each network and each
engine runs in a process of its own with a time limit: a hang is counted, not suffered. A line of JSON for each goes to
`--cache`, so that a run that was stopped goes on where it was. torch-pruning is installed by peers/install.sh.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from coverage_page import code_digest, measured_by, put_section

from edgeopt.errors import EdgeoptError
from edgeopt.model import Model
from edgeopt.model.load import read_onnx
from edgeopt.model.profile import profile
from edgeopt.model.runtime import open_session, run
from edgeopt.prune.accept import Proven, prune_proven
from edgeopt.prune.criteria import L2
from edgeopt.prune.groups import Plan, make_plan
from edgeopt.prune.trace import trace
from edgeopt.stage import Context

HERE = Path(__file__).parent
PEER = "torch-pruning"
PEER_SECONDS = 120
NARROWED = 0.9
"""Share of the layers that has to be narrower for a network to count as pruned throughout."""
CONTRACTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
AGREES = 1e-3
"""Largest relative difference between torch and onnxruntime on the pruned model."""


def prune_half(model: Model, row: dict[str, Any]) -> Proven:
    """Half of every group, by L2 norm, proved; seconds go into the row."""
    began = time.perf_counter()
    plan = make_plan(trace(model))
    row["graph_seconds"] = round(time.perf_counter() - began, 2)
    proven = prune_proven(model, plan, lambda left: half(model, left), seed=0)
    row["seconds"] = round(time.perf_counter() - began, 2)
    row["refused"] = proven.refused
    row["unknown"] = sorted(set(plan.trace.unknown.values()))
    row["difference"] = proven.difference.relative
    return proven


def half(model: Model, plan: Plan) -> np.ndarray:
    """bool [units]: the better half of each group."""
    kept = plan.everything()
    for group, scores in zip(plan.groups, L2().scores(model, plan.groups, Context()), strict=True):
        kept[group.units[np.argsort(scores, kind="stable")[: len(group) // 2]]] = False
    return kept


def layer_weights(model: Model) -> set[str]:
    """Matrices and kernels of convolutions and matrix products, also those that a weight is computed from."""
    constants = set(model.graph.graph.initializers.values())
    behind = {value: {value.name or ""} for value in constants}
    found: set[str] = set()
    for node in model.graph.graph:
        given = [value for value in node.inputs if value is not None]
        if given and all(value in constants for value in given):
            constants |= set(node.outputs)
            names = set().union(*(behind[value] for value in given))
            behind |= dict.fromkeys(node.outputs, names)
        if node.op_type in CONTRACTIONS:
            found = found.union(*(behind[value] for value in given[:2] if value in constants))
    arrays = model.weights()
    return {name for name in found if arrays[name].dtype.kind == "f" and (np.array(arrays[name].shape) > 1).sum() >= 2}


def narrowed(before: Model, after: Model) -> tuple[int, int]:
    """(layers narrowed, layers)."""
    names, old, new = layer_weights(before), before.weights(), after.weights()
    return sum(name not in new or new[name].shape != old[name].shape for name in names), len(names)


def shares(before: Model, after: Model) -> dict[str, float]:
    """What is left of the parameters and multiply-adds."""
    try:
        first, second = profile(before), profile(after)
    except EdgeoptError:
        return {}  # shapes that depend on the data
    return {"params": round(second.params / first.params, 3), "macs": round(second.macs / max(1, first.macs), 3)}


def batches(model: Model, feeds: dict[str, np.ndarray], count: int = 4) -> list[dict[str, np.ndarray]]:
    """The feeds in batches of the size that the model takes."""
    fixed = model.inputs[0].shape[0]
    size = fixed if isinstance(fixed, int) else 2
    return [{name: array[start : start + size] for name, array in feeds.items()} for start in range(0, count, size)]


def shape_kept(before: Model, after: Model, feeds: list[dict[str, np.ndarray]]) -> bool:
    """Whether the outputs have the same shape; dims that depend on what is detected may differ."""
    old, new = open_session(before), open_session(after)
    for batch in feeds:
        for info, a, b in zip(before.outputs, run(old, batch), run(new, batch), strict=True):
            if a.ndim != b.ndim or any(
                m != n and isinstance(dim, int) for dim, m, n in zip(info.shape, a.shape, b.shape, strict=True)
            ):
                return False
    return True


def torch_agrees(pruned: Model, feeds: dict[str, np.ndarray]) -> float:
    """Largest relative difference between onnxruntime and torch."""
    import torch

    from edgeopt.model.to_torch import to_torch

    module = to_torch(pruned).eval()
    with torch.no_grad():
        found = module(*(torch.from_numpy(array) for array in feeds.values()))
    found = found if isinstance(found, tuple | list) else (found,)
    worst = 0.0
    for wanted, tensor in zip(run(open_session(pruned), feeds), found, strict=True):
        gap = float(np.abs(wanted - tensor.numpy()).max(initial=0)) if wanted.shape == tensor.shape else np.inf
        worst = max(worst, gap / max(float(np.abs(wanted).max(initial=0)), 1e-12))
    return worst


def training_step(pruned: Model, feeds: dict[str, np.ndarray]) -> bool:
    """One step of gradient descent; whether it changes weights and leaves them finite."""
    import torch

    from edgeopt.model.to_torch import to_torch

    module = to_torch(pruned).train()
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    answers = module(*(torch.from_numpy(array) for array in feeds.values()))
    answers = answers if isinstance(answers, tuple | list) else (answers,)
    loss = sum(answer.square().mean() for answer in answers if answer.dtype.is_floating_point and answer.requires_grad)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    loss.backward()
    optimizer.step()
    after = list(module.parameters())
    finite = all(bool(parameter.isfinite().all()) for parameter in after)
    return finite and any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def check(name: str, files: Path | None) -> dict[str, Any]:
    """One row of edgeopt's, in this process."""
    from prune_networks import ZOO

    network = ZOO[name]
    row: dict[str, Any] = {"network": name, "group": network.group, "engine": "edgeopt", "result": "failed"}
    row["code"] = code_digest("prune")
    with tempfile.TemporaryDirectory(prefix="prune-") as folder:
        path = Path(files or folder, f"{name.replace(':', '_')}.onnx")
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                network.make(path)
        except Exception as error:  # what torch raises when it cannot export
            return row | {"result": "not exported", "note": f"{type(error).__name__}: {error}"[:200]}
        model = read_onnx(path)
    feeds = batches(model, network.inputs(4, 1))
    try:
        proven = prune_half(model, row)
    except EdgeoptError as error:
        return row | {"note": str(error)}
    pruned = proven.model
    row["narrowed"], row["layers"] = narrowed(model, pruned)
    row |= shares(model, pruned)
    row["shape_kept"] = shape_kept(model, pruned, feeds)
    for key, measure in (("torch", torch_agrees), ("step", training_step)):
        try:
            row[key] = measure(pruned, feeds[0])
        except Exception as error:  # torch raises many types, and the row says which
            row[key], row["note"] = None, f"{key}: {type(error).__name__}: {error}"[:200]
    row["result"] = "ok" if row["shape_kept"] and row["narrowed"] and row["step"] is not False else "failed"
    if row["torch"] is not None and row["torch"] > AGREES:
        row |= {"result": "failed", "note": "torch and onnxruntime disagree on the pruned model"}
    return row


def run_child(command: list[str], seconds: float, env: dict[str, str]) -> dict[str, Any]:
    """What a process that may crash, hang or run out of memory says in its last line."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=env)
    except subprocess.TimeoutExpired:
        return {"result": "hang", "note": f"over {seconds:g} s"}
    if ended.returncode != 0 or not ended.stdout.strip():
        last = (ended.stderr.strip().splitlines() or [""])[-1]
        return {"result": "crashed", "note": f"exit code {ended.returncode}: {last}"[:300]}
    return dict(json.loads(ended.stdout.strip().splitlines()[-1]))


def own_row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "zoo", "--one", name]
    command += ["--files", str(given.files)] if given.files else []
    return run_child(command, given.seconds, dict(os.environ))


def peer_row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    paths = [str(given.peer), str(HERE), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return run_child([sys.executable, str(HERE / "peers" / "prune.py"), name], PEER_SECONDS, env)


ENGINES: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {"edgeopt": own_row, PEER: peer_row}


def read_cache(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest row of each network and engine."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {(row["network"], row["engine"]): row for row in map(json.loads, lines)}


def is_taken(row: dict[str, Any]) -> bool:
    """Runs, keeps the shapes of its outputs, and (where the engine has one) passes the check; not unpruned."""
    return row["result"] == "ok"


def is_throughout(row: dict[str, Any]) -> bool:
    """Taken, with nine in ten layers narrower."""
    return is_taken(row) and row["narrowed"] >= NARROWED * row["layers"]


def section(rows: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    """The lines of the page's section: counts by group, then every network."""
    yield from measured_by("python benchmarks/prune.py zoo")
    yield from EXPLAINED
    yield "| group | engine | tried | taken | at least 90 % of layers | trained | hangs | median s | slowest s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    groups = list(dict.fromkeys(row["group"] for row in rows.values()))
    for group in groups:
        for engine in ENGINES:
            mine = [row for row in rows.values() if row["group"] == group and row["engine"] == engine]
            if mine:
                yield _counts(group, engine, mine)
    if len({row.get("code") for row in rows.values() if row["engine"] == "edgeopt"}) > 1:
        yield ""
        yield "**These rows come from several states of the code: run it anew.**"
    yield ""
    yield "| network | group | result | layers | params | MACs | check | torch | step | s | torch-pruning | note |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for (name, engine), row in rows.items():
        if engine == "edgeopt":
            yield _line(row, rows.get((name, PEER)))


EXPLAINED = [
    "Weights are random (seed 0), BatchNormalization statistics come from four made-up images. In timm's networks what",
    "starts constant (layer scales, skip gains, last norms of a block) is random too, so that the check sees what is",
    "behind it; they are chosen by a rule (prune_timm.py), not by the result. Half of every group of channels leaves",
    "by L2 norm (local ratio 0.5); the outputs of the model stay.",
    "",
    "- *taken*: something was pruned, the pruned model runs, its outputs keep their shapes, and the masked-equivalence",
    "  check passes. torch-pruning has no such check; for it *taken* is the rest.",
    "- *layers*: how many are narrower, of the weights of convolutions and matrix products; for torch-pruning, of",
    "  `nn.Conv*` and `nn.Linear`.",
    "- *check*: largest relative difference to the original with the removed slices set to zero; 1e-4 is the limit.",
    "  Detectors choose boxes by comparing scores: where rounding decides such a choice, what is behind it is checked",
    "  with another input, and one has to agree throughout.",
    "- *torch*: largest relative difference between `to_torch` of the pruned model and onnxruntime. *step*: one step",
    "  of gradient descent changes its weights and leaves them finite. Detectors are TorchScript exports with control",
    "  flow, which torch cannot train.",
    f"- *s*: tracing, pruning and check, wall-clock. torch-pruning 1.6.1 has {PEER_SECONDS} s for each network.",
    "",
]


def _counts(group: str, engine: str, rows: list[dict[str, Any]]) -> str:
    seconds = [row["seconds"] for row in rows if "seconds" in row] or [np.nan]
    cells = [group, engine, len(rows), sum(map(is_taken, rows)), sum(map(is_throughout, rows))]
    cells += ["" if engine == PEER else sum(row.get("step") is True for row in rows)]
    cells += [sum(row["result"] == "hang" for row in rows), f"{np.median(seconds):.1f}", f"{max(seconds):.1f}"]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _line(row: dict[str, Any], peer: dict[str, Any] | None) -> str:
    share = f"{row['narrowed']} of {row['layers']}" if "layers" in row else ""
    left = [f"{row[key]:.2f}" if key in row else "" for key in ("params", "macs")]
    exact = [f"{row[key]:.0e}" if isinstance(row.get(key), float) else "" for key in ("difference", "torch")]
    note = row.get("note", "") or "; ".join(f"{name}: {why}" for name, why in row.get("refused", {}).items())
    note = " ".join(str(note).replace("|", "/").split())[:200]
    step = {True: "yes", False: "no"}.get(row.get("step"), "")
    cells = [row["network"], row["group"], row["result"], share, *left, *exact, step, row.get("seconds", ""), "", note]
    if peer:
        counted = f" {peer['narrowed']} of {peer['layers']}, {peer['seconds']} s" if "layers" in peer else ""
        cells[-2] = peer["result"] + counted
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def zoo(given: argparse.Namespace) -> None:
    """Every network with every engine, the page written after each."""
    from prune_networks import ZOO

    if given.one:
        print(json.dumps(check(given.one, given.files)))
        return
    given.cache.parent.mkdir(parents=True, exist_ok=True)
    with_peer = given.peer.is_dir() and not given.no_peer
    engines = [engine for engine in ENGINES if engine != PEER or with_peer]
    of_group = [name for name, network in ZOO.items() if network.group in (given.group or [network.group])]
    for name in given.only or of_group:
        for engine in engines:
            if (name, engine) in read_cache(given.cache) and not given.again:
                continue
            row = {"network": name, "group": ZOO[name].group, "engine": engine} | ENGINES[engine](name, given)
            print(json.dumps(row), flush=True)
            with given.cache.open("a") as file:
                file.write(json.dumps(row) + "\n")
    write(given.cache, given.out)


def write(cache: Path, page: Path) -> None:
    """The section of what is known so far, in the list's order."""
    from prune_networks import ZOO

    known = read_cache(cache)
    rows = {(name, engine): known[name, engine] for name in ZOO for engine in ENGINES if (name, engine) in known}
    put_section(page, "Pruning (half of every group of channels)", section(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("zoo", help="every network, accepted or not; writes docs/coverage.md")
    command.add_argument("--group", nargs="*", default=[], help="classification, segmentation, video, detection, timm")
    command.add_argument("--only", nargs="*", default=[], help="names of networks")
    command.add_argument("--again", action="store_true", help="also what the cache has")
    command.add_argument("--no-peer", action="store_true", help="without torch-pruning")
    command.add_argument("--peer", type=Path, default=HERE / "peers" / "venvs" / "torch_pruning")
    command.add_argument("--seconds", type=float, default=600, help="for one network")
    command.add_argument("--cache", type=Path, default=Path("out/prune-zoo.jsonl"))
    command.add_argument("--files", type=Path, help="folder in which exported networks are kept")
    command.add_argument("--out", type=Path, default=Path("docs/coverage.md"))
    command.add_argument("--one", help=argparse.SUPPRESS)
    command.set_defaults(verb=zoo)
    given = parser.parse_args()
    given.verb(given)


if __name__ == "__main__":
    main()
