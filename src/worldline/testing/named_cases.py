"""What `worldline conform` checks: a world on logs, or a part by its name on a toy environment."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from worldline.data.store import Store
from worldline.data.windows import Windows
from worldline.engines.base import Card
from worldline.engines.fixed_lag import FixedLagBaseline
from worldline.episode import Episode
from worldline.errors import DataError, InputError, UnsupportedError
from worldline.planning.base import Goal
from worldline.registry import load
from worldline.schema import Kind
from worldline.testing.cases import EngineCase, WorldCase
from worldline.testing.clauses import Case
from worldline.testing.log_edits import observed_values
from worldline.testing.models import ModelCase
from worldline.testing.planners import PlannerCase
from worldline.testing.toys import Integrator
from worldline.training.batches import to_window, window_signals
from worldline.workflows.held_out import read_episodes
from worldline.world.base import World
from worldline.world.local import LocalWorld

MARGIN = 2
"""Steps that a clause needs in addition to history and horizon."""


def case_from_logs(
    world: World, logs: Path, *, opened_from: str, horizon: int, num_episodes: int, **settings: Any
) -> WorldCase:
    """The world with episodes and a goal from logs.

    If the logs contain the episodes of the training, only the held-out ones are used.

    Args:
        world: the world.
        logs: in any format that an importer reads.
        opened_from: path or URL of the world; the folder of a bundle holds the split.
        horizon: T, at least 2.
        num_episodes: maximal number of episodes; the first long ones are used.
        settings: other arguments of `WorldCase`. `num_calibration` is by default that of a local world's calibration.

    Raises:
        UnreadableError: a signal of the world is missing in the logs, or has another shape or unit.
        DataError: the logs cannot be read, have too few long episodes, or are the training logs of a world
            without a known split.
        BundleError: the bundle's run.json is invalid.
        InputError: no predicted signal can be a goal.
    """
    card = world.describe()
    need = max(card.context, 2) - 1 + horizon + MARGIN
    every = (entry.episode for entry in read_episodes(card, logs, opened_from, parts=("", "held_out")))
    kept = list(islice((episode for episode in every if episode.num_steps >= need), num_episodes))
    if len(kept) < 2:
        raise DataError(
            f"too few episodes are long enough: {len(kept)} have the {need} steps that the checks need",
            fix="Give logs with at least 2 longer episodes, or a shorter --horizon.",
            file=logs,
        )
    if settings.get("num_calibration") is None and isinstance(world, LocalWorld) and world.calibration is not None:
        settings["num_calibration"] = world.calibration.num_episodes
    goal = logged_goal(card, kept, horizon)
    return WorldCase(world=world, episodes=kept, goal=goal, horizon=horizon, **settings)


def logged_goal(card: Card, episodes: Sequence[Episode], horizon: int) -> Goal:
    """A goal from the logs: the value of a signal `horizon` steps after the start of the first episode that has it.

    The tolerance is the signal's standard deviation. Vectors come first, then discrete signals, then images if the
    world has goal distances.

    Raises:
        InputError: there is no such signal.
    """
    for kind in (Kind.VECTOR, Kind.DISCRETE, Kind.IMAGE):
        for name in card.predicts:
            if card.schema[name].kind is not kind or (kind is Kind.IMAGE and "reaches" not in card.abilities):
                continue
            later = [episode.observations[name][horizon] for episode in episodes if episode.mask(name)[horizon]]
            spread = float(observed_values(episodes, name).std(0).max()) if kind is Kind.VECTOR and later else 0.0
            if later:
                return Goal(targets={name: np.asarray(later[0])}, tolerance={name: spread} if spread > 0 else {})
    raise InputError(
        f"the world predicts {', '.join(card.predicts)}, and none of these can be a goal. "
        "Fit a readout or a distance head."
    )


def named_case(kind: str, name: str) -> Case:
    """A registered part with toy data.

    Args:
        kind: "planner", "model" or "engine".
        name: the registered name.

    Raises:
        UnknownNameError: there is no such part.
        UnsupportedError: the engine cannot be fitted to logs alone.
    """
    part, toy = load(kind, name), Integrator(noise=0.2)
    if kind == "planner":
        return PlannerCase(planner=part())
    if kind == "model":
        return _untrained(part, toy)
    if not issubclass(part, FixedLagBaseline):
        raise UnsupportedError(
            f"the engine {name!r} cannot be built from logs alone. Build it in a test and call "
            "worldline.testing.check_engine."
        )
    engine = part.fit(toy.episodes(60, 14, seed=1), toy.schema)
    return EngineCase(engine=engine, episodes=toy.episodes(20, 14, seed=2))


def _untrained(family: Any, toy: Integrator) -> ModelCase:
    """An untrained model of the toy environment, with logs."""
    torch.manual_seed(0)
    model = family(schema=toy.schema, config=family.Config(inputs=("position",)))
    with TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "toy", toy.schema)
        for episode in toy.episodes(6, 5, seed=3):
            store.append(episode)
        windows = Windows(store, 6, range(6), window_signals(toy.schema, ("position",)))
        batch = windows.sample(6, np.random.default_rng(0))
    return ModelCase(model=model, window=to_window(batch, toy.schema))
