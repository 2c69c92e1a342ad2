"""Processor time of the verbs, compared with an earlier version of the toolkit.

Run: .venv/bin/python benchmarks/overheads.py --base COMMIT [--repeats 9] [--families NAME ...]
Writes benchmarks/results/overheads.json. About 15 minutes on two cores.

The earlier version is checked out into a temporary folder. It learns one small world per family from a table, and both
versions open these bundles, so the weights are equal. Each version runs in a separate process with one thread; the two
answer in turn. Times are processor seconds of one thread, so other load on the machine counts less.

Rows, per family:
  ratios      the new time divided by the old one of the same turn: median over the repeats, with its 95 % interval.
              Verbs: `plan` (horizon 12, a target and a constraint), `predict` with 8 and 41 observations, 20 calls of
              `Session.observe`, `learn` (30 updates). `served` is 50 calls of `predict` in the process of a service.
  difference  of the cost of whole plans from 20 seeds, new minus old, with its 95 % interval. It is 0 if the versions
              draw alike.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, which reads it once

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).parent.parent
RESULT: Final = Path(__file__).parent / "results" / "overheads.json"
FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    "jepa": ("vectors", "jepa"),
    "jepa-memory": ("memory", "jepa"),
    "ensemble": ("vectors", "ensemble"),
    "rssm": ("vectors", "rssm"),
}
"""Recipe and model of each row."""
VERBS: Final = ("plan", "predict_8", "predict_41", "observe", "learn", "served")
FEW: Final = {"training.num_updates": 30, "training.num_checks": 2, "training.batch_size": 16,
              "training.num_validation": 16, "training.min_rank": 1.0, "training.min_deviation": 0.0,
              "heads.readout_updates": 30, "num_windows": 2}  # fmt: skip
HORIZON: Final = 12


def logged() -> tuple[Any, list[dict[str, np.ndarray]]]:
    """A cart in the wind, as a table and as arrays per episode."""
    import pandas as pd

    rng, rows = np.random.default_rng(0), []
    for episode in range(60):
        position, speed, push = rng.normal(), 0.0, 0.0
        for step in range(61):
            push = rng.uniform(-1, 1) if step % 5 == 0 else push
            rows.append((episode, 0.1 * step, position, speed, push))
            position, speed = position + 0.1 * speed, 0.95 * speed + 0.1 * push - 0.05 * np.sin(position)
    frame = pd.DataFrame(rows, columns=["episode", "time [s]", "position [m]", "speed [m/s]", "push"])
    values = [np.array([row[2:] for row in rows if row[0] == episode], np.float32) for episode in range(60)]
    return frame, [{"position": v[:, :1], "speed": v[:, 1:2], "push": v[:-1, 2:]} for v in values]


# --- the part that runs in either version


class Version:
    """The measurements of the version that is on the path."""

    def __init__(self, folder: Path) -> None:
        import torch

        import worldline

        torch.set_num_threads(1)
        self.folder, self.worldline = folder, worldline
        self.frame, self.episodes = logged()
        self.worlds: dict[str, Any] = {}
        self.services: dict[str, tuple[subprocess.Popen[str], Any]] = {}

    def learn(self, family: str, keep: bool = False) -> float:
        """Processor seconds of `learn`; the bundle stays if `keep`."""
        recipe, model = FAMILIES[family]
        edits = {"push": {"role": "action", "low": [-1.0], "high": [1.0]}}
        with tempfile.TemporaryDirectory() as scratch:
            out = (self.folder if keep else Path(scratch)) / family
            settings: Any = {"edits": edits, "recipe": recipe, "model": model, "set": FEW, "horizon": HORIZON}
            return seconds(lambda: self.worldline.learn(self.frame, out, **settings))

    def world(self, family: str) -> Any:
        """The world of a family, opened once."""
        if family not in self.worlds:
            self.worlds[family] = self.worldline.open(self.folder / family)
        return self.worlds[family]

    def past(self, length: int, number: int = 0) -> Any:
        """Observations of an episode."""
        episode = self.episodes[number]
        return self.worldline.History(
            observations={name: episode[name][:length] for name in ("position", "speed")},
            actions={"push": episode["push"][: length - 1]},
        )

    def plan(self, family: str) -> float:
        """Processor seconds of one plan, after one that warms up."""
        self.planned(family, 0)
        return seconds(lambda: self.planned(family, 0))

    def planned(self, family: str, seed: int) -> float:
        """The cost of a plan."""
        from worldline.planning.costs import AtMost

        world, goal = self.world(family), self.worldline.Goal(targets={"position": np.array([0.5], np.float32)})
        history, rule = self.past(world.describe().context, seed), AtMost(signal="position", bound=2.0)
        return float(world.plan(history, goal, constraints=(rule,), horizon=HORIZON, seed=seed).cost)

    def costs(self, family: str) -> list[float]:
        """The costs of plans from 20 seeds."""
        return [self.planned(family, seed) for seed in range(20)]

    def predict(self, family: str, length: int) -> float:
        """Processor seconds of ten predictions."""
        history, actions = self.past(length), {"push": self.episodes[0]["push"][:HORIZON]}
        ask = self.world(family).predict
        ask(history, actions)
        return seconds(lambda: [ask(history, actions) for _ in range(10)])

    def observe(self, family: str) -> float:
        """Processor seconds of 20 steps of a session."""
        session, episode = self.worldline.Session(self.world(family), num_kept=100), self.episodes[0]

        def steps(first: int, stop: int) -> None:
            for at in range(first, stop):
                actions = {"push": episode["push"][at - 1]} if at else None
                session.observe({name: episode[name][at] for name in ("position", "speed")}, actions=actions)

        steps(0, 30)
        return seconds(lambda: steps(30, 50))

    def served(self, family: str) -> float:
        """Processor seconds of a service for 50 predictions."""
        if family not in self.services:
            command = [str(Path(sys.executable).with_name("worldline")), "serve", f"one={self.folder / family}"]
            files = ["--port", "0", "--threads", "1", "--database", str(self.folder / f"{os.getpid()}.sqlite")]
            service = subprocess.Popen([*command, *files], stdout=subprocess.PIPE, text=True)
            assert service.stdout is not None
            port = next(found[1] for line in service.stdout if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
            self.services[family] = service, self.worldline.open(f"http://127.0.0.1:{port}")
        service, world = self.services[family]
        history, actions = self.past(8), {"push": self.episodes[0]["push"][:HORIZON]}
        world.predict(history, actions)
        before = processor_time(service.pid)
        for _ in range(50):
            world.predict(history, actions)
        return processor_time(service.pid) - before

    def close(self) -> None:
        """Ends the services."""
        for service, _ in self.services.values():
            service.terminate()
            service.communicate(timeout=60)


def seconds(call: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def processor_time(pid: int) -> float:
    """Processor seconds of another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answer(folder: Path) -> None:
    """Answers one JSON request per line."""
    version, replies = Version(folder), sys.stdout
    sys.stdout = sys.stderr  # what `learn` prints is no reply
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(version, request.pop("do"))(**request)), file=replies, flush=True)
    version.close()


# --- the driver


class Process:
    """One version in a separate process."""

    def __init__(self, root: Path, folder: Path) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": f"{root / 'src'}:{root / 'exam' / 'src'}"}
        command = [sys.executable, __file__, "--answer", str(folder)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, do: str, **given: Any) -> Any:
        """The answer to one request."""
        pipe_in, pipe_out = self.process.stdin, self.process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        pipe_in.write(json.dumps({"do": do, **given}) + "\n")
        pipe_in.flush()
        reply = pipe_out.readline()
        if not reply:
            raise SystemExit(f"{do} {given}: the process ended with exit code {self.process.wait()}.")
        return json.loads(reply)

    def time(self, verb: str, family: str) -> float:
        """Processor seconds of a verb."""
        name, _, length = verb.partition("_")
        return float(self.ask(name, family=family, **({"length": int(length)} if length else {})))


def median_interval(values: Sequence[float]) -> dict[str, float]:
    """The median, and its 95 % interval by resampling."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
    return {"median": float(np.median(values)), "low": float(low), "high": float(high)}


def row(family: str, old: Process, new: Process, repeats: int) -> dict[str, Any]:
    """All measurements of one family."""
    ratios = {}
    for verb in VERBS:
        pairs = [(old.time(verb, family), new.time(verb, family)) for _ in range(repeats)]
        ratios[verb] = median_interval([after / before for before, after in pairs])
        print(family, verb, *(f"{name} {value:.3f}" for name, value in ratios[verb].items()), flush=True)
    apart = np.subtract(new.ask("costs", family=family), old.ask("costs", family=family))
    half = 1.96 * apart.std(ddof=1) / np.sqrt(len(apart))
    difference = {"mean": apart.mean(), "low": apart.mean() - half, "high": apart.mean() + half}
    return {"ratios": ratios, "difference": difference}


def main() -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required="--answer" not in sys.argv, help="commit of the earlier version")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        answer(options.answer)
        return
    with tempfile.TemporaryDirectory() as scratch:
        base, folder = Path(scratch) / "base", Path(scratch) / "worlds"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(base), options.base], cwd=ROOT, check=True)
        try:
            old, new = Process(base, folder), Process(ROOT, folder)
            for family in options.families:
                old.ask("learn", family=family, keep=True)
                new.ask("learn", family=family)  # the first call imports what later ones need
            rows = {family: row(family, old, new, options.repeats) for family in options.families}
            for process in (old, new):
                process.process.communicate(timeout=120)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(base)], cwd=ROOT, check=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, one thread"
    result = {"base": options.base, "repeats": options.repeats, "machine": machine, "families": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
