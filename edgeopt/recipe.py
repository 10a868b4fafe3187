"""Recipe: what to do with one model for some tiers. This file is the only reader of recipe files.

The entry is the object that does the work: `stages:` holds the stages themselves, read from YAML.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import Field, ValidationError, model_validator

from edgeopt.data.spec import DataSpec
from edgeopt.distill.stage import Distill
from edgeopt.errors import UsageError
from edgeopt.model.reference import ModelRef
from edgeopt.prune.stage import Prune
from edgeopt.quantize.stage import Quantize
from edgeopt.report.limits import ALL_TIERS, Limits
from edgeopt.spec import Spec
from edgeopt.tiers import Tier, load_tier
from edgeopt.train.stage import Train

__all__ = ["AnyStage", "Recipe", "find_recipe", "list_recipes", "load_recipe", "problem", "recipes_folder"]

AnyStage = Annotated[Train | Distill | Prune | Quantize, Field(discriminator="kind")]
"""Every kind of stage. A new kind is one more name in this line."""


class Recipe(Spec):
    """A model, its images, the stages it goes through, the tiers it is made for, and the limits it must hold."""

    name: str = Field("", description="none: the file's name")
    description: str = Field("", description="what it gives, as measured, and where")
    model: ModelRef = Field(description="the network to start from")
    data: DataSpec | None = Field(None, description="the images; not needed where no stage trains or calibrates")
    stages: tuple[AnyStage, ...] = Field((), description="what is done, in order")
    tiers: tuple[str, ...] = Field(
        (), description="what it is made for: mcu, jetson, gpu, or the file of your own; none: one model.onnx"
    )
    gate: dict[str, Limits] = Field({}, description="limits by tier (or `all`) that the artifacts must hold")
    seed: int = Field(0, ge=0, description="of every random choice: splits, weights, augmentation, calibration")

    @model_validator(mode="after")
    def _tiers_have_folders_of_their_own(self) -> Recipe:
        names = [tier.name for tier in self.load_tiers()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two of its tiers are named {name!r}, and each has a folder of its name")
            if Path(name).name != name or name in ("", ".", "..", "stages"):
                raise ValueError(f"a tier is named {name!r}, which cannot be the name of its folder")
        return self

    @model_validator(mode="after")
    def _gate_names_tiers(self) -> Recipe:
        names = {tier.name for tier in self.load_tiers()}
        for name in self.gate:
            if name != ALL_TIERS and name not in names:
                raise ValueError(f"gate has limits for {name!r}, and the recipe makes {', '.join(sorted(names))}")
        return self

    def load_tiers(self) -> list[Tier]:
        """The tiers themselves; the one without limits when none is named. Raises UsageError."""
        return [load_tier(name) for name in self.tiers or ("any",)]


def load_recipe(reference: str | Path) -> Recipe:
    """Read a recipe file, or a shipped recipe by name. Raises UsageError with file, line and key."""
    path = find_recipe(reference)
    content, root = _read(path)
    try:
        return Recipe.model_validate({"name": path.stem} | content)
    except UsageError as error:
        raise UsageError(str(error), where=str(path)) from error
    except ValidationError as error:
        raise _explain(error, path, root) from error


def find_recipe(reference: str | Path) -> Path:
    """The file that `reference` means: a path, or the name of a recipe that ships. Raises UsageError."""
    path = Path(reference)
    if path.is_file():
        return path
    shipped = recipes_folder() / f"{reference}.yaml"
    if path.name == str(reference) and shipped.is_file():
        return shipped
    raise UsageError(
        "no such recipe",
        where=str(reference),
        fix=f"give the path of a .yaml file or one of {', '.join(list_recipes()) or 'none that ship'}",
    )


def recipes_folder() -> Path:
    """Where the shipped recipes lie: inside the installed package, or beside it in a source checkout."""
    here = Path(__file__).parent
    installed = here / "recipes"
    return installed if installed.is_dir() else here.parent / "recipes"


def list_recipes() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in recipes_folder().glob("*.yaml"))


def _read(path: Path) -> tuple[dict[Any, Any], yaml.MappingNode]:
    """The content and its YAML nodes, which know their lines. Raises UsageError."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(path)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"is not YAML ({error.problem})", where=f"{path}:{line}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"is not YAML ({' '.join(str(error).split())})", where=str(path)) from error
    if not isinstance(root, yaml.MappingNode):
        raise UsageError("is not a recipe (a mapping with `model:`)", where=f"{path}:1")
    _refuse_duplicates(root, path)
    return content, root


def _refuse_duplicates(node: yaml.Node, path: Path) -> None:
    """YAML readers silently keep the last of two equal keys; here that is an error."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise UsageError(f"key {key.value!r} stands twice", where=f"{path}:{key.start_mark.line + 1}")
            seen.add(key.value)
            _refuse_duplicates(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value, path)


def _explain(error: ValidationError, path: Path, root: yaml.Node) -> UsageError:
    """The first problem, with its line, its key and what would do."""
    first = error.errors()[0]
    location = first["loc"]
    line, key = _locate(root, location)
    found, fix = problem(first), ""
    if first["type"] == "extra_forbidden":
        known = _keys_at(Recipe, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        fix = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    elif first["type"] == "union_tag_invalid":
        key += ".kind"
        expected = str(first["ctx"]["expected_tags"]).replace("'", "")
        found = f"{first['ctx']['tag']!r} is not one of {expected}"
    elif first["type"] == "union_tag_not_found":
        key, found = f"{key}.kind", "is missing"
    return UsageError(found, where=f"{path}:{line} {key}".rstrip(), fix=fix)


def problem(error: Any) -> str:
    """One of `ValidationError.errors()` in words that need no Python: what was found, and what it should be."""
    kind, given = error["type"], error["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "there is no such key"
    found = repr(given) if isinstance(given, str | int | float | None) else "a mapping" if _is_map(given) else "a list"
    if kind == "tuple_type":
        return f"{found} is not a list"
    message: str = error["msg"].removeprefix("Value error, ")
    return message.replace("Input should", f"{found} should", 1)


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping | Spec)


def _locate(node: yaml.Node, location: Sequence[int | str]) -> tuple[int, str]:
    """Line and written key (`stages[1].calibrator`) of a pydantic location; union tags are passed over."""
    line, key = node.start_mark.line + 1, ""
    for part in location:
        if isinstance(part, int) and isinstance(node, yaml.SequenceNode) and part < len(node.value):
            node = node.value[part]
            line, key = node.start_mark.line + 1, f"{key}[{part}]"
        elif isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is not None:
                node = pair[1]
                line, key = pair[0].start_mark.line + 1, f"{key}.{part}".lstrip(".")
            elif part == location[-1]:
                key = f"{key}.{part}".lstrip(".")
    return line, key


def _keys_at(kind: Any, location: Sequence[int | str]) -> list[str]:
    """The keys that may stand at a pydantic location inside `kind`."""
    specs = _specs_in(kind)
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [spec for spec in specs if part in _tags(spec)]
        if tagged:
            specs = tagged
            continue
        specs = [
            found
            for spec in specs
            if part in spec.model_fields
            for found in _specs_in(spec.model_fields[str(part)].annotation)
        ]
    return sorted({name for spec in specs for name in spec.model_fields})


def _tags(spec: type[Spec]) -> tuple[Any, ...]:
    field = spec.model_fields.get("kind")
    return get_args(field.annotation) if field is not None else ()


def _specs_in(annotation: Any) -> list[type[Spec]]:
    """The Spec classes an annotation speaks of, inside unions, tuples and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, tuple, list, dict, Annotated):
        return [spec for inner in get_args(annotation) for spec in _specs_in(inner)]
    return []
