"""Images a second of training: edgeopt's engine beside the plain loop, in turns, in one process.

    python benchmarks/train.py --data CIFAR [--networks resnet8,resnet20] [--seconds 20] [--rounds 5]

CIFAR is a folder with train/CLASS/*.jpg. The plain loop is what a PyTorch tutorial shows: ImageFolder, a DataLoader
with two workers, RandomCrop, RandomHorizontalFlip, ToTensor and Normalize for each image, fp32, SGD. The engine is
`edgeopt.train.fit` as it comes (images decoded once, augmentation of batches, channels_last, precision and threads by
its rules) on the same network, the same images, the same batch and the same augmentation.

Slices of `--seconds` alternate; what comes before a loop runs evenly (decoding, workers starting, the first steps) is
not counted on either side. Leave the machine idle: a neighbour takes more from the one with more threads. Prints a
markdown table of medians; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

from edgeopt.data import Data, DataSpec, load_data
from edgeopt.machine import cpu_count, cpu_name
from edgeopt.model.load import load_model
from edgeopt.model.to_torch import to_torch
from edgeopt.networks import residual
from edgeopt.progress import Progress
from edgeopt.train import Augment, Fit
from edgeopt.train.feed import prepare
from edgeopt.train.fit import Stopped, fit
from edgeopt.train.objectives import HardLabels
from edgeopt.train.precision import choose_precision, choose_threads, count_arithmetic

NETWORKS = {"resnet8": (1, 1, 1), "resnet20": (3, 3, 3)}
TARGETS = {"resnet8": 4.0, "resnet20": 2.8}
"""What issue 5 asks for on two idle cores."""
WARM_UP_S = 3.0
WORKERS = 2
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


class Watch(Progress):
    """Counts steps between the end of the warm-up and the end of the slice, then stops the run as Ctrl-C would."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps = seconds, 0
        self.first = self.begin = self.end = 0.0

    def advance(self, steps: int = 1, metric: str = "") -> None:
        now = time.perf_counter()
        if not self.first:
            self.first = now
        elif not self.begin:
            self.begin = self.end = now if now - self.first >= WARM_UP_S else 0.0
        else:
            self.steps, self.end = self.steps + steps, now
            if now - self.begin >= self.seconds:
                raise KeyboardInterrupt

    def rate(self, batch: int) -> float:
        """Images a second."""
        return self.steps * batch / (self.end - self.begin)


@dataclass
class Plain:
    """The loop of the tutorials."""

    folder: Path
    batch: int
    module: nn.Module

    def __post_init__(self) -> None:
        change = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        scale = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.images = ImageFolder(str(self.folder / "train"), transforms.Compose([*change, *scale]))
        self.optimizer = torch.optim.SGD(
            self.module.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        self.criterion = nn.CrossEntropyLoss()

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch after another."""
        loader = torch.utils.data.DataLoader(
            self.images, self.batch, shuffle=True, num_workers=WORKERS, drop_last=True, persistent_workers=True
        )
        while True:
            yield from loader

    def slice(self, seconds: float) -> float:
        """Images a second."""
        watch = Watch(seconds)
        self.module.train()
        with suppress(KeyboardInterrupt):
            for x, labels in self.batches():
                self.optimizer.zero_grad()
                self.criterion(self.module(x), labels).backward()
                self.optimizer.step()
                watch.advance()
        return watch.rate(self.batch)


@dataclass
class Engine:
    """`fit`, stopped after some seconds."""

    data: Data
    batch: int
    blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        model = load_model("edgeopt:residual", settings={"blocks": self.blocks})
        self.module = to_torch(model)
        self.settings = Fit(
            epochs=10_000, batch_size=self.batch, augment=Augment(flip=True, crop_pad=4), accelerator="cpu"
        )

    def described(self) -> str:
        """Precision and threads, as the engine's rules choose them."""
        import numpy as np

        sample = prepare(torch.from_numpy(self.data.train.raw(np.arange(1))), self.data.preprocess, Augment())
        arithmetic = count_arithmetic(self.module, sample)
        precision = choose_precision("auto", torch.device("cpu"), arithmetic)
        rule = choose_threads(cpu_count(), self.batch, arithmetic)
        threads = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else rule
        return f"{precision}, {threads} thread{'s' * (threads > 1)}"

    def slice(self, seconds: float) -> float:
        """Images a second."""
        watch = Watch(seconds)
        with suppress(Stopped):
            fit(self.module, self.data.train, self.settings, HardLabels(), seed=0, progress=watch)
        return watch.rate(self.batch)


def compare(name: str, data: Data, options: argparse.Namespace) -> str:
    """A row of the table."""
    engine = Engine(data, options.batch, NETWORKS[name])
    plain = Plain(options.data, options.batch, residual(blocks=NETWORKS[name]))
    rates: list[tuple[float, float]] = []
    for number in range(options.rounds):
        turns: list[Callable[[float], float]] = [plain.slice, engine.slice]
        found = [turn(options.seconds) for turn in (turns if number % 2 == 0 else turns[::-1])]
        rates.append((found[0], found[1]) if number % 2 == 0 else (found[1], found[0]))
    slow, fast = (statistics.median(column) for column in zip(*rates, strict=True))
    ratios = [ours / theirs for theirs, ours in rates]
    return (
        f"| {name} | {slow:,.0f} | {fast:,.0f} | {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) | {TARGETS[name]} | {engine.described()} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    names = options.networks.split(",")
    data = load_data(
        DataSpec.model_validate(
            {"source": str(options.data), "preprocess": {"size": (32, 32), "mean": MEAN, "std": STD}}
        )
    )
    print(
        f"{cpu_name()}, {cpu_count()} cores; plain loop: fp32, {torch.get_num_threads()} threads, {WORKERS} workers; "
        f"batch {options.batch}, {options.rounds} rounds of {options.seconds:g} s slices; torch {torch.__version__}; "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    print("| network | plain loop, images/s | edgeopt, images/s | ratio (lowest to highest) | wanted | edgeopt with |")
    print("|---|---|---|---|---|---|")
    for name in names:
        print(compare(name, data, options), flush=True)


if __name__ == "__main__":
    main()
