"""Quantities as people write them: `100KB`, `0.5pt`, `-60%`.

KB is 1000 bytes and KiB is 1024. Accuracy drops are in percentage points (pt).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

__all__ = ["Bytes", "Points", "format_bytes", "format_sizes", "parse_bytes", "parse_points"]

_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_UNITS |= {"kib": 1024, "mib": 1024**2, "gib": 1024**3}


def parse_bytes(value: Any) -> int:
    """`"100KB"` -> 100000, `"64KiB"` -> 65536, `1234` -> 1234. Raises ValueError otherwise."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
    if match is None or match[2] not in _UNITS or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a size; write it like 100KB, 64KiB or 1.5MB")
    return round(float(match[1]) * _UNITS[match[2]])


def parse_points(value: Any) -> float:
    """`"0.5pt"` or `0.5` -> 0.5 percentage points. Raises ValueError otherwise."""
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?(?:e-?\d+)?)\s*(?:pt|pts|points?)?\s*", str(value).lower())
    if match is None or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number of percentage points; write it like 0.5pt")
    return float(match[1])


def format_bytes(size: float) -> str:
    """1234567 -> `1.23 MB` (powers of 1000, three significant digits)."""
    for unit, factor in (("GB", 1000**3), ("MB", 1000**2), ("KB", 1000)):
        if abs(size) >= factor:
            return f"{size / factor:.3g} {unit}" if size / factor < 100 else f"{size / factor:.0f} {unit}"
    return f"{size:.0f} B"


def format_sizes(sizes: Mapping[str, int]) -> str:
    """{"sequence": 24} -> `sequence 24`: what dynamic dims were taken as."""
    return ", ".join(f"{name} {size:,}" for name, size in sizes.items())


Bytes = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=int | str)]
Points = Annotated[float, BeforeValidator(parse_points, json_schema_input_type=float | str)]
