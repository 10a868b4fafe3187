"""ModelRef: how a recipe or a command names a model."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from edgeopt.errors import UsageError
from edgeopt.report.onnx_file import read_onnx_file
from edgeopt.spec import Spec, digest

if TYPE_CHECKING:
    from edgeopt.model.model import Model

__all__ = ["ModelRef"]


class ModelRef(Spec):
    """A model by name; a plain string in a recipe means `{source: that}`."""

    source: str = Field(description="x.onnx, x.pt2, torchvision:NAME, timm:NAME, edgeopt:NAME or net.py:factory")
    weights: str | None = Field(
        None,
        description="x.safetensors or x.pt (a state dict); `none`: random; default: what the source publishes",
    )
    settings: dict[str, Any] = Field({}, description="arguments of the network's constructor")

    takes_text: ClassVar[bool] = True

    @classmethod
    def parse_text(cls, text: str) -> dict[str, Any]:
        return {"source": text}

    def load(self, seed: int = 0) -> Model:
        """The model itself; `seed` draws random weights. Raises UsageError when it is not there or not a model."""
        from edgeopt.model.load import load_model

        return load_model(self.source, weights=self.weights, settings=self.settings, seed=seed)

    def fingerprint(self) -> str:
        """SHA-256 of what the reference says and of the files it names, without building the network."""
        files = [self.source.partition(".py:")[0] + ".py" if ".py:" in self.source else self.source]
        files += [self.weights or ""]
        files += [str(file) for file in _external_data(Path(self.source))]
        contents = {file: _hash_file(Path(file)) for file in files if file and Path(file).is_file()}
        return digest([self.model_dump(mode="json"), contents])


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
