"""A command as a person sees it: on a pseudo-terminal of a given width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

__all__ = ["CONTROL", "on_terminal", "screen_lines"]

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\].*?(?:\x07|\x1b\\)")


def on_terminal(
    *arguments: str,
    width: int = 80,
    cwd: Path | None = None,
    answers: str = "",
    env: dict[str, str] | None = None,
    interrupt_at: str = "",
    timeout: float = 240,
) -> tuple[int, str]:
    """Exit code and all output. `answers` is typed at once; Ctrl-C is sent when the pattern `interrupt_at` is seen."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-m", "edgeopt", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env=environment | {"TERM": "xterm-256color"} | (env or {}),
        start_new_session=True,
    )
    os.close(theirs)
    os.write(own, answers.encode())
    shown, until, interrupted = b"", time.monotonic() + timeout, False
    while time.monotonic() < until:
        if select.select([own], [], [], 0.2)[0]:
            try:
                shown += os.read(own, 65536)
            except OSError:  # the other end is closed
                break
        seen = CONTROL.sub("", shown.decode(errors="replace"))
        if interrupt_at and not interrupted and re.search(interrupt_at, seen):
            interrupted = True
            os.killpg(child.pid, signal.SIGINT)
    child.wait(timeout=30)
    os.close(own)
    return child.returncode, shown.decode(errors="replace").replace("\r\n", "\n")


def screen_lines(shown: str) -> list[str]:
    """The lines as they can be read, without colours and movements; a line drawn over keeps all its versions."""
    return [part.rstrip() for line in CONTROL.sub("", shown).split("\n") for part in line.split("\r")]
