"""Report: everything that was done and measured in a run. `report.json` is the truth; the rest are views.

Units: sizes in bytes, accuracies as fractions of 1, drops in percentage points, times in seconds or in
milliseconds as the names say. null means "not measured here", never zero.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, JsonValue, ValidationError

from edgeopt.atomic import write_atomic
from edgeopt.errors import UsageError
from edgeopt.report.limits import Limits, Verdict
from edgeopt.spec import Spec

__all__ = [
    "ACCURACY",
    "MAP",
    "VERSION",
    "Baseline",
    "Change",
    "ClassChange",
    "DataRow",
    "Environment",
    "Layer",
    "Moment",
    "Report",
    "Row",
    "StageRow",
    "read_report",
    "report_path",
    "write_report",
]

ACCURACY: Final = "accuracy"
MAP: Final = "mAP"
VERSION: Final = 1
"""Version of report.json; a reader refuses another one."""


def _plain(value: Any) -> Any:
    """`value` as JSON types only: numpy numbers and tuples are taken, NaN and infinity become null.

    A run of hours must not fail at its last step because a stage put a numpy number among its facts.
    """
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value)
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Facts = Annotated[dict[str, JsonValue], BeforeValidator(_plain)]
Share = Annotated[float, Field(ge=0, le=1)]
Figure = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0)]
Picture = Annotated[str, Field(pattern=r"^data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}$")]


class Layer(Spec):
    """What one node of the artifact costs."""

    name: str
    op: str
    params: Size = 0
    macs: Size = 0
    bytes: Size = 0
    """Of its weights as stored."""
    output_bytes: Size = 0
    """Of its output activation, for one input."""
    live_bytes: Size = 0
    """All activations alive while it runs, for one input."""
    time_ms: Positive | None = None
    """Median of its kernels in onnxruntime's profile of a run; null: not measured, or its work is done by a neighbour's
    kernel."""
    sqnr_db: Figure | None = None
    """Signal to quantization noise of its output on calibration samples, decibels; null: not in integers."""


class Change(Spec):
    """One test image that the artifact answers otherwise than the float model."""

    image: Size
    """Its position among the test images, from 0."""
    right: str | None = None
    """Its label; null: there are none."""
    before: str
    """The float model's answer."""
    after: str
    """The artifact's."""


class ClassChange(Spec):
    """What became of the images of one class."""

    name: str
    images: Size
    lost: Size
    """Right before, wrong after."""
    gained: Size
    """Wrong before, right after."""


class Moment(Spec):
    """One step of the C program's memory plan."""

    layer: str
    bytes: Size
    """In use while it runs: what the arena has to have for it."""


class Baseline(Spec):
    """The float model that an artifact is compared with, measured in the same run on the same images."""

    name: str
    sha256: str | None = None
    size_bytes: Size | None = None
    params: Size | None = None
    macs: Size | None = None
    peak_ram_bytes: Size | None = None
    accuracy: Share | None = None
    accuracy_low: Share | None = None
    accuracy_high: Share | None = None
    latency_ms: Positive | None = None
    latency_low_ms: Positive | None = None
    latency_high_ms: Positive | None = None
    correct_bits: str = ""
    """As `Row.correct_bits`."""


class Environment(Spec):
    """The circumstances of the figures."""

    cpu: str = ""
    cores: int | None = None
    threads: int | None = None
    """Of the latency measurement."""
    os: str = ""
    python: str = ""
    torch: str = ""
    onnxruntime: str = ""
    edgeopt: str = ""
    provider: str = ""


class Row(Spec):
    """One tier's artifact and what was measured on it."""

    tier: str
    path: str
    """Relative to the report's folder, with forward slashes."""
    sha256: str
    size_bytes: Size
    """Of the one file."""
    params: Size | None = None
    macs: Size | None = None
    """Multiply-adds for one input."""
    peak_ram_bytes: Size | None = None
    """Largest sum of activations alive at once, for one input."""
    sizes: dict[str, Size] = Field({})
    """Dynamic dims besides the batch -> their sizes in that input; empty where every size is fixed."""
    metric: Literal["accuracy", "mAP"] = ACCURACY
    """What `accuracy` and the drop are of, here and in the baseline: `mAP` is COCO's mean average precision of
    boxes."""
    accuracy: Share | None = None
    """Fraction of the test images; mean average precision, fraction of 1; null: there are no labels."""
    accuracy_low: Share | None = None
    """95 % interval."""
    accuracy_high: Share | None = None
    map50: Share | None = None
    """Average precision at IoU 0.5 alone; null: no boxes."""
    samples: Size | None = None
    """Test images that accuracy and agreement were measured on."""
    drop_points: Figure | None = None
    """Percentage points under the baseline on the same images; negative: better than it."""
    drop_low: Figure | None = None
    """95 % interval of the paired difference."""
    drop_high: Figure | None = None
    agreement: Share | None = None
    """Share of the test images where it answers as the float model does."""
    sqnr_db: Annotated[Figure | None, BeforeValidator(_finite)] = None
    """Signal to quantization noise of the output, decibels; null: not measured, or no noise at all."""
    correct_bits: str = ""
    """Which test images were answered right, one bit an image in the data set's order, base64 of the packed bytes:
    image i is bit 7 - i % 8 of byte i // 8, and `samples` says how many there are. Empty: no labels."""
    changed: Size | None = None
    """Test images answered otherwise than by the float model; null: answers are not classes."""
    changes: tuple[Change, ...] = ()
    """The first of them: lost ones, then gained ones, then those wrong both times."""
    classes: tuple[ClassChange, ...] = ()
    """Classes that lost or gained an image, those that lost most first."""
    latency_ms: Positive | None = None
    """Median for one input."""
    latency_low_ms: Positive | None = None
    """Lower end of its spread."""
    latency_high_ms: Positive | None = None
    speedup: Positive | None = None
    """Baseline latency / its latency, interleaved in one run."""
    speedup_low: Positive | None = None
    """10th percentile of the ratios of single rounds."""
    speedup_high: Positive | None = None
    """90th percentile."""
    flash_bytes: Size | None = None
    """Code and constants of the C program; null: not compiled."""
    ram_bytes: Size | None = None
    """Static memory of the C program and its stack; the plan's arena alone where it was not run."""
    instructions: Size | None = None
    """Of one inference, counted on an emulated core."""
    mismatches: Size | None = None
    """Output values of the C program that differ from onnxruntime's; null: it was not run."""
    c_basis: str = ""
    """What the four rest on: cores and samples."""
    memory_timeline: tuple[Moment, ...] = ()
    """The C program's memory, step by step."""
    precision: str = ""
    rule_breaches: Size | None = None
    """Places where its Q/DQ nodes break its tier's rules of explicit quantization; null: there are none to judge."""
    baseline: Baseline
    environment: Environment = Environment()
    layers: tuple[Layer, ...] = ()
    warnings: tuple[str, ...] = ()


class StageRow(Spec):
    """One step of the run, and the figures of the model it handed back where they were measured.

    The model as it was given may be recorded too, as index 0 and kind `load`.
    """

    index: int
    kind: str
    title: str
    tier: str | None = None
    """Of a stage that ran for one tier; null: for all."""
    settings: Facts = Field({})
    facts: Facts = Field({})
    """What it did. `history`, where it trained: a list of {epoch, loss, ...}."""
    seconds: Positive = 0.0
    """Of the work itself; a reused stage keeps those of the run that did it."""
    reused: bool = False
    size_bytes: Size | None = None
    params: Size | None = None
    macs: Size | None = None
    peak_ram_bytes: Size | None = None
    accuracy: Share | None = None
    accuracy_low: Share | None = None
    accuracy_high: Share | None = None
    latency_ms: Positive | None = None


class DataRow(Spec):
    """The data set and how many samples each part had."""

    name: str
    fingerprint: str = ""
    train: Size = 0
    calibration: Size = 0
    test: Size = 0
    labels: Size = 0
    """Number of classes; 0: unlabelled."""
    skipped: Size = 0
    """Files that could not be decoded and were left out."""


class Report(Spec):
    """A run: what it was, each stage, each artifact, and the verdicts."""

    version: Literal[1] = VERSION
    name: str
    """Of the recipe, or of the command."""
    recipe_hash: str
    data: DataRow | None = None
    seed: int = 0
    command: str = ""
    """What reproduces the run."""
    created: str = ""
    """ISO 8601, with the offset."""
    seconds: Positive = 0.0
    stages: tuple[StageRow, ...] = ()
    tiers: tuple[Row, ...] = ()
    limits: dict[str, Limits] = Field({})
    """The recipe's `gate:`, so that `edgeopt gate report.json` needs nothing else."""
    gate: tuple[Verdict, ...] = ()
    pictures: dict[str, Picture] = Field({})
    """Position of a test image in `changes` -> a small picture of it."""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> str:
        """What report.json holds; equal reports give equal text."""
        return self.model_dump_json(indent=2) + "\n"

    @property
    def metric(self) -> str:
        """What its accuracies are of, see `Row.metric`."""
        return next((row.metric for row in self.tiers), ACCURACY)


def report_path(path: Path) -> Path:
    """The file that `path` names: itself, or the report.json in the folder that it is."""
    return path / "report.json" if path.is_dir() else path


def read_report(path: Path) -> Report:
    """Read a report.json. Raises UsageError when it is missing, cut short or not one of this version."""
    where = str(path)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError("there is no such file", where=where, fix="give the report.json that a run wrote") from error
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=where) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"is not JSON, or was cut short ({_brief(error)})", where=where, fix="run again to write it anew"
        ) from error
    if not isinstance(content, dict) or "version" not in content:
        raise UsageError("is not a report of edgeopt", where=where, fix="give a run's report.json")
    if content["version"] != VERSION:
        raise UsageError(
            f"has version {content['version']!r}, and this edgeopt reads {VERSION}",
            where=where,
            fix="use the edgeopt that wrote it, or run again",
        )
    try:
        return Report.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{key}: {first['msg']}", where=where, fix="run again to write it anew") from error


def write_report(report: Report, folder: Path) -> None:
    """Write report.md, report.html and report.json into `folder`, each atomically. Raises StageFailed.

    report.json comes last: where it is, its views are.
    """
    from edgeopt.report.html import to_html
    from edgeopt.report.markdown import to_markdown

    write_atomic(folder / "report.md", to_markdown(report))
    write_atomic(folder / "report.html", to_html(report))
    write_atomic(folder / "report.json", report.to_json())


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
