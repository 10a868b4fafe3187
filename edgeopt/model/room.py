"""Room: how large a network of a family may be."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from edgeopt.report.limits import parse_count
from edgeopt.spec import Spec
from edgeopt.tiers import Tier, load_tier
from edgeopt.units import Bytes

__all__ = ["Room"]


class Room(Spec):
    """The room there is for a network, of which the widest that fits is taken. All limits have to hold."""

    tier: str | None = Field(
        None, description="whose form is weighed and whose limits hold, such as mcu; none: the run's first tier"
    )
    size: Bytes | None = Field(None, description="largest file as that tier ships it, such as 100KB")
    ram: Bytes | None = Field(None, description="most activation memory in that file, such as 64KB")
    macs: Annotated[int, BeforeValidator(parse_count, json_schema_input_type=int | str)] | None = Field(
        None, description="most multiply-adds of one input, such as 20M"
    )

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, value: Any) -> Any:
        if value == {}:
            raise ValueError("say what it is to fit: a tier, size, ram or macs")
        return value

    @model_validator(mode="after")
    def _tier_is_known(self) -> Self:
        if self.tier is not None:
            load_tier(self.tier)
        return self

    def limits(self, tier: Tier) -> dict[str, float]:
        """Quantity -> the most there may be of it, by what is said here and by `tier`; sizes in bytes."""
        said = {"size": (self.size, tier.max_bytes), "ram": (self.ram, tier.max_peak_ram_bytes), "macs": (self.macs,)}
        found = {name: [limit for limit in given if limit is not None] for name, given in said.items()}
        return {name: min(given) for name, given in found.items() if given}
