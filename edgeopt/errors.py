"""Every error a user can cause, and the exit code it ends the command with.

The library raises; only `edgeopt.cli` prints and exits. A message says where, what was found, and
what would do: `EdgeoptError("'fp8' is not a precision", where="tier.yaml:4", fix="use int8, fp16 or fp32")`.
"""

from __future__ import annotations

__all__ = ["EdgeoptError", "GateFailed", "Interrupted", "StageFailed", "UsageError"]


class EdgeoptError(Exception):
    """Base of every error that is reported as one sentence instead of a traceback."""

    exit_code = 3

    def __init__(self, found: str, *, where: str = "", fix: str = "") -> None:
        self.found, self.where, self.fix = found, where, fix
        super().__init__(": ".join(filter(None, [where, "; ".join(filter(None, [found, fix]))])))


class GateFailed(EdgeoptError):
    """A measured figure is outside its limit."""

    exit_code = 1


class UsageError(EdgeoptError):
    """The command line, a recipe, a model or a data set is not what it has to be."""

    exit_code = 2


class StageFailed(EdgeoptError):
    """The input was fine, and a stage could not do its work (a tier not met, a full disk)."""

    exit_code = 3


class Interrupted(EdgeoptError):
    """Ctrl-C; the message says how to resume."""

    exit_code = 130
