"""Loss functions as formulas: tensors in, one number out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cross_entropy", "log_probabilities", "soft_targets"]


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of [n, classes] logits against int64 [n] labels, in fp32 whatever the logits are."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def soft_targets(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, in nats.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531, section 2):
    the factor T^2 keeps the gradients' size when T changes. Both arguments are [n, classes].
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logits for a network that ends in Softmax: softmax(log p) = p, so losses on logits apply unchanged."""
    floor = torch.finfo(torch.float32).tiny
    return probabilities.float().clamp_min(floor).log()
