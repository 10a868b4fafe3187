"""From finished steps to the report's rows: everything is measured here, together, in one run.

The float baseline, every stage's model and every artifact see the same images in one pass, and their latencies are
taken in turns, so that a ratio compares like with like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeopt.data import Data
from edgeopt.errors import StageFailed
from edgeopt.machine import cpu_count
from edgeopt.measure import Latency, Outcome, environment, evaluate, one_input, time_sessions
from edgeopt.measure.changes import change_facts, pack_bits
from edgeopt.measure.layers import time_layers
from edgeopt.measure.statistics import paired_drop, wilson
from edgeopt.model.profile import Profile, profile
from edgeopt.model.runtime import open_session
from edgeopt.progress import Progress
from edgeopt.report import MAP, Baseline, DataRow, Environment, Layer, Row, StageRow
from edgeopt.report.onnx_file import identify
from edgeopt.store import Step

__all__ = ["accuracy_facts", "against_facts", "data_row", "measure_steps"]

LATENCY_THREADS = 1
"""Latency is that of one image on one thread: steady, and what an edge device has to spare."""
EVALUATION_BATCH = 64


@dataclass(frozen=True)
class _Chain:
    """The steps that one tier's artifact went through on its own."""

    tier: str
    path: str
    steps: Sequence[Step]

    def fact(self, name: str, otherwise: Any) -> Any:
        """The first of its steps' facts of that name that says something."""
        return next((fact for step in self.steps if (fact := step.finished.facts.get(name))), otherwise)


@dataclass(frozen=True)
class _Figures:
    """What was measured on one step's model."""

    step: Step
    sha256: str
    size_bytes: int
    profile: Profile
    latency: Latency
    feeds: Mapping[str, np.ndarray]
    """What it was timed on."""
    outcome: Outcome | None


def measure_steps(
    steps: Sequence[Step],
    chains: Mapping[str, Sequence[Step]],
    places: Mapping[str, str],
    data: Data | None,
    progress: Progress,
) -> tuple[tuple[StageRow, ...], tuple[Row, ...]]:
    """Rows of all stages in order, and a row for each tier's artifact. `places`: tier name -> path in the report."""
    baseline = next((step for step in reversed(steps) if step.makes_network), steps[0])
    measured = [*steps, *(chain[-1] for chain in chains.values())]
    figures = dict(zip(map(id, measured), _measure(measured, measured.index(baseline), data, progress), strict=True))
    circumstances = Environment(**environment(LATENCY_THREADS))
    in_order = [*steps, *(step for chain in chains.values() for step in chain)]
    stage_rows = tuple(_stage_row(index, step, figures.get(id(step))) for index, step in enumerate(in_order))
    rows = tuple(
        _row(
            _Chain(tier, places[tier], chain),
            figures[id(chain[-1])],
            figures[id(baseline)],
            data,
            circumstances,
            progress,
        )
        for tier, chain in chains.items()
    )
    return stage_rows, rows


def data_row(data: Data | None) -> DataRow | None:
    """What the report says of the images."""
    if data is None:
        return None
    return DataRow(
        name=data.name,
        fingerprint=data.fingerprint,
        train=len(data.train),
        calibration=len(data.calibration),
        test=len(data.test),
        labels=len(data.labels),
        skipped=len(data.skipped),
    )


def _measure(steps: Sequence[Step], baseline: int, data: Data | None, progress: Progress) -> list[_Figures]:
    """One pass over the test images for all of them, then latencies in turns."""
    names = [str(index) for index in range(len(steps))]
    entries = [dict(step.tier.session) if step.tier else {} for step in steps]
    paths = [step.finished.path for step in steps]
    outcomes: Mapping[str, Outcome] = {}
    if data is not None:
        sessions = {
            name: open_session(path, threads=cpu_count(), entries=entry)
            for name, path, entry in zip(names, paths, entries, strict=True)
        }
        outcomes = evaluate(
            sessions,
            data.test,
            reference=str(baseline),
            anchors=steps[baseline].finished.model.meta.anchors,
            batch_size=EVALUATION_BATCH,
            progress=progress,
        )
        del sessions
    timed = {
        name: open_session(path, threads=LATENCY_THREADS, entries=entry)
        for name, path, entry in zip(names, paths, entries, strict=True)
    }
    shown = None if data is None else data.test
    feeds = {name: one_input(session, shown) for name, session in timed.items()}
    latencies = time_sessions(timed, feeds)
    return [
        _Figures(
            step=step,
            sha256=identity[0],
            size_bytes=identity[1],
            profile=profile(step.finished.model, feeds=feeds[name]),
            latency=latencies[name],
            feeds=feeds[name],
            outcome=outcomes.get(name),
        )
        for name, step, identity in zip(names, steps, map(identify, paths), strict=True)
    ]


def accuracy_facts(outcome: Outcome | None) -> dict[str, Any]:
    """Accuracy (of boxes: mean average precision) with its 95 % interval; nothing where there are no labels."""
    if outcome is None or outcome.accuracy is None:
        return {}
    if outcome.precision is not None:
        low, high = outcome.precision.interval
        return {"accuracy": outcome.accuracy, "accuracy_low": low, "accuracy_high": high}
    low, high = wilson(round(outcome.accuracy * outcome.samples), outcome.samples)
    return {"accuracy": outcome.accuracy, "accuracy_low": low, "accuracy_high": high}


def _costs(figures: _Figures) -> dict[str, Any]:
    return {
        "size_bytes": figures.size_bytes,
        "params": figures.profile.params,
        "macs": figures.profile.macs,
        "peak_ram_bytes": figures.profile.peak_ram_bytes,
        "latency_ms": figures.latency.median_ms,
    }


def _stage_row(index: int, step: Step, figures: _Figures | None) -> StageRow:
    measured = {} if figures is None else _costs(figures) | accuracy_facts(figures.outcome)
    return StageRow(
        index=index,
        kind=step.kind,
        title=step.title,
        tier=step.tier.name if step.tier else None,
        settings=step.settings,
        facts=step.finished.facts,
        seconds=step.finished.seconds,
        reused=step.finished.reused,
        **measured,
    )


def _row(
    chain: _Chain, own: _Figures, base: _Figures, data: Data | None, circumstances: Environment, progress: Progress
) -> Row:
    speedups = base.latency.ratio_to(own.latency)
    return Row(
        tier=chain.tier,
        path=chain.path,
        sha256=own.sha256,
        precision=str(own.step.finished.facts.get("precision", "")),
        latency_low_ms=own.latency.low_ms,
        latency_high_ms=own.latency.high_ms,
        speedup=base.latency.median_ms / own.latency.median_ms,
        speedup_low=speedups[0],
        speedup_high=speedups[1],
        rule_breaches=own.step.finished.facts.get("rule_breaches"),
        baseline=Baseline(
            name=f"{base.step.title} (float)",
            sha256=base.sha256,
            latency_low_ms=base.latency.low_ms,
            latency_high_ms=base.latency.high_ms,
            correct_bits=pack_bits(base.outcome.correct if base.outcome else None),
            **_costs(base),
            **accuracy_facts(base.outcome),
        ),
        environment=circumstances,
        layers=_layers(own, chain.fact("layers_sqnr_db", {})),
        sizes=own.profile.sizes,
        correct_bits=pack_bits(own.outcome.correct if own.outcome else None),
        warnings=_warnings(own, base, chain.fact("may_be_faster", "")),
        **_costs(own),
        **accuracy_facts(own.outcome),
        **against_facts(own.outcome, base.outcome),
        **_change_facts(own.outcome, base.outcome, data),
        **_c_facts(own.step, progress),
    )


def _layers(own: _Figures, sqnr_db: Mapping[str, float]) -> tuple[Layer, ...]:
    """What each node costs, with the time of one more short run under the profiler."""
    times = time_layers(
        own.step.finished.model,
        own.feeds,
        (layer.name for layer in own.profile.layers),
        latency_ms=own.latency.median_ms,
        entries=own.step.tier.session if own.step.tier else None,
        threads=LATENCY_THREADS,
    )
    return tuple(
        Layer(
            name=layer.name,
            op=layer.op,
            params=layer.params,
            macs=layer.macs,
            bytes=layer.weight_bytes,
            output_bytes=layer.output_bytes,
            live_bytes=layer.live_bytes,
            time_ms=times.get(layer.name),
            sqnr_db=sqnr_db.get(layer.name),
        )
        for layer in own.profile.layers
    )


def _change_facts(own: Outcome | None, base: Outcome | None, data: Data | None) -> dict[str, Any]:
    if own is None or base is None or data is None:
        return {}
    return change_facts(own, base, data.test.labels, data.labels)


def _c_facts(step: Step, progress: Progress) -> dict[str, Any]:
    """Of the C program, where the tier has one: measured in the emulator where the tools are here, else as planned."""
    planned = step.finished.facts.get("c_code")
    if planned is None:
        return {}
    timeline = [{"layer": layer, "bytes": size} for layer, size in planned["timeline"]]
    try:
        from edgeopt.mcu.verify import basis, totals, verify_written

        found = verify_written(step.finished.model, step.finished.folder)
        if found.mismatches:
            progress.warn(f"{found.mismatches} outputs of the C program differ from onnxruntime's")
        return {"memory_timeline": timeline, "c_basis": basis([found], "inputs of noise"), **totals([found])}
    except StageFailed as error:  # no cross compiler, no emulator
        progress.warn(f"the C program was not run: {error}")
        arena = max(planned["arena_bytes"].values())
        return {
            "memory_timeline": timeline,
            "c_basis": "as planned: not compiled, stack not counted",
            "ram_bytes": arena,
        }


def _warnings(own: _Figures, base: _Figures, offer: str) -> tuple[str, ...]:
    """What the export noted; and a model that is not faster than the float one is never delivered in silence."""
    found = tuple(own.step.finished.facts.get("warnings", ()))
    speedup = base.latency.median_ms / own.latency.median_ms
    if speedup >= 1 or own.step.tier is None or not own.step.tier.measured_here:
        return found
    return (
        *found,
        f"not faster than the float model here: {own.latency.median_ms:.3g} ms against {base.latency.median_ms:.3g} ms "
        f"({speedup:.2f}x) on onnxruntime CPU, {LATENCY_THREADS} thread; "
        + (f"{offer}, or " if offer else "")
        + "keep the float model where speed counts",
    )


def against_facts(own: Outcome | None, base: Outcome | None) -> dict[str, Any]:
    """How an artifact answers beside the float baseline, image by image."""
    if own is None or base is None:
        return {}
    facts: dict[str, Any] = {"samples": own.samples, "agreement": own.agreement, "sqnr_db": own.sqnr_db}
    if own.precision is not None and base.precision is not None:
        points, low, high = base.precision.drop_to(own.precision)
        facts |= {"metric": MAP, "map50": own.precision.map50}
        return facts | {"drop_points": points, "drop_low": low, "drop_high": high}
    if own.correct is None or base.correct is None:
        return facts
    points, low, high = paired_drop(base.correct, own.correct)
    return facts | {"drop_points": points, "drop_low": low, "drop_high": high}
