"""In how many steps a target is reached: at once, or by pruning a little and training a little in turns."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edgeopt.spec import Spec

__all__ = ["Iterative", "OneShot", "Schedule"]


class OneShot(Spec):
    """Everything leaves at once."""

    kind: Literal["one_shot"] = "one_shot"
    epochs: ClassVar[int] = 0

    def fractions(self) -> tuple[float, ...]:
        """How far the network is on its way to the target after each step, 0 to 1."""
        return (1.0,)


class Iterative(Spec):
    """Steps of equal size, with fine-tuning between them (Li et al., arXiv 1608.08710, section 3.4).

    Scores are taken anew at each step, of a network that has recovered from the one before. The stage's own fine-tuning
    follows the last step.
    """

    kind: Literal["iterative"] = "iterative"
    steps: int = Field(4, ge=2, description="prunings")
    epochs: int = Field(1, ge=1, description="of fine-tuning between two of them")

    def fractions(self) -> tuple[float, ...]:
        """How far the network is on its way to the target after each step, 0 to 1."""
        return tuple((number + 1) / self.steps for number in range(self.steps))


Schedule = Annotated[OneShot | Iterative, Field(discriminator="kind")]
