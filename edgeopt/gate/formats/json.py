"""JSON: the verdicts as data."""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgeopt.gate.formats.checked import Checked

__all__ = ["to_json"]


def to_json(checked: Sequence[Checked]) -> str:
    """`{"ok": ..., "verdicts": [{"path", "tier", "limit", "found", "allowed", "ok", "outcome", "sentence", ...}]}`."""
    verdicts = [
        {"path": one.path, **verdict.model_dump(mode="json"), "outcome": verdict.outcome}
        for one in checked
        for verdict in one.verdicts
    ]
    return json.dumps({"ok": all(one.ok for one in checked), "verdicts": verdicts}, indent=2) + "\n"
