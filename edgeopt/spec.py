"""Spec: the frozen base of everything a recipe can say.

The recipe entry is the object that does the work: its fields are its settings and it has one verb.
A family of methods is a union of Specs discriminated by `kind`; the union is the only list of them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

__all__ = ["Spec", "digest"]


class Spec(BaseModel):
    """A frozen set of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    takes_text: ClassVar[bool] = False
    """Whether a plain string or number may stand for it (`data: digits`, `qat: 5`); `parse_text` then says what it
    means."""

    @classmethod
    def parse_text(cls, text: str) -> dict[str, Any]:
        """The settings that a plain string stands for. Raises ValueError."""
        raise NotImplementedError

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        plain = isinstance(value, str | int | float) and not isinstance(value, bool)
        return cls.parse_text(str(value)) if cls.takes_text and plain else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        text = [{"type": "string", "minLength": 1}, {"type": "number"}]
        return {"anyOf": [schema, *text]} if cls.takes_text else schema

    def digest(self) -> str:
        """Hash of the settings, 64 hex digits; equal settings give equal digests."""
        return digest(self.model_dump(mode="json"))


def digest(value: object) -> str:
    """SHA-256 of `value` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
