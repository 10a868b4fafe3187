"""How long a user waits for `edgeopt --help` and `edgeopt gate`: medians of fresh processes, taken in turns.

python benchmarks/startup.py [--rounds 11]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EDGEOPT = str(Path(sys.executable).with_name("edgeopt"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "edgeopt --help": [EDGEOPT, "--help"],
    "edgeopt gate report.json": [EDGEOPT, "gate", str(ROOT / "models" / "digits" / "report.json")],
    "edgeopt recipe check": [EDGEOPT, "recipe", "check", str(ROOT / "recipes" / "digits.yaml")],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(parser.parse_args().rounds):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times[name].append(time.perf_counter() - began)
    for name, seconds in times.items():
        print(f"{name:28} {statistics.median(seconds):.3f} s  ({min(seconds):.3f} to {max(seconds):.3f})")


if __name__ == "__main__":
    main()
