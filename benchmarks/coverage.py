"""Which networks does edgeopt quantize, and how well? Writes the section "Quantization" of docs/coverage.md.

    python benchmarks/coverage.py [--only NAME ...] [--again NAME ...] [--seconds 300] [--out docs/coverage.md]

Each network runs in a process of its own with a time limit: it is made (random weights, BatchNormalization statistics
from one batch of images), written as .onnx, read as anybody's file is read, and put through each method. A line of JSON
for each goes to `--cache`, so that a run that was stopped goes on where it was; `--again` runs what is there once more.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coverage_page import code_digest, measured_by, put_section

from edgeopt.data import Data, Split
from edgeopt.errors import EdgeoptError
from edgeopt.model import Model
from edgeopt.model.load import read_onnx
from edgeopt.model.macs import count_macs
from edgeopt.model.profile import with_shapes
from edgeopt.model.runtime import open_session, run
from edgeopt.model.shapes import static_shape
from edgeopt.progress import Progress
from edgeopt.stage import Context
from edgeopt.tiers import load_tier

SAMPLES, HELD_OUT = 8, 8
INACCURATE_DB = 10.0
"""SQNR below which a row is not called ok: a line drawn by hand, for random networks."""


@dataclass(frozen=True)
class Rows:
    """A data source of arrays by input name."""

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def read(self, indices: np.ndarray) -> Any:
        rows = {name: array[indices] for name, array in self.arrays.items()}
        return rows if len(rows) > 1 else next(iter(rows.values()))


class Listening(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def quantize(model: Model, context: Context) -> dict[str, Any]:
    """Static int8 wherever there is a kernel, and the share of MACs that onnxruntime then runs in integers."""
    from edgeopt.quantize.stage import Quantize

    result = Quantize(samples=SAMPLES, speed="integers").apply(model, context)
    figures = {"model": result.model, "size_ratio": round(result.model.size_bytes / model.size_bytes, 3)}
    try:
        return figures | {"integer_share": integer_share(result.model, set(result.facts["unfused"]))}
    except EdgeoptError:
        return figures  # shapes that nobody knows: no MACs


def integer_share(model: Model, unfused: set[str]) -> float:
    """Share of a Q/DQ model's MACs in products of dequantized inputs, those aside that were not fused."""
    integer = total = 0
    for node in with_shapes(model)[0].graph.graph:
        macs = count_macs(node, *([static_shape(v) or () for v in side] for side in (node.inputs, node.outputs)))
        makers = [value.producer() for value in node.inputs[:2] if value is not None]
        total += macs
        if node.name not in unfused and all(m is not None and m.op_type == "DequantizeLinear" for m in makers):
            integer += macs
    return round(integer / max(1, total), 3)


METHODS: dict[str, tuple[str, Callable[[Model, Context], dict[str, Any]]]] = {
    "quantize": ("Quantization (static int8, tier `any`, `speed: integers`)", quantize),
}
"""Key of a row's method -> heading of its section, and what does it: `model` and figures by column."""


def outputs(model: Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The first float output for each sample, in batches of the size that the model takes."""
    session, found = open_session(model), []
    position = next((i for i, info in enumerate(model.outputs) if info.dtype.kind == "f"), 0)
    fixed = model.inputs[0].shape[0] if model.inputs[0].shape else 1
    size = fixed if isinstance(fixed, int) else HELD_OUT
    for start in range(0, HELD_OUT, size):
        found.append(run(session, {name: array[start : start + size] for name, array in feeds.items()})[position])
    return found


def compare(before: list[np.ndarray], after: list[np.ndarray]) -> dict[str, Any]:
    """SQNR in dB, and the share of samples with the same largest class where the output is [n, classes]."""
    if [a.shape for a in before] != [b.shape for b in after]:
        return {"note": "the number of outputs depends on the input (detections)"}
    a, b = (
        np.concatenate([x.reshape(len(x), math.prod(x.shape[1:])) if x.ndim else x for x in side]).astype(np.float64)
        for side in (before, after)
    )
    if np.array_equal(a, b):
        return {"note": "no output differs"}
    noise = np.square(a - b).sum()
    rows: dict[str, Any] = {"sqnr_db": round(float(10 * np.log10(np.square(a).sum() / max(noise, 1e-30))), 1)}
    if before[0].ndim == 2:
        rows["agreement"] = round(float((a.argmax(1) == b.argmax(1)).mean()), 3)
    return rows


def check(name: str, method: str) -> dict[str, Any]:
    """One row, in this process."""
    from coverage_networks import NETWORKS

    network, listening = NETWORKS[name], Listening()
    row: dict[str, Any] = {"network": name, "group": network.group, "method": method, "result": "failed"}
    row["code"] = code_digest()
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        try:
            network.make(Path(folder, "model.onnx"))
        except Exception as error:  # what torch raises when it cannot export
            return row | {"result": "not exported", "note": f"{type(error).__name__}: {error}"[:200]}
        rows = Rows(network.inputs(SAMPLES, 0))
        split = Split(rows, np.arange(SAMPLES), None, None)
        context = Context(
            data=Data("coverage", split, split, split, (), None, "-"), tier=load_tier("any"), progress=listening
        )
        began = time.monotonic()
        try:
            model = read_onnx(Path(folder, "model.onnx"))
            row["opset"] = model.graph.opset_imports.get("", 0)
            feeds = {i.name: a for i, a in zip(model.inputs, network.inputs(HELD_OUT, 1).values(), strict=True)}
            row |= METHODS[method][1](model, context)
            row["seconds"] = round(time.monotonic() - began, 1)
            made = row.pop("model")
            row |= {"result": "ok"} | compare(outputs(model, feeds), outputs(made, feeds))
        except EdgeoptError as error:
            row["note"] = str(error)
    row.pop("model", None)
    if listening.warnings:
        row["note"] = "; ".join([*filter(None, [row.get("note")]), *listening.warnings])[:300]
    return row


def check_in_child(name: str, method: str, seconds: float) -> dict[str, Any]:
    """One row, from a process that may crash, hang or run out of memory."""
    from coverage_networks import NETWORKS

    row = {"network": name, "group": NETWORKS[name].group, "method": method, "result": "failed"}
    command = [sys.executable, __file__, "--one", name, "--method", method]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return row | {"note": f"over {seconds:g} s"}
    if ended.returncode != 0 or not ended.stdout.strip():
        last = (ended.stderr.strip().splitlines() or [""])[-1]
        return row | {"result": "crashed", "note": f"exit code {ended.returncode}: {last}"[:300]}
    return dict(json.loads(ended.stdout.strip().splitlines()[-1]))


def read_cache(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest row of each network and method."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {(row["network"], row["method"]): row for row in map(json.loads, lines)}


EXPLAINED = [
    "Weights are random (seed 0), BatchNormalization statistics come from four smooth made-up images,",
    f"{SAMPLES} such images (token ids for text) calibrate, and SQNR (dB, of the first float output against float)",
    f"and agreement (same largest class) are over {HELD_OUT} others. So the figures say that a network is taken,",
    "how much of it runs in integers and how far it is from float. Random networks amplify errors, some of them",
    "strongly (a change of the input by 0.1 % alone costs efficientnet_v2_s all but 28 dB), so what trained ones",
    f"lose these figures do not say. *inaccurate*: taken, but under {INACCURATE_DB:g} dB. *Integer share*: of the",
    "MACs of one sample, those of convolutions and matrix products that onnxruntime fuses to an integer kernel;",
    "the rest is float. *File* is the size over the float file's. *s* is wall-clock time, on a machine that",
    "may have been busy.",
    "",
]


def section(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of a method's section."""
    from coverage_networks import NETWORKS

    yield from measured_by("python benchmarks/coverage.py")
    yield from EXPLAINED
    taken = sum(verdict(row) == "ok" for row in rows)
    yield from (f"{taken} of {len(rows)} tried are ok; {len(NETWORKS)} are on the list.", "")
    if len({row.get("code") for row in rows}) > 1 or any("code" not in row for row in rows):
        yield from ("**These rows come from several states of the code and are not comparable: run it anew.**", "")
    yield from _table(rows)


def verdict(row: dict[str, Any]) -> str:
    """The result, which is not ok where the answers are not."""
    low = row.get("sqnr_db", INACCURATE_DB) < INACCURATE_DB
    return "inaccurate" if row["result"] == "ok" and low else str(row["result"])


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| network | source | opset | result | integer share | file | SQNR dB | agreement | s | note |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        share = "" if "integer_share" not in row else f"{100 * row['integer_share']:.0f} %"
        file = "" if "size_ratio" not in row else f"{100 * row['size_ratio']:.0f} %"
        note = " ".join(str(row.get("note", "")).replace("|", "/").split())
        figures = [row.get(key, "") for key in ("sqnr_db", "agreement", "seconds")]
        cells = [row["network"], row["group"], row.get("opset", ""), verdict(row), share, file, *figures, note]
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--again", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--cache", type=Path, default=Path("out/coverage.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("docs/coverage.md"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, default="quantize")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(check(given.one, given.method)))
        return
    from coverage_networks import NETWORKS

    given.cache.parent.mkdir(parents=True, exist_ok=True)
    for name in given.only or NETWORKS:
        if (name, given.method) in read_cache(given.cache) and name not in given.again:
            continue
        row = check_in_child(name, given.method, given.seconds)
        print(json.dumps(row), flush=True)
        with given.cache.open("a") as file:
            file.write(json.dumps(row) + "\n")
        write(given.cache, given.out)
    write(given.cache, given.out)


def write(cache: Path, out: Path) -> None:
    """The sections of what is known so far."""
    from coverage_networks import NETWORKS

    known = read_cache(cache)
    for method, (heading, _) in METHODS.items():
        put_section(out, heading, section([known[n, method] for n in NETWORKS if (n, method) in known]))


if __name__ == "__main__":
    main()
