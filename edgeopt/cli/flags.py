"""Flags read off the fields of a stage, so that flag, recipe key, help text and schema are one definition.

A scalar field `samples` becomes `--samples`; a family of methods such as `calibrator` becomes `--calibrator KIND`, a
list of them such as `refinements` is given once for each: `--refinements KIND --refinements KIND`; the scalar fields
of an inner Spec such as `fit` stand beside them (`--epochs`, `--lr`). Every other key, at any depth, is reached with
`--set key.inner=value`, as it would stand in a recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from edgeopt.cli.running import Common, read_setting
from edgeopt.errors import UsageError
from edgeopt.keys import has_unit, is_spec, members_of, tag_of
from edgeopt.recipe import problem
from edgeopt.spec import Spec
from edgeopt.stage import Stage

__all__ = ["Flags", "build", "flag_paths", "with_flags"]

UNSET = None

Flags = dict[tuple[str, ...], Any]
"""Path of a stage's field -> the value that was given for it."""


def with_flags(stage: type[Stage], function: Callable[..., None], skip: tuple[str, ...] = ()) -> Callable[..., None]:
    """`function(common, flags, ...)` as a command: what all such commands take, its own options, the stage's fields.

    The values given for the stage's fields arrive as one dict in `flags`, ready for `build`; fields in `skip` get none.
    """
    shared = dict(signature(Common, eval_str=True).parameters)
    own = {n: p for n, p in signature(function, eval_str=True).parameters.items() if n not in ("common", "flags")}
    paths = {name: path for name, path in flag_paths(stage).items() if name not in {*shared, *own, *skip}}
    options = {name: _option(name, _field_at(stage, path)) for name, path in paths.items()}

    def command(**values: Any) -> None:
        given = {path: values.pop(name) for name, path in paths.items()}
        flags = {path: value for path, value in given.items() if value is not UNSET and value != []}
        common = Common(**{name: values.pop(name) for name in shared})
        function(common=common, flags=flags, **values)

    command.__doc__ = function.__doc__
    command.__name__ = function.__name__
    command.__module__ = function.__module__
    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (shared | own | options).values()]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def build(stage: type[Stage], flags: Flags, sets: list[str] | None = None) -> Stage:
    """The stage that the flags and the `--set key=value` entries describe. Raises UsageError."""
    settings: dict[str, Any] = {}
    for path, value in flags.items():
        field = _field_at(stage, path)
        if isinstance(value, str) and (spec := _plain(field)) is not None:
            value = _read_plain(spec, value, path)
        elif _is_family(field):
            value = {"kind": value}
        elif _is_list_of_family(field):
            value = [{"kind": kind} for kind in value]
        _place(settings, path, value)
    for entry in sets or []:
        key, value = read_setting(entry, "--set")
        _place(settings, tuple(key.split(".")), value)
    kind = get_args(stage.model_fields["kind"].annotation)[0]
    try:
        return stage.model_validate({"kind": kind} | settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(problem(first), where=f"{kind}: {key}") from error


def _plain(field: FieldInfo) -> type[Spec] | None:
    """The Spec that a plain string may stand for in this field."""
    members = [member for member in members_of(field.annotation) if is_spec(member) and member.takes_text]
    return members[0] if len(members) == 1 else None


def _read_plain(spec: type[Spec], text: str, path: tuple[str, ...]) -> dict[str, Any]:
    """What the string stands for, so that `--set` can add to it. Raises UsageError."""
    try:
        return spec.parse_text(text)
    except ValueError as error:
        raise UsageError(str(error), where="--" + ".".join(path)) from error


def _place(settings: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        inner = settings.setdefault(part, {})
        settings = inner if isinstance(inner, dict) else settings
    last = settings.get(path[-1])
    settings[path[-1]] = last | value if isinstance(last, dict) and isinstance(value, dict) else value


def flag_paths(spec: type[Spec], prefix: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    """Flag name -> path of the field; inner Specs contribute their scalar fields under their own names."""
    found: dict[str, tuple[str, ...]] = {}
    for name, field in spec.model_fields.items():
        if name == "kind":
            continue
        if _type_of(field) is not None:
            found.setdefault(name, (*prefix, name))
        elif not prefix and (inner := _inner_spec(field)) is not None:
            for key, path in flag_paths(inner, (name,)).items():
                found.setdefault(key, path)
    return found


def _field_at(spec: type[Spec], path: tuple[str, ...]) -> FieldInfo:
    for part in path[:-1]:
        inner = _inner_spec(spec.model_fields[part])
        assert inner is not None
        spec = inner
    return spec.model_fields[path[-1]]


def _option(name: str, field: FieldInfo) -> Parameter:
    kind = _type_of(field)
    default = field.get_default(call_default_factory=True)
    shown = getattr(default, "kind", default)
    flag = "--" + name.replace("_", "-")
    flags = (f"{flag}/--no-{name.replace('_', '-')}",) if kind is bool else (flag,)
    known = shown not in (None, (), {}) and field.default is not ...
    default_text = rf" \[default: {shown}]" if known and isinstance(shown, str | int | float | bool) else ""
    kinds = "|".join(_kinds(_listed(field))) if _is_list_of_family(field) else None
    shape = None if kinds is None else f"[{kinds}]"  # typer takes no list of choices
    option = typer.Option(*flags, help=(field.description or "") + default_text, show_default=False, metavar=shape)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=UNSET, annotation=Annotated[kind | None, option])


def _type_of(field: FieldInfo) -> Any:
    """The type a flag for this field takes; None when it is too rich for a flag."""
    members = [member for member in members_of(field.annotation) if member is not type(None)]
    if len(members) == 1 and is_spec(members[0]) and members[0].takes_text:
        return str
    if all(is_spec(member) for member in members) and len(members) > 0:
        return _choice(tuple(_kinds(members))) if _is_family(field) else None
    for simple in (bool, int, float, str):
        if members[0] is simple:
            return str if str in members or has_unit(field) else simple
    if get_origin(members[0]) is Literal:
        return _choice(get_args(members[0]))
    if _is_list_of_family(field) or (get_origin(members[0]) is tuple and get_args(members[0])[0] is str):
        return list[str]
    return Path if members[0] is Path else None


def _choice(values: tuple[Any, ...]) -> Any:
    return Literal[values]


def _kinds(members: list[Any]) -> list[str]:
    return [str(tag_of(member)) for member in members]


def _is_family(field: FieldInfo) -> bool:
    members = [member for member in members_of(field.annotation) if is_spec(member)]
    return bool(members) and all("kind" in member.model_fields for member in members)


def _is_list_of_family(field: FieldInfo) -> bool:
    members = _listed(field)
    return bool(members) and all(is_spec(member) and "kind" in member.model_fields for member in members)


def _listed(field: FieldInfo) -> list[Any]:
    """What the elements of a `tuple[X, ...]` field may be; nothing for other fields."""
    members = members_of(field.annotation)
    alone = len(members) == 1 and get_origin(members[0]) is tuple
    return members_of(get_args(members[0])[0]) if alone else []


def _inner_spec(field: FieldInfo) -> type[Spec] | None:
    members = [member for member in members_of(field.annotation) if is_spec(member)]
    single = len(members) == 1 and not _is_family(field) and not members[0].takes_text
    return members[0] if single else None
