"""Learning against methods of the field: development plants, and report cases that no setting was chosen on.

Run: .venv/bin/python benchmarks/foreign.py [--peer-python PATH] [--cases tclab,cstr] [--recipes auto,linear]
     [--peers arx,gru] [--seeds 3] [--budget 60] [--cache FOLDER] [--out FILE]
Report cases, once at the end: ... --report --sources FOLDER
Writes benchmarks/results/foreign.json, one case at a time. Other cases in the file stay.

All methods learn from the same episodes and predict the same windows of fresh episodes, each from 25 observations.
A method may use 60 s of processor time on one thread. A peer is ended after that; our recipes get the time as their
budget, and their use is measured. The error of a signal is the root mean square error over the windows divided by the
signal's standard deviation in the training log. The error of a case is the mean over its signals, after 1, 10 and 48
steps. Intervals are 95 % bootstrap intervals over test episodes; ratios are paired.

Targets: our recipe is first or within 10 % of the best peer in 75 % of the cells (case and step). Its error is at most
1.15 times that of the best linear method in each cell. The share of paths inside the bands of level 0.9 passes a
binomial test at 1 %.

Logs and answers of peers are kept in the cache folder, and reused if nothing that they depend on has changed. Our
recipes are measured again, except with --reuse. Simulators that only the peers' environment has are run there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from foreign_cases import CASES, SOURCES, Case, load_log, unavailable
from foreign_peers import METHODS
from foreign_worlds import PAST, STEPS, table, test_windows
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable
from train import machine

from worldline.data.windows import ForecastWindows
from worldline.stats import Floats, cluster_sums, draw_clusters, tails, wilson
from worldline.workflows.learn_options import parse_settings

HERE = Path(__file__).parent
RESULT = HERE / "results" / "foreign.json"
LINEAR = ("persistence", "arx", "subspace")
NEAR, LINEAR_BAR, CELLS_BAR = 1.1, 1.15, 0.75
SIGNIFICANCE = 0.01
LOW_TRUST = 0.05
PEER_PACKAGES = (
    *("torch>=2.10", "lightgbm>=4.6", "sysidentpy>=0.6", "neuromancer>=1.5"),
    *("tclab>=1.0", "wntr>=1.3", "six", "gym-electric-motor>=3.0"),
)
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ErrorCurve:
    """The error of a method at each scored step.

    Args:
        value: [S], mean over the seeds.
        draws: [draws, S], its bootstrap draws over test episodes.
        seeds: [seeds, S].
    """

    value: Floats
    draws: Floats
    seeds: Floats


def error_curve(
    predictions: Sequence[Floats], truth: Floats, spread: Floats, episode: NDArray[np.integer]
) -> ErrorCurve:
    """The error of a method.

    Args:
        predictions: per seed [W, S, n].
        truth: [W, S, n].
        spread: [n], standard deviations of the training log.
        episode: [W], the test episode of each window, from 0.
    """
    numbers = np.asarray(episode, int)
    weights = draw_clusters(int(numbers.max()) + 1, seed=0)
    values, draws = [], []
    for predicted in predictions:
        squared = cluster_sums(((predicted - truth) / spread) ** 2, numbers, weights.shape[1])
        counts = np.bincount(numbers, minlength=weights.shape[1])
        values.append(np.sqrt(squared.sum(0) / counts.sum()).mean(-1))
        total = np.tensordot(weights, squared, axes=(1, 0)) / (weights @ counts)[:, None, None]
        draws.append(np.sqrt(total).mean(-1))
    return ErrorCurve(value=np.mean(values, 0), draws=np.mean(draws, 0), seeds=np.array(values))


def interval(value: float, draws: Floats) -> list[float]:
    """A figure with its 95 % interval."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return [rounded(one) for one in (value, low, high)]


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def cell(ours: ErrorCurve, peers: Mapping[str, ErrorCurve], place: int) -> Row:
    """Our place at one step, with paired ratios to the best peer and to the best linear method."""
    found: Row = {}
    for label, names in (("peer", list(peers)), ("linear", [name for name in LINEAR if name in peers])):
        if names:
            best = min(names, key=lambda name: peers[name].value[place])
            ratio = ours.value[place] / peers[best].value[place]
            draws = ours.draws[:, place] / peers[best].draws[:, place]
            found |= {f"best_{label}": best, f"ratio_to_best_{label}": interval(ratio, draws)}
    if peers:
        ratio = found["ratio_to_best_peer"][0]
        found |= {"first": ratio <= 1, "first_or_near": ratio <= NEAR}
    return found


def coverage(answers: Sequence[Row], names: Sequence[str], episode: NDArray[np.integer]) -> Row:
    """Shares of paths inside the bands; the tests use one window per episode and correct for the number of signals."""
    if not all("inside" in one for one in answers):
        return {"calibrated": False}
    _, first = np.unique(episode, return_index=True)
    exact, conformal, per_signal = list[float](), list[float](), dict[str, list[float]]()
    for one in answers:
        level, known = float(one["level"]), one.get("calibration_episodes")
        for hits in one["inside"][first].T:
            count, trials = int(hits.sum()), len(hits)
            for into, calibration in ((exact, None), (conformal, None if known is None else int(known))):
                both = tails(count, trials, level, calibration)
                into.append(min(1.0, 2 * min(both.low, both.high) * len(names)))
    for place, name in enumerate(names):
        hits = np.concatenate([one["inside"][first, place] for one in answers])
        rate = wilson(int(hits.sum()), len(hits), effective_trials=float(len(first)))
        per_signal[name] = [rounded(one) for one in (rate.value, rate.low, rate.high)]
    trust = np.concatenate([np.asarray(one["trust"], float) for one in answers])
    inside = np.concatenate([one["inside"] for one in answers])
    trusted = inside[trust >= LOW_TRUST]
    return {
        "calibrated": True,
        "level": float(answers[0]["level"]),
        "steps_with_band": min(int(one["steps_with_band"]) for one in answers),
        "mean": rounded(inside.mean()),
        "per_signal": per_signal,
        "p_binomial": rounded(min(exact)),
        "p_given_calibration": rounded(min(conformal)),
        "passes": min(exact) >= SIGNIFICANCE,
        "low_trust": rounded((trust < LOW_TRUST).mean()),
        "mean_of_trusted": rounded(trusted.mean()) if len(trusted) else None,
    }


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Settings of a run.

    Args:
        python: of the peers' environment; empty for none.
        peers: names of methods.
        recipes: names of recipes.
        seeds: number of training seeds.
        cpu_s: processor time of a method.
        budget: budget of our recipes in seconds; 0 for none.
        settings: of our recipes, by path.
        reuse: whether answers of our recipes in the cache are reused, whatever code and settings they come from.
        cache: folder for logs and answers.
        data_seed: of the logs.
    """

    python: str
    peers: tuple[str, ...]
    recipes: tuple[str, ...]
    seeds: int
    cpu_s: float
    budget: float
    settings: Mapping[str, object]
    cache: Path
    reuse: bool
    data_seed: int = 0

    def pythons(self) -> list[str]:
        """The interpreters that may record a log."""
        return [sys.executable, *([self.python] if self.python else [])]


def run(command: Sequence[object], log: Path, limit_s: float | None = None) -> str:
    """Runs a process on one thread. Returns the reason of a failure, or an empty text."""
    with log.open("w") as output:
        try:
            ended = subprocess.run(
                [*map(str, command)],
                env={**os.environ, **ONE_THREAD},
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=limit_s,
            )
        except subprocess.TimeoutExpired:
            return f"still running after {limit_s:.0f} s"
    if ended.returncode == 0:
        return ""
    if ended.returncode in (-24, -9):
        return "used more than its processor time"
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit status {ended.returncode}"


def able(bench: Bench, name: str) -> tuple[str, str]:
    """The first interpreter that can record a case, and else what is missing."""
    case, reason = CASES[name], unavailable(CASES[name])
    if not reason:
        return sys.executable, ""
    if bench.python and case.needs and not case.missing():
        probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({case.needs!r}) is None)"
        if subprocess.run([bench.python, "-c", probe], check=False).returncode == 0:
            return bench.python, ""
    return "", reason


def record(bench: Bench, name: str, python: str) -> Path:
    """The folder with train.npz and test.npz of a case; records them once."""
    case = CASES[name]
    code = b"".join((HERE / name).read_bytes() for name in ("foreign_cases.py", "plants.py"))
    digest = hashlib.sha256(code).hexdigest()[:10]
    folder = bench.cache / f"{name}-{bench.data_seed}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in zip(("train", "test"), case.counts, strict=True):
        path, draft = folder / f"{part}.npz", folder / f"{part}.draft.npz"
        if not path.exists():
            script = HERE / "foreign_cases.py"
            command = (python, script, name, part, str(count), str(bench.data_seed), draft)
            if reason := run(command, folder / f"{part}.log"):
                raise SystemExit(f"{name}: the log cannot be recorded: {reason}\nSee {folder / part}.log.")
            draft.rename(path)
    return folder


def write_problem(case: Case, folder: Path, windows: ForecastWindows) -> Path:
    """The npz file that peers read."""
    runs, past = load_log(folder / "train.npz"), windows.history
    inputs = [
        np.concatenate([table(case, role, one) for role, one in pair if case.of(role)], -1)
        for pair in (
            (("action", past.actions), ("exogenous", past.exogenous)),
            (("action", windows.actions), ("exogenous", windows.exogenous)),
        )
    ]
    np.savez(
        folder / "problem.npz",
        observations=np.concatenate([run[0] for run in runs]),
        inputs=np.concatenate([np.concatenate(run[1:], 1) for run in runs]),
        lengths=[len(run[1]) for run in runs],
        test_observations=table(case, "observation", past.observations),
        test_inputs=np.concatenate(inputs, 1),
        steps=STEPS,
        past=PAST,
    )
    return folder / "problem.npz"


def answers_of(bench: Bench, name: str, folder: Path, method: str, problem: Path) -> list[Row] | str:
    """The answers of a method, one per seed, or the reason why there is none."""
    found = list[Row]()
    is_peer = method in METHODS
    digest = hashlib.sha256((HERE / "foreign_peers.py").read_bytes() + problem.read_bytes()).hexdigest()[:10]
    for seed in range(bench.seeds):
        label = f"peer-{method}-{seed}-{bench.cpu_s:g}-{digest}" if is_peer else f"recipe-{method}-{seed}"
        path = folder / f"{label}.npz"
        if not ((is_peer or bench.reuse) and path.exists()):
            path.unlink(missing_ok=True)
            if is_peer:
                command = [bench.python, HERE / "foreign_peers.py", method, problem, path, str(seed), str(bench.cpu_s)]
            else:
                command = [
                    *(sys.executable, HERE / "foreign_worlds.py", name, folder, method),
                    *(str(seed), str(bench.budget), json.dumps(dict(bench.settings)), path),
                ]
            if reason := run(command, folder / f"{label}.log", limit_s=20 * max(bench.cpu_s, bench.budget) + 600):
                return reason
        with np.load(path) as stored:
            found.append({key: stored[key] for key in stored.files})
    return found


def measure(bench: Bench, name: str, python: str, show: Console) -> Row:
    """All methods on one case."""
    case, begun = CASES[name], time.monotonic()
    folder = record(bench, name, python)
    train, windows = load_log(folder / "train.npz"), test_windows(case, load_log(folder / "test.npz"))
    names = [one.name for one in case.of("observation")]
    truth = table(case, "observation", windows.truth)[:, [step - 1 for step in STEPS]]
    spread = np.concatenate([one[0] for one in train]).std(0).astype(float)
    problem = write_problem(case, folder, windows)
    result: Row = {
        "signals": names,
        "train_episodes": len(train),
        "train_rows": sum(len(one[1]) for one in train),
        "test_episodes": len(np.unique(windows.episode)),
        "test_windows": windows.num_worlds,
        "methods": {},
    }
    curves = dict[str, ErrorCurve]()
    for method in (*bench.peers, *bench.recipes):
        show.print(f"{name}: {method}", style="dim")
        found = answers_of(bench, name, folder, method, problem)
        if isinstance(found, str):
            result["methods"][method] = {"failed": found}
            continue
        curves[method] = error_curve([one["predicted"] for one in found], truth, spread, windows.episode)
        result["methods"][method] = {
            "error": by_step(curves[method]),
            "seeds": [[rounded(value) for value in one] for one in curves[method].seeds],
            "cpu_s": [round(float(one["cpu_s"]), 1) for one in found],
        }
        if method not in METHODS:
            result["methods"][method]["coverage"] = coverage(found, names, windows.episode)
            result["methods"][method]["recipes"] = [str(one["recipe"]) for one in found]
    peers = {method: curves[method] for method in bench.peers if method in curves}
    result["cells"] = {
        recipe: {str(step): cell(curves[recipe], peers, place) for place, step in enumerate(STEPS)}
        for recipe in bench.recipes
        if recipe in curves
    }
    return result | {"elapsed_s": round(time.monotonic() - begun)}


def by_step(curve: ErrorCurve) -> Row:
    """The error with its interval by step."""
    return {str(step): interval(curve.value[place], curve.draws[:, place]) for place, step in enumerate(STEPS)}


def bars_of(cases: Mapping[str, Row]) -> Row:
    """The targets of each recipe, over the development cases and over the report cases."""
    found: Row = {}
    for kind, is_report in (("development", False), ("report", True)):
        part = {name: case for name, case in cases.items() if CASES[name].report == is_report}
        recipes = {one: None for case in part.values() for one in case["cells"]}
        found[kind] = {recipe: bars(part, recipe) for recipe in recipes}
    return found


def bars(cases: Mapping[str, Row], recipe: str) -> Row:
    """The targets of a recipe over the cases where it was measured."""
    cells = [one for case in cases.values() for one in case["cells"].get(recipe, {}).values()]
    bands = [case["methods"][recipe]["coverage"] for case in cases.values() if recipe in case["cells"]]
    if not cells or "first" not in cells[0]:
        return {}
    near = float(np.mean([one["first_or_near"] for one in cells]))
    worst = max(one["ratio_to_best_linear"][0] for one in cells) if "best_linear" in cells[0] else float("nan")
    held = [one for one in bands if one["calibrated"]]
    return {
        "cells": len(cells),
        "first": rounded(float(np.mean([one["first"] for one in cells]))),
        "first_or_near": rounded(near),
        "worst_ratio_to_best_linear": rounded(worst),
        "coverage": rounded(float(np.mean([one["mean"] for one in held]))) if held else None,
        "coverage_passes": f"{sum(one['passes'] for one in held)} of {len(bands)}",
        "met": near >= CELLS_BAR and worst <= LINEAR_BAR,
    }


def show_case(console: Console, name: str, result: Row) -> None:
    """Prints one case."""
    table = RichTable("method", *(f"error, {step} step{'s' * (step > 1)}" for step in STEPS), "CPU s", title=name)
    for method, row in result["methods"].items():
        if "failed" in row:
            table.add_row(method, f"failed: {row['failed']}")
            continue
        errors = (f"{value:.3g} ({low:.3g} to {high:.3g})" for value, low, high in row["error"].values())
        table.add_row(method, *errors, f"{np.mean(row['cpu_s']):.0f}")
    console.print(table)
    for recipe, cells in result["cells"].items():
        for step, one in cells.items():
            if "first" in one:
                place = "first" if one["first"] else "near" if one["first_or_near"] else "behind"
                linear = (
                    f", {one['ratio_to_best_linear'][0]:.2f} x {one['best_linear']}" if "best_linear" in one else ""
                )
                console.print(
                    f"  {recipe}, {step}: {place}, {one['ratio_to_best_peer'][0]:.2f} x {one['best_peer']}{linear}"
                )
        band = result["methods"][recipe]["coverage"]
        if band["calibrated"]:
            console.print(
                f"  {recipe}: {band['mean']:.1%} of paths inside bands of {band['level']:.0%}, "
                f"p = {band['p_binomial']:.2g}, low trust {band['low_trust']:.1%}"
            )


def peer_python(cache: Path) -> str:
    """Creates the peers' environment once; returns its Python."""
    home = cache / "foreign-peers"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
        (home / "complete").touch()
    return str(python)


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas; "none" for none."""
    return () if text == "none" else tuple(text.split(","))


def main() -> None:
    """Measures case by case, writes and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "worldline-benchmark-data" / "foreign"
    parser.add_argument("--peer-python", help="Python of the peers' environment; default: create one in the cache")
    parser.add_argument("--cases", type=names, help="names of cases; default: all development or report cases")
    parser.add_argument("--report", action="store_true", help="measure the report cases; once, at the end")
    parser.add_argument("--sources", type=Path, help="folder with downloaded sources of the report cases")
    parser.add_argument("--recipes", type=names, default=("auto",), help="names of recipes, or none")
    parser.add_argument("--peers", type=names, default=tuple(METHODS), help="names of peers, or none")
    parser.add_argument("--seeds", type=int, default=3, help="number of training seeds: 0, 1, ...")
    parser.add_argument("--cpu-s", type=float, default=60.0, help="processor time of a method in seconds")
    parser.add_argument("--budget", type=float, help="budget of our recipes in seconds; default: --cpu-s; 0 for none")
    parser.add_argument("--set", action="append", default=[], help="setting of our recipes, as in worldline learn")
    parser.add_argument("--cache", type=Path, default=default, help="folder for logs and answers")
    parser.add_argument("--reuse", action="store_true", help="reuse the answers of our recipes in the cache, too")
    parser.add_argument("--out", type=Path, default=RESULT, help="file of results")
    options = parser.parse_args()
    if options.sources:
        os.environ[SOURCES] = str(options.sources.absolute())
    cases = options.cases or tuple(name for name, case in CASES.items() if case.report == options.report)
    for label, given, known in (("case", cases, CASES), ("peer", options.peers, METHODS)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"there is no {label} {unknown[0]!r}. Choose from: {', '.join(known)}.")
    if early := [name for name in cases if CASES[name].report and not options.report]:
        parser.error(f"{early[0]} is a report case. Measure it once, when everything is frozen, with --report.")
    options.cache.mkdir(parents=True, exist_ok=True)
    python = options.peer_python or (peer_python(options.cache.absolute()) if options.peers else "")
    bench = Bench(
        python=python,
        peers=options.peers,
        recipes=options.recipes,
        seeds=options.seeds,
        cpu_s=options.cpu_s,
        budget=options.cpu_s if options.budget is None else options.budget,
        settings=parse_settings(options.set),
        cache=options.cache.absolute(),
        reuse=options.reuse,
    )
    measure_all(bench, cases, options.out)


def measure_all(bench: Bench, cases: Sequence[str], out: Path) -> None:
    """Measures the cases; writes the results after each."""
    console = Console(width=130)
    stored: Row = json.loads(out.read_text()) if out.exists() else {"cases": {}}
    for name in cases:
        python, missing = able(bench, name)
        if not python:
            console.print(f"{name}: skipped, this machine lacks {missing}")
            continue
        facts: Row = {"seeds": bench.seeds, "cpu_s": bench.cpu_s, "budget_s": bench.budget}
        facts |= {"settings": dict(bench.settings), "machine": machine()}
        stored["cases"][name] = facts | measure(bench, name, python, Console(stderr=True))
        stored["bars"] = bars_of(stored["cases"])
        out.parent.mkdir(exist_ok=True)
        out.write_text(json.dumps(stored, indent=1) + "\n")
        show_case(console, name, stored["cases"][name])
    for kind, rows in stored.get("bars", {}).items():
        for recipe, found in rows.items():
            console.print(kind, recipe, found)


if __name__ == "__main__":
    main()
