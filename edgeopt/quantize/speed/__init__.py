"""What makes a mixed int8/float file fast on onnxruntime's CPU provider: costs, placement, widths, last touches."""

from edgeopt.quantize.speed.costs import TYPICAL, Costs
from edgeopt.quantize.speed.finish import finish
from edgeopt.quantize.speed.labels import cheapest
from edgeopt.quantize.speed.widths import align_widths

__all__ = ["TYPICAL", "Costs", "align_widths", "cheapest", "finish"]
