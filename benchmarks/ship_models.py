"""Put the models of a finished run into `models/`, with what was measured on them in the manifest.

    edgeopt run recipes/digits.yaml --out out/digits
    python benchmarks/ship_models.py out/digits models/digits --recipe recipes/digits.yaml \\
        --licence "Apache-2.0; trained on UCI handwritten digits (CC BY 4.0)"

Copies every stage's float network, every artifact and the report. `tests/test_models.py` holds the manifest against the
files and measures them again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

MANIFEST = "manifest.yaml"
FIGURES = ("size_bytes", "params", "macs", "accuracy", "accuracy_low", "accuracy_high")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("place", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--licence", required=True)
    options = parser.parse_args()
    report = json.loads((options.run / "report.json").read_text())
    shutil.rmtree(options.place, ignore_errors=True)
    entries = [
        ship(options.run, options.place, source, f"{name}.onnx", figures)
        for source, name, figures in networks(options.run, report)
    ]
    for row in report["tiers"]:
        entries.append(ship(options.run, options.place, Path(row["path"]), row["path"], row))
    for file in ("report.json", "report.md", "report.html", "pruned.json"):
        shutil.copy(options.run / file, options.place / file)
    environment = report["tiers"][0]["environment"]
    shared = {
        "recipe": options.recipe,
        "recipe_hash": report["recipe_hash"],
        "seed": report["seed"],
        "data": report["data"]["name"],
        "samples": report["data"]["test"],
        "licence": options.licence,
        "trained_on": f"{environment['cpu']}, {environment['cores']} cores, {report['seconds']:.0f} s for all of it",
    }
    write_manifest(options.place, [entry | shared for entry in entries])


def networks(run: Path, report: dict[str, Any]) -> list[tuple[Path, str, dict[str, Any]]]:
    """File, name and figures of each trained float network: teacher, student, pruned."""
    names = {"train": "teacher", "distill": "student", "prune": "pruned"}
    found = []
    for stage in report["stages"]:
        if stage["kind"] in names and stage["tier"] is None:
            (folder,) = (run / "stages").glob(f"{stage['index']:02d}-{stage['kind']}-*")
            found.append(((folder / "model.onnx").relative_to(run), names[stage["kind"]], stage))
    return found


def ship(run: Path, place: Path, source: Path, target: str, figures: dict[str, Any]) -> dict[str, Any]:
    """Copy one model; its manifest entry."""
    (place / target).parent.mkdir(parents=True, exist_ok=True)
    content = (run / source).read_bytes()
    (place / target).write_bytes(content)
    entry = {"path": f"{place.name}/{target}", "sha256": hashlib.sha256(content).hexdigest()}
    return entry | {name: figures[name] for name in FIGURES}


def write_manifest(place: Path, entries: list[dict[str, Any]]) -> None:
    """Replace the entries of this folder and keep those of the others."""
    manifest = place.parent / MANIFEST
    known = yaml.safe_load(manifest.read_text())["models"] if manifest.exists() else []
    others = [entry for entry in known if not entry["path"].startswith(f"{place.name}/")]
    manifest.write_text(yaml.safe_dump({"models": others + entries}, sort_keys=False, width=120))


if __name__ == "__main__":
    main()
