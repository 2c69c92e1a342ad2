"""Starts and goals from logged episodes, under two protocols.

Of both, the goal is what was seen `offset` steps after the start, and an attempt may take 2 * `offset` steps. Strict
(`draw_pairs`): from held-out episodes, no pair is solved at its start, and the groups of pairs are equally large.
Historical (`historical_pairs`): any start, as published figures have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worldline.data.store import Store
from worldline.episode import Arrays
from worldline.errors import DataError, InputError

Reached = Callable[[Arrays, Arrays], bool]
"""Takes an observation and a goal, {signal: [*shape]}, and says whether the first is near enough to the second."""

Grouping = Callable[[Arrays, Arrays], str]
"""Takes a start and a goal, {signal: [*shape]}, and gives the label of the pair."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StartGoalPair:
    """A start and a goal.

    Args:
        episode: the number of the episode that both come from.
        seed: of its reset.
        replay: per action signal [at, *shape]: what leads from the reset to the start.
        start: per observation signal [*shape], as logged.
        goal: per observation signal [*shape], as logged.
        offset: steps from start to goal in the log.
        group: a label.
    """

    episode: int
    seed: int
    replay: Arrays
    start: Arrays
    goal: Arrays
    offset: int
    group: str

    @property
    def at(self) -> int:
        """The step of the start in its episode."""
        return len(next(iter(self.replay.values())))

    @property
    def budget(self) -> int:
        """The most steps that an attempt may take, twice the offset."""
        return 2 * self.offset


def draw_pairs(
    store: Store,
    episodes: Sequence[int],
    *,
    offset: int,
    num_pairs: int,
    reached: Reached,
    group: Grouping,
    groups: Sequence[str],
    context: int = 1,
    seed: int,
) -> tuple[StartGoalPair, ...]:
    """Pairs drawn without replacement from all possible starts, one group after the other.

    Args:
        store: of episodes with reset seeds.
        episodes: held out from training.
        offset: steps from start to goal, at least 1.
        num_pairs: a multiple of the number of groups.
        reached: a pair that it calls reached at the start is left out.
        group: says which group a pair belongs to.
        groups: the labels that are wanted, equally often; pairs with any other are left out.
        context: observations up to and including the start that must exist; the default needs no past.
        seed: of the draw.

    Raises:
        InputError: `num_pairs` cannot be shared out equally, or a number is too small.
        DataError: an episode has no reset seed, or there are too few pairs; says how many there are.
    """
    if min(offset, context, num_pairs, len(groups)) < 1 or num_pairs % len(groups):
        raise InputError(
            f"offset {offset}, context {context} and num_pairs {num_pairs} must be at least 1, and num_pairs a "
            f"multiple of the number of groups, {len(groups)}."
        )
    seeds = _reset_seeds(store, episodes)
    starts = [(e, at) for e in episodes for at in range(context - 1, int(store.num_steps[e]) - offset + 1)]
    found: dict[str, list[StartGoalPair]] = {label: [] for label in groups}
    quota = num_pairs // len(groups)
    for number in np.random.default_rng(seed).permutation(len(starts)):
        if all(len(pairs) == quota for pairs in found.values()):
            break
        episode, at = starts[number]
        start, goal = (_observation(store, episode, step) for step in (at, at + offset))
        if start is None or goal is None or reached(start, goal):
            continue
        label = group(start, goal)
        if label in found and len(found[label]) < quota:
            replay = {signal.name: store.read(signal.name, episode, 0, at) for signal in store.schema.actions}
            found[label].append(
                StartGoalPair(
                    episode=episode,
                    seed=seeds[episode],
                    replay=replay,
                    start=start,
                    goal=goal,
                    offset=offset,
                    group=label,
                )
            )
    missing = [f"{len(pairs)} of group {label!r}" for label, pairs in found.items() if len(pairs) < quota]
    if missing:
        raise DataError(
            f"{quota} pairs of each group are wanted, but there are only {' and '.join(missing)} among {len(starts)} "
            f"starts in {len(episodes)} episodes",
            fix="Log more or longer episodes, or ask for fewer pairs or a smaller offset.",
        )
    return tuple(pair for label in groups for pair in found[label])


def historical_pairs(
    store: Store,
    episodes: Sequence[int],
    *,
    offset: int = 25,
    num_pairs: int = 50,
    context: int = 1,
    seed: int = 42,
) -> tuple[StartGoalPair, ...]:
    """Pairs as published figures are measured on: any start will do, one that is at its goal already too.

    Most of them come from the training data and replan after 25 steps (`evaluate(..., replan_every=25)`). A share of
    the pairs is solved by standing still, so give that figure beside: `NoMoveActor` stands still where actions say how
    far to go, not where they say where to. Source of the defaults: stable-worldmodel 0.1.1.

    Args:
        store: of episodes with reset seeds.
        episodes: that starts come from.
        offset: as in `draw_pairs`.
        num_pairs: at least 1.
        context: as in `draw_pairs`.
        seed: of the draw.

    Raises:
        InputError: a number is too small.
        DataError: as in `draw_pairs`.
    """
    return draw_pairs(
        store,
        episodes,
        offset=offset,
        num_pairs=num_pairs,
        reached=lambda *_: False,
        group=lambda *_: "all",
        groups=("all",),
        context=context,
        seed=seed,
    )


def _reset_seeds(store: Store, episodes: Sequence[int]) -> dict[int, int]:
    seeds = {}
    for episode in episodes:
        seed = store.entry(episode).seed
        if seed is None:
            raise DataError("no reset seed was logged", fix="A start needs an episode that replays.", episode=episode)
        seeds[episode] = seed
    return seeds


def _observation(store: Store, episode: int, step: int) -> Arrays | None:
    """The logged observation {signal: [*shape]}, or None where a part of it is missing."""
    names = [signal.name for signal in store.schema.observations]
    if not all(store.observed(name, episode, step, step + 1).all() for name in names):
        return None
    return {name: store.read(name, episode, step, step + 1)[0] for name in names}
