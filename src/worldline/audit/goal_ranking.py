"""Goal reaching on logs: does the planner prefer the actions that led to an observation to actions that led elsewhere?

A logged segment starts at one observation and ends at another. The second one is the goal. Candidates are the logged
actions and those of segments of other episodes. A world that can plan to the goal gives the logged actions a small
cost. The share of other sequences that cost more is 1 for a perfect world and 0.5 by chance. It has no unit, so one
bound serves all worlds. `benchmarks/audit_verdicts.py` compares it with the success in environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.diagnostics import rows_of_other_episodes
from worldline.audit.measured import GoalRanking
from worldline.audit.queries import WINDOW_BATCH
from worldline.data.windows import ForecastWindows, evenly_spaced, forecast_windows
from worldline.engines.base import Card
from worldline.episode import Episode
from worldline.errors import UnknownNameError
from worldline.planning.base import Goal
from worldline.schema import Kind
from worldline.stats import Floats, draw_clusters, ratio_estimate
from worldline.world.base import World

MAX_STEPS: Final = 10
"""Steps from the start of a segment to the goal."""
MAX_SEGMENTS: Final = 240
PER_EPISODE: Final = 4
"""Segments of an episode, at most; further ones tell little more."""
NUM_OTHERS: Final = 24
"""Action sequences of other episodes, for each segment."""
DISTANCE: Final = "reaches"
"""Ability of worlds that measure distances to a goal observation."""


def default_goals(card: Card) -> tuple[str, ...]:
    """The goal signals of a world that is meant to plan to observations: all inputs; empty for other worlds."""
    return card.inputs if DISTANCE in card.abilities and card.action_conditioned else ()


def check_goals(card: Card, goals: Sequence[str]) -> None:
    """Refuses names that are no observation signals.

    Raises:
        UnknownNameError: the world has no such observation.
    """
    known = [signal.name for signal in card.schema.observations]
    for name in goals:
        if name not in known:
            raise UnknownNameError("observation signal", name, known)


def goal_ranking(
    world: World, episodes: Sequence[Episode], *, goals: Sequence[str], context: int, horizon: int, seed: int
) -> GoalRanking | None:
    """The rank of the logged actions by the cost of their last step; None without goals or two long episodes.

    Args:
        world: world under audit.
        episodes: held-out episodes.
        goals: observation signals of the goals. Distances are in steps if they are all inputs of a world that measures
            such distances; else squared errors, each divided by the variance of its signal.
        context: H, observations given to the world.
        horizon: longest segment, steps.
        seed: chooses the other sequences.

    Raises:
        UnsupportedError: the world cannot plan to these signals.
    """
    steps = min(horizon, MAX_STEPS)
    windows = _segments(episodes, goals, context, steps) if goals else None
    if windows is None:
        return None
    num_episodes = int(windows.episode.max()) + 1
    sequences = rows_of_other_episodes(windows.episode, NUM_OTHERS, np.random.default_rng([seed, 31]))
    costs = _costs(world, windows, _goal(world.describe(), windows, goals), sequences)
    own, others = costs[:, :1], costs[:, 1:]
    # The share of other sequences that cost more, and a count, whose sums give the mean.
    shares = np.stack([((own < others) + 0.5 * (own == others)).mean(1), np.ones(len(own))], 1)
    return GoalRanking(
        goals=tuple(goals),
        steps=steps,
        num_segments=len(own),
        num_episodes=num_episodes,
        num_others=others.shape[1],
        preferred=ratio_estimate(shares, windows.episode, draw_clusters(num_episodes, seed)),
    )


def _segments(episodes: Sequence[Episode], goals: Sequence[str], context: int, steps: int) -> ForecastWindows | None:
    """Segments whose goal was observed."""
    long = [episode for episode in episodes if episode.num_steps >= context - 1 + steps]
    count = min(PER_EPISODE, max(1, MAX_SEGMENTS // max(len(long), 1)))
    places = [
        (episode, at)
        for episode in long[:MAX_SEGMENTS]
        for at in evenly_spaced(episode.num_steps, context, steps, count)
        if all(episode.observed[name][at + steps] for name in goals if name in episode.observed)
    ]
    if len({id(episode) for episode, _ in places}) < 2:
        return None
    return forecast_windows(places, length=context, horizon=steps, targets=goals)


def _goal(card: Card, windows: ForecastWindows, goals: Sequence[str]) -> Goal:
    """The last observation of each segment."""
    targets = {name: windows.truth[name][:, -1] for name in goals}
    vectors = [card.schema[name] for name in goals if card.schema[name].kind is Kind.VECTOR]
    spreads = {signal.name: float(signal.deviations(targets[signal.name]).std()) for signal in vectors}
    return Goal(
        targets=targets,
        tolerance={name: spread or 1.0 for name, spread in spreads.items()},
        in_steps=DISTANCE in card.abilities and set(goals) >= set(card.inputs),
        last_only=True,
    )


def _costs(world: World, windows: ForecastWindows, goal: Goal, others: NDArray[np.integer]) -> Floats:
    """The costs [W, 1 + N] of the logged actions and of the others."""
    parts = []
    for first in range(0, len(others), WINDOW_BATCH):
        rows = slice(first, first + WINDOW_BATCH)
        some = windows.select(rows)
        actions = {k: np.concatenate([v[rows, None], v[others[rows]]], 1) for k, v in windows.actions.items()}
        targets = replace(goal, targets={name: np.asarray(value)[rows] for name, value in goal.targets.items()})
        scores = world.score(some.history, actions, targets, exogenous=dict(some.exogenous) or None)
        parts.append(scores.cost.astype(float))
    return np.concatenate(parts)
