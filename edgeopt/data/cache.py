"""The folder for what can be had again: downloads, and what was learnt about large data sets."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """`$EDGEOPT_CACHE`, else `~/.cache/edgeopt`; not made here."""
    return Path(os.environ.get("EDGEOPT_CACHE") or Path("~/.cache/edgeopt")).expanduser()
