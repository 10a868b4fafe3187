"""The whole story of a run: load, shared stages, then for each tier its own stages and artifact; measure; report.

Every finished step is a folder in `out/stages` named by the hash of its inputs (`edgeopt.store`), so the same
command goes on where it was stopped. Artifacts and report are published together at the end: when a tier cannot be
met, what an earlier run left in `out` stays as it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgeopt import __version__
from edgeopt.atomic import write_atomic
from edgeopt.data import Data
from edgeopt.errors import StageFailed
from edgeopt.gate import check
from edgeopt.measure.pictures import take_pictures
from edgeopt.model import Model
from edgeopt.model.external import copy_model
from edgeopt.progress import SILENT, Progress
from edgeopt.recipe import Recipe
from edgeopt.report import Report, write_report
from edgeopt.resolve import Shipping, resolve, resolve_model
from edgeopt.rows import data_row, measure_steps
from edgeopt.sizing import Ship, noise
from edgeopt.spec import digest
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.store import Step, Store, locked
from edgeopt.tiers import Tier

__all__ = [
    "LOAD",
    "artifact_places",
    "first_model",
    "knowing",
    "load_key",
    "make_context",
    "prepare",
    "run",
    "split_stages",
    "stage_key",
    "stage_title",
]


def run(recipe: Recipe, out: Path, *, progress: Progress = SILENT, command: str = "") -> Report:
    """Carry out `recipe`; leave artifacts and `report.*` in `out`.

    One `out/<tier>/model.onnx` for each tier of the recipe, or `out/model.onnx` when it names none. The report holds
    the verdicts of the recipe's gate; failing on them is up to the caller. Raises EdgeoptError.
    """
    began = time.monotonic()
    listening = _Listening(progress)
    with locked(out):
        listening.expect(_count(recipe) + len(["measure"]))
        steps, chains, data = _make(recipe, out, listening)
        places = artifact_places(recipe)
        listening.stage("measure")
        stage_rows, rows = measure_steps(steps, chains, places, data, listening)
        report = Report(
            name=recipe.name,
            recipe_hash=recipe.digest(),
            data=data_row(data),
            seed=recipe.seed,
            command=command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - began, 3),
            stages=stage_rows,
            tiers=rows,
            limits=recipe.gate,
            pictures=take_pictures(rows, data.test if data else None),
            warnings=tuple(listening.warnings),
        )
        if recipe.gate:
            report = report.model_copy(update={"gate": tuple(check(report, recipe.gate))})
        _publish(steps, chains, places, report, out)
    return report


def prepare(recipe: Recipe, out: Path, *, progress: Progress = SILENT) -> None:
    """Carry out the stages of `recipe` and leave them in `out/stages`: `run` then only has to measure.

    For when others compute at the same time, and what is timed now would be worth nothing. Raises EdgeoptError.
    """
    with locked(out):
        progress.expect(_count(recipe))
        _make(recipe, out, progress)


def _count(recipe: Recipe) -> int:
    """Steps that make something: the load and the stages, of each tier its own."""
    shared, per_tier = split_stages(recipe)
    return 1 + len(shared) + sum(stage.wanted(tier) for stage in per_tier for tier in recipe.load_tiers())


def _make(recipe: Recipe, out: Path, progress: Progress) -> tuple[list[Step], dict[str, list[Step]], Data | None]:
    """The shared steps, those of each tier, and the images."""
    store = Store(out / "stages")
    shared, per_tier = split_stages(recipe)
    first, data = _load(recipe, store, progress)
    context = make_context(recipe, data, progress)
    steps = [first]
    for stage in shared:
        steps.append(_apply(stage, steps[-1], context, store, recipe))
    chains = _for_each_tier(recipe.load_tiers(), per_tier, steps[-1], context, store, recipe)
    return steps, chains, data


def _load(recipe: Recipe, store: Store, progress: Progress) -> tuple[Step, Data | None]:
    """Step 0: the model as it is given, and the images it is judged by."""
    from edgeopt.data import load_data

    progress.stage("load")
    done = store.do(LOAD, load_key(recipe), lambda _: first_model(recipe, progress))
    settings = recipe.model.model_dump(mode="json")
    step = Step(done, kind="load", title=Path(recipe.model.source).name, settings=settings)
    if recipe.data is None:
        return step, None
    data = load_data(recipe.data, model=done.model, seed=recipe.seed, progress=progress)
    return replace(step, finished=replace(done, model=knowing(done.model, data))), data


def first_model(recipe: Recipe, progress: Progress) -> StageResult:
    """The model as it is given; the widest that fits where it is to fit. Raises UsageError."""
    context = Context(seed=recipe.seed, progress=progress)
    reference, facts = resolve_model(recipe.model, context, _shipping(recipe))
    return StageResult(reference.load(recipe.seed), {"fit": facts} if facts else {})


LOAD = "00-load"
"""Title of the step before the first stage."""


def load_key(recipe: Recipe) -> str:
    """Hash of all that goes into step 0."""
    shipped = _Draft(recipe.load_tiers()[0], split_stages(recipe)[1], Context()).settings() if recipe.model.fit else []
    return digest(["load", recipe.model.fingerprint(), recipe.seed, __version__, *shipped])


def knowing(model: Model, data: Data) -> Model:
    """The model with the preprocessing and the labels of the data it is judged by."""
    meta = model.meta
    return model.with_meta(preprocess=data.preprocess or meta.preprocess, labels=data.labels or meta.labels)


def stage_title(stage: Stage, number: int, tier: Tier | None) -> str:
    """What the stage's folder is called before its hash: `02-prune`, `mcu-quantize`."""
    return f"{tier.name}-{stage.kind}" if tier else f"{number:02d}-{stage.kind}"


def stage_key(stage: Stage, model: Model, context: Context) -> str:
    """Hash of all that goes into a stage."""
    return digest(
        [
            __version__,
            model.fingerprint(),
            stage.model_dump(mode="json"),
            [reference.fingerprint() for reference in stage.references()],
            context.data.fingerprint if context.data else None,
            context.seed,
            context.width_multiple,
            context.tier.model_dump(mode="json") if context.tier else None,
            *(context.artifact.settings() if stage.needs_artifact() and isinstance(context.artifact, _Draft) else []),
        ]
    )


def make_context(recipe: Recipe, data: Data | None, progress: Progress) -> Context:
    """What the shared stages may use; the per-tier ones get their tier beside it."""
    tiers, (_, per_tier) = recipe.load_tiers(), split_stages(recipe)
    context = Context(
        data=data,
        seed=recipe.seed,
        progress=progress,
        width_multiple=min(tier.width_multiple for tier in tiers),
    )
    return replace(context, artifact=_Draft(tiers[0], per_tier, context))


def split_stages(recipe: Recipe) -> tuple[list[Stage], list[Stage]]:
    """Those that all tiers share, and those that run once for each tier, the export last."""
    from edgeopt.export.stage import Export

    shared = [stage for stage in recipe.stages if not stage.per_tier]
    return list(shared), [*(stage for stage in recipe.stages if stage.per_tier), Export()]


def artifact_places(recipe: Recipe) -> dict[str, str]:
    """Tier name -> where its artifact goes, under `out`."""
    return {tier.name: f"{tier.name}/model.onnx" if recipe.tiers else "model.onnx" for tier in recipe.load_tiers()}


def _apply(stage: Stage, before: Step, context: Context, store: Store, recipe: Recipe) -> Step:
    """One stage, from disk when it was done before with equal inputs."""
    tier, model = context.tier, before.finished.model
    label = stage_title(stage, before.number + 1, tier)
    title = f"{stage.kind} for {tier.name}" if tier else stage.kind
    key = stage_key(stage, model, context)
    context.progress.stage(title)

    def work(scratch: Path) -> StageResult:
        provenance = model.meta.provenance | _provenance(recipe, context.data)
        own = replace(context, scratch=scratch)
        ready, made = resolve(stage, model, own, _shipping(recipe))
        # before, so that an artifact is held to its limits with its metadata in it; after, for a new network
        result = ready.apply(model.with_meta(provenance=provenance), own)
        return replace(result, model=result.model.with_meta(provenance=provenance), facts=result.facts | made)

    done = store.do(label, key, work)
    return Step(
        done,
        kind=stage.kind,
        title=title,
        settings=stage.model_dump(mode="json"),
        number=before.number + 1,
        tier=tier,
        makes_network=stage.makes_network,
    )


def _for_each_tier(
    tiers: Sequence[Tier], stages: Sequence[Stage], last: Step, context: Context, store: Store, recipe: Recipe
) -> dict[str, list[Step]]:
    """Tier name -> its own steps, the artifact last. Raises StageFailed that names every tier that is not met."""
    chains: dict[str, list[Step]] = {}
    failures: list[str] = []
    for tier in tiers:
        steps = [last]
        try:
            for stage in (stage for stage in stages if stage.wanted(tier)):
                steps.append(_apply(stage, steps[-1], replace(context, tier=tier), store, recipe))
        except StageFailed as error:
            failures.append(str(error) if error.where.startswith("tier ") else f"tier {tier.name}: {error}")
        chains[tier.name] = steps[1:]
    if failures:
        raise StageFailed(
            "\n".join(failures), fix="nothing was published, and what is finished is kept for the next run"
        )
    return chains


class _Draft:
    """What a tier would ship of a model: its stages in their quickest form, and the tier without its limits."""

    def __init__(self, tier: Tier, stages: Sequence[Stage], context: Context) -> None:
        unlimited = tier.model_copy(update={"max_bytes": None, "max_peak_ram_bytes": None})
        self._stages = [stage.draft() for stage in stages if stage.wanted(tier)]
        self._context = replace(context, tier=unlimited, progress=SILENT)

    def __call__(self, model: Model) -> StageResult:
        result = StageResult(model)
        for stage in self._stages:
            result = stage.apply(result.model, self._context)
        return result

    def settings(self) -> list[Any]:
        """What the result depends on besides the model."""
        assert self._context.tier is not None
        return [self._context.tier.model_dump(mode="json"), *(stage.model_dump(mode="json") for stage in self._stages)]


def _shipping(recipe: Recipe) -> Shipping:
    """How the recipe would ship a network that is not trained yet."""
    per_tier = split_stages(recipe)[1]

    def of(tier: Tier) -> Ship:
        return lambda model: _Draft(tier, per_tier, Context(data=noise(model), seed=recipe.seed))(model)

    return Shipping(recipe.load_tiers()[0], of)


def _provenance(recipe: Recipe, data: Data | None) -> dict[str, str]:
    """Where an artifact comes from, as ONNX metadata."""
    import onnx
    import onnxruntime
    import torch

    return {
        "edgeopt": __version__,
        "recipe": recipe.name,
        "recipe_hash": recipe.digest(),
        "data_hash": data.fingerprint if data else "",
        "seed": str(recipe.seed),
        "versions": f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}",
    }


def _publish(
    steps: Sequence[Step], chains: dict[str, list[Step]], places: dict[str, str], report: Report, out: Path
) -> None:
    """Copy each artifact to its place, and beside it what its tier's stages left; then the report."""
    beside = [(step, out) for step in steps]
    beside += [(step, (out / places[tier]).parent) for tier, chain in chains.items() for step in chain]
    for step, folder in beside:
        for file in sorted(step.finished.folder.iterdir()):
            if file.name not in ("model.onnx", "model.onnx.data", "stage.json"):
                write_atomic(folder / file.name, file.read_bytes())
    for tier, chain in chains.items():
        copy_model(chain[-1].finished.path, out / places[tier])
    write_report(report, out)


class _Listening(Progress):
    """Passes everything on and keeps the warnings for the report."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.warnings: list[str] = []

    def expect(self, stages: int) -> None:
        self.inner.expect(stages)

    def stage(self, title: str) -> None:
        self.inner.stage(title)

    def start(self, label: str, total: int) -> None:
        self.inner.start(label, total)

    def advance(self, steps: int = 1, metric: str = "") -> None:
        self.inner.advance(steps, metric)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self.inner.warn(message)
