"""Tests C1, T1 and T3 of the exam on ground-truth twins: replayed episodes that differ only in their actions.

A twin starts from the same seed and repeats the actions up to the branch. All actions come from the logs, so that no
action is out of distribution. C1 scores differences between branches. T3 scores the response to one pulse. T1 compares
with persistence at each step up to the horizon of the world. The exam stops T1 where a twin from a perturbed state
diverges; here this is omitted, because it needs write access to the state of the environment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product, takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.effects import MIN_EFFECT_SHARE, effect_lags
from worldline.audit.grades import Cell, Condition, Grade, Verdict
from worldline.audit.measured import TwinTest
from worldline.audit.queries import LOWEST_LEVEL, forecasts, predicted_vectors
from worldline.audit.scoring import skill_cell
from worldline.audit.verdicts import GATED, verdict_of
from worldline.data.windows import forecast_windows
from worldline.episode import Arrays, Episode, History
from worldline.errors import DataError, UnsupportedError
from worldline.formatting import plural
from worldline.schema import Kind, Schema, Signal
from worldline.stats import Floats, ratio
from worldline.world.base import World

NUM_ANCHORS: Final = 40
MIN_ANCHORS: Final = 20
MAX_DRAWS: Final = 400
"""Largest number of tried anchors; an anchor is discarded if one of its branches ends before the horizon."""
NUM_BRANCHES: Final = 3
"""Branches of an anchor in addition to the first, which repeats the logged actions."""
GAIN_BOUNDS: Final = (0.8, 1.2)
MIN_PEAK_SHARE: Final = 0.95
"""Smallest true response at the step of the predicted peak, as a share of the largest true response."""
MIN_SQUARED_DIFFERENCE: Final = MIN_EFFECT_SHARE**2
"""Smallest squared difference of twins in a scored signal, as a share of its variance."""
ROUNDING: Final = 1e-5
"""Relative variation up to which a signal counts as constant."""
PREFIX: Final = 5
"""Steps before the branch, in addition to the context."""
MAX_TWIN_STEPS: Final = 20
"""Largest number of steps after the branch."""
TITLES: Final = {"C1": "effect of other actions", "T1": "improvement over persistence", "T3": "response to one pulse"}


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


def twin_tests(
    world: World, source: TwinSource, episodes: Sequence[Episode], *, context: int, horizon: int, seed: int
) -> tuple[TwinTest, ...]:
    """C1, T1 and T3 on the vector signals that the world predicts and the environment observes.

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
    schema = world.describe().schema
    signals = predicted_vectors(world, {signal.name for signal in source.schema.observations})
    twins = branches(source, schema, episodes, context=context, horizon=horizon, seed=seed)
    pulsed = pulses(source, schema, episodes, context=context, horizon=horizon, seed=seed + 1)
    predicted = answers(world, twins, signals)
    grades = {
        "C1": branch_effect(twins, predicted, signals),
        "T1": beyond_persistence(twins, predicted, signals),
        "T3": pulse_response(pulsed, answers(world, pulsed, signals), signals),
    }
    verdicts = {name: verdict_of(grade) for name, grade in grades.items()}
    return tuple(TwinTest(name=k, title=TITLES[k], grade=grade, verdict=verdicts[k]) for k, grade in grades.items())


def failed_runs(verdict: Verdict) -> tuple[TwinTest, ...]:
    """The three tests without scores, if twins could not be run.

    Args:
        verdict: UNSUPPORTED or ERROR.
    """
    grade = Grade(cells=(Cell(name="every signal", score=None, note="not run"),))
    return tuple(TwinTest(name=name, title=title, grade=grade, verdict=verdict) for name, title in TITLES.items())


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
    """Twins under logged actions of other episodes."""
    draw, before = np.random.default_rng([seed, 17]), context - 1 + PREFIX

    def paths(_: int) -> list[Arrays]:
        first = _slice(episodes, schema, before + horizon, draw)
        others = [_slice(episodes, schema, horizon, draw) for _ in range(NUM_BRANCHES)]
        return [first, *({k: np.concatenate([v[:before], other[k]]) for k, v in first.items()} for other in others)]

    return _twins(_complete_anchors(source, paths, before + horizon, seed), schema, before, context)


def pulses(
    source: TwinSource, schema: Schema, episodes: Sequence[Episode], *, context: int, horizon: int, seed: int
) -> TwinEpisodes:
    """Pairs of twins; the second has one action component changed by one standard deviation at the first step."""
    draw, before = np.random.default_rng([seed, 19]), context - 1 + PREFIX
    parts, spreads = [], {}
    for signal in schema.actions:
        parts += [(signal, part) for part in range(1 if signal.kind is Kind.DISCRETE else signal.size)]
        spreads[signal.name] = np.concatenate([episode.actions[signal.name] for episode in episodes]).std(0)

    def paths(number: int) -> list[Arrays]:
        first = _slice(episodes, schema, before + horizon, draw)
        signal, part = parts[number % len(parts)]
        other = {name: value.copy() for name, value in first.items()}
        if signal.kind is Kind.DISCRETE:
            other[signal.name][before] = (int(first[signal.name][before]) + 1) % signal.size
        else:
            now, size = float(first[signal.name][before, part]), float(spreads[signal.name][part])
            high = np.inf if signal.high is None else signal.high[part]
            other[signal.name][before, part] = now + size if now + size <= high else now - size
        return [first, other]

    return _twins(_complete_anchors(source, paths, before + horizon, seed), schema, before, context)


def _complete_anchors(
    source: TwinSource, paths: Callable[[int], Sequence[Arrays]], length: int, seed: int
) -> list[Sequence[Episode]]:
    """The episodes of each anchor without an early end.

    Args:
        source: source of twins.
        paths: maps the number of a kept anchor to the actions of its branches.
        length: steps that each episode must have.
        seed: determines the seeds of the anchors.
    """
    kept: list[Sequence[Episode]] = []
    for tried in range(MAX_DRAWS):
        branches = paths(len(kept))
        runs = (source.run(int(seed * 1000 + tried), path) for path in branches)
        complete = list(takewhile(lambda run: run.num_steps >= length, runs))
        kept += [complete] if len(complete) == len(branches) else []
        if len(kept) == NUM_ANCHORS:
            break
    if len(kept) < MIN_ANCHORS:
        raise DataError(
            f"in {len(kept)} of {MAX_DRAWS} starts the environment runs for {plural(length, 'step')} in every branch; "
            f"twins need {MIN_ANCHORS}",
            fix="Give logs whose actions keep the environment running for longer, or audit without --env.",
        )
    return kept


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

    def gain(signal: Signal, own: Floats, true: Floats) -> Condition:
        figure = ratio((own * true).sum(keepdims=True), (true**2).sum(keepdims=True)).item()
        name = f"gain of {signal.name} in [{GAIN_BOUNDS[0]}, {GAIN_BOUNDS[1]}]"
        return Condition(name=name, met=GAIN_BOUNDS[0] <= figure <= GAIN_BOUNDS[1], found=f"{figure:.2f}")

    return _difference_grade(twins, predicted, signals, slice(None), gain)


def _difference_grade(
    twins: TwinEpisodes,
    predicted: Arrays,
    signals: Sequence[Signal],
    steps: slice | list[int],
    condition: Callable[[Signal, Floats, Floats], Condition],
) -> Grade:
    """Scores of the predicted differences to the first branch [E, K-1, T, n] at some steps.

    Args:
        twins: the true branches.
        predicted: the predicted ones.
        signals: one cell each.
        steps: scored steps.
        condition: made from a signal, its predicted differences and the true ones, unless its cell is gated.
    """
    cells, conditions = [], []
    for signal in signals:
        own, true = (_between(arrays[signal.name], signal) for arrays in (predicted, twins.truth))
        spread = _squares(twins.truth[signal.name], signal)[:, 1:]
        cells.append(_cell(signal, *(part[:, :, steps] for part in ((own - true) ** 2, true**2, spread))))
        if not cells[-1].note.startswith(GATED):
            conditions.append(condition(signal, own, true))
    return Grade(cells=tuple(cells), conditions=tuple(conditions))


def _cell(signal: Signal, loss: Floats, floor: Floats, spread: Floats) -> Cell:
    """The cell of a signal from squares [E, ...]; gated if those of `floor` are small relative to `spread`."""
    sums = [part.reshape(len(part), -1).sum(1) for part in (loss, floor, spread)]
    return skill_cell(signal.name, sums[0], sums[1], marginal=sums[2], gate=MIN_SQUARED_DIFFERENCE)


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


def beyond_persistence(twins: TwinEpisodes, predicted: Arrays, signals: Sequence[Signal]) -> Grade:
    """T1: skill against persistence, averaged over the steps.

    Steps at which a signal has hardly moved are ignored. The signal is gated if it hardly moves at any step.
    """
    cells = []
    for signal in signals:
        true = twins.truth[signal.name].astype(float)
        loss = signal.difference(predicted[signal.name], true) ** 2
        present = twins.history.observations[signal.name][:, -1].astype(float)
        unmoved = signal.difference(present[:, None, None], true) ** 2
        spread = _squares(twins.truth[signal.name], signal)
        size = unmoved.sum((0, 1, 3))
        moved = size > MIN_SQUARED_DIFFERENCE * spread.sum() / spread.shape[2]
        if not moved.any():
            cells.append(_cell(signal, loss, unmoved, spread))
            continue
        weight = (moved / np.where(moved, size, 1.0))[None, None, :, None]  # every step has the same weight
        cells.append(skill_cell(signal.name, (loss * weight).sum((1, 2, 3)), (unmoved * weight).sum((1, 2, 3))))
    return Grade(cells=tuple(cells))


def pulse_response(twins: TwinEpisodes, predicted: Arrays, signals: Sequence[Signal]) -> Grade:
    """T3: 1 - |predicted - true response|^2 / |true response|^2 at the lags of effects, and the step of the peak.

    A signal that the pulse hardly moves is gated and has no peak condition.
    """

    def peak(signal: Signal, own: Floats, true: Floats) -> Condition:
        own_size, true_size = (np.abs(response[:, 0]).sum(-1).mean(0) for response in (own, true))
        own_peak, true_peak = int(own_size.argmax()), int(true_size.argmax())
        return Condition(
            name=f"true response of {signal.name} at the predicted peak at least {MIN_PEAK_SHARE} of its largest",
            met=bool(true_size[own_peak] >= MIN_PEAK_SHARE * true_size[true_peak]),
            found=f"predicted peak after {own_peak + 1} steps, true peak after {true_peak + 1}",
        )

    horizon = next(iter(twins.actions.values())).shape[2]
    return _difference_grade(twins, predicted, signals, [lag - 1 for lag in effect_lags(horizon)], peak)
