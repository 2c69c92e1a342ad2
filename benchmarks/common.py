"""What the benchmarks share: command line, result files, machine, intervals, tables, stores and peers."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from worldline.data.store import Store, is_store, open_store
from worldline.stats import wilson

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CACHE = Path(tempfile.gettempdir()) / "worldline-benchmark-data"
"""Folder of the peers' environments and of what is made for them."""
Row = dict[str, Any]


def arguments(doc: str | None, **defaults: Any) -> Any:
    """The parsed command line. The docstring of a script explains its options.

    Args:
        doc: docstring of the script.
        defaults: per option its default. A type is an option without a default, False a flag, a tuple several values
            (of strings: the choices), a range seeds as A:B. `folder` is positional. `--out` is added.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults.setdefault("out", RESULTS / f"{Path(sys.argv[0]).stem}.json")
    for name, default in defaults.items():
        option = f"--{name.replace('_', '-')}"
        if name == "folder":
            parser.add_argument("folder", type=default, nargs="?")
        elif default is False:
            parser.add_argument(option, action="store_true")
        elif isinstance(default, type):
            parser.add_argument(option, type=default)
        elif isinstance(default, range):
            parser.add_argument(option, type=_seeds, default=default)
        elif isinstance(default, tuple):
            kind = type(default[0])
            choices = default if kind is str else None
            parser.add_argument(option, nargs="+", type=kind, choices=choices, default=default)
        else:
            parser.add_argument(option, type=type(default), default=default)
    return parser.parse_args()


def _seeds(text: str) -> range:
    first, _, stop = text.partition(":")
    return range(int(first), int(stop))


def read(path: Path) -> Row:
    """The result at a path; empty if there is none."""
    result: Row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return result


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result with the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, "machine": machine()}, indent=1) + "\n", encoding="utf-8")


def machine() -> Row:
    """Processor, cores, present load and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    flags = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", platform.machine()),
        "cpu_flags": [flag for flag in flags if flag.startswith(("avx512", "amx"))],
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "torch")},
    }


def one_thread() -> None:
    """One thread in this process: several threads on busy cores are slower."""
    import torch

    torch.set_num_threads(1)


CLOCK = "processor time"
"""What the budgets of a benchmark count after `use_processor_time`."""


def use_processor_time() -> None:
    """Budgets of `learn` count processor time, so that a busy machine does not shorten a training."""
    time.monotonic = time.process_time


def share(count: int, of: int) -> Row:
    """A share with its 95 % Wilson interval."""
    rate = wilson(count, max(of, 1))
    return {"count": count, "of": of, "low": rate.low, "high": rate.high}


def share_text(row: Mapping[str, Any]) -> str:
    """Such as "7 of 200 (1.7 to 7.0 %)"."""
    return f"{row['count']} of {row['of']} ({100 * row['low']:.1f} to {100 * row['high']:.1f} %)"


def median_interval(values: Sequence[float] | np.ndarray[Any, Any]) -> Row:
    """The median with its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (4000, len(values)))
    low, high = np.quantile(np.median(draws, 1), (0.025, 0.975))
    return {"median": float(np.median(values)), "low": float(low), "high": float(high)}


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """The median ratio of neighbouring repetitions, which see the same load, with its interval."""
    return median_interval(np.array(ours) / np.array(theirs))


def spread(values: Sequence[float]) -> Row:
    """Median, smallest, largest and all values."""
    return {"median": float(np.median(values)), "low": min(values), "high": max(values), "repeats": list(values)}


def quantiles(values: Any, *levels: float) -> dict[str, float]:
    """Quantiles by level; none without values."""
    return {str(level): float(np.quantile(values, level)) for level in levels if np.size(values)}


def show(header: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> None:
    """Prints a table."""
    table = Table(*header, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=160).print(table)


def show_bars(bars: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints targets, each with `met` and its figures."""
    for name, bar in bars.items():
        values = ", ".join(f"{key} {value:.4g}" for key, value in bar.items() if isinstance(value, (int, float)))
        print(f"{'met   ' if bar['met'] else 'MISSED'} {name}: {values}")


@contextmanager
def kept_or_temporary(folder: Path | None) -> Iterator[Path]:
    """The folder, made if it is missing; a temporary one for None."""
    with tempfile.TemporaryDirectory() as temporary:
        path = (folder or Path(temporary)).absolute()
        path.mkdir(parents=True, exist_ok=True)
        yield path


def stored(path: Path, make: Callable[[Path], Store]) -> Store:
    """The store at a path; recorded there if it is missing."""
    if not is_store(path):
        with tempfile.TemporaryDirectory(dir=path.parent) as draft:  # an interrupted recording leaves no store
            make(Path(draft) / "store")
            (Path(draft) / "store").rename(path)
    return open_store(path)


def peer_python(name: str, packages: Sequence[str]) -> str:
    """The Python of an environment with these packages; created once in the cache."""
    home = CACHE / name
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (home / "complete").touch()
    return str(python)


class Peer:
    """A process that answers one JSON request per line.

    Args:
        command: Python, script and arguments.
        environment: variables that differ from those of this process.
    """

    def __init__(self, *command: object, environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*map(str, command)],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, do: str, **what: object) -> Any:
        """The answer to a request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": do, **what}, default=str), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process failed at {do} {what} with exit code {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self.process.communicate()
