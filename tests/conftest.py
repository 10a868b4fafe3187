"""Tests run in one process a core, so each keeps to one thread: threads that compete make everything slower.

The `note` fixture puts a line into the summary at the end, from whichever process.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# a test that cares for the width of a screen says so; pytest-xdist sets this in its workers
os.environ.pop("COLUMNS", None)


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


NOTES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NOTES] = []


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    return request.config.stash[NOTES].append


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["notes"] = session.config.stash[NOTES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    node.config.stash[NOTES] += getattr(node, "workeroutput", {}).get("notes", [])


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    for line in sorted(set(config.stash[NOTES])):
        terminalreporter.write_line(line)
