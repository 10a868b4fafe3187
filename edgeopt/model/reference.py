"""How a recipe or a command names a model, or says how it is to be made.

`ModelRef` with `fit` and `Shrink` name models that are not there yet: a run makes them (`edgeopt.resolve`).
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn

from pydantic import Discriminator, Field, Tag, model_validator

from edgeopt.errors import UsageError
from edgeopt.model.room import Room
from edgeopt.report.onnx_file import read_onnx_file
from edgeopt.spec import Spec, digest
from edgeopt.tiers import load_tier

if TYPE_CHECKING:
    from edgeopt.model.model import Model

__all__ = ["ModelRef", "Shrink", "Student"]


class ModelRef(Spec):
    """A model by name; a plain string in a recipe means `{source: that}`."""

    source: str = Field(description="x.onnx, x.pt2, torchvision:NAME, timm:NAME, edgeopt:NAME or net.py:factory")
    weights: str | None = Field(
        None,
        description="x.safetensors or x.pt (a state dict); `none`: random; default: what the source publishes",
    )
    settings: dict[str, Any] = Field({}, description="arguments of the network's constructor")
    fit: Room | None = Field(
        None, description="of a network with the argument `width`: the widest that fits, found before any training"
    )

    takes_text: ClassVar[bool] = True

    @classmethod
    def parse_text(cls, text: str) -> dict[str, Any]:
        return {"source": text}

    @model_validator(mode="after")
    def _one_width(self) -> ModelRef:
        if self.fit is not None and "width" in self.settings:
            raise ValueError("`fit` chooses the width: leave settings.width out")
        if self.fit is not None and self.weights not in (None, "none"):
            raise ValueError("`fit` chooses the width, and weights have one already: leave `weights` or `fit` out")
        return self

    def load(self, seed: int = 0) -> Model:
        """The model itself; `seed` draws random weights.

        Raises UsageError when it is not there, not a model, or to be made first (`fit`).
        """
        if self.fit is not None:
            _is_made_by_a_run(f"{self.source} with `fit`")
        from edgeopt.model.load import load_model

        return load_model(self.source, weights=self.weights, settings=self.settings, seed=seed)

    def fingerprint(self) -> str:
        """SHA-256 of what the reference says and of the files it names, without building the network."""
        files = [self.source.partition(".py:")[0] + ".py" if ".py:" in self.source else self.source]
        files += [self.weights or ""]
        files += [str(file) for file in _external_data(Path(self.source))]
        contents = {file: _hash_file(Path(file)) for file in files if file and Path(file).is_file()}
        tier = load_tier(self.fit.tier).model_dump(mode="json") if self.fit is not None and self.fit.tier else None
        return digest([self.model_dump(mode="json"), contents, *([tier] if tier else [])])


class Shrink(Spec):
    """A student made from its teacher: fewer residual blocks, narrower layers (see `edgeopt.prune.shrink`)."""

    kind: Literal["shrink"] = "shrink"
    width: float = Field(0.5, gt=0, le=1, description="share of the channels of every group that stays")
    depth: float = Field(
        1.0, gt=0, le=1, description="share of the residual blocks with an identity shortcut that stays, rounded up"
    )
    init: Literal["inherit", "random"] = Field(
        "inherit", description="the student begins with the weights that stay, or with random ones"
    )

    def load(self, seed: int = 0) -> Model:
        """Raises UsageError: the teacher is not known here."""
        _is_made_by_a_run("a student by `shrink`")

    def fingerprint(self) -> str:
        """Hash of the settings; the teacher goes into a stage's hash by itself."""
        return self.digest()


def _how_given(value: object) -> str:
    made = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "model" if made is None else "shrink"


Student = Annotated[Annotated[ModelRef, Tag("model")] | Annotated[Shrink, Tag("shrink")], Discriminator(_how_given)]
"""A model by name, or one made from the teacher."""


def _is_made_by_a_run(what: str) -> NoReturn:
    raise UsageError(
        f"{what} is made by a run of a recipe", fix="from Python: edgeopt.resolve.resolve(stage, model, context, ...)"
    )


def _external_data(path: Path) -> tuple[Path, ...]:
    """Where an .onnx file keeps weights outside itself; nothing where it cannot be read: `load` says what is wrong."""
    if path.suffix != ".onnx":
        return ()
    with suppress(UsageError):
        return read_onnx_file(path).external
    return ()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
