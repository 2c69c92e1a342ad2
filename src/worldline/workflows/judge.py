"""Judges controllers from logs before they run: opens world, logs, goal and controllers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from worldline.catalog.opening import open_target
from worldline.control.controller import bounds_of
from worldline.control.controllers import Controller, load_controller
from worldline.control.imagination import ImaginedEpisodes
from worldline.control.judgement import (
    Experiment,
    JudgedController,
    Judgement,
    RunVerdict,
    differences,
    experiment_outside,
    judge_controller,
    logged_figures,
    shipped_factor,
)
from worldline.control.judging import MAX_FAR, Imagined, Judge, Still, Support
from worldline.control.run_goal import RunGoal, load_goal
from worldline.data.store import Store
from worldline.engines.base import Card
from worldline.errors import ConfigError, DataError, InputError, WorldlineError
from worldline.progress import OnProgress
from worldline.workers import Workers, run_tasks
from worldline.workflows.held_out import check_signals, opened_logs
from worldline.world.base import World
from worldline.world.wire import encode_hook

NUM_EPISODES: Final = 60
MAX_STEPS: Final = 1000
MIN_EPISODES: Final = 10
"""Fewer episodes say too little about the spread."""
FEW_EPISODES: Final = 20
FIX: Final = "Give logs of this world."


def judge(
    controllers: Sequence[str | Path] | Mapping[str, Controller],
    world: World | str | Path,
    logs: str | Path | Store,
    goal: RunGoal | Path | str,
    *,
    num_episodes: int = NUM_EPISODES,
    max_steps: int = MAX_STEPS,
    num_fresh: int = 20,
    seed: int = 0,
    device: str = "auto",
    workers: Workers = 1,
    progress: OnProgress | None = None,
) -> Judgement:
    """Predicts how controllers would do that never ran, with 90 % intervals.

    The world imagines each logged episode under each controller, with the same starts, targets, exogenous inputs and
    disturbances.

    Args:
        controllers: files or names as in `load_controller`; or controllers by name.
        world: argument of `worldline.open`, or an open world. It predicts all signals that it and controllers read.
        logs: a store, or logs in any format that an importer reads. They may contain further signals, such as targets.
        goal: what counts, or its TOML file.
        num_episodes: number of judged episodes, at most; at least 10.
        max_steps: of each episode, at most; bounds memory and time.
        num_fresh: episodes of the means in `JudgedFigure.fresh`, at least 1.
        seed: of the choice of episodes and of the bootstrap.
        device: on which the world is opened.
        workers: for controllers, as in `worldline.workers.Workers`.
        progress: called after each controller.

    Raises:
        ConfigError: a file is wrong, or a number is out of range.
        DataError: the logs cannot be read, or fewer than 10 episodes are long enough.
        InputError: a controller returned no valid action.
        UnreadableError: the logs lack a signal of the world.
        UnsupportedError: the world does not predict what it or a controller reads.
    """
    if num_episodes < MIN_EPISODES or num_fresh < 1 or max_steps < 1:
        raise ConfigError(
            f"num_episodes is {num_episodes}, max_steps {max_steps} and num_fresh {num_fresh}. They must be at least "
            f"{MIN_EPISODES}, 1 and 1."
        )
    goal = goal if isinstance(goal, RunGoal) else load_goal(goal)
    opened = world if isinstance(world, World) else open_target(str(world), device=device)
    named = _named(controllers, opened.describe())
    with nullcontext(logs) if isinstance(logs, Store) else opened_logs(Path(logs)) as store:
        card = opened.describe()
        check_signals(store.schema, [s for s in card.schema.signals if s.name in _read(card)], str(store.path), FIX)
        numbers = _numbers(store, card.context, num_episodes, seed)
        episodes = [store.episode(number, images=False) for number in numbers]
        targets = [goal.logged_targets(episode, card.schema) for episode in episodes] if goal.targets else []
        imagination = ImaginedEpisodes(opened, episodes, targets, max_steps=max_steps)
        prepared = Judge(imagination, goal, num_fresh=num_fresh, seed=seed)
        judged = _judged(prepared, *named, numbers, progress, workers)
        return _judgement(prepared, card, store.path.resolve().name, numbers, judged)


def _judgement(
    judge: Judge,
    card: Card,
    logs: str,
    numbers: Sequence[int],
    judged: tuple[tuple[JudgedController, ...], Mapping[str, Imagined]],
) -> Judgement:
    """The judgement of a world with this card, from the result of `_judged`."""
    return Judgement(
        world=card.name,
        logs=logs,
        num_episodes=len(numbers),
        first_step=judge.imagination.at,
        num_steps=int(np.median(judge.imagination.logged.lengths)),
        step_s=card.schema.step_s,
        num_fresh=judge.num_fresh,
        goal=_goal_text(judge.goal),
        constraints=tuple(map(constraint_text, judge.goal.constraints)),
        logged=logged_figures(judge),
        controllers=judged[0],
        differences=differences(judge, judged[1], shipped_factor()),
        notes=_notes(judge.goal, card, len(numbers)),
        factor=shipped_factor().origin,
    )


def _judged(
    judge: Judge,
    named: Mapping[str, Controller],
    sources: Mapping[str, str],
    numbers: Sequence[int],
    progress: OnProgress | None,
    workers: Workers,
) -> tuple[tuple[JudgedController, ...], dict[str, Imagined]]:
    """The verdict about each controller, and the evidence about those that are judged."""
    judged, imagined = list[JudgedController](), dict[str, Imagined]()
    tasks = {name: (judge, controller) for name, controller in named.items()}
    tried = dict(run_tasks(_imagined, tasks, workers, "judge", progress))
    for name, controller in named.items():
        evidence, elapsed_s = tried[name]
        about: Any = {"card": controller.card, "source": sources.get(name, ""), "elapsed_s": elapsed_s}
        judged.append(judge_controller(judge, name, evidence, shipped_factor(), numbers=numbers, **about))
        if judged[-1].verdict is RunVerdict.JUDGED:
            imagined[name] = evidence
    return tuple(judged), imagined


def _imagined(judge: Judge, controller: Controller) -> tuple[Imagined, float]:
    """What the world imagines under a controller, and the seconds that it took."""
    started_s = time.perf_counter()
    return judge.imagine(controller), time.perf_counter() - started_s


def _read(card: Card) -> set[str]:
    """Signals that imagined runs need."""
    return {*card.inputs, *card.predicts, *(s.name for s in (*card.schema.actions, *card.schema.exogenous))}


def _named(
    controllers: Sequence[str | Path] | Mapping[str, Controller], card: Card
) -> tuple[dict[str, Controller], dict[str, str]]:
    """Controllers by name (the stem of a file, or its path if two have the same stem), and their sources."""
    if not controllers:
        raise InputError("there is no controller to judge. Name at least one.")
    if isinstance(controllers, Mapping):
        return dict(controllers), {}
    paths = list(map(str, controllers))
    stems = [Path(path).stem if path.endswith(".toml") else path.rpartition(":")[2] for path in paths]
    names = stems if len(set(stems)) == len(stems) else paths
    named = {name: load_controller(path, card.schema) for name, path in zip(names, paths, strict=True)}
    return named, {name: source_of(path) for name, path in zip(names, paths, strict=True)}


def source_of(path: str) -> str:
    """The content of a TOML file, or module:name."""
    return Path(path).read_text(encoding="utf-8") if path.endswith(".toml") else path


def _goal_text(goal: RunGoal) -> str:
    """The goal as JSON; empty if a part is a function."""
    try:
        return msgspec.json.encode(vars(goal), enc_hook=encode_hook(None)).decode()
    except WorldlineError:
        return ""


def _numbers(store: Store, context: int, num_episodes: int, seed: int) -> list[int]:
    """The judged episodes, drawn by seed; each has at least as many steps after the context as in it, or 10."""
    long = [number for number in range(len(store)) if store.num_steps[number] >= context + MIN_EPISODES]
    if len(long) < MIN_EPISODES:
        raise DataError(
            f"{len(long)} of {len(store)} episodes have {context + MIN_EPISODES} steps; {MIN_EPISODES} are needed",
            fix="Give more or longer episodes. `worldline import --max-steps 200` cuts a recording.",
            file=store.path,
        )
    return sorted(np.random.default_rng(seed).permutation(long)[:num_episodes].tolist())


def constraint_text(constraint: Any) -> str:
    """What violates a constraint, such as "temperature above 30"."""
    kind = {"AtMost": "above", "AtLeast": "below"}.get(type(constraint).__name__)
    if kind is None:
        return type(constraint).__name__
    bound = constraint.bound
    return f"{constraint.signal} {kind} {', '.join(map(str, bound)) if isinstance(bound, tuple) else f'{bound:g}'}"


def _notes(goal: RunGoal, card: Card, count: int) -> tuple[str, ...]:
    """What limits the judgement."""
    notes, inputs = list[str](), {signal.name for signal in card.schema.exogenous} | set(card.inputs)
    for name, target in goal.targets.items():
        if isinstance(target, str) and target in inputs:
            notes.append(
                f"{card.name} reads {target!r}, the target of {name!r}. It may have learned what the logged controller "
                f"made of the target, instead of what actions do. Import the logs with --ignore {target}, and learn "
                "from that store."
            )
    if count < FEW_EPISODES:
        notes.append(f"{count} episodes are few; the width of the intervals was fitted on 20 and 60.")
    return tuple(notes)


def next_experiments(store: Store, world: World | str | Path, *, seed: int = 0) -> dict[str, Experiment]:
    """Episodes that would teach the world what the logs do not show: each action held at an end of its bounds.

    Args:
        store: the logs.
        world: argument of `worldline.open`, or an open world.
        seed: of the choice of episodes.

    Returns:
        By a text such as "heater at 5": the experiment, where more than a quarter of the imagined steps are far outside
        the logs.

    Raises:
        DataError, UnreadableError, UnsupportedError: as in `judge`.
    """
    opened = world if isinstance(world, World) else open_target(str(world))
    card = opened.describe()
    check_signals(store.schema, [s for s in card.schema.signals if s.name in _read(card)], str(store.path), FIX)
    episodes = [store.episode(n, images=False) for n in _numbers(store, card.context, NUM_EPISODES, seed)]
    imagination = ImaginedEpisodes(opened, episodes)
    schema, logged = imagination.schema, imagination.logged
    support, needed = Support(schema, logged), dict[str, Experiment]()
    for signal in schema.actions:
        for end in bounds_of(signal):
            if not np.isfinite(end).all():
                continue
            runs = imagination.run(Still(schema, logged, {signal.name: end.astype(np.float64)}))
            outside = support.outside(runs)
            if outside.far > MAX_FAR:
                values = ", ".join(f"{value:g}" for value in end.ravel())
                needed[f"{signal.name} at {values}"] = experiment_outside(schema, runs, outside)
    return needed
