"""Which keys a Spec can have, at any depth: errors, `--set`, shell completion and `edgeopt explain` go by this.

A path is what a YAML file spells: names of keys and positions in lists, without the tags that pydantic adds for a
member of a family.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeGuard, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from edgeopt.spec import Spec

__all__ = ["KeyPath", "has_unit", "is_spec", "keys_at", "members_of", "path_of", "specs_at", "specs_in", "tag_of"]

KeyPath = tuple[str | int, ...]


def members_of(annotation: Any) -> list[Any]:
    """What a value may be: the members of a union, `Annotated` taken off."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for member in get_args(annotation) for inner in members_of(member)]
    if get_origin(annotation) is Annotated:
        return members_of(get_args(annotation)[0])
    return [annotation]


def is_spec(member: Any) -> TypeGuard[type[Spec]]:
    """Whether a member of an annotation is a Spec."""
    return isinstance(member, type) and issubclass(member, Spec)


def has_unit(field: FieldInfo) -> bool:
    """Whether it may be written with its unit: `100KB`, `0.5pt`."""
    inside = [field.annotation, *get_args(field.annotation)]
    metadata = [*field.metadata, *(entry for part in inside for entry in getattr(part, "__metadata__", ()))]
    return any(isinstance(entry, BeforeValidator) for entry in metadata)


def specs_in(annotation: Any) -> list[type[Spec]]:
    """The Specs that an annotation speaks of, inside unions, tuples and mappings."""
    found: list[type[Spec]] = []
    for member in members_of(annotation):
        if is_spec(member):
            found.append(member)
        elif get_origin(member) in (tuple, dict):
            found += [spec for inner in get_args(member) if inner is not ... for spec in specs_in(inner)]
    return found


def tag_of(spec: type[Spec]) -> str | None:
    """The `kind` that names a member of a family; None for a Spec that stands alone."""
    field = spec.model_fields.get("kind")
    tags = get_args(field.annotation) if field is not None else ()
    return str(tags[0]) if tags else None


def specs_at(root: type[Spec], content: Any, path: Sequence[str | int]) -> list[type[Spec]]:
    """The Specs that may stand at `path`; of a family the one whose kind `content` names, where it names one."""
    found: list[Any] = [root]
    for part in path:
        found = [inner for member in _narrow(found, content) for inner in _inside(member, part)]
        content = _child(content, part)
    return [spec for spec in _narrow(found, content) if is_spec(spec)]


def keys_at(root: type[Spec], content: Any, path: Sequence[str | int]) -> list[str]:
    """The keys that may stand in the mapping at `path`, in order of their names."""
    return sorted({name for spec in specs_at(root, content, path) for name in spec.model_fields})


def path_of(location: Sequence[str | int], content: Any) -> KeyPath:
    """The path of a pydantic error's location: tags of families are passed over; a missing last key is kept."""
    path: list[str | int] = []
    for number, part in enumerate(location):
        inside = isinstance(content, list) and isinstance(part, int) and part < len(content)
        if inside or (isinstance(content, dict) and part in content):
            path.append(part)
        elif isinstance(content, dict) and number == len(location) - 1:
            return (*path, part)
        elif not isinstance(content, dict) and not (isinstance(content, list) and isinstance(part, str)):
            break
        else:
            continue
        content = content[part]
    return tuple(path)


def _narrow(annotations: list[Any], content: Any) -> Iterator[Any]:
    """Their members, without those of a family that the content's `kind` rules out."""
    kind = content.get("kind") if isinstance(content, dict) else None
    members = [member for annotation in annotations for member in members_of(annotation)]
    named = [member for member in members if kind is not None and is_spec(member) and tag_of(member) == kind]
    yield from named or members


def _inside(member: Any, part: str | int) -> Iterator[Any]:
    """Annotations of what `part` of a `member` holds."""
    if get_origin(member) is tuple and isinstance(part, int):
        yield get_args(member)[0]
    elif get_origin(member) is dict:
        yield get_args(member)[1]
    elif is_spec(member) and part in member.model_fields:
        yield member.model_fields[str(part)].annotation


def _child(content: Any, part: str | int) -> Any:
    if isinstance(content, dict):
        return content.get(part)
    inside = isinstance(content, list) and isinstance(part, int) and part < len(content)
    return content[part] if inside else None
