"""The figures that are limited, compared and followed over time: what each is called, how it is written, which side is
better, and how sure it is. One table for the gate, the comparison and the history.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from dataclasses import dataclass

from edgeopt.intervals import Evidence, PairedDrop, Resampled, Share, Spread, discordant
from edgeopt.report.figures import count, exact_bytes, milliseconds, percent, points, ratio
from edgeopt.report.report import ACCURACY, Baseline, Row
from edgeopt.units import format_bytes

__all__ = ["QUANTITIES", "Quantity", "accuracy_share", "correct_images", "latency_spread", "resampled_accuracy"]


def _no_evidence(row: Row) -> Evidence | None:
    return None


@dataclass(frozen=True)
class Quantity:
    """One figure of a row."""

    limit: str
    """The field of `Limits` that bounds it."""
    figure: str
    """The field of `Row`."""
    less_is_better: bool
    format: Callable[[float], str]
    rather: str = ""
    """A field that goes before `figure` where the row has it."""
    verified: bool = False
    """A figure of the C program that `edgeopt verify` tells."""
    evidence: Callable[[Row], Evidence | None] = _no_evidence
    """What the figure rests on, in its unit; None: it is counted, or the report does not say."""
    brief: Callable[[float], str] | None = None
    """Its format in a table, where `format` is too long for one."""

    def found(self, row: Row) -> float | None:
        own: float | None = getattr(row, self.rather) if self.rather else None
        return getattr(row, self.figure) if own is None else own


def correct_images(own: Row | Baseline, samples: int | None) -> int | None:
    """Which of the test images were answered right, a number with one bit an image; None: the report does not say."""
    if not own.correct_bits or not samples:
        return None
    try:
        packed = base64.b64decode(own.correct_bits, validate=True)
    except binascii.Error:
        return None
    return int.from_bytes(packed) >> (-samples % 8) if len(packed) == (samples + 7) // 8 else None


def accuracy_share(row: Row) -> Share | None:
    """The accuracy as counts; another metric is none of images."""
    if row.accuracy is None or not row.samples or row.metric != ACCURACY:
        return None
    return Share(round(row.accuracy * row.samples), row.samples)


def resampled_accuracy(row: Row) -> Resampled | None:
    """A metric that is no share of the images, with the interval that the report states."""
    if row.accuracy is None or row.accuracy_low is None or row.accuracy_high is None or not row.samples:
        return None
    return Resampled(row.accuracy, row.accuracy_low, row.accuracy_high, row.samples)


def _accuracy(row: Row) -> Evidence | None:
    return accuracy_share(row) if row.metric == ACCURACY else resampled_accuracy(row)


def _drop(row: Row) -> Evidence | None:
    """The drop as counts: of the answers, or as the interval that the report states has them."""
    if row.drop_points is None or not row.samples:
        return None
    if row.metric != ACCURACY:
        if row.drop_low is None or row.drop_high is None:
            return None
        return Resampled(row.drop_points, row.drop_low, row.drop_high, row.samples)
    own, base = correct_images(row, row.samples), correct_images(row.baseline, row.samples)
    if own is not None and base is not None:
        return PairedDrop((base & ~own).bit_count(), (own & ~base).bit_count(), row.samples)
    return None if row.drop_high is None else discordant(row.drop_points, row.drop_high, row.samples)


def latency_spread(row: Row | Baseline) -> Spread | None:
    """The latency, milliseconds, and how far its rounds were apart."""
    if row.latency_ms is None or row.latency_low_ms is None or row.latency_high_ms is None:
        return None
    return Spread(row.latency_ms, row.latency_low_ms, row.latency_high_ms)


def _speedup(row: Row) -> Spread | None:
    """The ratio within rounds; without them, what the spreads of both latencies leave open (as logarithms, in which a
    ratio is a difference, their squares add up)."""
    if row.speedup is None:
        return None
    if row.speedup_low is not None and row.speedup_high is not None:
        return Spread(row.speedup, row.speedup_low, row.speedup_high)
    own, base = latency_spread(row), latency_spread(row.baseline)
    if own is None or base is None or not own.low or not base.low:
        return None
    slower = math.hypot(math.log(own.high / own.estimate), math.log(base.estimate / base.low))
    faster = math.hypot(math.log(own.estimate / own.low), math.log(base.high / base.estimate))
    return Spread(row.speedup, row.speedup * math.exp(-slower), row.speedup * math.exp(faster))


whole = "{:,.0f}".format

QUANTITIES = (
    Quantity("size", "size_bytes", True, exact_bytes, brief=format_bytes),
    Quantity("drop", "drop_points", True, points, evidence=_drop),
    Quantity("accuracy", "accuracy", False, percent, evidence=_accuracy),
    Quantity("speedup", "speedup", False, ratio, evidence=_speedup),
    Quantity("latency", "latency_ms", True, milliseconds, evidence=latency_spread),
    Quantity("macs", "macs", True, whole, brief=count),
    Quantity("params", "params", True, whole, brief=count),
    Quantity("ram", "peak_ram_bytes", True, exact_bytes, rather="ram_bytes", brief=format_bytes),
    Quantity("flash", "flash_bytes", True, exact_bytes, verified=True, brief=format_bytes),
    Quantity("instructions", "instructions", True, whole, verified=True, brief=count),
    Quantity("mismatches", "mismatches", True, whole, verified=True),
    Quantity("lint", "rule_breaches", True, whole),
)
"""One for each field of `Limits` that bounds a number; a test holds the two together."""
