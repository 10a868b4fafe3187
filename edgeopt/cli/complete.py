"""What the shell offers on Tab, where the options themselves do not know: tiers, devices, recipes, keys.

Choices of an option (presets, calibrators) are offered without help from here.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["complete_key", "complete_recipe", "complete_setting", "complete_tier"]


def complete_tier(incomplete: str) -> list[str]:
    """Names of the tiers that ship, and .yaml files."""
    from edgeopt.tiers import list_tiers

    return _fitting(list_tiers(), incomplete) + _files(incomplete)


def complete_recipe(incomplete: str) -> list[str]:
    """Names of the recipes that ship, and .yaml files."""
    from edgeopt.recipe import list_recipes

    return _fitting(list_recipes(), incomplete) + _files(incomplete)


def complete_key(incomplete: str) -> list[str]:
    """Keys for `edgeopt explain`, one level at a time."""
    from edgeopt.explain import every_key

    depth = incomplete.count(".") + 1
    return _fitting(sorted({".".join(key.split(".")[:depth]) for key in every_key()}), incomplete)


def complete_setting(incomplete: str) -> list[str]:
    """Keys of a recipe for `--set KEY=VALUE`: the stage by its kind."""
    from edgeopt.explain import every_key

    if "=" in incomplete:
        return []
    keys = [key for key in every_key() if not key.startswith(("tier.", "device."))]
    return _fitting(keys, incomplete)


def _fitting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _files(incomplete: str) -> list[str]:
    """Folders, and .yaml files, that begin as what was typed."""
    typed = Path(incomplete)
    folder, start = (typed, "") if incomplete.endswith("/") else (typed.parent, typed.name)
    if not folder.is_dir():
        return []
    found = (path for path in sorted(folder.iterdir()) if path.name.startswith(start) and not path.name.startswith("."))
    return [f"{path}/" if path.is_dir() else str(path) for path in found if path.is_dir() or path.suffix == ".yaml"]
