"""docs/coverage.md: each benchmark writes its own section and leaves the others as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from edgeopt.atomic import write_atomic

__all__ = ["code_digest", "measured_by", "put_section"]

TITLE = "# Coverage: which networks are taken, and what becomes of them"


def put_section(page: Path, heading: str, lines: Iterable[str]) -> None:
    """Write `## heading` and its lines: in place of the section whose heading starts with the same word, or last."""
    text = page.read_text() if page.is_file() else ""
    sections = [part.rstrip() for part in re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]]
    new = "\n".join([f"## {heading}", "", *lines]).rstrip()
    topic = f"## {heading.split()[0]}"
    places = [index for index, part in enumerate(sections) if part.split("\n")[0].startswith(topic)]
    if places:
        sections[places[0]] = new
    else:
        sections.append(new)
    write_atomic(page, ("\n\n".join([TITLE, *sections]) + "\n").encode())


def measured_by(command: str) -> list[str]:
    """With what command and where a section's figures were made."""
    from edgeopt.measure.environment import environment

    where = environment(1)
    return [
        f"Written by `{command}` on {where['cpu']}, {where['cores']} cores, {where['os']};",
        f"Python {where['python']}, torch {where['torch']}, onnxruntime {where['onnxruntime']},",
        f"edgeopt {where['edgeopt']}.",
        "",
    ]


def code_digest(*parts: str) -> str:
    """What tells one state of edgeopt's code from another; `parts` are packages of it, or all."""
    import hashlib

    import edgeopt

    root, found = Path(edgeopt.__file__).parent, hashlib.sha256()
    for path in sorted(path for part in parts or ("",) for path in (root / part).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:8]
