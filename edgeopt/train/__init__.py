"""The one training loop, used by training, distillation, fine-tuning and QAT."""

from edgeopt.train.settings import Augment, Fit
from edgeopt.train.stage import Train

__all__ = ["Augment", "Fit", "Train"]
