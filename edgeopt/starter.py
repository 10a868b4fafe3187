"""A recipe to start from: what is sensible for a goal and some tiers, with comments that say what to turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeopt.errors import UsageError
from edgeopt.tiers import Tier, load_tier
from edgeopt.units import format_bytes

__all__ = ["GOALS", "Goal", "write_recipe"]

TRAIN = """\
  # Learn the labels. `augment` is worth points on small data sets; `edgeopt explain train.fit` tells what there is.
  - kind: train
    fit:
      epochs: 30
      # augment: {flip: true, crop_pad: 4}
"""
PRUNE = """\
  # Remove channels, prove that exactly those are gone, fine-tune with the unpruned model as teacher.
  - kind: prune
    target: {params: -40%}
    finetune: {epochs: 10}
"""
QUANTIZE = """\
  # INT8, with Q/DQ nodes placed as each tier's runtime wants them.
  - kind: quantize
    preset: balanced                  # fast, balanced or best: `edgeopt explain quantize.preset`
"""
QUANTIZE_BEST = QUANTIZE.replace("preset: balanced                  #", "preset: best                      #")
UNCERTAIN = """\
# allow_uncertain: the figure itself decides; without it, too few test images to be sure are a failure too.
"""


@dataclass(frozen=True)
class Goal:
    """What one may want of a network."""

    description: str
    stages: tuple[str, ...]
    drop: str
    """Percentage points that it may cost."""
    needs_labels: bool = False


GOALS: Mapping[str, Goal] = {
    "int8": Goal("quantize a trained network as it is", (QUANTIZE,), "1pt"),
    "small": Goal("prune a trained network, fine-tune it, quantize it", (PRUNE, QUANTIZE), "2pt"),
    "accurate": Goal("quantize a trained network with the most care, in minutes", (QUANTIZE_BEST,), "0.5pt"),
    "train": Goal("train a network from its random weights, quantize it", (TRAIN, QUANTIZE), "1pt", needs_labels=True),
}
"""What `edgeopt recipe new` offers."""


def write_recipe(file: Path, model: str, data: str, tiers: Sequence[str], goal: str, schema: str = "") -> str:
    """The text of a recipe that loads and runs; `schema`: where editors find the JSON schema, from the recipe's folder.

    Raises UsageError for a tier, a goal, a model file or data that are not there.
    """
    if goal not in GOALS:
        raise UsageError(f"{goal!r} is no goal", fix=f"choose one of {', '.join(GOALS)}")
    if Path(model).suffix in (".onnx", ".pt2") and not Path(model).is_file():
        raise UsageError("no such file", where=model)
    chosen, found = GOALS[goal], [load_tier(name) for name in tiers]
    labelled = _has_labels(data)
    if chosen.needs_labels and not labelled:
        raise UsageError(
            "has no labels to train on",
            where=data,
            fix="put the images in one folder per class, or choose another goal",
        )
    parts = [
        *([f"# yaml-language-server: $schema={schema}"] if schema else []),
        f"# {file.stem}: {chosen.description}. Replace this line by what it gives, as measured, and where.",
        f"# edgeopt explain KEY tells what a key means; edgeopt run {file} --dry-run what a run would do.",
        "",
        _model(model, data),
        f"data: {_quoted(data)}",
        "",
        _stages(chosen, found),
        *(f"# {line}" for line in _about(found)),
        f"tiers: [{', '.join(tiers)}]",
        "",
        _gate(chosen, labelled),
    ]
    return "\n".join(parts)


def _model(model: str, data: str) -> str:
    """The networks of edgeopt are made for the size and the classes of the data, where these are known."""
    if not model.startswith("edgeopt:"):
        return f"model: {_quoted(model)}"
    if not model.removeprefix("edgeopt:").isidentifier():
        raise UsageError("is not the name of a network", where=model, fix="write it like edgeopt:residual")
    settings = "channels: 1, size: 8" if data == "digits" else "classes: 10, channels: 3, size: 32"
    classes = _class_count(data)
    if classes is not None:
        settings = settings.replace("classes: 10", f"classes: {classes}")
    return f"model: {{source: {model}, settings: {{{settings}}}}}"


def _quoted(text: str) -> str:
    """As YAML, with quotes where it would mean something else without."""
    import yaml

    written: str = yaml.safe_dump(text, width=10_000, allow_unicode=True)
    return written.removesuffix("\n").removesuffix("\n...")


def _stages(goal: Goal, tiers: Sequence[Tier]) -> str:
    """The goal's stages; no quantization where no tier takes int8."""
    takes_int8 = any("int8" in tier.precisions for tier in tiers)
    stages = [text for text in goal.stages if takes_int8 or "kind: quantize" not in text]
    if not stages:
        return "# These tiers take no int8: the model is exported in the precision that they want.\nstages: []\n"
    return "stages:\n" + "\n".join(stages)


def _about(tiers: Sequence[Tier]) -> list[str]:
    lines = []
    for tier in tiers:
        limit = f", at most {format_bytes(tier.max_bytes)}" if tier.max_bytes else ""
        c_code = ", with a C program" if tier.c_code else ""
        lines.append(f"{tier.name}: {tier.precisions[0]}{limit}{c_code}")
    return lines


def _gate(goal: Goal, labelled: bool) -> str:
    """Without labels there is no accuracy to lose."""
    text = "# Limits that every artifact must hold; `edgeopt run` and `edgeopt gate` exit 1 when one does not.\n"
    if labelled:
        return f"{text}{UNCERTAIN}gate:\n  all: {{drop: {goal.drop}, allow_uncertain: true}}\n"
    return f"{text}# gate:\n#   all: {{size: 100KB}}\n"


def _has_labels(data: str) -> bool:
    """As far as a look at the files tells. Raises UsageError when there are none."""
    from edgeopt.data.load import find_source

    path = Path(data)
    if data.startswith("torchvision:") or ".py:" in data:
        return True
    if path.suffix == ".npz" and path.is_file():
        import numpy as np

        with np.load(path, allow_pickle=False) as arrays:
            return "y" in arrays.files
    find_source(data)
    return not path.is_dir() or _class_count(data) is not None


def _class_count(data: str) -> int | None:
    """Of a folder of images with one folder a class; None for other data."""
    from edgeopt.data.folder import open_folder

    if not Path(data).is_dir():
        return None
    return len(open_folder(Path(data)).classes) or None
