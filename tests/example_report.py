"""A Report like the one the digits recipe writes, for tests that need one without a run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from edgeopt.report import Baseline, Change, ClassChange, DataRow, Environment, Layer, Report, Row, StageRow

ARTIFACTS = {"mcu": b"m" * 18_213, "jetson": b"j" * 19_877, "gpu": b"g" * 33_402}
"""Stand-ins for the artifact files, of the sizes the rows record."""

BASELINE = Baseline(
    name="distill (float)",
    sha256="b5" * 32,
    size_bytes=61_004,
    params=14_890,
    macs=402_176,
    peak_ram_bytes=32_768,
    accuracy=0.9861,
    accuracy_low=0.9679,
    accuracy_high=0.9941,
    latency_ms=0.0412,
    latency_low_ms=0.0402,
    latency_high_ms=0.0431,
)

ENVIRONMENT = Environment(
    cpu="AMD EPYC 7763 64-Core Processor",
    cores=2,
    threads=1,
    os="Linux 6.8 x86_64",
    python="3.11.9",
    torch="2.11.0",
    onnxruntime="1.23.2",
    edgeopt="0.1.0",
    provider="CPUExecutionProvider",
)

LAYERS = tuple(
    Layer(
        name=name,
        op=op,
        params=params,
        macs=macs,
        bytes=size,
        output_bytes=out,
        live_bytes=live,
        time_ms=ms,
        sqnr_db=db,
    )
    for name, op, params, macs, size, out, live, ms, db in (
        ("features.0.conv", "Conv", 160, 9_216, 208, 1_024, 1_088, 0.003, 41.2),
        ("features.1.conv", "Conv", 2_320, 147_456, 2_416, 1_024, 2_048, 0.0095, 36.4),
        ("features.2.conv", "Conv", 3_480, 55_296, 3_600, 384, 1_408, 0.0041, 30.8),
        ("features.3.conv", "Conv", 5_208, 82_944, 5_352, 384, 768, 0.0062, 33.5),
        ("pool", "GlobalAveragePool", 0, 0, 0, 24, 408, 0.001, None),
        ("classifier", "Gemm", 250, 240, 290, 10, 34, None, 38.0),
    )
)

DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
"""A picture of one black pixel."""

CHANGES = {
    "correct_bits": "7" + "/" * 59,
    "changed": 4,
    "changes": (
        Change(image=2, right="8", before="8", after="3"),
        Change(image=114, right="8", before="8", after="3"),
        Change(image=31, right="4", before="9", after="4"),
        Change(image=290, right="5", before="8", after="3"),
    ),
    "classes": (
        ClassChange(name="8", images=35, lost=2, gained=0),
        ClassChange(name="4", images=36, lost=0, gained=1),
    ),
}
"""Of the mcu artifact, beside the float model."""


C_PROGRAM = {
    "flash_bytes": 17_848,
    "ram_bytes": 2_500,
    "instructions": 427_620,
    "mismatches": 3,
    "c_basis": "cortex-m4: 64 test images of digits",
    "memory_timeline": [
        {"layer": "features.0.conv", "bytes": 1_088},
        {"layer": "features.1.conv", "bytes": 2_264},
        {"layer": "classifier", "bytes": 34},
    ],
}


def example_row(tier: str, **changes: Any) -> Row:
    """The row of one tier of `example_report`, with some fields replaced."""
    content = ARTIFACTS[tier]
    figures: dict[str, dict[str, Any]] = {
        "mcu": {
            "precision": "int8",
            "accuracy": 0.9806,
            "drop_points": 0.56,
            "latency_ms": 0.0287,
            **C_PROGRAM,
            **CHANGES,
        },
        "jetson": {"precision": "int8", "accuracy": 0.9833, "drop_points": 0.28, "latency_ms": 0.0301},
        "gpu": {"precision": "fp16", "accuracy": 0.9861, "drop_points": 0.0, "latency_ms": 0.0455},
    }
    own = figures[tier]
    fields = {
        "tier": tier,
        "path": f"{tier}/model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "params": 11_418,
        "macs": 295_152,
        "peak_ram_bytes": 2_048 if own["precision"] == "int8" else 4_096,
        "accuracy_low": own["accuracy"] - 0.02,
        "accuracy_high": min(1.0, own["accuracy"] + 0.01),
        "samples": 360,
        "drop_low": own["drop_points"] - 0.71,
        "drop_high": own["drop_points"] + 1.24,
        "agreement": 0.9889,
        "sqnr_db": 27.4,
        "latency_low_ms": own["latency_ms"] * 0.97,
        "latency_high_ms": own["latency_ms"] * 1.06,
        "speedup": 0.0412 / own["latency_ms"],
        "baseline": BASELINE,
        "environment": ENVIRONMENT,
        "layers": LAYERS,
    }
    return Row.model_validate(fields | own | changes)


def _history(first: float, epochs: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": n,
            "loss": round(first * 0.8**n + 0.04, 4),
            "accuracy": round(0.985 - 0.3 * 0.7**n, 4),
            "lr": 0.01 / (n + 1),
        }
        for n in range(epochs)
    ]


def example_stages() -> tuple[StageRow, ...]:
    """Train a teacher, distil, prune, then quantize and export for each tier."""
    trained = {"size_bytes": 61_004, "params": 14_890, "macs": 402_176}
    pruned = {"size_bytes": 46_920, "params": 11_418, "macs": 295_152}
    settings = {"calibrator": {"kind": "mse"}, "samples": 256}
    shared = (
        StageRow(
            index=1,
            kind="train",
            title="Train the teacher",
            settings={"model": "digits-wide", "epochs": 30, "optimizer": {"kind": "adamw", "lr": 0.002}},
            facts={"epochs": 30, "history": _history(2.1, 30)},
            seconds=31.8,
            reused=True,
            accuracy=0.9917,
            accuracy_low=0.9758,
            accuracy_high=0.9972,
            size_bytes=702_331,
            params=174_250,
            macs=4_811_776,
            latency_ms=0.2214,
        ),
        StageRow(
            index=2,
            kind="distill",
            title="Distil digits-narrow from digits-wide",
            settings={"temperature": 4.0, "alpha": 0.9, "epochs": 40},
            facts={"teacher_accuracy": 0.9917, "history": _history(1.7, 40)},
            seconds=24.1,
            accuracy=0.9861,
            accuracy_low=0.9679,
            accuracy_high=0.9941,
            latency_ms=0.0412,
            **trained,
        ),
        StageRow(
            index=3,
            kind="prune",
            title="Prune 27 % of the MACs",
            settings={"target": {"macs": "-27%"}, "criterion": {"kind": "magnitude", "norm": 2}},
            facts={
                "channels_removed": 0.15,
                "frozen": ["classifier"],
                "groups": [
                    {"name": "features.0.conv.weight", "channels_before": 16, "channels_after": 16},
                    {"name": "features.2.conv.weight", "channels_before": 32, "channels_after": 24},
                ],
                "history": _history(0.6, 12),
            },
            seconds=11.4,
            accuracy=0.9833,
            accuracy_low=0.9641,
            accuracy_high=0.9923,
            latency_ms=0.0364,
            **pruned,
        ),
    )
    per_tier = tuple(
        StageRow(index=4, kind="quantize", title="Quantize", tier=tier, settings=settings, seconds=1.9)
        for tier in ("mcu", "jetson")
    )
    return shared + per_tier


def example_report(**changes: Any) -> Report:
    """Three tiers, five stages; `changes` replace fields of the report."""
    fields: dict[str, Any] = {
        "name": "digits",
        "recipe_hash": "3f9c2ab1" * 8,
        "data": DataRow(name="digits", fingerprint="77ab" * 16, train=1_293, calibration=144, test=360, labels=10),
        "seed": 7,
        "command": "edgeopt run recipes/digits.yaml --out out/digits",
        "created": "2025-11-04T10:21:33+00:00",
        "seconds": 83.6,
        "stages": example_stages(),
        "tiers": (example_row("mcu"), example_row("jetson"), example_row("gpu")),
        "limits": {"mcu": {"size": "20KB", "drop": "2pt"}, "all": {"accuracy": "95%"}},
        "pictures": {"2": DOT, "31": DOT},
    }
    return Report.model_validate(fields | changes)


def write_artifacts(folder: Path) -> None:
    """Put the artifact files that `example_report` names under `folder`."""
    for tier, content in ARTIFACTS.items():
        (folder / tier).mkdir(parents=True, exist_ok=True)
        (folder / tier / "model.onnx").write_bytes(content)
