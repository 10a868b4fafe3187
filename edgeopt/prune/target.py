"""How much is to go: `params=-60%`, `size=100KB`, `latency=5ms`, or several of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from edgeopt.report.limits import parse_count, parse_ms
from edgeopt.spec import Spec
from edgeopt.units import format_bytes, parse_bytes

__all__ = ["Amount", "Target", "format_amount", "format_change", "parse_change"]


def parse_change(value: Any) -> float:
    """`"-60%"` -> -0.6, the fraction that has to go, below zero. Raises ValueError."""
    match = re.fullmatch(r"\s*-\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", str(value))
    if match is None or not 0 < float(match[1]) < 100:
        raise ValueError(f"{value!r} is not a reduction; write it like -60%")
    return -float(match[1]) / 100


def format_change(change: float) -> str:
    """-0.6 -> `-60%`, -0.999 -> `-99.9%`: as many digits as it was given."""
    return f"{100 * change:.6g}%"


def _amount(parse: Callable[[Any], float]) -> BeforeValidator:
    """A reduction, or what `parse` makes of an absolute amount."""

    def read(value: Any) -> float:
        if str(value).lstrip().startswith("-"):
            return parse_change(value)
        amount = parse(value)
        if amount <= 0:
            raise ValueError(f"{value!r} leaves nothing; write a reduction like -60%, or what may stay")
        return amount

    return BeforeValidator(read, json_schema_input_type=int | float | str)


Amount = Annotated[
    float, PlainSerializer(lambda value: format_change(value) if value < 0 else value, return_type=float | str)
]
"""Below zero: the fraction of the original's that has to go. Above: the most that may stay, in the quantity's unit."""


class Target(Spec):
    """Amounts that all have to be reached: what may stay, or what share of the incoming model's has to go."""

    params: Annotated[Amount, _amount(parse_count)] | None = Field(None, description="weights: -60%, 50k")
    macs: Annotated[Amount, _amount(parse_count)] | None = Field(None, description="multiply-adds: -50%, 20M")
    size: Annotated[Amount, _amount(parse_bytes)] | None = Field(
        None, description="bytes of the file that the run's first tier ships, after its quantization: 100KB, -50%"
    )
    ram: Annotated[Amount, _amount(parse_bytes)] | None = Field(
        None, description="peak of activation memory in that file, bytes: 64KB, -50%"
    )
    latency: Annotated[Amount, _amount(parse_ms)] | None = Field(
        None, description="time of one input on this machine's onnxruntime, one thread, measured: -40%, 5ms"
    )

    takes_text: ClassVar[bool] = True

    @classmethod
    def parse_text(cls, text: str) -> dict[str, Any]:
        """`"params=-60%"`, several with commas."""
        parts = [part.partition("=") for part in text.split(",")]
        if any(not separator for _, separator, _ in parts):
            raise ValueError(f"{text!r} is not a target; write it like params=-60% or size=100KB")
        return {name.strip(): amount for name, _, amount in parts}

    @model_validator(mode="after")
    def _something(self) -> Target:
        if not self.wanted:
            raise ValueError(f"a target needs one of {', '.join(type(self).model_fields)}, such as params=-60%")
        return self

    @property
    def wanted(self) -> dict[str, float]:
        """Quantity -> `Amount`, in the order of the fields."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    def limits(self, before: Mapping[str, float], share: float = 1.0) -> dict[str, float]:
        """Quantity -> the most that may stay, where `before` is the original's; units of `format_amount`.

        `share` below 1 stops that far on the way, in equal ratios: 0.5 of -75 % is -50 %.
        """
        whole = {name: before[name] * (1 + value) if value < 0 else value for name, value in self.wanted.items()}
        return {
            name: before[name] * (limit / before[name]) ** share if limit < before[name] else limit
            for name, limit in whole.items()
        }

    def __str__(self) -> str:
        """As it could be written: `params=-60%, size=100 KB`."""
        goals = self.wanted.items()
        return ", ".join(f"{n}={format_change(v) if v < 0 else format_amount(n, v)}" for n, v in goals)


def format_amount(name: str, value: float) -> str:
    """An amount of a quantity with its unit: `12,345`, `98.7 KB`, `4.21 ms`."""
    written: dict[str, Callable[[float], str]] = {
        "size": format_bytes,
        "ram": format_bytes,
        "latency": lambda ms: f"{ms:.3g} ms",
    }
    return str(written.get(name, lambda count: f"{count:,.0f}")(value))
