"""What every key of a recipe, a tier and a device means, read off the fields themselves.

A key is spelled as for `--set`, a method by its kind: `stages.prune.target`, `quantize.calibrator.percentile`,
`gate.drop`, `tier.max_bytes`, `device.clock_mhz`. The beginning may be left out where the end says enough.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

import annotated_types
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from edgeopt.errors import UsageError
from edgeopt.keys import has_unit, is_spec, members_of, specs_in, tag_of
from edgeopt.recipe import Recipe
from edgeopt.spec import Spec
from edgeopt.tiers import Device, Tier

__all__ = ["Key", "every_key", "example", "find_keys"]

DEEPEST = 10
"""Specs inside one another; none is that deep."""
PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
BOUNDS = {
    annotated_types.Ge: ("at least", "ge"),
    annotated_types.Gt: ("above", "gt"),
    annotated_types.Le: ("at most", "le"),
    annotated_types.Lt: ("below", "lt"),
}
EXAMPLES = {bool: True, str: "text", dict: {}, Any: {}}


@dataclass(frozen=True)
class Key:
    """A field of a Spec, or a method of a family (`spec` then, and no field)."""

    path: tuple[str, ...]
    owner: type[Spec]
    """The Spec that has the field."""
    field: FieldInfo | None = None
    spec: type[Spec] | None = None

    @property
    def name(self) -> str:
        """As it is typed."""
        return ".".join(self.path)

    @property
    def description(self) -> str:
        """What it does; of a method the docstring, with its source."""
        if self.spec is not None:
            return inspect.getdoc(self.spec) or ""
        return (self.field.description if self.field else "") or ""

    @property
    def inner(self) -> tuple[type[Spec], ...]:
        """The Specs whose keys stand below this one; several for a family of methods."""
        return (self.spec,) if self.spec else tuple(specs_in(self.field.annotation)) if self.field else ()

    @property
    def kinds(self) -> list[str]:
        """The methods of a family, by kind."""
        return [tag for spec in self.inner if (tag := tag_of(spec))] if self.spec is None else []

    @property
    def type(self) -> str:
        """What may be written, in words: `a whole number, at least 1`."""
        if self.field is None:
            return "a method: a mapping with its `kind`"
        needless = type(None) if self.field.default is None else None
        members = [member for member in members_of(self.field.annotation) if member is not needless]
        return ", ".join([_joined(_words(self.field, member) for member in members), *_bounds(self.field)])

    @property
    def default(self) -> str:
        """What holds when it is not given, as it would be written; `required` where it has to be given."""
        if self.field is None:
            return ""
        if self.field.is_required():
            return "required"
        return _shown(_default(self.owner, self.path[-1]))


def every_key() -> list[str]:
    """Every key by its full name, recipes first."""
    return list(_keys())


def find_keys(text: str) -> list[Key]:
    """The keys that `text` may mean, the likeliest first. Raises UsageError with the nearest names for none."""
    parts = _parts(text)
    keys = _keys()
    if (exact := keys.get(".".join(parts))) is not None:
        return [exact]
    if parts:
        ends = [key for key in keys.values() if key.path[-len(parts) :] == tuple(parts)]
        loose = [key for key in keys.values() if key.path[-1] == parts[-1] and _in_order(parts, key.path)]
        if ends or loose:
            return sorted(ends or loose, key=lambda key: len(key.path))
    raise UsageError(f"there is no key {text!r}", fix=f"nearest: {', '.join(_nearest(parts))}; all: `edgeopt explain`")


def example(key: Key) -> str:
    """A piece of YAML that sets the key, whole from the top of its file; what it needs beside it is there too."""
    roots: dict[str, type[Spec]] = {"tier": Tier, "device": Device}
    root, path = (roots[key.path[0]], key.path[1:]) if key.path[0] in roots else (Recipe, key.path)
    return yaml.safe_dump(_example(root, path, whole=False), sort_keys=False, allow_unicode=True, width=100).strip()


@cache
def _keys() -> dict[str, Key]:
    found = [*_walk(Recipe, ()), *_walk(Tier, ("tier",)), *_walk(Device, ("device",))]
    return {key.name: key for key in found}


def _walk(spec: type[Spec], above: tuple[str, ...]) -> Iterator[Key]:
    for name, field in spec.model_fields.items():
        if name == "kind" or len(above) > DEEPEST:
            continue
        path = (*above, name)
        yield Key(path, spec, field)
        for inner in specs_in(field.annotation):
            tag = tag_of(inner)
            if tag is not None:
                yield Key((*path, tag), spec, spec=inner)
            yield from _walk(inner, path if tag is None else (*path, tag))


def _parts(text: str) -> list[str]:
    """`stages[1].target` and `gate.mcu.drop` as they stand in the list: without positions and names of tiers."""
    parts = [part for part in re.split(r"[.\[\]]+", text.strip().removesuffix(":")) if part and not part.isdigit()]
    return [parts[0], parts[2]] if len(parts) == 3 and parts[0] == "gate" else parts


def _in_order(parts: Sequence[str], path: Sequence[str]) -> bool:
    """Whether all of `parts` stand in `path`, in that order, with others between them."""
    rest = iter(path)
    return all(part in rest for part in parts)


def _nearest(parts: Sequence[str]) -> list[str]:
    wanted = parts[-1] if parts else ""
    lasts: dict[str, str] = {}
    for name in _keys():
        lasts.setdefault(name.rpartition(".")[2], name)
    close = [lasts[last] for last in difflib.get_close_matches(wanted, lasts, 3, 0.6)]
    return close or difflib.get_close_matches(".".join(parts), _keys(), 3, 0.3) or ["stages", "gate", "tiers"]


def _joined(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = dict.fromkeys(words)
    return f"{', '.join(most)} or {last}" if most else last


def _words(field: FieldInfo, member: Any) -> str:
    if member is type(None):
        return "null"
    if is_spec(member):
        tag = tag_of(member)
        return (
            f"{{kind: {tag}}}"
            if tag
            else "text, or a mapping of its keys"
            if member.takes_text
            else "a mapping of its keys"
        )
    origin, inside = get_origin(member), get_args(member)
    if origin is Literal:
        return _joined(map(str, inside))
    if origin is tuple:
        return f"a list of {_joined(_words(field, each) for each in members_of(inside[0]))}"
    if origin is dict:
        return f"a mapping: name to {_words(field, members_of(inside[1])[0])}"
    if member in (int, float) and has_unit(field):
        return "a number, or text with its unit"
    return PLAIN.get(member, "anything")


def _bounds(field: FieldInfo) -> list[str]:
    return [
        f"{words} {getattr(entry, attribute):g}"
        for entry in field.metadata
        for kind, (words, attribute) in BOUNDS.items()
        if isinstance(entry, kind)
    ]


def _default(owner: type[Spec], name: str) -> Any:
    """As the Spec has it when nothing is given: a preset may set what the field itself leaves open."""
    try:
        return getattr(owner.model_validate({}), name)
    except ValidationError:
        return owner.model_fields[name].get_default(call_default_factory=True)


def _shown(value: Any) -> str:
    """As it would stand in a recipe, on one line."""
    plain = _plain(value)
    if plain is None or plain in ([], {}, ""):
        return "none"
    text: str = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _plain(value: Any) -> Any:
    """The settings that differ from their defaults, with the kind: what one would write."""
    if isinstance(value, Spec):
        own = value.model_dump(mode="json", exclude_defaults=True)
        tag = tag_of(type(value))
        return own if tag is None else {"kind": tag} | own
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _example(spec: type[Spec], path: Sequence[str], *, whole: bool = True) -> dict[str, Any]:
    """A mapping for `spec` in which the key at `path` is set; if `whole`, with what the Spec cannot do without."""
    tag = tag_of(spec)
    start: dict[str, Any] = {} if tag is None else {"kind": tag}
    if whole:
        start |= {name: _value(field) for name, field in spec.model_fields.items() if field.is_required()}
    if not path:
        return start
    field = spec.model_fields[path[0]]
    extra = field.json_schema_extra
    beside = extra.get("beside", {}) if isinstance(extra, dict) else {}  # what this key is refused without
    return start | beside | {path[0]: _value_with(field, path[1:])}  # type: ignore[operator]


def _value_with(field: FieldInfo, rest: Sequence[str]) -> Any:
    """A value of the field in which the key `rest` below it is set."""
    if not rest:
        return _value(field)
    members = {tag_of(spec): spec for spec in specs_in(field.annotation)}
    inner = _example(members[rest[0]], rest[1:]) if rest[0] in members else _example(members[None], rest)
    first = members_of(field.annotation)[0]
    if get_origin(first) is dict:
        return {"all": inner}
    return [inner] if get_origin(first) is tuple else inner


def _value(field: FieldInfo) -> Any:
    """Something that may be written: what the description gives as an example, else the default, else by the type."""
    given = re.search(r"(?:such as |: (?=-\d))(\[[^\]]*\]|[^\s;,)]+)", field.description or "")
    if given is not None:
        return yaml.safe_load(given[1])
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if default not in (None, (), {}, "") and _plain(default) != {}:
        return _plain(default)
    member = next(member for member in members_of(field.annotation) if member is not type(None))
    return _value_of(field, member)


def _value_of(field: FieldInfo, member: Any) -> Any:
    if is_spec(member):
        plain = _example(member, ())
        first = next(iter(member.model_fields))
        return plain or {first: _value(member.model_fields[first])}
    origin, inside = get_origin(member), get_args(member)
    if origin is Literal:
        return inside[0]
    if origin is tuple:
        return [_value_of(field, members_of(each)[0]) for each in inside if each is not ...]
    if origin is dict:
        return {"all": _value_of(field, members_of(inside[1])[0])} if inside[1] is not Any else {}
    if member in (int, float):
        return member(_between(field))
    return EXAMPLES.get(member, "text")


def _between(field: FieldInfo) -> float:
    """A number within the field's bounds."""
    low = next((getattr(entry, "ge", getattr(entry, "gt", None)) for entry in field.metadata), None) or 0
    high = [getattr(entry, name) for entry in field.metadata for name in ("le", "lt") if hasattr(entry, name)]
    return (low + high[0]) / 2 if high else low + 1
