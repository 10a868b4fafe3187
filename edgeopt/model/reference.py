"""ModelRef: how a recipe or a command names a model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

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
        contents = {file: _hash_file(Path(file)) for file in files if file and Path(file).is_file()}
        return digest([self.model_dump(mode="json"), contents])


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
