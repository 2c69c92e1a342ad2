"""Corrupted logs: how often `worldline check` finds a planted corruption, and how often it accuses a clean log.

Run: .venv/bin/python benchmarks/corrupted_logs.py [--seeds 20] [--clean 100] [--sources tclab cstr] [--cache FOLDER]
Writes benchmarks/results/corrupted_logs.json.

A source is a plant of benchmarks/plant_logs.py or a lab of the exam; it is left out if its simulator is missing. Each
seed draws 100 of its 150 episodes and a
component. A corruption is found if a finding of its kind names the signal (frozen, changed, saturated), or names
episodes (joined, shifted). A clean log is accused if it has a finding that is no note.

The oracle knows the law of the clean log: a linear model of it predicts the corrupted log worse, by 5 standard errors.

Targets: recall at least 95 % of what the oracle finds, at most 5 % of clean logs accused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from common import arguments, share, share_text, show, write
from numpy.random import Generator
from plant_logs import PLANTS, load_log, save_log
from plants import Run

from worldline.data.checks import Finding, Severity
from worldline.data.quality.anomalies import Inspection
from worldline.data.quality.consistency import inconsistencies
from worldline.data.quality.segments import Segment, track
from worldline.data.quality.transition_model import TransitionModel, step_tables
from worldline.episode import Arrays, Episode
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.record import record

ROLES = (Role.OBSERVATION, Role.ACTION, Role.EXOGENOUS)
NUM_EPISODES = 100
SOURCES = (
    *("tclab", "quadruple-tank", "cstr", "pendulum", "greenhouse"),
    *("gusty-puck", "two-bodies", "pusher-block"),
)
WORDS = {
    "frozen": "steps while others change",
    "changed": "changes from about episode",
    "joined": "jump at once",
    "shifted": "actions of a part fit better",
    "saturated": "value, in",
}
"""Part of the message of each kind of finding."""
Log = list[Run]
Corrupt = Callable[[Log, int, Generator], Log]


def copied(log: Log) -> Log:
    return [(observed.copy(), actions, exogenous) for observed, actions, exogenous in log]


def frozen_episodes(log: Log, component: int, draw: Generator) -> Log:
    """A sensor is constant in half of the episodes."""
    log = copied(log)
    for number in draw.permutation(len(log))[: len(log) // 2]:
        log[number][0][:, component] = log[number][0][0, component]
    return log


def frozen_halves(log: Log, component: int, draw: Generator) -> Log:
    """A sensor is constant in the second half of each episode."""
    del draw
    log = copied(log)
    for observed, *_ in log:
        middle = len(observed) // 2
        observed[middle:, component] = observed[middle, component]
    return log


def from_a_date(change: Callable[[np.ndarray, float], np.ndarray]) -> Corrupt:
    """A component changes from a date in the middle three fifths on."""

    def corrupt(log: Log, component: int, draw: Generator) -> Log:
        spread = float(np.concatenate([one[0] for one in log])[:, component].std())
        log = copied(log)
        for observed, *_ in log[int(len(log) * draw.uniform(0.2, 0.8)) :]:
            observed[:, component] = change(observed[:, component], spread)
        return log

    return corrupt


def swapped(log: Log, component: int, draw: Generator) -> Log:
    """Two columns are swapped from a date on."""
    log, other = copied(log), (component + 1) % log[0][0].shape[1]
    for observed, *_ in log[int(len(log) * draw.uniform(0.2, 0.8)) :]:
        observed[:, [component, other]] = observed[:, [other, component]]
    return log


def drifting(log: Log, component: int, draw: Generator) -> Log:
    """A sensor drifts by two standard deviations over the log."""
    del draw
    every = np.concatenate([one[0] for one in log])[:, component]
    slope, row, log = 2 * every.std() / len(every), 0, copied(log)
    for observed, *_ in log:
        observed[:, component] += slope * (row + np.arange(len(observed)))
        row += len(observed)
    return log


def joined(log: Log, component: int, draw: Generator) -> Log:
    """A tenth of the files hold two episodes, without a marker."""
    del component
    order, count = draw.permutation(len(log)), len(log) // 20
    found = [log[number] for number in sorted(order[2 * count :])]
    for pair in order[: 2 * count].reshape(-1, 2):
        (observed, *given), (later, *then) = (log[number] for number in pair)
        inputs = [np.concatenate([one, one[-1:], two]) for one, two in zip(given, then, strict=True)]
        found.insert(int(draw.integers(len(found) + 1)), (np.concatenate([observed, later]), inputs[0], inputs[1]))
    return found


def shifted(share: float) -> Corrupt:
    """In a share of the episodes, at least one, actions are logged one row too late from the middle on."""

    def corrupt(log: Log, component: int, draw: Generator) -> Log:
        del component
        log = [(observed, actions.copy(), exogenous) for observed, actions, exogenous in log]
        for number in draw.permutation(len(log))[: max(1, int(share * len(log)))]:
            actions = log[number][1]
            middle = len(actions) // 2
            actions[middle + 1 :] = actions[middle:-1].copy()
        return log

    return corrupt


def saturated(log: Log, component: int, draw: Generator) -> Log:
    """A sensor shows no value above its limit, which a tenth of the steps exceed."""
    del draw
    limit = np.quantile(np.concatenate([one[0] for one in log])[:, component], 0.9)
    log = copied(log)
    for observed, *_ in log:
        observed[:, component] = np.minimum(observed[:, component], limit)
    return log


CORRUPTIONS: dict[str, tuple[Corrupt, str]] = {
    "frozen, half of the episodes": (frozen_episodes, "frozen"),
    "frozen, half of each episode": (frozen_halves, "frozen"),
    "offset of 3 standard deviations": (from_a_date(lambda values, spread: values + 3 * spread), "changed"),
    "factor 1.5": (from_a_date(lambda values, _: 1.5 * values), "changed"),
    "sign flipped": (from_a_date(lambda values, _: -values), "changed"),
    "two columns swapped": (swapped, "changed"),
    "drift of 2 standard deviations": (drifting, "changed"),
    "joined episodes": (joined, "joined"),
    "actions shifted from the middle of a file": (shifted(0.1), "shifted"),
    "actions shifted in one episode": (shifted(0), "shifted"),
    "saturation in a tenth of the steps": (saturated, "saturated"),
}


def record_lab(name: str) -> Log:
    """A log of a lab of the exam: its vectors."""
    with TemporaryDirectory() as folder:
        store = record(name, Path(folder) / "store", num_episodes=150, max_steps=120, seed=0)
        names = [[one.name for one in store.schema.of(role) if one.kind is Kind.VECTOR] for role in ROLES]
        episodes = [store.episode(number) for number in range(len(store))]

    def table(arrays: Arrays, chosen: list[str], rows: int) -> np.ndarray:
        parts = [arrays[name].reshape(rows, -1).astype(np.float64) for name in chosen]
        return np.concatenate([np.empty((rows, 0)), *parts], 1)

    return [
        (
            table(one.observations, names[0], one.num_steps + 1),
            table(one.actions, names[1], one.num_steps),
            table(one.exogenous, names[2], one.num_steps),
        )
        for one in episodes
    ]


def logged(name: str, cache: Path | None) -> Log | None:
    """The training log of a plant or lab; None if neither the cache nor its simulator is there."""
    kept = cache / f"{name}.npz" if cache else None
    if kept is not None and kept.exists():
        return load_log(kept)
    if name in PLANTS and PLANTS[name].is_missing():
        return None
    log = PLANTS[name].record(0) if name in PLANTS else record_lab(name)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_log(kept, log)
    return log


def schema_of(log: Log) -> Schema:
    """Scalar signals, named by role and number."""
    names = [(role, i) for role, table in zip(ROLES, log[0], strict=True) for i in range(table.shape[1])]
    return Schema(
        signals=tuple(
            Signal(name=f"{role.value}_{i}", role=role, kind=Kind.VECTOR, shape=(1,), unit="1") for role, i in names
        )
    )


def episodes_of(log: Log) -> Iterator[Episode]:
    """The episodes of a log."""
    for run in log:
        seen, given, outside = (
            {f"{role.value}_{i}": table[:, i : i + 1].astype(np.float32) for i in range(table.shape[1])}
            for role, table in zip(ROLES, run, strict=True)
        )
        yield Episode(observations=seen, actions=given, exogenous=outside)


def tracks_of(log: Log, schema: Schema) -> list[Segment]:
    """The episodes as segments."""
    return [track(number, episode, schema) for number, episode in enumerate(episodes_of(log))]


def found_in(log: Log, schema: Schema) -> list[Finding]:
    """The findings about a log, as `worldline check` makes them."""
    inspection = Inspection(schema, len(log))
    for number, episode in enumerate(episodes_of(log)):
        inspection.add(number, episode)
    return [*inspection.findings(), *inconsistencies(tracks_of(log, schema), schema)]


def faults_of(findings: Iterable[Finding]) -> list[str]:
    """The problems of findings that accuse a log; notes do not."""
    return [one.problem for one in findings if one.severity is not Severity.NOTE]


def is_found(findings: list[Finding], kind: str, component: int) -> bool:
    """Whether a finding of the kind names the signal."""
    name = f"{Role.OBSERVATION.value}_{component}"
    return any(WORDS[kind] in one.problem and (kind in ("joined", "shifted") or one.signal == name) for one in findings)


def oracle_finds(clean: Log, log: Log, schema: Schema) -> bool:
    """Whether a model of the clean log predicts the corrupted one worse, by 5 standard errors over episodes."""
    names, before = step_tables(tracks_of(clean, schema), schema)
    found = step_tables(tracks_of(log, schema), schema)
    if not names or found[0] != names:
        return bool(names)  # a component that no longer changes at all is seen without a model
    model = TransitionModel(before)
    worse = np.array(
        [
            model.surprise(other).sum(1).mean() - model.surprise(one).sum(1).mean()
            for one, other in zip(before, found[1], strict=True)
        ]
    )
    return bool(worse.mean() > 5 * worse.std(ddof=1) / np.sqrt(len(worse)))


def measure(log: Log, seeds: int, num_clean: int) -> dict[str, list[int]]:
    """Three counts of each corruption: seeds in which it was found, also by the oracle, and all found by the oracle.

    Of "clean", the first is the number of accused logs. The oracle is not asked about clean logs, joined episodes and
    shifted actions.
    """
    schema, counts = schema_of(log), {label: [0, 0, 0] for label in ["clean", *CORRUPTIONS]}
    for seed in range(max(seeds, num_clean)):
        draw = np.random.default_rng(seed)
        part = [log[number] for number in draw.permutation(len(log))[:NUM_EPISODES]]
        component = int(draw.integers(part[0][0].shape[1]))
        counts["clean"][0] += seed < num_clean and bool(faults_of(found_in(part, schema)))
        if seed >= seeds:
            continue
        for label, (corrupt, kind) in CORRUPTIONS.items():
            damaged = corrupt(part, component, draw)
            known = kind in ("joined", "shifted") or oracle_finds(part, damaged, schema)
            found = is_found(found_in(damaged, schema), kind, component)
            counts[label] = [sum(pair) for pair in zip(counts[label], (found, found and known, known), strict=True)]
    return counts


def main() -> None:
    """Measures each source; writes and prints the results."""
    options = arguments(__doc__, sources=SOURCES, seeds=20, clean=100, cache=Path)
    sources, summary = dict[str, dict[str, list[int]]](), {}
    for name in options.sources:
        log = logged(name, options.cache)
        if log is None:
            print(f"{name}: left out, the package {PLANTS[name].package} is missing")
            continue
        sources[name] = measure(log, options.seeds, options.clean)
        print(name, sources[name], flush=True)
    for label in ("clean", *CORRUPTIONS):
        found, both, known = (sum(row[label][column] for row in sources.values()) for column in range(3))
        logs = len(sources) * (options.clean if label == "clean" else options.seeds)
        rate = share(found, logs) if label == "clean" else share(both, known)
        summary[label] = {"found": found, "logs": logs, "known": known, "both": both, **rate}
    show(
        ("log", "found", "of those that the oracle finds"),
        [(label, f"{row['found']} of {row['logs']}", share_text(row)) for label, row in summary.items()],
    )
    write(options.out, {"seeds": options.seeds, "sources": sources, "summary": summary})


if __name__ == "__main__":
    main()
