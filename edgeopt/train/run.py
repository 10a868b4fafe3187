"""The state of a training run in one process: what a step changes, and what a checkpoint holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.train.average import Average
from edgeopt.train.checkpoint import SAVE_EVERY_S, TELL_EVERY_STEPS, fingerprint, read_checkpoint, write_checkpoint
from edgeopt.train.compiling import compile_in_place, uncompile, uncompiled
from edgeopt.train.draws import order_of, reseed
from edgeopt.train.events import open_events
from edgeopt.train.feed import open_feed, prepare
from edgeopt.train.job import Job
from edgeopt.train.meter import Meter, diverged, hit_rate
from edgeopt.train.mix import mix
from edgeopt.train.objectives import Located, first_output, own_parameters
from edgeopt.train.shards import fill, local, prepare_optimizer, restore_optimizer, whole
from edgeopt.train.validation import Validation, best_epoch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["CHECKPOINT", "Run"]

CHECKPOINT = "checkpoint.pt"
"""Name of the file in `scratch`."""


class Run:
    """Module, optimizer, moving average, best weights, history, and the place in the epoch."""

    def __init__(self, fabric: Fabric, job: Job) -> None:
        self.fabric, self.job = fabric, job
        settings = job.settings
        self.key = _key(job) if job.scratch else ""
        self.feed = open_feed(job.split, fabric.device)
        sharded = fabric.world_size > 1 and settings.strategy == "fsdp"
        self.module = _place(deepcopy(job.module) if sharded else job.module, fabric.device)
        if isinstance(job.objective, nn.Module):
            _place(job.objective, fabric.device)
        self.own = own_parameters(job.objective)
        self.network = fabric.setup_module(self.module)  # before the optimizer: FSDP puts other tensors in its place
        learned = [*self.module.parameters(), *self.own.values()]
        self.optimizer = settings.optimizer.build(learned, settings.peak_lr, settings.decay)
        prepare_optimizer(self.optimizer)
        self.stepper = fabric.setup_optimizers(self.optimizer)
        self.average = Average(self.module, settings.ema) if settings.ema else None
        self.validation = Validation(job, fabric, self.feed) if len(job.held) else None
        self.best: dict[str, Tensor] | None = None
        self.history: list[dict[str, Any]] = []
        self.meter = Meter(job, fabric, 0)
        self.saved = time.perf_counter()

    @property
    def finished(self) -> bool:
        """All epochs are done, or `patience` is at its end."""
        done, settings = len(self.history), self.job.settings
        exhausted = settings.patience is not None and done and done - best_epoch(self.history) >= settings.patience
        return done >= settings.epochs or bool(exhausted)

    def one_epoch(self) -> None:
        """Train on what is left of the epoch, add an entry to the history, save."""
        epoch, first = len(self.history), self.meter.step
        view = self.job.view(epoch)
        self.network.train()
        self.meter.start()
        rows = self._rows(view)
        for step, (samples, truth) in enumerate(self.feed.batches(rows[first:]), first):
            reseed(self.fabric, self.job.seed, view, step)
            for group in self.optimizer.param_groups:
                group["lr"] = self.job.lr(epoch, step)
            self.meter.record(*self._step(view, rows[step], samples, truth))
            if step + 1 < len(rows) and self._save_is_due(step):
                self.meter.report()  # raises before what is not finite takes the place of what was good
                self._check_weights(epoch, step)
                self.save()
        self._end_epoch(epoch)
        self.save()

    def _end_epoch(self, epoch: int) -> None:
        entry = self.meter.entry()
        self._check_weights(epoch, self.job.steps - 1)
        if self.validation is not None:
            entry |= self._validate(self.validation)
        self.history.append(entry)
        if self.job.settings.keep == "best" and best_epoch(self.history) == epoch + 1:
            self.best = {name: tensor.clone() for name, tensor in self._result().items()}
        if self.meter.events is not None:
            self.meter.events.write("epoch", entry, (epoch + 1) * self.job.steps)
        self.meter = Meter(self.job, self.fabric, epoch + 1, self.meter.events)

    def _step(self, view: int, rows: np.ndarray, samples: Tensor, truth: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """One step of the optimizer, in parts; the mean loss and the share of right answers."""
        settings = self.job.settings
        losses, hits = [], []
        for last, share, (part_rows, part, labels) in self._parts(rows, samples, truth):
            with self.fabric.no_backward_sync(self.network, enabled=not last):
                loss, right = self._loss(view, part_rows, part, labels)
                self.fabric.backward(loss * share)
            losses.append(loss.detach() * share)
            hits.append(right if right is None else right * share)
        self._share_own_gradients()
        if settings.clip_norm is not None:
            self.fabric.clip_gradients(
                self.network, self.stepper, max_norm=settings.clip_norm, error_if_nonfinite=False
            )
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.module)
        known = [right for right in hits if right is not None]
        return torch.stack(losses).sum(), torch.stack(known).sum() if known else None

    def _loss(
        self, view: int, rows: np.ndarray, samples: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The loss of samples that go through the network together, and the share of right answers."""
        job = self.job
        x = prepare(samples, job.split.preprocess, job.settings.augment)
        nhwc = job.split.preprocess is not None and job.split.preprocess.layout == "NHWC"
        x, mixture = mix(x, job.settings.augment, nhwc=nhwc)
        if isinstance(job.objective, Located):
            job.objective.locate(view, rows)
        outputs = self.network(x)
        first = first_output(outputs)
        if mixture is not None:
            labels = mixture.labels(labels, first.shape[1])
        with self.fabric.autocast():
            loss = job.objective(outputs, x, labels)
        return loss, hit_rate(first.detach(), labels)

    def _parts(
        self, rows: np.ndarray, samples: Tensor, truth: Tensor | None
    ) -> Iterator[tuple[bool, float, tuple[np.ndarray, Tensor, Tensor | None]]]:
        """`accumulate` pieces of a batch: whether it is the last, its share of the batch, and the piece."""
        pieces = samples.chunk(self.job.settings.accumulate)
        ends = np.cumsum([len(piece) for piece in pieces])
        for piece, end in zip(pieces, ends.tolist(), strict=True):
            where = slice(end - len(piece), end)
            labels = None if truth is None else truth[where]
            yield end == len(samples), len(piece) / len(samples), (rows[where], piece, labels)

    def _share_own_gradients(self) -> None:
        """What the objective learns is outside of the network, whose gradients are averaged over the processes."""
        if self.fabric.world_size > 1:
            for parameter in self.own.values():
                if parameter.grad is not None:
                    parameter.grad = self.fabric.all_reduce(parameter.grad, reduce_op="mean")

    def _rows(self, view: int) -> np.ndarray:
        """int64 [steps, batch of this process]: positions in the split."""
        job = self.job
        order = job.training[order_of(job.seed, view, len(job.training), job.batch)]
        return np.ascontiguousarray(order[:, self.fabric.global_rank :: self.fabric.world_size])

    def _validate(self, validation: Validation) -> dict[str, float]:
        """What the weights that would be returned now are worth on the held-out images."""
        with uncompiled(self.module):
            if self.average is None:
                return validation.measure(self.network)
            with self.average.lent_to(self.module):
                return validation.measure(self.network)

    def _check_weights(self, epoch: int, step: int) -> None:
        """A loss can be finite for the last time, and the step after it ruin the weights."""
        for name, tensor in self.module.state_dict().items():
            if not local(tensor).isfinite().all():
                raise diverged(self.job, f"{name} is not finite", epoch, step)

    def resume(self) -> None:
        """Take over the checkpoint of an earlier attempt, if there is one, and start the progress display."""
        job = self.job
        reads = job.scratch is not None and self.fabric.global_rank == 0  # another machine may not have the file
        state, why = read_checkpoint(job.scratch / CHECKPOINT, self.key) if job.scratch and reads else (None, "")
        state = self.fabric.broadcast(state)
        if why:
            job.progress.warn(f"{why}: training starts from the beginning")
        if state is not None:
            self._restore(state)
        job.progress.start(job.label, job.settings.epochs * job.steps)
        done = len(self.history) * job.steps + self.meter.step
        if done:
            job.progress.advance(done, "resumed")
        self.meter.events = open_events(job, self.fabric, done)
        if not self.finished:
            compile_in_place(self.module, job, self.fabric, self._rows(0)[0])

    def _restore(self, state: dict[str, Any]) -> None:
        now = self.module.state_dict()
        if state["best"] is not None:
            self.best = {name: tensor.clone() for name, tensor in now.items()}
            for name, tensor in self.best.items():
                fill(tensor, state["best"][name])
        for name, tensor in now.items():
            fill(tensor, state["module"][name])
        for name, parameter in self.own.items():
            fill(parameter, state["objective"][name])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average is not None:
            self.average.load(state["average"])
        self.history = list(state["history"])
        self.meter = Meter(self.job, self.fabric, len(self.history))
        self.meter.load(state["meter"])

    def _save_is_due(self, step: int) -> bool:
        """Whether the epoch is long enough for a checkpoint inside it; all processes come to the same answer."""
        if self.job.scratch is None or (self.fabric.world_size > 1 and step % TELL_EVERY_STEPS):
            return False
        return bool(self.fabric.broadcast(time.perf_counter() - self.saved >= SAVE_EVERY_S))

    def save(self) -> None:
        """Write the checkpoint: the whole state, by one process."""
        if self.job.scratch is None:
            return
        state = {
            "module": self.module.state_dict(),
            "objective": {name: parameter.detach() for name, parameter in self.own.items()},
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "average": None if self.average is None else self.average.state,
            "best": self.best,
            "history": self.history,
            "meter": self.meter.state,
        }
        state = whole(state)  # every process takes part
        if self.fabric.global_rank == 0:
            write_checkpoint(self.job.scratch / CHECKPOINT, self.key, state)
        self.saved = time.perf_counter()

    def finish(self) -> None:
        """Put the weights that are to be returned into the module."""
        if len(self.history) < self.job.settings.epochs and self.finished:
            left = (self.job.settings.epochs - len(self.history)) * self.job.steps
            self.job.progress.advance(left, f"stopped early, best epoch {best_epoch(self.history)}")
        result = self._result() if self.best is None else self.best
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                tensor.copy_(result[name])

    def close(self) -> None:
        """Leave the module as plain torch, and no file open."""
        uncompile(self.module)
        if self.meter.events is not None:
            self.meter.events.close()

    def _result(self) -> dict[str, Tensor]:
        """The weights of this moment: the moving average where there is one."""
        return self.module.state_dict() if self.average is None else self.average.values

    def hand_back(self) -> None:
        """Give the module of the job the weights, in every process those of the first: running statistics differ."""
        if self.fabric.world_size > 1:
            self.job.module.load_state_dict(self.fabric.broadcast(whole(self.module.state_dict())))


def _key(job: Job) -> str:
    """What a checkpoint belongs to: settings, seed, data size, first weights, the objective's weights."""
    target = fingerprint(job.objective) if isinstance(job.objective, nn.Module) else ""
    parts = [job.settings.digest(), str(job.seed), str(len(job.split)), fingerprint(job.module), target, str(job.views)]
    return ":".join(parts)


def _place(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on `device` with its kernels in channels_last, which is faster for every network measured."""
    placed: nn.Module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed
