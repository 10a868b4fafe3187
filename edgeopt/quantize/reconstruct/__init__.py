"""Reconstruct: weights and biases fitted to what arrives from the quantized layers before them."""

from edgeopt.quantize.reconstruct.spec import Reconstruct

__all__ = ["Reconstruct"]
