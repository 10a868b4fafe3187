"""Prune: narrower layers, proved equal to the masked original, then fine-tuned."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from edgeopt import __version__
from edgeopt.errors import StageFailed
from edgeopt.model import Model
from edgeopt.model.profile import profile
from edgeopt.model.quantized import refuse_quantized
from edgeopt.prune.accept import Proven, prune_proven
from edgeopt.prune.aim import Aim
from edgeopt.prune.correct import LeastSquares, correct
from edgeopt.prune.criteria import Criterion, GeometricMedian, Reconstruction
from edgeopt.prune.equivalence import TOLERANCE
from edgeopt.prune.groups import Plan, make_plan
from edgeopt.prune.ranking import Global, Local, Ranking, Sensitivity, Weighed
from edgeopt.prune.record import Entry, compose
from edgeopt.prune.schedule import OneShot, Schedule
from edgeopt.prune.steps import Narrowed, Steps
from edgeopt.prune.target import Target
from edgeopt.prune.trace import trace
from edgeopt.spec import digest
from edgeopt.stage import Context, Stage, StageResult
from edgeopt.train.settings import FineTune

if TYPE_CHECKING:
    from edgeopt.prune.finetune import Tuned

__all__ = ["Prune"]


class Prune(Stage):
    """Remove channels until the target is reached, then fine-tune with the unpruned model as teacher."""

    kind: Literal["prune"] = "prune"
    target: Target = Field(
        description="what has to go, or may stay: params=-60%, macs=20M, size=100KB, ram=-50%, latency=5ms"
    )
    criterion: Criterion | None = Field(
        None,
        description="which channels of a group go first; none: reconstruction where there are images, geometric_median "
        "where there are none",
    )
    ranking: Ranking | None = Field(
        None,
        description="how groups compare. local: the same share of each; global: one threshold for their scores; "
        "sensitivity: one threshold for measured loss over what is saved; none: sensitivity where there are images, "
        "global where there are none",
    )
    schedule: Schedule = Field(OneShot(), description="one_shot, or iterative: prune a little, train a little, again")
    round_to: int | None = Field(
        None, ge=1, description="widths are rounded up to multiples of this; none: what the run's tiers like"
    )
    correction: LeastSquares | None = Field(
        LeastSquares(),
        description="least squares: layers behind the narrowed ones are fitted anew before any training, where there "
        "are images; none: weights stay as they were",
    )
    finetune: FineTune | None = Field(FineTune(), description="training afterwards; none: no images are needed")
    temperature: float = Field(4.0, gt=0, description="of the unpruned model's soft targets in fine-tuning")
    alpha: float = Field(
        0.9, ge=0, le=1, description="weight of the soft targets, the labels have the rest; 0: labels alone"
    )
    time_limit: float = Field(60.0, gt=0, description="seconds that following the channels may take")
    timing_seconds: float = Field(60.0, gt=0, description="for timing layers, where the target has a latency")

    @model_validator(mode="after")
    def _trains_between_steps(self) -> Self:
        if self.finetune is None and self.schedule.epochs:
            raise ValueError(f"schedule {self.schedule.kind} trains between its steps; give it finetune, or one_shot")
        return self

    def needs_artifact(self) -> bool:
        """Where the target is about a file."""
        return not {"size", "ram"}.isdisjoint(self.target.wanted)

    def apply(self, model: Model, context: Context) -> StageResult:
        """The pruned model. Raises StageFailed when the target cannot be reached, UsageError without images.

        Ctrl-C while the network is on its way to the target: StageFailed, which says where the network of the last step
        lies. In the last fine-tuning: the best so far, with a warning. Either way the same call goes on from
        `context.scratch`.
        """
        began = time.perf_counter()
        refuse_quantized(model)
        if self.finetune is not None:
            context.need_data("prune with finetune")
        shares = self.schedule.fractions()
        steps = Steps(context.scratch, self._key(model, context))
        number, step = steps.latest(len(shares))
        so_far = Narrowed(model)
        aim = Aim(
            model,
            self.target,
            context,
            rule=self._ranking(context).rule,
            multiple=self.round_to or context.width_multiple,
            seconds=self.timing_seconds,
        )
        try:
            if step is None:
                step = steps.save(1, self._narrow(so_far, aim, shares[0], context))
            while number < len(shares):
                so_far = step
                tuned = self._tune(step, model, number, steps, context)
                so_far = replace(step, model=tuned.model, history=(*step.history, *tuned.history))
                if tuned.stopped:
                    raise KeyboardInterrupt
                number += 1
                step = steps.save(number, self._narrow(so_far, aim, shares[number - 1], context))
        except KeyboardInterrupt as error:
            if not so_far.record:
                raise
            raise self._on_the_way(steps, so_far, number) from error
        pruned, history, stopped = step.model, list(step.history), False
        if self.finetune is not None:
            tuned = self._tune(step, model, number, steps, context)
            pruned, history, stopped = tuned.model, [*history, *tuned.history], tuned.stopped
        if stopped:
            done = len(history) - len(step.history)
            context.progress.warn(
                f"fine-tuning was stopped by Ctrl-C after {done} of {self._epochs(number)} epochs: going on with the "
                "best so far; the same command goes on training"
            )
        facts = _facts(step) | {"ranking": self._ranking(context).kind}
        facts |= {"epochs": len(history), "history": history} if self.finetune is not None else {}
        facts |= {"stopped_by": "ctrl_c" if stopped else None, "seconds": time.perf_counter() - began}
        return StageResult(pruned, facts, {"pruned.json": json.dumps(step.record)}, unfinished=stopped)

    def _narrow(self, before: Narrowed, aim: Aim, share: float, context: Context) -> Narrowed:
        """One pruning of `before.model`, to `share` of the way from the original to the target."""
        began = time.perf_counter()
        model = before.model
        plan = make_plan(trace(model, self.time_limit))
        for node, operator in plan.trace.unknown.items() if not before.record else ():
            context.progress.warn(f"no pruning rule for {operator} ({node}): the channels that reach it stay")
        criterion = self.criterion or (GeometricMedian() if context.data is None else Reconstruction())
        ranking = self._ranking(context)
        scores = criterion.scores(model, plan.groups, context)
        curves = ranking.curves(model, plan, scores, context)
        known = {group.slices: (score, curve) for group, score, curve in zip(plan.groups, scores, curves, strict=True)}
        weighed: dict[int, Weighed] = {}

        def pick(left: Plan) -> np.ndarray:
            pairs = [known[group.slices] for group in left.groups]
            own, measured = [score for score, _ in pairs], [curve for _, curve in pairs]
            chosen = weighed[len(left.groups)] = ranking.weigh(left, own, measured, aim.left(model, left))
            return aim.choose(model, left, chosen.scores, share)

        proven = prune_proven(model, plan, pick, seed=context.seed)
        for name, reason in proven.refused.items():
            context.progress.warn(f"{name} is not narrowed: {reason}")
        entries: list[Entry] = proven.record
        corrected = self._correct(model, proven, context)
        after = profile(corrected.model)
        facts = {
            "share": share,
            "params": after.params,
            "macs": after.macs,
            "max_relative_difference": proven.difference.relative,
            "refused": proven.refused,
            "prune_seconds": time.perf_counter() - began,
            "measured": aim.facts(),
            "criterion": criterion.kind,
            "correction": corrected.facts or None,
            **({} if before.record else {"before": dict(aim.before), **_layout(plan)}),
            **weighed[len(proven.plan.groups)].facts,
        }
        return Narrowed(corrected.model, compose(before.record, entries), (*before.facts, facts), before.history)

    def _ranking(self, context: Context) -> Local | Global | Sensitivity:
        """The one that was asked for, or the best that there is something to go by for."""
        return self.ranking or (Global() if context.data is None else Sensitivity())

    def _correct(self, model: Model, proven: Proven, context: Context) -> StageResult:
        """The pruned model fitted to what `model` computed, where there are images for that."""
        if self.correction is None or context.data is None:
            return StageResult(proven.model)
        return correct(model, proven.model, proven.record, context, self.correction)

    def _tune(self, step: Narrowed, teacher: Model, number: int, steps: Steps, context: Context) -> Tuned:
        """The step's network after the training that belongs to it."""
        from edgeopt.prune.finetune import finetune

        assert self.finetune is not None
        total = len(self.schedule.fractions())
        return finetune(
            step.model,
            teacher,
            self.finetune.model_copy(update={"epochs": self._epochs(number)}),
            replace(context, seed=context.seed + total - number),
            temperature=self.temperature,
            alpha=self.alpha,
            scratch=steps.checkpoints(number),
            label="fine-tuning" if number == total else f"fine-tuning after step {number} of {total}",
        )

    def _epochs(self, number: int) -> int:
        """Of the training that follows a step."""
        assert self.finetune is not None
        last = number == len(self.schedule.fractions())
        return self.finetune.epochs if last else self.schedule.epochs

    def _on_the_way(self, steps: Steps, so_far: Narrowed, number: int) -> StageFailed:
        """What to say when Ctrl-C comes before the target is reached."""
        place = steps.save_partial(so_far)
        total = len(self.schedule.fractions())
        return StageFailed(
            f"stopped by Ctrl-C at step {number} of {total}, before {self.target} is reached",
            where="prune",
            fix="the same command goes on from there" + (f"; what there is so far lies in {place}" if place else ""),
        )

    def _key(self, model: Model, context: Context) -> str:
        """What saved steps belong to."""
        data = context.data.fingerprint if context.data is not None else None
        settings = self.model_dump(mode="json")
        return digest([__version__, model.fingerprint(), settings, data, context.seed, context.width_multiple])


def _facts(step: Narrowed) -> dict[str, Any]:
    """What was done, JSON-ready."""
    refused = {name: reason for facts in step.facts for name, reason in facts["refused"].items()}
    first, last = step.facts[0], step.facts[-1]
    return {
        "params_before": first["before"]["params"],
        "params_after": last["params"],
        "macs_before": first["before"]["macs"],
        "macs_after": last["macs"],
        "groups": [_width(entry, step.record) for entry in first["groups"]],
        "pinned": [*first["pinned"], *({"reason": reason, "weights": [name]} for name, reason in refused.items())],
        "unknown_operators": first["unknown_operators"],
        "check": {
            "max_relative_difference": max(facts["max_relative_difference"] for facts in step.facts),
            "tolerance": TOLERANCE,
        },
        "prune_seconds": sum(facts["prune_seconds"] for facts in step.facts),
        **last["measured"],
        "correction": last["correction"],
        "steps": [{name: facts[name] for name in ("share", "params", "macs")} for facts in step.facts],
        **{name: last[name] for name in ("sensitivity", "sensitivity_measured_on") if name in last},
    }


def _layout(plan: Plan) -> dict[str, Any]:
    """The groups of the original, each by its narrowest tensor, and what stays whole; JSON-ready."""
    narrowest = {group.name: min(group.slices, key=lambda slices: slices.index.shape[1]) for group in plan.groups}
    return {
        "groups": [
            {"name": name, "weight": part.name, "axis": part.axis, "index": part.index.ravel().tolist()}
            for name, part in narrowest.items()
        ],
        "pinned": [{"reason": reason, "weights": list(names)} for reason, names in plan.pinned.items()],
        "unknown_operators": sorted(set(plan.trace.unknown.values())),
    }


def _width(group: dict[str, Any], record: list[Entry]) -> dict[str, Any]:
    """Channels of the narrowest tensor that the group's units stand for, before and after."""
    place = group["weight"], group["axis"]
    kept = next((set(entry["kept"]) for entry in record if (entry["name"], entry["axis"]) == place), None)
    after = len(group["index"]) if kept is None else sum(index in kept for index in group["index"])
    return {"name": group["name"], "channels_before": len(group["index"]), "channels_after": after}
