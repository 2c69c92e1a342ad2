"""Checks a `World`: the clauses of `world/base.py`, one function each; `CLAUSES` lists them all.

`check_world(world, episodes, goal)` checks them all; `batch_is_loop(WorldCase(world=world, ...))` checks one. Most
clauses are in modules by subject, such as `plans.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from worldline.episode import Arrays, Episode
from worldline.errors import UnsupportedError
from worldline.planning.base import Goal
from worldline.schema import Kind
from worldline.testing import (
    confidence,
    determinism_checks,
    goals,
    horizons,
    options,
    plans,
    predictions,
    refusals,
    surprises,
    what_if_checks,
)
from worldline.testing.clauses import as_float, clause, clauses_of, has_shape, holds, run, unchanged
from worldline.testing.world_case import WorldCase
from worldline.world.base import World


def check_world(world: World, episodes: Sequence[Episode], goal: Goal, **settings: Any) -> None:
    """Checks all clauses of the contract.

    Args:
        world: the world.
        episodes: held out from training and calibration, 30 or more.
        goal: one that the world supports, for a single world.
        settings: other arguments of `WorldCase`, such as `horizon` and `num_calibration`.

    Raises:
        AssertionError: lists each broken clause, the violation, and where to look.
        InputError: the episodes are too few or too short.
    """
    run(type(world).__name__, WorldCase(world=world, episodes=episodes, goal=goal, **settings), CLAUSES)


@clause("Prediction and Forecast; mean [T, *shape] and band of each signal")
def prediction_shapes(case: WorldCase) -> None:
    """A prediction has a mean and a band in the signal's shape for each predicted signal, for one world or W."""
    windows = case.windows()
    alone = case.predict(case.query())
    holds(np.ndim(alone.trust) == 0, f"trust of one world has shape {np.shape(alone.trust)}")
    for leading, prediction in (((), alone), ((windows.num_worlds,), case.predict(windows))):
        names = set(prediction.signals)
        holds(names == set(case.card.predicts), f"signals {sorted(names)}, expected {case.card.predicts}")
        holds(prediction.level == 0.8, f"level {prediction.level}, expected 0.8")
        for name, forecast in prediction.signals.items():
            signal = case.card.schema[name]
            expected = (*leading, case.horizon, *signal.shape)
            has_shape(f"mean of {name!r}", forecast.mean, expected)
            for label, edge in (("low", forecast.low), ("high", forecast.high)):
                wants_band = signal.kind is Kind.VECTOR and prediction.calibrated
                holds(edge is not None or not wants_band, f"{label} of {name!r} is None")
                shape = expected if edge is None else edge.shape
                holds(shape == expected, f"{label} of {name!r} has shape {shape}, expected {expected}")
            no_band = signal.kind is Kind.IMAGE or not prediction.calibrated
            holds(not no_band or forecast.low is None, f"{name!r} has a band without a calibration")


@clause("the verbs; a batch of W worlds equals W single worlds, without the batch axis")
def batch_is_loop(case: WorldCase) -> None:
    """Predictions and scores of a batch of W worlds equal those of single worlds."""
    windows = case.windows()
    together = case.predict(windows)
    scores = case.score(windows, *_batch(case)).cost
    for world in (0, windows.num_worlds - 1):
        query = case.query(world)
        alone = case.predict(query)
        problem = f"world {world} alone differs from its result in the batch"
        trust = np.nan_to_num([alone.trust, as_float(together.trust)[world]], nan=-1.0)  # NaN where not calibrated
        case.equal(trust[0], trust[1], f"{problem}: trust")
        for name, label in product(together.signals, ("mean", "low", "high")):
            part, whole = (getattr(prediction.signals[name], label) for prediction in (alone, together))
            holds((part is None) == (whole is None), f"{problem}: {label} of {name!r}")
            if part is not None:
                case.equal(part, whole[world], f"{problem}: {label} of {name!r}")
        cost = case.score(query, case.plans(world)).cost
        case.equal(cost, scores[world], f"{problem}: cost")


@clause("the verbs; they do not change arguments or the global random state")
def arguments_unchanged(case: WorldCase) -> None:
    """No verb changes its arguments or the global random state."""
    windows, query, episode, at = case.windows(), case.query(), case.episodes[0], case.length - 1
    (plans, goal), taken = _batch(case), case.taken(episode)
    with unchanged(windows, plans, query, episode, goal, taken, case.goal):
        case.predict(windows)
        case.score(windows, plans, goal)
        case.world.what_if(episode, at, taken)
        for ask in (partial(case.plan, query), partial(case.world.surprise, episode)):
            with suppress(UnsupportedError):  # abilities have their own clauses
                ask()


def _batch(case: WorldCase) -> tuple[Arrays, Goal]:
    """Four plans and a goal for each world of the batch."""
    windows = case.windows()
    return windows.future(4, case.seed).actions, case.batch_goal(windows.num_worlds)


_SUBJECTS = (confidence, horizons, options, goals, plans, what_if_checks, surprises, refusals, determinism_checks)
CLAUSES = clauses_of(vars(predictions), globals(), *map(vars, _SUBJECTS))
"""Every clause, in the order in which a report lists them."""
