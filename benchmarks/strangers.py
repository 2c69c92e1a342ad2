"""First contact: random plants and logs that no development saw, from import to calibrated predictions.

Run: .venv/bin/python benchmarks/strangers.py [--plants 0:200] [--budget 20] [--parts world faults] [--peers 40]
     [--peer-python PATH] [--workers 2] [--cache FOLDER]
Writes benchmarks/results/strangers.json. `--plants A:B` names seeds; development used seeds from 1,000,000 on.

benchmarks/stranger_plants.py draws a plant and its log for each seed. The part `world` imports the log and learns for
20 s. It predicts 100 windows, simulated after the end of the log, from 1, 3, `context` and 60 rows. The part `faults`
plants the faults of benchmarks/corrupted_logs.py. A fault counts if an oracle finds it, which knows the law of the
clean log and the place. Peers (benchmarks/forecast_peers.py) get 60 s each, on the first plants.

Targets: see TARGETS.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from common import Row, arguments, quantiles, share, share_text, show, write
from corrupted_logs import CORRUPTIONS, Log, faults_of, found_in, is_found, oracle_finds, schema_of, tracks_of
from stranger_logs import (
    each_plant,
    filled,
    forecast,
    frame_of,
    history_of,
    names_of,
    peer_forecast,
    roles_of,
    spread_of,
)
from stranger_plants import HORIZON, Case, Table

from worldline.data.quality.transition_model import TransitionModel, step_tables
from worldline.schema import Schema

LENGTHS: Final = ("1", "3", "context", "60")
"""Rows of a history."""
STEP: Final = 10
"""Steps ahead at which errors are compared."""
LEVEL: Final = 0.9
PIECE: Final = 100
"""Steps of the pieces of a recording in which faults are planted."""
MAX_EPISODES: Final = 100
"""Episodes in which faults are planted."""
PEERS: Final = ("arx", "subspace", "lightgbm", "gru")
PEER_S: Final = 60.0
PEER_STEPS: Final = (1, 2, 4, 7, 10, 16, HORIZON)
TARGETS: Final = {
    "correct logs that stop learn": "at most 1 %",
    "correct logs with a finding": "at most 5 %",
    "faults found": "95 % of each kind",
    "windows with an error above 10 deviations and trust of 0.05 or more": "0",
    "windows with trust below 0.05": "3 to 7 % for each length with 20 calibration blocks, at most 7 % elsewhere",
    "error after 10 steps from 1 and 3 rows against the best linear method": "1.15, worst of 99 %",
    "coverage of 90 % bands": "mean 0.88 to 0.94, at most 5 % of the plants below 0.8, for each length",
    "bands at level 0.9": "95 % of the plants",
    "width against the best peer's own errors": "median 1.3",
}


def training_tables(case: Case) -> tuple[list[tuple[Table, Table]], Table, Table]:
    """Standardised observations and inputs of each episode, and mean and deviation of the observations."""
    every = np.concatenate([episode[0] for episode in case.episodes])
    middle, spread = np.nanmean(every, 0), np.nanstd(every, 0)
    given = np.concatenate([np.concatenate(episode[1:3], 1) for episode in case.episodes])
    centre, width = given.mean(0), np.where(given.std(0) > 0, given.std(0), 1.0)
    return (
        [
            ((filled(seen) - middle) / spread, (np.concatenate(inputs[:2], 1) - centre) / width)
            for seen, *inputs in case.episodes
        ],
        middle,
        spread,
    )


def windows_of(episodes: Sequence[tuple[Table, Table]], rows: int, ahead: int) -> tuple[Table, Table, Table]:
    """Histories [N, rows * n + (rows - 1) * m], inputs [N, ahead * m] and outcomes [N, n] after `ahead` steps."""
    view = np.lib.stride_tricks.sliding_window_view
    parts: list[tuple[Table, Table, Table]] = []
    for seen, inputs in episodes:
        count = len(inputs) - rows - ahead + 2
        if count < 1:
            continue
        past = view(seen[: count + rows - 1], rows, 0).reshape(count, -1)
        before = view(inputs[: count + rows - 2], rows - 1, 0).reshape(count, -1) if rows > 1 else past[:, :0]
        after = view(inputs[rows - 1 : rows - 1 + count + ahead - 1], ahead, 0).reshape(count, -1)
        parts.append((np.concatenate([past, before], 1), after, seen[rows - 1 + ahead :][:count]))
    past, after, truth = (np.concatenate(group) for group in zip(*parts, strict=True))
    return past, after, truth


def linear_errors(case: Case, rows: int) -> tuple[float, float]:
    """The error after `STEP` steps of the best linear method from `rows` rows, in standard deviations.

    Direct regressions for this step with several ridge penalties, and recursive ones with all lags up to `rows`. The
    second error is that of the best recursive one. A direct regression may learn from future actions what the policy
    did before, such as the phase of a sine. That is no prediction under other actions.
    """
    episodes, middle, spread = training_tables(case)
    inputs = np.concatenate([np.concatenate(episode[1:3], 1) for episode in case.episodes])
    centre, width = inputs.mean(0), np.where(inputs.std(0) > 0, inputs.std(0), 1.0)
    seen = (case.later[0] - middle) / spread
    given = (np.concatenate(case.later[1:3], 2) - centre) / width
    test = [(one, two) for one, two in zip(seen, given, strict=True)]
    now = case.past - 1
    errors = []
    past, after, truth = windows_of(episodes, rows, STEP)
    table = np.concatenate([past, after, np.ones((len(past), 1))], 1)
    asked = [
        windows_of([(a[now - rows + 1 : now + STEP + 1], b[now - rows + 1 : now + STEP])], rows, STEP) for a, b in test
    ]
    wanted = np.concatenate([np.concatenate([p, q, np.ones((1, 1))], 1) for p, q, _ in asked])
    outcome = np.concatenate([t for _, _, t in asked])
    for ridge in (1e-8, 1e-4, 1e-2, 1e-1):
        errors.append(root(wanted @ solve(table, truth, ridge) - outcome))
    recursive = []
    for lags in range(1, rows + 1):
        past, after, truth = windows_of(episodes, lags, 1)
        table = np.concatenate([past, after, np.ones((len(past), 1))], 1)
        weights = solve(table, truth, 1e-6)
        path = seen[:, now - lags + 1 : now + 1]
        for ahead in range(STEP):
            begin = now - lags + 1 + ahead
            flat = [path[:, -lags:].reshape(len(path), -1), given[:, begin : begin + lags].reshape(len(path), -1)]
            following = np.concatenate([*flat, np.ones((len(path), 1))], 1) @ weights
            path = np.concatenate([path, np.clip(following, -12, 12)[:, None]], 1)
        recursive.append(root(path[:, -1] - outcome))
    return min(*errors, *recursive), min(recursive)


def solve(table: Table, truth: Table, ridge: float) -> Table:
    """Ridge regression without a penalty of the constant in the last column."""
    penalty = ridge * len(table) * np.eye(table.shape[1])
    penalty[-1, -1] = 1e-9
    return np.asarray(np.linalg.solve(table.T @ table + penalty, table.T @ truth))


def root(error: Table) -> float:
    """Root mean square over windows, then the mean over signals."""
    return float(np.sqrt((error**2).mean(0)).mean())


def world_row(case: Case, budget_s: float, folder: Path) -> dict[str, Any]:
    """Everything about the world of a case."""
    from worldline.data.store import open_store
    from worldline.errors import WorldlineError
    from worldline.workflows.check import check
    from worldline.workflows.learn import learn_logs
    from worldline.workflows.learn_options import Options

    row: dict[str, Any] = {"stopped": "", "findings": [], "alignment": "", "error": ""}
    frame, out = frame_of(case), folder / "world"
    started, cpu, result = time.monotonic(), time.process_time(), no_result()
    try:
        result = learn_logs(frame, out, Options(budget=budget_s, edits=roles_of(case)))
        row["learn_s"], row["learn_cpu_s"] = time.monotonic() - started, time.process_time() - cpu
    except WorldlineError as error:
        row["stopped"] = str(error)
    except Exception:  # noqa: BLE001 (a crash is a result)
        row["error"] = traceback.format_exc()[-1500:]
    store = folder / "world.store"
    if store.exists():
        report = check(open_store(store))
        row["findings"] = faults_of(report.findings)
        row["alignment"] = "" if report.alignment is None else str(report.alignment.verdict)
        row["misaligned"] = report.misaligned
    if result is None:
        return row
    card = result.world.describe()
    row |= {"recipe": result.learned.recipe.name, "context": card.context, "band_level": card.band_level}
    row |= {"band_horizon": card.band_horizon, "lengths": {}}
    row["calibration_episodes"] = 0 if result.learned.calibration is None else result.learned.calibration.num_episodes
    spread = np.nanstd(np.concatenate([episode[0] for episode in case.episodes]), 0)
    for label in LENGTHS:
        rows = min(card.context if label == "context" else int(label), case.past)
        try:
            row["lengths"][label] = graded(case, result.world, rows, spread)
        except Exception:  # noqa: BLE001 (a crash of a prediction is a result, too)
            row["error"] = traceback.format_exc()[-1500:]
    for label in ("1", "3"):
        best, recursive = linear_errors(case, int(label))
        row["lengths"].get(label, {}).update(linear=best, recursive=recursive)
    return row


def no_result() -> Any:
    """The result of a log that stops `learn`."""
    return None


def graded(case: Case, world: Any, rows: int, spread: Table) -> dict[str, Any]:
    """Errors, coverage, widths and trust of the later windows from histories of `rows` observations."""
    history, actions, exogenous, truth = history_of(case, rows)
    card, names = world.describe(), names_of(case)
    prediction, actions, refused = forecast(world, history, actions, exogenous)
    steps = min(HORIZON, max(card.band_horizon, 1))
    mean = np.concatenate([prediction.signals[name].mean for name in names], 2)
    error = np.abs(mean - truth) / spread
    trust = np.asarray(prediction.trust, float)
    worst = np.nan_to_num(error, nan=np.inf).max((1, 2))
    answer: dict[str, Any] = {
        "rows": rows,
        "error": float(np.sqrt((error[:, STEP - 1] ** 2).mean(0)).mean()),
        "low_trust": float((trust < 0.05).mean()),
        "violations": int(((worst > 10) & ~(trust < 0.05)).sum()),
        "worst": float(worst.max()),
        "refused": refused,
    }
    if card.band_level >= LEVEL - 1e-9:
        future = [{name: value[:, :steps] for name, value in group.items()} for group in (actions, exogenous)]
        banded = world.predict(history, future[0], exogenous=future[1], level=LEVEL)
        low, high = (np.concatenate([getattr(banded.signals[n], side) for n in names], 2) for side in ("low", "high"))
        inside = ((truth[:, :steps] >= low) & (truth[:, :steps] <= high)).all(1)
        answer["coverage"] = float(inside.mean())
        ahead = min(STEP, steps) - 1
        answer["width"] = ((high - low)[:, ahead].mean(0) / spread).tolist()
    return answer


def log_of(case: Case) -> Log:
    """The log as episodes in which faults are planted: at most 100, without missing values and very short episodes."""
    log: Log = []
    for observed, actions, exogenous, _ in case.episodes:
        size = PIECE if case.layout == "recording" else max(len(actions), 1)
        for first in range(0, len(actions), size):
            part = slice(first, first + size)
            log.append((filled(observed[first : first + size + 1]), actions[part], exogenous[part]))
    return [run for run in log if len(run[1]) >= 12][:MAX_EPISODES]


def oracle(kind: str, clean: Log, damaged: Log, schema: Schema) -> bool:
    """Whether an oracle that knows the clean law and the place finds the fault."""
    if kind not in ("joined", "shifted"):
        return oracle_finds(clean, damaged, schema)
    tables = [step_tables(tracks_of(log, schema), schema)[1] for log in (clean, damaged)]
    if not tables[0] or not tables[1]:
        return False
    model = TransitionModel(tables[0])
    if kind == "joined":
        # The largest jump at a seam exceeds every jump of the clean log.
        jumps = [max(float(model.surprise(one).mean(1).max()) for one in part) for part in tables]
        return jumps[1] > jumps[0]
    before = {one.number: one for one in tables[0]}
    for one in tables[1]:
        if (one.actions != before[one.number].actions).any():
            worse = (model.surprise(one) - model.surprise(before[one.number])).sum(1)
            worse = worse[len(worse) // 2 :]
            blocks = np.array([part.mean() for part in np.array_split(worse, max(2, len(worse) // 5))])
            if blocks.mean() > 5 * blocks.std(ddof=1) / np.sqrt(len(blocks)):
                return True
    return False


def faults_row(case: Case) -> dict[str, Any]:
    """Each fault: whether it is found, and whether the oracle finds it; and the findings in the clean log."""
    clean = log_of(case)
    schema, draw = schema_of(clean), np.random.default_rng([case.seed, 7])
    component = int(draw.integers(clean[0][0].shape[1]))
    rows: dict[str, Any] = {"episodes": len(clean), "clean": faults_of(found_in(clean, schema))}
    for label, (corrupt, kind) in CORRUPTIONS.items():
        if kind == "changed" and label.startswith("two") and clean[0][0].shape[1] < 2:
            continue
        damaged = corrupt(clean, component, draw)
        found = is_found(found_in(damaged, schema), kind, component)
        rows[label] = [bool(found), bool(oracle(kind, clean, damaged, schema))]
    return rows


def peer_row(case: Case, method: str, python: str) -> Row:
    """The 90 % interval of a peer's errors at step 10, and its error, from 25 rows or fewer."""
    answer = peer_forecast(case, method, python, PEER_STEPS, PEER_S)
    if "failed" in answer:
        return answer
    error = np.abs(answer["predicted"] - case.later[0][:, case.past - 1 + np.array(PEER_STEPS)]) / spread_of(case)
    # The interval that holds the peer's whole paths, as our bands do, with hindsight of these windows.
    usual, at = error.mean(0), PEER_STEPS.index(STEP)
    return {
        "error": float(np.sqrt((error[:, at] ** 2).mean(0)).mean()),
        "width": (2 * np.quantile((error / usual).max(1), LEVEL, axis=0) * usual[at]).tolist(),
    }


def measure(case: Case, row: Row, options: Any) -> Row:
    """All figures of a plant."""
    plant = case.plant
    row |= {
        "states": len(plant.tau),
        "logged": len(plant.logged),
        "nonlinear_hidden": plant.is_nonlinear and plant.has_hidden_state,
        "flaws": case.flaws,
    }
    if "world" in options.parts and "world" not in row:
        with tempfile.TemporaryDirectory() as folder:
            row["world"] = world_row(case, options.budget, Path(folder))
    if "faults" in options.parts and "faults" not in row:
        row["faults"] = faults_row(case)
    if case.seed - options.plants[0] < options.peers and "peers" not in row:
        row["peers"] = {method: peer_row(case, method, options.peer_python) for method in PEERS}
    return row


def hits(values: Sequence[object]) -> Row:
    """The share of true values."""
    return share(sum(map(bool, values)), len(values))


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the targets."""
    worlds = [row["world"] for row in rows if "world" in row]
    learned = [row for row in worlds if not row["stopped"] and not row["error"]]
    found: dict[str, Any] = {
        "plants": len(rows),
        "nonlinear with hidden state": hits([row["nonlinear_hidden"] for row in rows]),
        "crashes": hits([bool(row["error"]) for row in worlds]),
        "correct logs that stop learn": hits([bool(row["stopped"]) for row in worlds]),
        "correct logs with a finding": hits([bool(row.get("misaligned") or row["findings"]) for row in worlds]),
        "bands at level 0.9": hits([row["band_level"] >= LEVEL - 1e-9 for row in learned]),
    }
    for label in LENGTHS:
        cells = [(row, row["lengths"][label]) for row in learned if label in row["lengths"]]
        many = [cell["low_trust"] for row, cell in cells if row["calibration_episodes"] >= 20]
        few = [cell["low_trust"] for row, cell in cells if row["calibration_episodes"] < 20]
        coverage = [cell["coverage"] for _, cell in cells if "coverage" in cell]
        found[f"from {label} rows"] = {
            "plants whose inputs are refused": hits([cell["refused"] for _, cell in cells]),
            "windows that violate": int(sum(cell["violations"] for _, cell in cells)),
            "low trust, many blocks": [float(np.mean(many)) if many else None, len(many)],
            "low trust, few blocks": [float(np.mean(few)) if few else None, len(few)],
            "coverage": float(np.mean(coverage)) if coverage else None,
            "plants below 0.8": hits([one < 0.8 for one in coverage]),
        }
        for key in ("linear", "recursive") if label in ("1", "3") else ():
            ratios = sorted(cell["error"] / cell[key] for _, cell in cells if key in cell)
            found[f"from {label} rows"][f"error against {key}"] = (
                quantiles(ratios, 0.5, 0.9, 0.99, 1.0) if ratios else None
            )
    faults = [row["faults"] for row in rows if "faults" in row]
    for label in CORRUPTIONS:
        pairs = [row[label] for row in faults if label in row]
        found[f"fault: {label}"] = hits([hit for hit, known in pairs if known]) | {
            "all": hits([hit for hit, _ in pairs])
        }
    found["clean logs of the faults with a finding"] = hits([bool(row["clean"]) for row in faults])
    found["width against the best peer"] = widths(rows)
    return found


def widths(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The width of the bands from `context` rows, over the interval of the errors of the best peer."""
    ratios = []
    for row in rows:
        peers = [one for one in row.get("peers", {}).values() if "error" in one]
        band = row.get("world", {}).get("lengths", {}).get("context", {}).get("width")
        if peers and band:
            best = min(peers, key=lambda one: float(one["error"]))
            ratios += [ours / theirs for ours, theirs in zip(band, best["width"], strict=True)]
    if not ratios:
        return None
    return {"median": float(np.median(ratios)), "quarter": float(np.quantile(ratios, 0.75)), "signals": len(ratios)}


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and figures as text."""
    for name, value in values.items():
        if isinstance(value, dict) and "of" in value:
            yield f"{prefix}{name}", share_text(value)
        elif isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", str(value)


def facts(row: Row) -> list[object]:
    """What is printed of a plant."""
    return [row.get("world", {}).get(name) for name in ("recipe", "stopped", "error")]


def main() -> None:
    """Measures each plant; writes and prints the results."""
    options = arguments(
        __doc__, plants=range(200), budget=20.0, parts=("world", "faults"), peers=0, peer_python=sys.executable,
        workers="1", cache=Path,
    )  # fmt: skip
    rows = each_plant(partial(measure, options=options), options, HORIZON, facts)
    figures = summary(rows)
    show(("figure", "value"), list(flat(figures)))
    write(options.out, {"targets": TARGETS, "summary": figures, "plants": rows, "budget_s": options.budget})


if __name__ == "__main__":
    main()
