"""Quantization-aware training: the integers of a Q/DQ graph, trained where post-training quantization left them."""

from edgeopt.quantize.qat.spec import Qat

__all__ = ["Qat"]
