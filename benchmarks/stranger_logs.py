"""Logs of random plants for worlds and for peers, and the loop over plants. Used by the benchmarks of random plants."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import Row, kept_or_temporary, one_thread, read
from stranger_plants import Case, Episode, Table, draw_case

from worldline.episode import History
from worldline.errors import InputError
from worldline.workers import run_tasks

PIECE: Final = 200
"""Steps of the pieces of a recording that peers get."""
PAST: Final = 25
"""Rows of a history that peers get."""


def frame_of(case: Case) -> Any:
    """The log as a table with one row per observation; the action of a last row is that of the row before."""
    import pandas as pd

    parts, begin = [], 0.0
    for number, (observed, actions, exogenous, step_s) in enumerate(case.episodes):
        times = begin + np.concatenate([[0.0], np.cumsum(step_s)])
        columns: dict[str, Any] = {"episode": np.full(len(observed), number)} if case.layout == "episodes" else {}
        columns["time_s"] = times
        columns |= {f"y{i}": observed[:, i] for i in range(observed.shape[1])}
        for letter, table in (("u", actions), ("d", exogenous)):
            columns |= {f"{letter}{i}": np.append(table[:, i], table[-1, i]) for i in range(table.shape[1])}
        parts.append(pd.DataFrame(columns))
        begin = times[-1] + 100 * case.step_s
    return pd.concat(parts, ignore_index=True)


def roles_of(case: Case) -> dict[str, dict[str, str]]:
    """The roles that a user types."""
    roles = {"y": "observation", "u": "action", "d": "exogenous"}
    tables = dict(zip("yud", case.episodes[0][:3], strict=True))
    return {f"{letter}{i}": {"role": roles[letter]} for letter, table in tables.items() for i in range(table.shape[1])}


def history_of(case: Case, rows: int) -> tuple[History, dict[str, Table], dict[str, Table], Table]:
    """Histories of `rows` observations of the later windows, the inputs after them, and the outcomes [W, T, p]."""
    observed, actions, exogenous, _ = case.later
    first, now = case.past - rows, case.past - 1
    names = {letter: [f"{letter}{i}" for i in range(t.shape[2])] for letter, t in zip("yud", case.later, strict=False)}

    def split(table: Table, letter: str, begin: int, end: int | None) -> dict[str, Table]:
        return {name: table[:, begin:end, i : i + 1] for i, name in enumerate(names[letter])}

    history = History(
        observations=split(observed, "y", first, now + 1),
        actions=split(actions, "u", first, now),
        exogenous=split(exogenous, "d", first, now),
    )
    inputs = [split(table, letter, now, None) for table, letter in ((actions, "u"), (exogenous, "d"))]
    return history, inputs[0], inputs[1], observed[:, now + 1 :]


def filled(table: Table) -> Table:
    """The table [rows, n] with missing values interpolated."""
    rows, table = np.arange(len(table)), table.copy()
    for column in table.T:
        known = np.isfinite(column)
        column[:] = np.interp(rows, rows[known], column[known]) if known.any() else 0.0
    return table


def names_of(case: Case) -> list[str]:
    """The observed signals."""
    return [f"y{i}" for i in range(case.later[0].shape[2])]


def spread_of(case: Case) -> Table:
    """Standard deviations of the observations in the log."""
    return np.asarray(np.nanstd(np.concatenate([episode[0] for episode in case.episodes]), 0))


def forecast(world: Any, history: History, actions: Any, exogenous: Any) -> tuple[Any, Any, bool]:
    """The prediction, the actions, and whether they had to be limited: later ones exceed the logged range a little."""
    try:
        return world.predict(history, actions, exogenous=exogenous), actions, False
    except InputError:
        schema = world.describe().schema
        actions = {name: np.clip(value, schema[name].low, schema[name].high) for name, value in actions.items()}
        return world.predict(history, actions, exogenous=exogenous), actions, True


def pieces_of(case: Case, length: int) -> list[Episode]:
    """The episodes of at least `length` steps; pieces of recordings if they are few."""
    episodes = [one for one in case.episodes if len(one[1]) >= length]
    if len(episodes) >= 4:
        return episodes
    return [
        (one[0][first : first + PIECE + 1], one[1][first:][:PIECE], one[2][first:][:PIECE], one[3][first:][:PIECE])
        for one in episodes
        for first in range(0, len(one[1]) - PIECE + 1, PIECE)
    ]


def peer_forecast(case: Case, method: str, python: str, steps: tuple[int, ...], cpu_s: float) -> Row:
    """Predictions [W, steps, p] of a peer, which gets missing values interpolated, or why it has `failed`."""
    past, now, horizon = min(PAST, case.past), case.past - 1, case.later[0].shape[1] - case.past
    episodes = pieces_of(case, past + horizon)
    if len(episodes) < 4:
        return {"failed": "fewer than 4 episodes"}
    inputs, test_inputs = [np.concatenate(one[1:3], 1) for one in episodes], np.concatenate(case.later[1:3], 2)
    with tempfile.TemporaryDirectory() as folder:
        problem, path = Path(folder) / "problem.npz", Path(folder) / "answer.npz"
        np.savez(
            problem,
            observations=np.concatenate([filled(one[0]) for one in episodes]),
            inputs=np.concatenate(inputs),
            lengths=[len(one) for one in inputs],
            steps=steps,
            past=past,
            test_observations=case.later[0][:, now - past + 1 : now + 1],
            test_inputs=test_inputs[:, now - past + 1 : now + horizon],
        )
        script = Path(__file__).with_name("forecast_peers.py")
        command = [python, *map(str, (script, method, problem, path, cpu_s))]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode or not path.exists():
            return {"failed": done.stderr[-300:]}
        with np.load(path) as answer:
            return {"predicted": answer["predicted"], "cpu_s": float(answer["cpu_s"])}


Measure = Callable[[Case, Row], Row]
"""The figures of a plant, from those that are known."""


def each_plant(measure: Measure, options: Any, horizon: int, facts: Callable[[Row], Sequence[object]]) -> list[Row]:
    """The figures of each plant of `--plants`, by `--workers` with one thread each; kept in `--cache`.

    Prints the facts of a plant when it ends.
    """
    one_thread()
    rows = list[Row]()
    with kept_or_temporary(options.cache) as cache:
        tasks = {str(seed): (measure, cache, horizon, seed) for seed in options.plants}
        for _, row in run_tasks(_measured, tasks, options.workers, "plant"):
            print(row["seed"], row["kind"], *facts(row), flush=True)
            rows.append(row)
    return sorted(rows, key=itemgetter("seed"))


def _measured(measure: Measure, cache: Path, horizon: int, seed: int) -> Row:
    path, case = cache / f"{seed}.json", draw_case(seed, horizon)
    facts = {"seed": seed, "kind": case.plant.kind, "policy": case.plant.policy, "layout": case.layout}
    facts |= {"rows": sum(len(one[0]) for one in case.episodes), "episodes": len(case.episodes)}
    row = measure(case, read(path) | facts)
    path.write_text(json.dumps(row))
    return row
