"""Time of a new interpreter to import worldline, and to print the help of its command.

Run: .venv/bin/python benchmarks/startup.py
Writes benchmarks/results/startup.json. Targets: 0.15 s for the import, 0.4 s for the help, interpreter included.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 11
RESULT = Path(__file__).parent / "results" / "startup.json"
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    "import worldline": ([sys.executable, "-c", "import worldline"], 0.15),
    "worldline --help": ([str(Path(sys.executable).with_name("worldline")), "--help"], 0.4),
}


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measures, prints and writes the results."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    # The commands take turns, so that a busy moment of the machine affects all of them.
    for run in range(RUNS + 1):
        for name, (command, _) in COMMANDS.items():
            taken = seconds(command)
            if run > 0:  # the first run fills the file cache
                times[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    rows = [
        {"command": name, "median_s": round(medians[name], 4), "bar_s": bar, "met": bar is None or medians[name] <= bar}
        for name, (_, bar) in COMMANDS.items()
    ]
    print(f"{'command':<20}{'median':>10}{'bar':>10}")
    for row in rows:
        bar = "" if row["bar_s"] is None else f"{row['bar_s']} s{'' if row['met'] else '  MISSED'}"
        print(f"{row['command']:<20}{row['median_s']:>8} s{bar:>10}")
    RESULT.parent.mkdir(exist_ok=True)
    result = {"runs": RUNS, "python": platform.python_version(), "machine": platform.machine(), "results": rows}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
