"""Model: an ONNX graph and what has to travel with it. The one currency between stages."""

from edgeopt.model.model import Meta, Model, Preprocess, TensorInfo

__all__ = ["Meta", "Model", "Preprocess", "TensorInfo"]
