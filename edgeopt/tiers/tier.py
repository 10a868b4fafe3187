"""The properties of a tier, and how a tier file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgeopt.spec import Spec
from edgeopt.tiers.read import list_names, read_spec
from edgeopt.units import Bytes

__all__ = ["Placement", "Precision", "Tier", "list_tiers", "load_tier"]

Precision = Literal["int8", "fp16", "fp32"]
HERE = Path(__file__).parent


class Placement(Spec):
    """Where Q/DQ pairs go and what kind they are, so that the tier's runtime uses integer kernels."""

    activations: Literal["asymmetric", "symmetric"] = Field(
        "asymmetric", description="symmetric: zero point 0, as TensorRT asks"
    )
    activation_type: Literal["int8", "uint8"] = "int8"
    weights: Literal["per_channel", "per_tensor"] = Field(
        "per_channel", description="int8 symmetric; one scale per output channel or per tensor"
    )
    quantize_bias: bool = Field(True, description="bias as int32 with scale input*weight; false: bias stays float")
    quantize_outputs: bool = Field(
        True,
        description="every operator of `operators` gets Q/DQ on its output too; "
        "false: only on the inputs of Conv, Gemm, MatMul and residual Add (TensorRT)",
    )
    operators: tuple[str, ...] = Field(
        (), description="operators that have an integer kernel here; empty: every one that onnxruntime has"
    )


class Tier(Spec):
    """A kind of place a model runs. Every limit is hard."""

    name: str
    description: str
    precisions: tuple[Precision, ...] = Field(
        description="accepted, most wanted first; a model that no int8 stage touched takes the first float one"
    )
    dynamic_batch: bool = Field(True, description="false: batch 1, every shape a number")
    integer_only: bool = Field(False, description="every node between the input and the output runs in integers")
    opset: int = Field(20, description="ONNX opset of the artifact")
    width_multiple: int = Field(1, ge=1, description="channel counts its kernels like")
    placement: Placement = Placement()
    strip: bool = Field(False, description="drop names, value_info, doc strings that the runtime does not need")
    max_bytes: Bytes | None = Field(None, description="hard limit on the artifact's file")
    max_peak_ram_bytes: Bytes | None = Field(None, description="hard limit on activation RAM")
    float_operators: tuple[str, ...] = Field(
        (), description="integer_only tiers: operators allowed at the model's rim besides Q and DQ"
    )
    measured_here: bool = Field(
        False,
        description="its runtime is onnxruntime on a CPU: a latency measured on this machine is the tier's own, and an "
        "artifact that is slower than the float model is warned about",
    )
    c_code: bool = Field(False, description="the artifact comes with a C program that computes it (see edgeopt.mcu)")
    session: dict[str, str] = Field(
        {}, description="onnxruntime session options that make it compute what the device computes"
    )


def list_tiers() -> list[str]:
    """Names of the tiers that ship, in order."""
    return list_names(HERE)


def load_tier(reference: str) -> Tier:
    """`"mcu"` or `"path/to/mine.yaml"` -> Tier. Raises UsageError naming file and key."""
    return read_spec(Tier, reference, HERE)
