"""`edgeopt quantize`."""

from __future__ import annotations

from edgeopt.cli.flags import Flags, build, with_flags
from edgeopt.cli.running import Common, run_stages
from edgeopt.quantize.stage import Quantize

__all__ = ["quantize"]


def _quantize(common: Common, flags: Flags) -> None:
    """INT8-quantize a model with Q/DQ nodes placed as the tier's runtime wants them, and measure what it costs."""
    run_stages("quantize", common, (build(Quantize, flags, common.sets),))


quantize = with_flags(Quantize, _quantize)
