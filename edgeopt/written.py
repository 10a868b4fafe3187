"""YAML whose every value knows where it was written: a line of a file, or a `--set` of the command line.

Files are laid over one another (`extends`) and single keys over those (`--set`) by one rule, `lay`: mappings merge, and
everything else, lists too, takes the place of what was there. A mapping of another `kind` is another method: it takes
the place of the whole mapping, so that no setting of the old method is left in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from edgeopt.errors import UsageError
from edgeopt.keys import KeyPath

__all__ = ["Expand", "Written", "assign", "dotted", "lay", "read_written"]

Expand = Callable[[KeyPath, Any], dict[str, Any] | None]
"""Path and a plain value -> the mapping that it stands for (`digits` -> `{source: digits}`), None where for none."""

MOST_VALUES = 100_000
"""In one file."""


@dataclass(frozen=True)
class Written:
    """A value: a mapping or a list of other such values, or a scalar."""

    value: Any
    place: str
    """`recipe.yaml:5`, or `--set seed`."""

    def plain(self) -> Any:
        """The value as YAML readers give it."""
        if isinstance(self.value, dict):
            return {key: inner.plain() for key, inner in self.value.items()}
        return [inner.plain() for inner in self.value] if isinstance(self.value, list) else self.value

    def at(self, path: KeyPath) -> Written:
        """The value at `path`, or the last one on the way there."""
        found = self
        for part in path:
            inside = found.value
            if isinstance(inside, dict) and part in inside:
                found = inside[str(part)]
            elif isinstance(inside, list) and isinstance(part, int) and part < len(inside):
                found = inside[part]
            else:
                break
        return found

    def without(self, *keys: str) -> Written:
        """This mapping less some keys."""
        return replace(self, value={key: inner for key, inner in self.value.items() if key not in keys})


def dotted(path: KeyPath) -> str:
    """`("stages", 1, "target")` -> `stages[1].target`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def read_written(path: Path, what: str = "a recipe (a mapping with `model:`)", fix: str = "") -> Written:
    """The mapping that a YAML file holds. Raises UsageError with file and line: no YAML, a key that stands twice, or no
    mapping (which is not `what` it has to be; `fix` says how to write it).
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"is not {what}", where=f"{path}:1", fix=fix)
        return _Reader(loader, path).read(node)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(path)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"is not YAML ({error.problem})", where=f"{path}:{line}") from error
    except RecursionError as error:
        raise UsageError("is nested too deep, or holds itself", where=str(path)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"is not YAML ({' '.join(str(error).split())})", where=str(path)) from error


class _Reader:
    """YAML nodes to Written values. A node that aliases share is read once, and counted wherever it stands."""

    def __init__(self, loader: yaml.SafeLoader, path: Path) -> None:
        self.loader, self.path = loader, path
        self.done: dict[int, Written] = {}
        self.sizes: dict[int, int] = {}
        self.open: set[int] = set()

    def read(self, node: yaml.Node) -> Written:
        place = f"{self.path}:{node.start_mark.line + 1}"
        if id(node) in self.open:
            raise UsageError("an anchor holds itself", where=place)
        if id(node) not in self.done:
            self.open.add(id(node))
            self.done[id(node)] = Written(self._value(node, place), place)
            self.open.discard(id(node))
            self.sizes[id(node)] = self._size(node)
            if self.sizes[id(node)] > MOST_VALUES:
                raise UsageError(f"its aliases make more than {MOST_VALUES:,} values", where=place)
        return self.done[id(node)]

    def _size(self, node: yaml.Node) -> int:
        """Values in it once every alias is written out: ten lines of aliases of aliases may be billions."""
        if isinstance(node, yaml.MappingNode):
            return 1 + sum(self.sizes[id(value)] for _, value in node.value)
        return 1 + sum(self.sizes[id(inner)] for inner in node.value) if isinstance(node, yaml.SequenceNode) else 1

    def _value(self, node: yaml.Node, place: str) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.read(inner) for inner in node.value]
        value = self.loader.construct_object(node, deep=True)
        if isinstance(node, yaml.ScalarNode):
            return value
        raise UsageError("is neither a mapping nor a list", where=place)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Written]:
        """By key, placed in the line of the key. Readers of YAML silently keep the last of two equal keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError("a key has to be text", where=f"{self.path}:{line}")
            if key.value in seen:
                raise UsageError(f"key {key.value!r} stands twice", where=f"{self.path}:{line}")
            seen.add(key.value)
        self._flatten(node)
        return {
            str(key.value): replace(self.read(value), place=f"{self.path}:{key.start_mark.line + 1}")
            for key, value in node.value
        }

    def _flatten(self, node: yaml.MappingNode) -> None:
        """`<<: *other` becomes keys, before its own. Of equal ones the last stays: merges of merges do not pile up."""
        for key, value in node.value:
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for inner in merged if key.tag == "tag:yaml.org,2002:merge" else []:
                if isinstance(inner, yaml.MappingNode):
                    self._flatten(inner)
        self.loader.flatten_mapping(node)
        node.value = list({(key.tag, str(key.value)): (key, value) for key, value in node.value}.values())


def lay(base: Written, over: Written, expand: Expand, path: KeyPath = ()) -> Written:
    """`over` laid on `base`, by the rule above."""
    if not isinstance(over.value, dict):
        return over
    under = _as_mapping(base, expand, path)
    kinds = [inner["kind"].value for inner in (under, over.value) if inner and "kind" in inner]
    if under is None or (len(kinds) == 2 and kinds[0] != kinds[1]):
        return over
    merged = {
        key: lay(under[key], inner, expand, (*path, key)) if key in under else inner
        for key, inner in over.value.items()
    }
    return Written({**under, **merged}, over.place)


def assign(tree: Written, key: str, value: Any, expand: Expand) -> Written:
    """`tree` with `value` laid at `key`, as in `stages.1.target.params` or `stages.prune.target`.

    Raises UsageError naming the key, and what is there, when the way to it is not there.
    """
    place = f"--set {key}"
    return _assign(tree, (), key.split("."), _wrap(value, place), expand)


def _assign(tree: Written, path: KeyPath, parts: Sequence[str], value: Written, expand: Expand) -> Written:
    if not parts:
        return lay(tree, value, expand, path)
    first, rest = parts[0], parts[1:]
    if isinstance(tree.value, list):
        index = _index(tree.value, first, path, value.place)
        inner = _assign(tree.value[index], (*path, index), rest, value, expand)
        return replace(tree, value=[*tree.value[:index], inner, *tree.value[index + 1 :]])
    under = _as_mapping(tree, expand, path)
    if under is None and tree.value is not None:
        raise UsageError(f"{dotted(path)} is {tree.value!r}, which has no key {first!r}", where=value.place)
    under = under or {}
    inner = _assign(under.get(first, Written(None, value.place)), (*path, first), rest, value, expand)
    return Written({**under, first: inner}, tree.place)


def _index(entries: list[Written], part: str, path: KeyPath, where: str) -> int:
    """Which entry `part` means: its position from 0, or its kind."""
    kinds = [
        entry.value["kind"].value if isinstance(entry.value, dict) and "kind" in entry.value else None
        for entry in entries
    ]
    there = ", ".join(f"{number} {kind}" if kind else f"{number}" for number, kind in enumerate(kinds)) or "nothing"
    fitting = [int(part)] if part.isdigit() else [number for number, kind in enumerate(kinds) if kind == part]
    if len(fitting) == 1 and fitting[0] < len(entries):
        return fitting[0]
    found = f"{len(fitting)} entries are of kind {part!r}" if len(fitting) > 1 else f"there is no entry {part!r}"
    raise UsageError(found, where=where, fix=f"{dotted(path)} has {there}")


def _as_mapping(value: Written, expand: Expand, path: KeyPath) -> dict[str, Written] | None:
    if isinstance(value.value, dict):
        return value.value
    expanded = None if value.value is None or isinstance(value.value, list) else expand(path, value.value)
    return None if expanded is None else {key: _wrap(inner, value.place) for key, inner in expanded.items()}


def _wrap(value: Any, place: str) -> Written:
    if isinstance(value, dict):
        return Written({str(key): _wrap(inner, place) for key, inner in value.items()}, place)
    return Written([_wrap(inner, place) for inner in value] if isinstance(value, list) else value, place)
