"""Spec: the frozen base of everything a recipe can say.

The recipe entry is the object that does the work: its fields are its settings and it has one verb.
A family of methods is a union of Specs discriminated by `kind`; the union is the only list of them.
"""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict

__all__ = ["Spec", "digest"]


class Spec(BaseModel):
    """A frozen set of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """Hash of the settings, 64 hex digits; equal settings give equal digests."""
        return digest(self.model_dump(mode="json"))


def digest(value: object) -> str:
    """SHA-256 of `value` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
