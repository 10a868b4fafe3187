"""How the YAML files of this room are read: one that ships, by name, or the path of a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from edgeopt.errors import UsageError
from edgeopt.spec import Spec

__all__ = ["list_names", "read_spec"]

Read = TypeVar("Read", bound=Spec)


def list_names(folder: Path) -> list[str]:
    """Names of the files that ship in `folder`, in order."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_spec(spec: type[Read], reference: str, folder: Path) -> Read:
    """The `spec` called `reference` in `folder`, or in the .yaml file of that path; named after the file unless it says
    otherwise. Raises UsageError naming file and key."""
    path, noun = Path(reference), spec.__name__.lower()
    if path.suffix not in (".yaml", ".yml"):
        path = folder / f"{reference}.yaml"
        if reference not in list_names(folder):
            raise UsageError(
                f"there is no {noun} {reference!r}",
                fix=f"choose one of {', '.join(list_names(folder))} or give the path of a {noun}'s .yaml file",
            )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        return spec.model_validate({"name": path.stem} | content)
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise UsageError(f"is not a YAML mapping ({' '.join(str(error).split())[:200]})", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(first["msg"].removeprefix("Value error, "), where=f"{path}: {key}") from error
