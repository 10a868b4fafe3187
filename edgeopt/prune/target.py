"""How much is to go: `params=-60%`, `macs=-50%`, or both."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from edgeopt.spec import Spec

__all__ = ["Reduction", "Target", "parse_reduction"]


def parse_reduction(value: Any) -> float:
    """`"-60%"` -> 0.6, the fraction that has to go. Raises ValueError."""
    match = re.fullmatch(r"\s*-\s*(\d+(?:\.\d+)?)\s*%\s*", str(value))
    if match is None or not 0 < float(match[1]) < 100:
        raise ValueError(f"{value!r} is not a reduction; write it like -60%")
    return float(match[1]) / 100


def _reduction(value: Any) -> float:
    """As `parse_reduction`; a fraction, which is what a dumped Target has, passes."""
    if isinstance(value, float) and 0 < value < 1:
        return value
    return parse_reduction(value)


Reduction = Annotated[float, BeforeValidator(_reduction, json_schema_input_type=str)]


class Target(Spec):
    """Reductions that all have to be reached, as fractions of the incoming model's."""

    params: Reduction | None = Field(None, description="weights, such as -60%")
    macs: Reduction | None = Field(None, description="multiply-adds, such as -50%")

    takes_text: ClassVar[bool] = True

    @classmethod
    def parse_text(cls, text: str) -> dict[str, Any]:
        """`"params=-60%"`, several with commas."""
        parts = [part.partition("=") for part in text.split(",")]
        if any(not separator for _, separator, _ in parts):
            raise ValueError(f"{text!r} is not a target; write it like params=-60% or macs=-50%")
        return {name.strip(): amount for name, _, amount in parts}

    @model_validator(mode="after")
    def _something(self) -> Target:
        if not self.wanted:
            raise ValueError("a target needs params or macs, such as params=-60%")
        return self

    @property
    def wanted(self) -> dict[str, float]:
        """Quantity -> fraction that has to go."""
        return {name: value for name in ("params", "macs") if (value := getattr(self, name)) is not None}
