"""Limits on an artifact's figures, and what became of them. Every field may be written as people write it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from edgeopt.spec import Spec
from edgeopt.units import Bytes, Points

__all__ = [
    "ALL_TIERS",
    "Limits",
    "Verdict",
    "parse_count",
    "parse_fraction",
    "parse_ms",
    "parse_operators",
    "parse_ratio",
]

ALL_TIERS = "all"
"""Key of the limits that hold for every tier; a tier's own limits go before them."""

_NUMBER = r"\s*(\d{1,18}(?:\.\d+)?(?:e[+-]?\d{1,2})?)\s*"
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def _number(value: Any, suffix: str, complaint: str) -> re.Match[str]:
    match = re.fullmatch(_NUMBER + suffix + r"\s*", str(value).lower())
    if match is None or isinstance(value, bool):
        raise ValueError(f"{value!r} is not {complaint}")
    return match


def parse_count(value: Any) -> int:
    """`"25k"` -> 25000, `"1.5M"` or `1.5e6` -> 1500000. Raises ValueError otherwise."""
    match = _number(value, "([kmg]?)", "a count; write it like 25k, 1.5M or 25000")
    return round(float(match[1]) * _COUNTS[match[2]])


def parse_fraction(value: Any) -> float:
    """`"97%"` -> 0.97, `0.97` -> 0.97. Raises ValueError otherwise."""
    match = _number(value, "(%?)", "an accuracy; write it like 97% or 0.97")
    fraction = float(match[1]) / (100 if match[2] else 1)
    if fraction > 1:
        raise ValueError(f"{value!r} is over 100 %; write an accuracy like 97% or 0.97")
    return fraction


def parse_ms(value: Any) -> float:
    """`"5ms"` or `5` -> 5.0 ms, `"250us"` -> 0.25, `"1.2s"` -> 1200. Raises ValueError otherwise."""
    match = _number(value, "(|ms|us|µs|s)", "a duration; write it like 5ms")
    return float(match[1]) * {"s": 1000.0, "us": 0.001, "µs": 0.001}.get(match[2], 1.0)


def parse_ratio(value: Any) -> float:
    """`"1.5x"` or `1.5` -> 1.5. Raises ValueError otherwise."""
    return float(_number(value, "(?:x|×)?", "a ratio; write it like 1.5 or 1.5x")[1])


Count = Annotated[int, BeforeValidator(parse_count, json_schema_input_type=int | str)]
Fraction = Annotated[float, BeforeValidator(parse_fraction, json_schema_input_type=float | str)]
Milliseconds = Annotated[float, BeforeValidator(parse_ms, json_schema_input_type=float | str)]
Ratio = Annotated[float, BeforeValidator(parse_ratio, json_schema_input_type=float | str)]


def parse_operators(value: Any) -> tuple[str, ...]:
    """`"Conv, Relu"` or `[Conv, Relu]` -> ("Conv", "Relu"). Raises ValueError otherwise."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"{value!r} is not a set of operators; write it like [Conv, Relu, mcu]")
    return tuple(dict.fromkeys(name.strip() for name in names))


Operators = Annotated[
    tuple[str, ...], BeforeValidator(parse_operators, json_schema_input_type=list[str] | str), Field(min_length=1)
]


class Limits(Spec):
    """What one tier's artifact must hold; a field that is not given is not checked."""

    size: Bytes | None = Field(None, description="largest file, such as 100KB or 64KiB")
    drop: Points | None = Field(
        None, description="largest drop of accuracy (of detectors: mAP) under the float model, points, such as 2pt"
    )
    accuracy: Fraction | None = Field(
        None, description="lowest accuracy (of detectors: mAP) on the test images, such as 97%"
    )
    speedup: Ratio | None = Field(None, description="lowest float latency / artifact latency, such as 1.5")
    latency: Milliseconds | None = Field(None, description="highest median latency for one input, such as 5ms")
    macs: Count | None = Field(None, description="most multiply-adds for one input, such as 1.5M")
    params: Count | None = Field(None, description="most parameters, such as 25k")
    ram: Bytes | None = Field(
        None, description="largest peak of activation RAM; with C code its static memory and stack; such as 64KiB"
    )
    flash: Bytes | None = Field(None, description="most code and constants of the C program, such as 100KB")
    instructions: Count | None = Field(None, description="most instructions of one inference on a core, such as 20M")
    mismatches: Count | None = Field(None, description="most output values that differ from onnxruntime's, such as 0")
    lint: Count | None = Field(None, description="most breaches of the tier's rules for Q/DQ nodes, such as 0")
    operators: Operators | None = Field(
        None, description="operators it may be made of, such as [Conv, Relu]; a tier's name or file stands for its own"
    )
    allow_uncertain: bool | None = Field(
        None,
        description="where the samples cannot tell on which side of its limit a figure is: let the measured figure "
        "decide; otherwise that fails",
    )


class Verdict(Spec):
    """One limit checked on one artifact."""

    tier: str
    limit: str
    """A field of `Limits`, `file` for the artifact itself, or `FIGURE change` against another report."""
    found: float | str | None
    """The figure, in the unit of the limit's field; null: the report does not have it."""
    allowed: float | str | None
    ok: bool
    """Whether it lets the artifact through."""
    sentence: str
    """What a person reads: found and allowed, with units."""
    uncertain: bool = False
    """The samples, or the spread of the timings, cannot tell; `ok` then is what the measured figure says where that is
    allowed to decide, else false."""

    @property
    def outcome(self) -> Literal["pass", "fail", "cannot tell"]:
        """What was found, whatever is made of it."""
        return "cannot tell" if self.uncertain else "pass" if self.ok else "fail"
