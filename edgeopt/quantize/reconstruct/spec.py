"""Reconstruct, as a recipe names it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from edgeopt.model.model import Model
from edgeopt.quantize.build import Built
from edgeopt.quantize.memory import least_pieces
from edgeopt.quantize.samples import Samples
from edgeopt.spec import Spec
from edgeopt.stage import Context, StageResult

__all__ = ["Reconstruct"]


class Reconstruct(Spec):
    """Fits each layer's weights and bias anew, so that quantized inputs give the float network's outputs.

    Layer by layer, in the order of the graph: least squares of the layer's float output on the input that it gets
    from the quantized layers before it (asymmetric reconstruction), then rounding one input after the other, the rest
    making good what each rounding changed. At 8 bits most of the noise is not the weights' rounding but the
    activations', which learned rounding alone (AdaRound: each weight one step up or down) cannot answer; weights that
    may move can. Both steps have a closed form, so there is no learning rate and no number of steps, and a network
    costs about three passes over the samples and a few factorizations for each layer.

    Sources: Frantar et al. 2022, GPTQ, arXiv:2210.17323, for the rounding; Li et al. 2025, GPTAQ, arXiv:2504.02692, and
    Zhang et al. 2025, Qronos, arXiv:2505.11695, for targets from the float network; Hubara et al. 2020, AdaQuant,
    arXiv:2006.10518, for weights that move by more than a rounding. Against AdaRound (Nagel et al. 2020,
    arXiv:2004.10568) and BRECQ (Li et al. 2021, arXiv:2102.05426) it gives up block-wise gradients for time.
    """

    kind: Literal["reconstruct"] = "reconstruct"
    samples: int = Field(256, ge=4, description="calibration samples used, of those that the stage has")
    rows: int = Field(16384, ge=64, description="places of a layer's output looked at, all samples together")
    max_seconds: float | None = Field(
        None, gt=0, description="layers not reached by then stay as they are; none: all layers are done"
    )

    def least_bytes(self, model: Model, samples: Samples) -> int:
        """Memory that it takes at least, beside what the process holds; layers that would take more are left."""
        return least_pieces(model, samples)

    def refine(
        self, model: Model, built: Built, samples: Samples, context: Context, room: float = math.inf
    ) -> StageResult:
        """`built.model` with other integers in weights and biases; nodes, scales and names stay.

        `model` is the float model that `built` was made from. A layer whose error does not shrink keeps what it had,
        and so does one whose fit would not go into `room`, the memory that may be taken, bytes. Whether the outputs
        came nearer to the float model's is for the caller to judge, on samples not fitted to. An image weighs as one
        over the power of the layer's output for it.
        Deterministic in `context.seed` (unless time runs out). Facts: layers changed and left (name -> why), mean
        layer SQNR in dB before and after, seconds. Memory: a batch of both models and one layer's second moments;
        what crosses a place of the graphs is put aside in temporary files.
        """
        from edgeopt.quantize.reconstruct.sweep import Sweep

        sweep = Sweep(model, built.model, samples.take(self.samples), context, room)
        return sweep.run(self.rows, self.max_seconds)
