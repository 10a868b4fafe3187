"""The main job over several seeds: what `recipes/digits.yaml` gives, how far it spreads, how long it takes.

    python benchmarks/digits.py [--seeds 0 1 2] [--out DIR]

Each seed is one `edgeopt run` in a process of its own, as a user would start it. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "digits.yaml"


def run(seed: int, out: Path) -> tuple[dict, float]:
    """The report of one run and its wall time, start-up included."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "edgeopt", "run", str(RECIPE), "--seed", str(seed), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return json.loads((out / "report.json").read_text()), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp())
    rows, seconds = [], []
    print("| seed | tier | file | accuracy | drop against the float student | gate | seconds |")
    print("|---|---|---|---|---|---|---|")
    for seed in options.seeds:
        report, took = run(seed, folder / str(seed))
        seconds.append(took)
        gate = "pass" if all(verdict["ok"] for verdict in report["gate"]) else "FAIL"
        for row in report["tiers"]:
            rows.append(row)
            print(
                f"| {seed} | {row['tier']} | {row['size_bytes']:,} B | {100 * row['accuracy']:.2f} % "
                f"| {row['drop_points']:+.2f} pt ({row['drop_low']:+.2f} to {row['drop_high']:+.2f}) "
                f"| {gate} | {took:.0f} |",
                flush=True,
            )
    mcu = [row for row in rows if row["tier"] == "mcu"]
    accuracies = [100 * row["accuracy"] for row in mcu]
    print(
        f"\nmcu over {len(mcu)} seeds: accuracy {min(accuracies):.2f} to {max(accuracies):.2f} %, "
        f"median {statistics.median(accuracies):.2f} %; file at most {max(row['size_bytes'] for row in mcu):,} B; "
        f"{statistics.median(seconds):.0f} s a run (median, start-up included)"
    )


if __name__ == "__main__":
    main()
