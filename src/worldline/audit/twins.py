"""Test C1 of the exam on ground-truth twins: replayed episodes that differ only in their actions.

A twin starts from the same seed and repeats the actions up to the branch. All actions come from the logs, so that no
action is out of distribution. C1 scores the differences between branches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product, takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.effects import MIN_EFFECT_SHARE
from worldline.audit.grades import Cell, Condition, Grade, Verdict
from worldline.audit.measured import TwinTest
from worldline.audit.queries import LOWEST_LEVEL, forecasts, predicted_vectors
from worldline.audit.scoring import skill_cell
from worldline.audit.verdicts import GATED, verdict_of
from worldline.data.windows import forecast_windows
from worldline.episode import Arrays, Episode, History
from worldline.errors import DataError, UnsupportedError
from worldline.formatting import plural
from worldline.schema import Schema, Signal
from worldline.stats import Floats, ratio
from worldline.world.base import World

NUM_ANCHORS: Final = 40
MIN_ANCHORS: Final = 20
MAX_DRAWS: Final = 400
"""Largest number of tried anchors; an anchor is discarded if one of its branches ends before the horizon."""
NUM_BRANCHES: Final = 3
"""Branches of an anchor in addition to the first, which repeats the logged actions."""
GAIN_BOUNDS: Final = (0.8, 1.2)
MIN_SQUARED_DIFFERENCE: Final = MIN_EFFECT_SHARE**2
"""Smallest squared difference of twins in a scored signal, as a share of its variance."""
ROUNDING: Final = 1e-5
"""Relative variation up to which a signal counts as constant."""
PREFIX: Final = 5
"""Steps before the branch, in addition to the context."""
MAX_TWIN_STEPS: Final = 20
"""Largest number of steps after the branch."""


class TwinSource(ABC):
    """An environment that can be replayed exactly from a seed."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """Observation and action signals of the environment."""

    @abstractmethod
    def run(self, seed: int, actions: Arrays) -> Episode:
        """The episode from this seed under these actions; it contains the executed actions and may end early.

        Args:
            seed: seed of every random draw.
            actions: per action signal [T, *shape].
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class TwinEpisodes:
    """Episodes that are identical up to the branch.

    Args:
        history: [E, H, *shape] up to the branch.
        actions: per signal [E, K, T, *shape], the executed actions.
        exogenous: per signal [E, T, *shape].
        truth: per observation [E, K, T, *shape].
    """

    history: History
    actions: Arrays
    exogenous: Arrays
    truth: Arrays


def twin_test(
    world: World, source: TwinSource, episodes: Sequence[Episode], *, context: int, horizon: int, seed: int
) -> TwinTest:
    """C1 on the vector signals that the world predicts and the environment observes.

    Args:
        world: world under audit.
        source: source of twins.
        episodes: logged episodes from which actions are taken.
        context: H, observations given to the world.
        horizon: T, steps.
        seed: seed of every draw.

    Raises:
        DataError: no logged episode is long enough, or nearly all twins end before the horizon.
        UnsupportedError: the environment cannot be replayed.
    """
    signals = predicted_vectors(world, {signal.name for signal in source.schema.observations})
    twins = branches(source, world.describe().schema, episodes, context=context, horizon=horizon, seed=seed)
    grade = branch_effect(twins, answers(world, twins, signals), signals)
    return TwinTest(grade=grade, verdict=verdict_of(grade))


def failed_run(verdict: Verdict) -> TwinTest:
    """The test without scores, if twins could not be run.

    Args:
        verdict: UNSUPPORTED or ERROR.
    """
    return TwinTest(grade=Grade(cells=(Cell(name="every signal", score=None, note="not run"),)), verdict=verdict)


def twin_horizon(episodes: Sequence[Episode], context: int, horizon: int) -> int:
    """Steps after the branch that the longest logged episode allows, from 1 to 20.

    Args:
        episodes: logged episodes from which actions are taken.
        context: H, observations given to the world.
        horizon: T, steps that the world predicts.
    """
    longest = max((episode.num_steps for episode in episodes), default=0)
    return max(1, min(horizon, MAX_TWIN_STEPS, longest - (context - 1 + PREFIX)))


def branches(
    source: TwinSource, schema: Schema, episodes: Sequence[Episode], *, context: int, horizon: int, seed: int
) -> TwinEpisodes:
    """Twins under logged actions of other episodes; anchors with an early end are drawn again."""
    draw, before = np.random.default_rng([seed, 17]), context - 1 + PREFIX
    kept: list[Sequence[Episode]] = []
    for tried in range(MAX_DRAWS):
        first = _slice(episodes, schema, before + horizon, draw)
        others = [_slice(episodes, schema, horizon, draw) for _ in range(NUM_BRANCHES)]
        paths = [first, *({k: np.concatenate([v[:before], other[k]]) for k, v in first.items()} for other in others)]
        runs = (source.run(int(seed * 1000 + tried), path) for path in paths)
        complete = list(takewhile(lambda run: run.num_steps >= before + horizon, runs))
        kept += [complete] if len(complete) == len(paths) else []
        if len(kept) == NUM_ANCHORS:
            break
    if len(kept) < MIN_ANCHORS:
        raise DataError(
            f"in {len(kept)} of {MAX_DRAWS} starts the environment runs for {plural(before + horizon, 'step')} in "
            f"every branch; twins need {MIN_ANCHORS}",
            fix="Give logs whose actions keep the environment running for longer, or audit without --env.",
        )
    return _twins(kept, schema, before, context)


def _slice(
    episodes: Sequence[Episode], schema: Schema, length: int, draw: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    """Consecutive actions of a logged episode."""
    long = [episode for episode in episodes if episode.num_steps >= length]
    if not long:
        raise DataError(f"no logged episode has the {length} steps that twins need", fix="Give longer episodes.")
    episode = long[int(draw.integers(len(long)))]
    start = int(draw.integers(episode.num_steps - length + 1))
    return {signal.name: episode.actions[signal.name][start : start + length] for signal in schema.actions}


def _twins(worlds: Sequence[Sequence[Episode]], schema: Schema, at: int, context: int) -> TwinEpisodes:
    """Cuts each group of episodes at observation `at`, up to which they must be identical.

    Raises:
        UnsupportedError: they differ before; the environment cannot be replayed.
    """
    for first, *others in worlds:
        for other, (name, value) in product(others, first.observations.items()):
            shared = value[: at + 1], other.observations[name][: at + 1]
            if not np.array_equal(*shared, equal_nan=value.dtype.kind == "f"):
                raise UnsupportedError(
                    f"the environment cannot be replayed: {name!r} differs after the same seed and actions. "
                    "Give an environment that is deterministic for a given seed, or audit without --env."
                )
    windows = [
        forecast_windows([(run, at) for run in runs], length=context, horizon=runs[0].num_steps - at, schema=schema)
        for runs in zip(*worlds, strict=True)
    ]
    actions, truth = (
        {name: np.stack([branch[name] for branch in branches], 1) for name in branches[0]}
        for branches in ([window.actions for window in windows], [window.truth for window in windows])
    )
    history = replace(windows[0].history, observed={})  # a replayed environment observes every step
    return TwinEpisodes(history=history, actions=actions, exogenous=windows[0].exogenous, truth=truth)


def answers(world: World, twins: TwinEpisodes, signals: Sequence[Signal]) -> dict[str, Floats]:
    """Predicted mean of every branch, per signal [E, K, T, n]."""
    names, count = [signal.name for signal in signals], next(iter(twins.actions.values())).shape[1]
    ask = partial(forecasts, world, twins.history, signals=names, exogenous=twins.exogenous or None, checked=False)
    branches = ({name: value[:, k] for name, value in twins.actions.items()} for k in range(count))
    parts = [ask(actions, level=LOWEST_LEVEL) for actions in branches]
    return {name: np.stack([part[name].mean.astype(float) for part in parts], 1) for name in names}


def branch_effect(twins: TwinEpisodes, predicted: Arrays, signals: Sequence[Signal]) -> Grade:
    """C1: 1 - sum |predicted - true difference between branches|^2 / sum |true difference|^2, and the gain.

    A signal whose branches hardly differ is gated and has no gain condition.
    """
    cells, conditions = [], []
    for signal in signals:
        own, true = (_between(arrays[signal.name], signal) for arrays in (predicted, twins.truth))
        spread = _squares(twins.truth[signal.name], signal)[:, 1:]
        loss, floor, marginal = (part.reshape(len(part), -1).sum(1) for part in ((own - true) ** 2, true**2, spread))
        cells.append(skill_cell(signal.name, loss, floor, marginal=marginal, gate=MIN_SQUARED_DIFFERENCE))
        if not cells[-1].note.startswith(GATED):
            gain = ratio((own * true).sum(keepdims=True), (true**2).sum(keepdims=True)).item()
            name = f"gain of {signal.name} in [{GAIN_BOUNDS[0]}, {GAIN_BOUNDS[1]}]"
            met = GAIN_BOUNDS[0] <= gain <= GAIN_BOUNDS[1]
            conditions.append(Condition(name=name, met=met, found=f"{gain:.2f}"))
    return Grade(cells=tuple(cells), conditions=tuple(conditions))


def _between(values: NDArray[np.generic], signal: Signal) -> Floats:
    """Each branch minus the first one [E, K-1, T, n]."""
    values = values.astype(float)
    return np.asarray(signal.difference(values[:, 1:], values[:, :1]))


def _squares(values: NDArray[np.generic], signal: Signal) -> Floats:
    """Squared distances [E, K, T, n] to the mean over anchors, branches and steps.

    For a constant signal they are replaced by its squares, or by ones if it is 0. Otherwise the rounding of a
    prediction would count as a wrong effect.
    """
    squares, sizes = signal.deviations(values) ** 2, values.astype(float) ** 2
    if squares.sum() > ROUNDING**2 * sizes.sum():
        return squares
    return sizes if sizes.any() else np.ones_like(sizes)
