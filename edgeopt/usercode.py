"""Functions from a user's own file: `net.py:factory`, `data.py:factory`.

The file's code runs, because the user typed its name. Whatever goes wrong in it becomes one sentence with the
line.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeopt.errors import EdgeoptError, UsageError

__all__ = ["call_user_code", "import_function"]


def import_function(reference: str) -> Callable[..., Any]:
    """The function that `file.py:name` means. Files beside it can be imported by it, as in a script.

    Raises UsageError when there is no such file or function, or its code fails.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError("no such file", where=file)
    spec = importlib.util.spec_from_file_location(f"edgeopt_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    call_user_code(spec.loader.exec_module, module, where=file)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"has no function {name!r}", where=file)
    return function  # type: ignore[no-any-return]


def call_user_code(function: Callable[..., Any], *arguments: Any, where: str) -> Any:
    """Call it; an exception becomes a UsageError with the file and line it came from."""
    try:
        return function(*arguments)
    except EdgeoptError:
        raise
    except (Exception, SystemExit) as error:
        place = _line(error, Path(where.rpartition(":")[0] or where).name)
        message = " ".join(str(error).split())[:300]
        raise UsageError(f"{type(error).__name__}: {message} ({place})", where=where) from error


def _line(error: BaseException, file: str) -> str:
    """`data.py:12`: the innermost line of the user's file, else of whatever raised."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).name == file] or list(frames)
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"
