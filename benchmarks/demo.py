"""The demo with three training seeds: success pooled over the seeds, with its targets.

Run: .venv/bin/python benchmarks/demo.py [--walls fixed|random] [--seeds 3] [--threads N]
Writes benchmarks/results/demo-<walls>.json after every seed. Each seed runs a whole `worldline demo` in a separate
process, so that peak memory belongs to one demo. The 200 held-out pairs are the same for all seeds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, arguments, show, write

from worldline.stats import wilson

BARS: dict[str, dict[str, float]] = {
    "fixed": {"success": 0.99, "worst_seed": 0.97, "learn_s": 150.0, "total_s": 360.0},
    "random": {"success": 0.95, "worst_seed": 0.92, "learn_s": 600.0},
}
COMMON_BARS = {"plan_ms": 60.0, "plan_batched_ms": 15.0, "peak_memory_gb": 3.0}
COMMAND = str(Path(sys.executable).with_name("worldline"))


def run_seed(walls: str, seed: int, threads: int | None, folder: Path) -> dict[str, Any]:
    """The results of one demo."""
    figures = folder / "figures.json"
    command = [COMMAND, "demo", "--walls", walls, "--seed", str(seed), "--out", str(folder / "demo")]
    command += ["--json", str(figures)] + ([] if threads is None else ["--threads", str(threads)])
    subprocess.run(command, check=True)
    return {"seed": seed, "load_after": round(os.getloadavg()[0], 2), **json.loads(figures.read_text())}


def summary(walls: str, seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Results pooled over seeds; the worst seed for each target."""
    pairs = sum(run["pairs"] for run in seeds)
    pooled = wilson(round(sum(run["success"] * run["pairs"] for run in seeds)), pairs)
    detours = sum(run["detours"] for run in seeds)
    found = sum(round(run["detour_success"] * run["detours"]) for run in seeds if run["detours"])
    worst = {name: max(run[name] for run in seeds) for name in ("learn_s", "total_s", *COMMON_BARS)}
    figures = {"success": pooled.value, "worst_seed": min(run["success"] for run in seeds), **worst}
    bars = {**BARS[walls], **COMMON_BARS}
    met = {
        name: figures[name] >= bar if name in ("success", "worst_seed") else figures[name] <= bar
        for name, bar in bars.items()
    }
    return {
        "walls": walls,
        "success_low": round(pooled.low, 4),
        "success_high": round(pooled.high, 4),
        "pairs": pairs,
        "detours": detours,
        "detour_success": round(found / detours, 4) if detours else None,
        "figures": {name: round(value, 4) for name, value in figures.items()},
        "bars": bars,
        "met": met,
        "seeds": seeds,
    }


def main() -> None:
    """Measures, prints and writes the results."""
    options = arguments(__doc__, walls="fixed", seeds=3, threads=int)
    seeds: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            seeds.append(run_seed(options.walls, seed, options.threads, Path(folder)))
        found = summary(options.walls, seeds)
        write(RESULTS / f"demo-{options.walls}.json", found)
    show(
        ("figure", "measured", "bar", "met"),
        [(name, found["figures"][name], bar, found["met"][name]) for name, bar in found["bars"].items()],
    )


if __name__ == "__main__":
    main()
