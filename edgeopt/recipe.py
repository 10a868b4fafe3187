"""Recipe: what to do with one model for some tiers. This file is the only reader of recipe files.

The entry is the object that does the work: `stages:` holds the stages themselves, read from YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from edgeopt.data.spec import DataSpec
from edgeopt.distill.stage import Distill
from edgeopt.errors import UsageError
from edgeopt.keys import KeyPath, keys_at, path_of, specs_at
from edgeopt.model.reference import ModelRef
from edgeopt.prune.stage import Prune
from edgeopt.quantize.stage import Quantize
from edgeopt.report.limits import ALL_TIERS, Limits
from edgeopt.spec import Spec
from edgeopt.tiers import Tier, load_tier
from edgeopt.train.stage import Train
from edgeopt.written import Expand, Written, assign, dotted, lay, read_written

__all__ = [
    "AnyStage",
    "Recipe",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "problem",
    "read_layers",
    "recipe_schema",
    "recipes_folder",
]

DEEPEST = 8
"""Recipes that may extend one another in a row."""

AnyStage = Annotated[Train | Distill | Prune | Quantize, Field(discriminator="kind")]
"""Every kind of stage. A new kind is one more name in this line."""


def _given(gate: Any) -> Any:
    """The gate without tiers whose limits are null: how a recipe takes back what it extends."""
    return {name: own for name, own in gate.items() if own is not None} if isinstance(gate, Mapping) else gate


Gate = Annotated[dict[str, Limits], BeforeValidator(_given, json_schema_input_type=dict[str, Limits | None])]


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
    gate: Gate = Field({}, description="limits by tier (or `all`) that the artifacts must hold")
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


def load_recipe(reference: str | Path, sets: Sequence[tuple[str, Any]] = ()) -> Recipe:
    """Read a recipe file, or a shipped recipe by name, with the recipes it extends and single keys of `sets` over it.

    A key is spelled as for `--set`: `stages.prune.target.params`. Raises UsageError with file, line and key.
    """
    path = find_recipe(reference)
    written = read_layers(path, sets)
    try:
        return Recipe.model_validate({"name": path.stem} | written.plain())
    except UsageError as error:
        raise UsageError(str(error), where=str(path)) from error
    except ValidationError as error:
        raise _explain(error, path, written) from error


def read_layers(path: Path, sets: Sequence[tuple[str, Any]] = ()) -> Written:
    """What a recipe file says in the end: the recipe that it extends, itself, the keys of `sets`. Raises UsageError."""
    written = _read_extended(path, ())
    for key, value in sets:
        written = assign(written, key, value, _expander(written))
    return written


def _read_extended(path: Path, above: tuple[Path, ...]) -> Written:
    """The file laid over what it `extends`; `above`: the files that extend it."""
    own = read_written(path)
    base = own.value.get("extends")
    if base is None:
        return own
    chain = (*above, path.resolve())
    file = _find_base(base, path, chain)
    below = _read_extended(file, chain).without("name", "description")
    return lay(below, own.without("extends"), _expander(below))


def _find_base(base: Written, path: Path, chain: tuple[Path, ...]) -> Path:
    """The file that `extends` names: beside `path`, or a recipe that ships. Raises UsageError."""
    where = f"{base.place} extends"
    if not isinstance(base.value, str) or not base.value:
        raise UsageError(f"{base.plain()!r} is not the name of a recipe", where=where, fix="write it like ../base.yaml")
    beside = path.parent / base.value
    try:
        file = beside if beside.is_file() else find_recipe(base.value)
    except UsageError as error:
        raise UsageError(str(error), where=where) from error
    if file.resolve() in chain:
        circle = [*chain[chain.index(file.resolve()) :], file]
        raise UsageError(f"goes round in a circle: {' > '.join(each.name for each in circle)}", where=where)
    if len(chain) >= DEEPEST:
        raise UsageError(f"more than {DEEPEST} recipes extend one another", where=where, fix="join some of them")
    return file


def _expander(written: Written) -> Expand:
    """Knows where plain text stands for a mapping in a recipe: `data: digits` for `data: {source: digits}`."""
    content = written.plain()

    def expand(path: KeyPath, value: Any) -> dict[str, Any] | None:
        for spec in specs_at(Recipe, content, path):
            if spec.takes_text and not isinstance(value, bool):
                with suppress(ValueError):
                    return spec.parse_text(str(value))
        return None

    return expand


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of recipe files, for editors. A recipe that extends another need not name a model."""
    schema = Recipe.model_json_schema()
    base = {
        "type": "string",
        "minLength": 1,
        "description": "the recipe to start from: a file beside it, or one that ships",
    }
    schema["properties"] = {"extends": base, **schema["properties"]}
    schema["anyOf"] = [{"required": ["model"]}, {"required": ["extends"]}]
    del schema["required"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edgeopt recipe"} | schema


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


def _explain(error: ValidationError, path: Path, written: Written) -> UsageError:
    """The first problem, with its line, its key and what would do."""
    first, content = error.errors()[0], written.plain()
    keys = path_of(first["loc"], content)
    place, found, fix = written.at(keys).place if keys else str(path), problem(first), ""
    if first["type"] == "extra_forbidden":
        known = keys_at(Recipe, content, keys[:-1])
        close = difflib.get_close_matches(str(keys[-1]), known, 1)
        fix = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    elif first["type"] == "union_tag_invalid":
        keys = (*keys, "kind")
        expected = str(first["ctx"]["expected_tags"]).replace("'", "")
        found = f"{first['ctx']['tag']!r} is not one of {expected}"
    elif first["type"] == "union_tag_not_found":
        keys, found = (*keys, "kind"), "is missing"
    where = place if place.endswith(f" {dotted(keys)}") else f"{place} {dotted(keys)}".rstrip()
    return UsageError(found, where=where, fix=fix)


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
