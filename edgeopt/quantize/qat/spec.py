"""Qat: quantization-aware training as a recipe names it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from edgeopt.errors import UsageError
from edgeopt.stage import Context, StageResult
from edgeopt.train.schedules import Cosine, Schedule
from edgeopt.train.settings import FineTune, Precision

if TYPE_CHECKING:
    from edgeopt.model.model import Model
    from edgeopt.quantize.build import Built

__all__ = ["Qat"]


class Qat(FineTune):
    """Train weights and scales through fake quantization, with the float model as teacher; a number is the epochs.

    Every Q/DQ pair and every integer weight and bias of the quantized graph is simulated where it stands, scales are
    learned (LSQ, Esser et al. 2019, arXiv:1902.08153), zero points stay. The network learns what the float model
    answers (Hinton et al., arXiv:1503.02531) and the labels, where there are any.
    """

    takes_text: ClassVar[bool] = True

    epochs: int = Field(5, ge=1, description="passes over the training images")
    lr: float | None = Field(0.005, gt=0, description="peak learning rate; none: 0.1 for sgd, 0.002 for adamw")
    weight_decay: float | None = Field(
        0.0, ge=0, description="of matrices and kernels; none: 5e-4 for sgd, 0.05 for adamw"
    )
    schedule: Schedule = Field(Cosine(), description="course of the learning rate: one_cycle or cosine")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of all gradients together")
    precision: Precision = Field(
        "fp32", description="of the arithmetic; bf16 and fp16 round what the integers would not"
    )
    temperature: float = Field(4.0, gt=0, description="of the float model's soft targets")
    alpha: float = Field(
        0.9, ge=0, le=1, description="weight of the soft targets, the labels have the rest; 0: labels alone"
    )

    @classmethod
    def parse_text(cls, text: str) -> dict[str, Any]:
        """`"5"`: five epochs."""
        try:
            return {"epochs": int(text)}
        except ValueError:
            raise ValueError(f"{text!r} is no number of epochs") from None

    @model_validator(mode="before")
    @classmethod
    def _read_number(cls, value: Any) -> Any:
        return {"epochs": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        return {"anyOf": [*schema["anyOf"], {"type": "integer", "minimum": 1}]}

    def train(self, model: Model, built: Built, context: Context) -> StageResult:
        """The Q/DQ model of `built` with trained integers, scales and biases; `model` is the float graph it came from.

        The model keeps the integers it had when training leaves it worse on training images that were held out; the
        facts say so. Raises UsageError for data or settings that do not fit, StageFailed on divergence.
        """
        from edgeopt.quantize.qat.run import Run

        if len(model.inputs) != 1:
            names = ", ".join(info.name for info in model.inputs)
            raise UsageError(f"the model has {len(model.inputs)} inputs ({names}); QAT trains one", where="qat")
        began = time.perf_counter()
        result = Run(self, model, built.model, context).train()
        return StageResult(result.model, result.facts | {"seconds": time.perf_counter() - began})
