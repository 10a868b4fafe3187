"""Loss functions as formulas: tensors in, one number out, in fp32 whatever comes in.

`student` and `teacher` are what the two networks give for the same batch. Weights are not in here: what a loss
counts for is the recipe's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "attention_transfer",
    "cross_entropy",
    "decoupled",
    "dist",
    "hint",
    "log_probabilities",
    "match_outputs",
    "relational_angle",
    "relational_distance",
    "similarity_preserving",
    "soft_targets",
]

TINY = 1e-12
"""Added where a norm or a variance divides."""


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of [n, classes] logits against labels: int64 [n], or shares of the classes [n, classes]."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, in nats; logits [n, classes].

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531, section 2):
    the factor T^2 keeps the gradients' size when T changes.
    """
    ours, theirs = (F.log_softmax(logits.float() / temperature, dim=-1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def decoupled(
    student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """alpha * TCKD + beta * NCKD, times T^2, mean over the batch; logits [n, classes], labels int64 [n].

    Zhao et al., "Decoupled Knowledge Distillation" (arXiv 2203.08679, equation 7): TCKD is the divergence of
    (probability of the label, of all others together), NCKD that of the others among themselves. Soft targets are
    TCKD + (1 - the teacher's probability of the label) * NCKD, which keeps NCKD small where the teacher is sure.
    """
    ours, theirs = (logits.float() / temperature for logits in (student, teacher))
    others = torch.arange(ours.shape[1] - 1, device=ours.device).expand(len(ours), -1)
    others = others + (others >= labels[:, None])
    ours_two, theirs_two = (_target_and_rest(logits, labels, others) for logits in (ours, theirs))
    target = F.kl_div(ours_two, theirs_two, reduction="batchmean", log_target=True)
    ours_rest, theirs_rest = (F.log_softmax(logits.gather(1, others), dim=1) for logits in (ours, theirs))
    rest = F.kl_div(ours_rest, theirs_rest, reduction="batchmean", log_target=True)
    return (alpha * target + beta * rest) * temperature**2


def dist(student: Tensor, teacher: Tensor, temperature: float, beta: float, gamma: float) -> Tensor:
    """T^2 * (beta * (1 - correlation over the classes) + gamma * (1 - that over the batch)); logits [n, classes].

    Huang et al., "Knowledge Distillation from A Stronger Teacher" (arXiv 2205.10536, equations 8 to 10): Pearson's
    correlation of softened probabilities, of each sample's row and of each class's column, so that the student
    need not repeat the size of a strong teacher's answers.
    """
    ours, theirs = (F.softmax(logits.float() / temperature, dim=1) for logits in (student, teacher))
    inter = 1 - _correlation(ours, theirs).mean()
    intra = 1 - _correlation(ours.T, theirs.T).mean()
    return (beta * inter + gamma * intra) * temperature**2


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two tensors of one shape, as a share of the variance of the teacher's.

    Romero et al., "FitNets: Hints for Thin Deep Nets" (arXiv 1412.6550, equation 3); the student's side has gone
    through the regressor. The paper takes half the sum: mean and share are so that a weight means the same
    for large layers and small ones, for strong activations and weak ones.
    """
    return match_outputs([student], [teacher])


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of attention maps of [n, any channels, h, w] tensors of one h and w.

    Zagoruyko and Komodakis, "Paying More Attention to Attention" (arXiv 1612.03928, equation 2): a map is the sum of
    squares over the channels, as a vector of length one. Mean over positions and batch, as the paper scales its
    weight by both, and squared, as in the authors' code.
    """
    return F.mse_loss(_attention(student), _attention(teacher))


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the distances between all pairs of samples, each divided by their mean; [n, any features].

    Park et al., "Relational Knowledge Distillation" (arXiv 1904.05068, equations 5 to 7), mean over all n^2 pairs.
    """
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher))


def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss of the cosines of the angles that all triples of samples form; [n, any features].

    Park et al. (arXiv 1904.05068, equations 8 and 9), mean over all n^3 triples; it takes 4 n^3 bytes several times.
    """
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the samples' similarities; [n, ...] tensors of any sizes.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation" (arXiv 1907.09682, equations 1 to 4): the products of
    all pairs of flattened activations, each row of length one, over n^2.
    """
    return F.mse_loss(_similarities(student), _similarities(teacher))


def match_outputs(student: Sequence[Tensor], teacher: Sequence[Tensor], *, robust: bool = False) -> Tensor:
    """Squared error of every output, as a share of the variance of the teacher's, mean over the outputs.

    Regression on raw outputs is Ba and Caruana's (arXiv 1312.6184, section 2.2), who normalise them too; the variance
    is that of the whole output in this batch, so that boxes in pixels and scores count alike. `robust`: the
    Huber loss of the error in standard deviations (smooth L1, Girshick, arXiv 1504.08083), linear beyond one.
    """
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        deviation = theirs.float().var(correction=0).clamp_min(TINY).sqrt()
        measure = F.smooth_l1_loss if robust else F.mse_loss
        terms.append(measure(ours.float() / deviation, theirs.float() / deviation))
    return torch.stack(terms).mean()


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logits for a network that ends in Softmax: softmax(log p) = p, so losses on logits apply unchanged."""
    floor = torch.finfo(torch.float32).tiny
    return probabilities.float().clamp_min(floor).log()


def _target_and_rest(logits: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Log-probabilities [n, 2] of the label and of all other classes together."""
    both = torch.stack([logits.gather(1, labels[:, None])[:, 0], logits.gather(1, others).logsumexp(1)], 1)
    return both.log_softmax(1)


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's, of the rows of two matrices."""
    ours, theirs = (matrix - matrix.mean(1, keepdim=True) for matrix in (one, other))
    return F.cosine_similarity(ours, theirs, dim=1, eps=1e-8)


def _attention(features: Tensor) -> Tensor:
    return F.normalize(features.float().pow(2).sum(1).flatten(1), eps=TINY)


def _relative_distances(features: Tensor) -> Tensor:
    """Euclidean distances [n, n] over the mean of those between different samples."""
    rows = features.float().flatten(1)
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    n = len(rows)
    return distances / (distances.sum() / max(1, n * (n - 1))).clamp_min(TINY)


def _cosines(features: Tensor) -> Tensor:
    """[n, n, n]: at [j, i, k] the cosine of the angle at j between i and k; 0 where two of them are one."""
    rows = features.float().flatten(1)
    ways = F.normalize(rows[None] - rows[:, None], dim=2, eps=TINY)
    return ways @ ways.transpose(1, 2)


def _similarities(features: Tensor) -> Tensor:
    rows = features.float().flatten(1)
    return F.normalize(rows @ rows.T, eps=TINY)
