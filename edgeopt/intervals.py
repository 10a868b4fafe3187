"""How far a measured figure may be from the true one: intervals, and how many samples would settle a question.

Plain arithmetic without numpy, so that the gate loads nothing heavy. The intervals of accuracies are score intervals:
they invert a test instead of adding and subtracting a standard error, so they keep their coverage near 100 % accuracy
and with few discordant images, where the textbook (Wald) interval collapses to a point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

__all__ = [
    "ONE_SIDED_Z95",
    "Z95",
    "Evidence",
    "Exact",
    "PairedDrop",
    "Resampled",
    "Share",
    "Spread",
    "UnpairedDrop",
    "discordant",
    "newcombe",
    "samples_needed",
    "tango",
    "wilson",
]

Z95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal distribution."""
ONE_SIDED_Z95 = 1.6448536269514722
"""One-sided 95 % point: that of a question with one answer to be sure of, such as "is the drop under 1 pt?"."""
POWER_Z80 = 0.8416212335729143
MOST_SAMPLES = 10_000_000


def wilson(correct: float, samples: float, z: float = Z95) -> tuple[float, float]:
    """Interval of an accuracy, fractions of 1. Wilson 1927; Newcombe 1998a (Stat. Med. 17:857), method 3.

    No samples tell nothing: (0, 1).
    """
    if samples == 0:
        return 0.0, 1.0
    share, spread = correct / samples, z * z / samples
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / samples + spread / (4 * samples)) / (1 + spread)
    low = 0.0 if correct == 0 else max(0.0, middle - half)
    high = 1.0 if correct == samples else min(1.0, middle + half)
    return low, high


def newcombe(
    first: float, first_samples: float, second: float, second_samples: float, z: float = Z95
) -> tuple[float, float]:
    """Interval of the difference first - second of two accuracies on different images, fractions of 1.

    Newcombe 1998b (Stat. Med. 17:873), method 10: the hybrid of the two Wilson intervals. `first` and `second` count
    the right answers.
    """
    low1, high1 = wilson(first, first_samples, z)
    low2, high2 = wilson(second, second_samples, z)
    share1, share2 = first / first_samples, second / second_samples
    difference = share1 - share2
    return (
        difference - math.hypot(share1 - low1, high2 - share2),
        difference + math.hypot(high1 - share1, share2 - low2),
    )


def tango(first_only: float, second_only: float, pairs: float, z: float = Z95) -> tuple[float, float]:
    """Score interval of the difference of two paired proportions, fractions of 1.

    Tango 1998, Stat. Med. 17:891; recommended by Fagerland, Lydersen and Laake 2014, Stat. Med. 33:2850.
    `first_only` and `second_only` count the discordant pairs. The statistic falls as the supposed
    difference rises, so each end is found by bisection.
    """
    estimate = (first_only - second_only) / pairs

    def end(target: float, low: float, high: float) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            if _score(middle, first_only, second_only, pairs) > target:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    low = -1.0 if estimate == -1 else end(z, -1.0, estimate)
    high = 1.0 if estimate == 1 else end(-z, estimate, 1.0)
    return low, high


def _score(delta: float, first_only: float, second_only: float, pairs: float) -> float:
    """Tango's statistic: (b - c - n delta) over its standard deviation when the true difference is
    `delta`.
    """
    b = (2 * pairs - first_only + second_only) * delta - first_only - second_only
    c = -second_only * delta * (1 - delta)
    nuisance = (math.sqrt(max(b * b - 8 * pairs * c, 0.0)) - b) / (4 * pairs)
    variance = pairs * (2 * nuisance + delta * (1 - delta))
    excess = first_only - second_only - pairs * delta
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess) if excess else 0.0


class Evidence(Protocol):
    """A measured figure and how sure it is."""

    @property
    def estimate(self) -> float:
        """The figure as it was measured."""

    @property
    def samples(self) -> float | None:
        """Images that it rests on; None: no number of them would make it surer."""

    @property
    def basis(self) -> str:
        """What it rests on, in a few words: `360 images`."""

    def interval(self, z: float) -> tuple[float, float]:
        """Where the true figure is, `z` standard deviations to each side."""

    def grown(self, factor: float) -> Evidence:
        """The same shares seen on `factor` times as many samples."""


@dataclass(frozen=True)
class Exact:
    """A figure that is counted, not sampled: bytes, multiply-adds."""

    estimate: float
    basis: str = ""
    samples: None = None

    def interval(self, z: float) -> tuple[float, float]:
        return self.estimate, self.estimate

    def grown(self, factor: float) -> Exact:
        return self


@dataclass(frozen=True)
class Spread:
    """A timing: a median and how far single rounds were from it (10th and 90th percentile).

    Its interval is the spread whatever `z`: what drifts between runs, the clock and the neighbours, does not average
    out over the rounds of one run, so the standard error of their median would promise too much.
    """

    estimate: float
    low: float
    high: float
    basis: str = "spread of the rounds"
    samples: None = None

    def interval(self, z: float) -> tuple[float, float]:
        return self.low, self.high

    def grown(self, factor: float) -> Spread:
        return self


@dataclass(frozen=True)
class Share:
    """An accuracy, fraction of 1."""

    correct: float
    samples: float

    @property
    def estimate(self) -> float:
        return self.correct / self.samples

    @property
    def basis(self) -> str:
        return f"{self.samples:,.0f} images"

    def interval(self, z: float) -> tuple[float, float]:
        return wilson(self.correct, self.samples, z)

    def grown(self, factor: float) -> Share:
        return Share(self.correct * factor, self.samples * factor)


@dataclass(frozen=True)
class PairedDrop:
    """How far one model is below another on the same images, percentage points.

    A gate asks whether a drop is over a limit, which is seldom 0, so McNemar's test, exact or not, does not answer it.
    Tango's score test does, for any limit (it tests non-inferiority); at a limit of 0 it is McNemar's.
    """

    lost: float
    """Images that only the first model gets right."""
    won: float
    """Images that only the second gets right."""
    samples: float

    @property
    def estimate(self) -> float:
        return 100 * (self.lost - self.won) / self.samples

    @property
    def basis(self) -> str:
        return f"{self.samples:,.0f} images"

    def interval(self, z: float) -> tuple[float, float]:
        low, high = tango(self.lost, self.won, self.samples, z)
        return 100 * low, 100 * high

    def grown(self, factor: float) -> PairedDrop:
        return PairedDrop(self.lost * factor, self.won * factor, self.samples * factor)


@dataclass(frozen=True)
class UnpairedDrop:
    """How far one accuracy is below another that was measured on other images, percentage points."""

    first: Share
    second: Share

    @property
    def estimate(self) -> float:
        return 100 * (self.first.estimate - self.second.estimate)

    @property
    def samples(self) -> float:
        return self.second.samples

    @property
    def basis(self) -> str:
        return f"{self.first.samples:,.0f} and {self.second.samples:,.0f} images, not paired"

    def interval(self, z: float) -> tuple[float, float]:
        low, high = newcombe(self.first.correct, self.first.samples, self.second.correct, self.second.samples, z)
        return 100 * low, 100 * high

    def grown(self, factor: float) -> UnpairedDrop:
        return UnpairedDrop(self.first.grown(factor), self.second.grown(factor))


@dataclass(frozen=True)
class Resampled:
    """A figure of images whose 95 % interval was found by drawing the images anew (the bootstrap)."""

    estimate: float
    low: float
    high: float
    samples: float

    @property
    def basis(self) -> str:
        return f"{self.samples:,.0f} images"

    def interval(self, z: float) -> tuple[float, float]:
        """Each side grows with z, as that of a normal distribution does."""
        share = z / Z95
        return self.estimate - share * (self.estimate - self.low), self.estimate + share * (self.high - self.estimate)

    def grown(self, factor: float) -> Resampled:
        low, high = self.interval(Z95 / math.sqrt(factor))
        return Resampled(self.estimate, low, high, self.samples * factor)


def samples_needed(evidence: Evidence, limit: float) -> int | None:
    """About how many samples tell on which side of `limit` the true figure is, two significant digits.

    With the shares that were observed, a test at one-sided 95 % finds it with a chance of 80 %: the score interval
    of 1.645 + 0.842 standard deviations no longer holds the limit (the usual normal approximation, as in Connor 1987,
    Biometrics 43:207, with the score test's variance in place of Wald's). None: more than ten million, as when the
    measured figure is the limit itself.
    """
    if evidence.samples is None or math.isclose(evidence.estimate, limit, abs_tol=1e-9):
        return None
    start = evidence.samples

    def tells(samples: float) -> bool:
        low, high = evidence.grown(samples / start).interval(ONE_SIDED_Z95 + POWER_Z80)
        return high <= limit if evidence.estimate < limit else low >= limit

    few, many = 1.0, 2.0
    while not tells(many):
        few, many = many, 2 * many
        if many > MOST_SAMPLES:
            return None
    while many - few > 0.005 * many:
        middle = (few + many) / 2
        few, many = (few, middle) if tells(middle) else (middle, many)
    digits = max(0, math.floor(math.log10(many)) - 1)
    unit = int(10**digits)
    return math.ceil(round(many / unit, 6)) * unit


def discordant(drop_points: float, high_points: float, samples: int) -> PairedDrop:
    """The counts behind a drop and the upper end of its 95 % interval (`tango`), which grows with them."""
    net = round(drop_points * samples / 100)
    few = max(0, -net)
    many = max(few, (samples - net) // 2)

    def high(won: int) -> float:
        return PairedDrop(won + net, won, samples).interval(Z95)[1]

    while few < many:
        middle = (few + many) // 2
        few, many = (few, middle) if high(middle) >= high_points - 1e-6 else (middle + 1, many)
    return PairedDrop(few + net, few, samples)
