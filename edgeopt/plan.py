"""What a run would do, told without doing it: which stages are there already, how long the others take, what they need.

A stage is known to be there when everything that goes into it is known: the first stage that has to run makes those
behind it new, because their input does not exist yet. Seconds come from the last such stage in the same folder where
there is one, scaled to the work there is now; else from one forward pass of the network that is timed on the spot. They
are estimates, right to a factor of two or so. Nothing is written.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from edgeopt.data import Data
from edgeopt.keys import tag_of
from edgeopt.model import Model
from edgeopt.model.profile import Profile, profile
from edgeopt.pipeline import (
    LOAD,
    artifact_places,
    first_model,
    knowing,
    load_key,
    make_context,
    split_stages,
    stage_key,
    stage_title,
)
from edgeopt.progress import SILENT, Progress
from edgeopt.quantize.reconstruct import Reconstruct
from edgeopt.quantize.stage import Quantize
from edgeopt.recipe import Recipe
from edgeopt.spec import Spec
from edgeopt.stage import Context, Stage
from edgeopt.store import Store
from edgeopt.tiers import Tier
from edgeopt.train.settings import Fit

__all__ = ["Plan", "PlannedStep", "State", "make_plan"]

State = Literal["reused", "goes on", "new"]

TIMED_S = 0.3
"""Spent on the forward pass."""
TIMED_BATCH = 64
TRAINING_COST = 6.0
"""Forward passes in onnxruntime that one training step on the same image costs in torch."""
OBSERVING_COST = 2.5
"""Forward passes that one calibration sample costs, histograms included."""
REFINING_COST = 1.0
"""More of them for each transform or refinement that looks at the samples again."""
FITTING_COST = 100.0
"""Instead, for a refinement that fits weights."""
STAGE_S = 1.5
"""What a stage takes that has next to nothing to compute: loading, checking, writing."""
MEASURE_S = 3.0
"""Latencies are taken in turns for two seconds, and the report is written."""
PROCESS_BYTES = 900_000_000
"""Of the process with torch and onnxruntime before it holds a network."""
TRAINED_COPIES = 4
"""Of every weight while it is trained: itself, its gradient, its momentum, its average or checkpoint."""
KEPT_ACTIVATIONS = 2.0
"""Outputs and their gradients, for each image of a batch in training."""
REPORT_BYTES = 1_500_000


@dataclass(frozen=True)
class PlannedStep:
    """One step of the run."""

    title: str
    settings: dict[str, str]
    """What the recipe says of it that is not the default."""
    work: str
    """`30 epochs of 1,437 images`."""
    state: State
    seconds: float
    """0 where it is there already."""
    basis: str
    """What the seconds were estimated from."""


@dataclass(frozen=True)
class Plan:
    """All steps, and what the run needs and leaves."""

    steps: tuple[PlannedStep, ...]
    memory_bytes: int
    disk_bytes: int
    free_bytes: int
    writes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True)
class _Known:
    """What the estimates rest on."""

    store: Store
    data: Data | None
    costs: Profile
    forward_s: float
    """Of one image, in batches, on all cores."""


def make_plan(recipe: Recipe, out: Path, progress: Progress = SILENT) -> Plan:
    """The plan of `run(recipe, out)`. The model and the data are read, so that what is wrong with them shows here.

    Raises EdgeoptError as the run would when it begins.
    """
    from edgeopt.data import load_data

    store = Store(out / "stages")
    progress.stage("look at model and data")
    found = store.find(LOAD, load_key(recipe))
    began = time.monotonic()
    model = found.model if found else first_model(recipe, progress).model
    load_s = time.monotonic() - began
    data = None
    if recipe.data is not None:
        data = load_data(recipe.data, model=model, seed=recipe.seed, progress=progress)
        model = knowing(model, data)
    context = make_context(recipe, data, SILENT)
    known = _Known(store, data, profile(model), _forward_seconds(model, data))
    first = PlannedStep(
        "load", {"model": recipe.model.source}, "", "reused" if found else "new", 0 if found else load_s, "timed now"
    )
    steps = [first, *_steps(recipe, model if found else None, context, known)]
    steps.append(_measuring(recipe, known))
    return Plan(
        steps=tuple(steps),
        memory_bytes=_memory(recipe, known),
        disk_bytes=_disk(recipe, known),
        free_bytes=shutil.disk_usage(_existing(out)).free,
        writes=tuple(_writes(recipe, out)),
    )


def _steps(recipe: Recipe, model: Model | None, context: Context, known: _Known) -> Iterator[PlannedStep]:
    """The shared stages, then each tier's; `model` is None from the first stage on that has to run."""
    shared, per_tier = split_stages(recipe)
    for number, stage in enumerate(shared, 1):
        step, model = _step(stage, number, model, context, known)
        yield step
    for tier in recipe.load_tiers():
        own: Model | None = model
        for stage in (stage for stage in per_tier if stage.wanted(tier)):
            step, own = _step(stage, 0, own, replace(context, tier=tier), known)
            yield step


def _step(
    stage: Stage, number: int, model: Model | None, context: Context, known: _Known
) -> tuple[PlannedStep, Model | None]:
    """The step, and the model that it hands on where that is there."""
    title = stage_title(stage, number, context.tier)
    finished, state = None, "new"
    if model is not None:
        key = stage_key(stage, model, context)
        finished = known.store.find(title, key)
        state = "reused" if finished else "goes on" if known.store.scratch(key).is_dir() else "new"
    seconds, basis = (0.0, "") if finished else _seconds(stage, title, context, known)
    shown = f"{stage.kind} for {context.tier.name}" if context.tier else stage.kind
    step = PlannedStep(shown, _settings(stage), _work(stage, known), state, seconds, basis)  # type: ignore[arg-type]
    return step, finished.model if finished else None


def _settings(stage: Stage) -> dict[str, str]:
    """Dotted key -> value, of what the recipe chose: no defaults, and nothing that a preset filled in."""
    spec, dumped = type(stage), stage.model_dump(mode="json")
    needed = {name for name, field in spec.model_fields.items() if field.is_required()}
    words = {name for name, value in dumped.items() if isinstance(value, str | int | float)}
    given = {name: dumped[name] for name in needed | words}
    try:
        plain = spec.model_validate(given)
    except ValidationError:  # it takes one of several keys
        plain = spec.model_construct(**given)
    chosen = _chosen(stage)
    kept = {name for name in chosen if name in needed | words} | {
        name for name in dumped if _differs(stage, plain, name)
    }
    return dict(_flat({name: chosen.get(name, _shown(getattr(stage, name))) for name in dumped if name in kept}))


def _differs(stage: Stage, plain: Stage, name: str) -> bool:
    return bool(getattr(stage, name) != getattr(plain, name))


def _shown(value: Any) -> Any:
    return _chosen(value) if isinstance(value, Spec) else value


def _chosen(spec: Spec) -> dict[str, Any]:
    """The settings that are no defaults, at any depth, as JSON; of a method with its kind."""
    tag, dumped, found = tag_of(type(spec)), spec.model_dump(mode="json"), {}
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if name == "kind" or (not field.is_required() and value == field.get_default(call_default_factory=True)):
            continue
        items = value if isinstance(value, tuple) else ()
        kinds = [tag_of(type(item)) for item in items if isinstance(item, Spec)]
        found[name] = _chosen(value) if isinstance(value, Spec) else kinds or dumped[name]
    return found if tag is None or isinstance(spec, Stage) else {"kind": tag} | found


def _flat(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", text) for key, text in _flat(value))
        elif value not in (None, [], (), ""):
            yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _fits(stage: Stage) -> list[Fit]:
    """The trainings inside a stage, whatever they are for."""
    values = [getattr(stage, name) for name in type(stage).model_fields]
    return [value for value in values if isinstance(value, Fit)]


def _work(stage: Stage, known: _Known) -> str:
    words = []
    if known.data is not None:
        words = [f"{fit.epochs} epochs of {len(known.data.train):,} images" for fit in _fits(stage)]
        if isinstance(stage, Quantize) and stage.activations == "static":
            words.insert(0, f"{min(stage.samples, len(known.data.calibration)):,} samples")
    return ", ".join(words)


def _seconds(stage: Stage, title: str, context: Context, known: _Known) -> tuple[float, str]:
    """Of a stage that has to run, and from what that was estimated."""
    past = known.store.past(title)
    if past is not None:
        return _scaled(stage, past, known), "last time"
    images = 0 if known.data is None else len(known.data.train)
    passes = sum(fit.epochs * images * TRAINING_COST for fit in _fits(stage))
    if isinstance(stage, Quantize) and known.data is not None:
        passes += min(stage.samples, len(known.data.calibration)) * _calibration_cost(stage)
    return STAGE_S + passes * known.forward_s, "timed now" if passes else "rule of thumb"


def _scaled(stage: Stage, past: dict[str, Any], known: _Known) -> float:
    """Seconds of the last such stage, its training scaled to the epochs and images there are now."""
    seconds, history = float(past["seconds"]), past["facts"].get("history") or []
    fits = _fits(stage)
    if not history or not fits or known.data is None:
        return seconds
    trained: float = sum(epoch["seconds"] for epoch in history)
    rate: float = sum(epoch["images_per_second"] for epoch in history) / len(history)
    return max(seconds - trained, 0) + sum(fit.epochs * len(known.data.train) / rate for fit in fits)


def _calibration_cost(stage: Quantize) -> float:
    """Forward passes for each calibration sample."""
    again: Sequence[Any] = [*stage.transforms, *stage.refinements]
    return OBSERVING_COST + sum(FITTING_COST if isinstance(own, Reconstruct) else REFINING_COST for own in again)


def _measuring(recipe: Recipe, known: _Known) -> PlannedStep:
    models = 1 + len(recipe.stages) + len(recipe.load_tiers())
    images = 0 if known.data is None else len(known.data.test)
    work = f"{models} models, {images:,} test images" if images else f"{models} models"
    return PlannedStep("measure", {}, work, "new", MEASURE_S + models * images * known.forward_s, "timed now")


def _forward_seconds(model: Model, data: Data | None) -> float:
    """Of one image: the fastest of some batches, on all cores, with the network as it is now."""
    import numpy as np

    from edgeopt.model.feeds import random_feeds
    from edgeopt.model.runtime import open_session, run

    session, names = open_session(model), [info.name for info in model.inputs]
    size = model.fixed_batch or TIMED_BATCH
    if data is not None and len(data.test) >= size:
        feeds = data.test.read(np.arange(size)).feeds(names)
    else:
        feeds = random_feeds(model, batch=size)
    best, until = float("inf"), time.perf_counter() + TIMED_S
    while time.perf_counter() < until or best == float("inf"):
        began = time.perf_counter()
        run(session, feeds)
        best = min(best, time.perf_counter() - began)
    return best / size


def _memory(recipe: Recipe, known: _Known) -> int:
    """Of the process at its largest: the images in memory, and the stage that holds most."""
    activations = sum(layer.output_bytes for layer in known.costs.layers)
    weights = 4 * known.costs.params
    batches = [fit.batch_size for stage in recipe.stages for fit in _fits(stage)]
    training = max((weights * TRAINED_COPIES + batch * activations * KEPT_ACTIVATIONS for batch in batches), default=0)
    return round(PROCESS_BYTES + _data_bytes(known.data) + max(training, 8 * activations + 4 * weights))


def _data_bytes(data: Data | None) -> int:
    import numpy as np

    from edgeopt.data.data import Rows

    if data is None:
        return 0
    rows: Rows = data.test.source.read(data.test.index[:1])
    arrays = [rows] if isinstance(rows, np.ndarray) else list(rows.values())
    return sum(array.nbytes for array in arrays) * (len(data.train) + len(data.test))


def _disk(recipe: Recipe, known: _Known) -> int:
    """A float model for each shared step, two for each tier, checkpoints while it trains, the report."""
    files = 1 + len(recipe.stages) + 2 * len(recipe.load_tiers())
    training = TRAINED_COPIES if any(_fits(stage) for stage in recipe.stages) else 0
    return 4 * known.costs.params * (files + training) + REPORT_BYTES


def _writes(recipe: Recipe, out: Path) -> Iterator[str]:
    def c_code(tier: Tier) -> str:
        return " and its C program" if tier.c_code else ""

    places = artifact_places(recipe)
    for tier in recipe.load_tiers():
        yield f"{out / places[tier.name]}{c_code(tier)}"
    yield f"{out / 'report'}.json, .md, .html"
    yield f"{out / 'stages'}/  (finished stages, to go on from)"


def _existing(path: Path) -> Path:
    """The nearest folder above `path` that is there."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
