"""A network that learns in a second, and what tests of training look at."""

import torch
from torch import nn

from edgeopt.progress import Progress
from edgeopt.train import Fit

SGD = Fit(epochs=4, batch_size=32)
ALL = Fit.model_validate(
    {
        "epochs": 4,
        "batch_size": 32,
        "optimizer": {"kind": "adamw"},
        "lr": 0.02,
        "schedule": {"kind": "cosine"},
        "clip_norm": 1.0,
        "ema": 0.9,
        "augment": {"crop_pad": 1, "shift": 0.3, "rotate": 5, "zoom": 0.1, "erase": 0.2},
    }
)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 2, padding="same"),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32, 4),
    )


class Listening(Progress):
    def __init__(self):
        self.total, self.done, self.warnings, self.metrics = 0, 0, [], []

    def start(self, label, total):
        self.total = total

    def advance(self, steps=1, metric=""):
        self.done += steps
        self.metrics.append(metric)

    def warn(self, message):
        self.warnings.append(message)


def same_weights(one, other):
    a, b = one.state_dict(), other.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)
