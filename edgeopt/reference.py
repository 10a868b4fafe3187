"""The reference page of the documentation: every Spec once, its keys as a table, read off the fields themselves.

`edgeopt explain --markdown > docs/reference.md` writes it.
"""

from __future__ import annotations

import inspect
import re

from edgeopt.explain import Key, every_key, find_keys
from edgeopt.recipe import Recipe
from edgeopt.spec import Spec
from edgeopt.tiers import Device, Tier

__all__ = ["to_reference"]

INTRODUCTION = """# Every key

Written by `edgeopt explain --markdown`, from the settings themselves. `edgeopt explain KEY` says the same of one key,
with an example and its flag; `--set KEY=VALUE` sets any of them for one run. What is a mapping of keys has a section of
its own, once, however often it is used."""
HEAD = "| key | what may be written | unless given | what it does |\n|---|---|---|---|"
FILES = {Recipe: "Recipes", Tier: "Tier files", Device: "Device files"}


def to_reference() -> str:
    """The whole page, as markdown."""
    owners: dict[type[Spec], list[Key]] = {}
    places: dict[type[Spec], str] = {}
    for name in every_key():
        key = find_keys(name)[0]
        if key.spec is not None:  # a method: its docstring is worth a section even where it has no settings
            owners.setdefault(key.spec, [])
            places.setdefault(key.spec, key.name)
            continue
        own = owners.setdefault(key.owner, [])
        if all(other.path[-1] != key.path[-1] for other in own):
            own.append(key)
        places.setdefault(key.owner, ".".join(key.path[:-1]))
    sections = [_section(owner, keys, places[owner]) for owner, keys in owners.items()]
    return "\n\n".join([INTRODUCTION, *sections]) + "\n"


def _section(owner: type[Spec], keys: list[Key], place: str) -> str:
    title = f"## {FILES[owner]}" if owner in FILES else f"### {place}"
    table = "\n".join([HEAD, *map(_row, keys)]) if keys else ""
    return "\n\n".join(filter(None, [title, "" if owner in FILES else _docstring(owner), table]))


def _docstring(owner: type[Spec]) -> str:
    """As prose: markdown reads its indented lines as code."""
    return _plain(re.sub(r"\n[ \t]+", "\n", inspect.getdoc(owner) or "" if "__doc__" in vars(owner) else ""))


def _row(key: Key) -> str:
    written = ", ".join(f"`{kind}`" for kind in key.kinds) if key.kinds else _cell(key.type)
    default = {"required": "has to be given", "none": ""}.get(key.default, f"`{key.default}`")
    return f"| `{key.path[-1]}` | {written} | {default} | {_cell(key.description)} |".replace("``", "` `")


def _cell(text: str) -> str:
    return _plain(" ".join(text.split())).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text whose angle brackets and asterisks mean themselves."""
    return re.sub(r"([<*_])(?=\S)", r"\\\1", text)
