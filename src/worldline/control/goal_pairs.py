"""Start-goal pairs from logged episodes, under two protocols.

In both, the goal is the observation `offset` steps after the start, and an attempt may take 2 * `offset` steps.

- Strict (`draw_pairs`): held-out episodes, no pair is solved at its start, and groups of pairs have equal size.
- Historical (`historical_pairs`): any start, as in published figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from worldline.data.store import Store
from worldline.episode import Arrays
from worldline.errors import DataError, InputError

Reached = Callable[[Arrays, Arrays], bool]
"""Whether an observation is close enough to a goal; both are {signal: [*shape]}."""

Grouping = Callable[[Arrays, Arrays], str]
"""The label of the pair of a start and a goal; both are {signal: [*shape]}."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StartGoalPair:
    """A start and a goal.

    Args:
        episode: number of the episode that holds both.
        seed: reset seed of the episode.
        replay: per action signal [at, *shape], the actions from the reset to the start.
        start: per observation signal [*shape], as logged.
        goal: per observation signal [*shape], as logged.
        offset: steps from start to goal in the log.
        group: label of the group.
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
        """The largest number of steps of an attempt, twice the offset."""
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
    """Pairs drawn without replacement from all possible starts, sorted by group.

    Args:
        store: of episodes with reset seeds.
        episodes: held out from training.
        offset: steps from start to goal, at least 1.
        num_pairs: a multiple of the number of groups.
        reached: decides whether a pair is solved at its start; such pairs are left out.
        group: returns the label of a pair.
        groups: the wanted labels, in equal numbers; pairs with another label are left out.
        context: number of observations up to and including the start that must exist; the default needs no past.
        seed: of the draw.

    Raises:
        InputError: `num_pairs` is not a multiple of the number of groups, or a number is too small.
        DataError: an episode has no reset seed, or there are too few pairs; the message gives their number.
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
            f"each group needs {quota} pairs, but there are only {' and '.join(missing)} among {len(starts)} "
            f"starts in {len(episodes)} episodes",
            fix="Log more or longer episodes, or reduce num_pairs or offset.",
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
    """Pairs of the protocol of published figures: any start, including starts that are already at the goal.

    Most published figures use training episodes and replan after 25 steps (`evaluate(..., replan_every=25)`). Some
    pairs are solved without moving, so report that share too. `NoMoveActor` measures it if actions are relative, not if
    they are target positions. Source of the defaults: stable-worldmodel 0.1.1.

    Args:
        store: of episodes with reset seeds.
        episodes: to draw starts from.
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
            fix = "Log reset seeds: a start is reached by replaying its episode."
            raise DataError("no reset seed was logged", fix=fix, episode=episode)
        seeds[episode] = seed
    return seeds


def _observation(store: Store, episode: int, step: int) -> Arrays | None:
    """The logged observation {signal: [*shape]}, or None if a signal is missing."""
    names = [signal.name for signal in store.schema.observations]
    if not all(store.observed(name, episode, step, step + 1).all() for name in names):
        return None
    return {name: store.read(name, episode, step, step + 1)[0] for name in names}
