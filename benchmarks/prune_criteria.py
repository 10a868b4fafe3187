#!/usr/bin/env python3
"""Every pruning criterion on one network, before any training: test accuracy as pruned, and after the correction.

    python benchmarks/prune_criteria.py models/cifar10/resnet8.onnx --data torchvision:CIFAR10

One pruning for each criterion and target, one threshold for all groups, without regard to what widths kernels like.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import get_args

from edgeopt.data import Data, Split, load_data
from edgeopt.data.spec import DataSpec
from edgeopt.model import Model
from edgeopt.model.load import load_model
from edgeopt.model.runtime import open_session, run
from edgeopt.prune import Criterion, LeastSquares, Prune
from edgeopt.prune.target import Target
from edgeopt.stage import Context

CRITERIA = get_args(get_args(Criterion)[0])
BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, help="training and test images, at most")
    parser.add_argument("--targets", nargs="+", default=["macs=-30%", "macs=-50%"])
    options = parser.parse_args()
    model = load_model(options.model)
    data = load_data(DataSpec(source=options.data, limit=options.limit), model=model)
    for line in lines(model, data, options.targets):
        print(line, flush=True)


def lines(model: Model, data: Data, targets: Sequence[str]) -> Iterator[str]:
    """A Markdown table, a row for each criterion."""
    count = len(data.test)
    yield f"Unpruned: {accuracy(model, data.test):.1f} % of {count} test images. Pruned, then corrected:\n"
    yield "| criterion | " + " | ".join(targets) + " |"
    yield "|---|" + "---|" * len(targets)
    for criterion in CRITERIA:
        found = []
        for target in targets:
            stages = [
                Prune(target=Target.model_validate(target), criterion=criterion(), correction=fit, finetune=None)
                for fit in (None, LeastSquares())
            ]
            plain, fitted = (stage.apply(model, Context(data=data)).model for stage in stages)
            found.append(f"{accuracy(plain, data.test):.1f}, {accuracy(fitted, data.test):.1f}")
        yield f"| {criterion().kind} | " + " | ".join(found) + " |"


def accuracy(model: Model, split: Split) -> float:
    """Percent of the images that are answered right."""
    session = open_session(model)
    right = sum(int((run(session, batch.x)[0].argmax(1) == batch.y).sum()) for batch in split.batches(BATCH))
    return 100 * right / len(split)


if __name__ == "__main__":
    main()
