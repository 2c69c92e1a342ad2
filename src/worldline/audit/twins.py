"""Three tests of the exam in an environment that can be replayed: twins that differ in their actions alone.

A twin is run from its seed, repeating the actions up to the branch. Actions are taken from the logs, so that nothing
is asked that the owner never did. C1 asks for the differences between branches, T3 for the response to one pulse; T1
compares with persistence at each step, and unlike the exam's looks no further than the world's own horizon, since the
state of a stranger's environment cannot be nudged to see when twins part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.audit.audit_evidence import TwinTest
from worldline.audit.effects import MATERIAL
from worldline.audit.grades import Cell, Condition, Grade, Verdict
from worldline.audit.queries import forecasts
from worldline.audit.scoring import skill_cell
from worldline.audit.verdicts import GATED, verdict_of
from worldline.episode import Arrays, Episode, History
from worldline.errors import DataError, UnsupportedError
from worldline.formatting import plural
from worldline.schema import Kind, Role, Schema, Signal
from worldline.stats import Floats, ratio
from worldline.world.base import World

NUM_ANCHORS: Final = 40
MIN_ANCHORS: Final = 20
MAX_DRAWS: Final = 400
"""Anchors that are tried, since of some a branch ends too early: what comes after an end is no law of the world."""
NUM_BRANCHES: Final = 3
"""Beside the first, which repeats what was logged."""
GAIN: Final = (0.8, 1.2)
PEAK: Final = 0.95
"""Of the largest true response, that has to be there where the world has its largest."""
LEAST: Final = MATERIAL**2
"""Share of a signal's variance that twins have to be apart by, or it is not scored: as in the table of effects."""
ROUNDING: Final = 1e-5
"""Of a signal's size: what varies less does not vary."""
PREFIX: Final = 5
"""Steps before the branch, beyond the context."""
FURTHEST: Final = 20
"""Steps that twins are followed for."""
TITLES: Final = {
    "C1": "what other actions change",
    "T1": "how far ahead it beats persistence",
    "T3": "the response to one pulse",
}


class TwinSource(ABC):
    """An environment that does the same again from a seed."""

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """The signals that it shows and takes."""

    @abstractmethod
    def run(self, seed: int, actions: Arrays) -> Episode:
        """The episode from this seed under these actions, as its actions those that were executed; shorter if it ends.

        Args:
            seed: of everything that is drawn.
            actions: per action signal [T, *shape].
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class TwinEpisodes:
    """Episodes that shared everything up to the branch.

    Args:
        history: [E, H, *shape] up to the branch.
        actions: per signal [E, K, T, *shape], those that were executed.
        exogenous: per signal [E, T, *shape].
        truth: per observation [E, K, T, *shape].
        present: per observation [E, *shape], at the branch.
    """

    history: History
    actions: Arrays
    exogenous: Arrays
    truth: Arrays
    present: Arrays


def twin_tests(
    world: World,
    source: TwinSource,
    episodes: Sequence[Episode],
    *,
    context: int,
    horizon: int,
    lags: Sequence[int],
    seed: int,
) -> tuple[TwinTest, ...]:
    """C1, T1 and T3 on the vector signals that both the world predicts and the environment shows.

    Args:
        world: under audit.
        source: of twins.
        episodes: logged ones, from which actions are taken.
        context: observations that the world is given.
        horizon: T, steps.
        lags: at which the response to a pulse is asked, from 1 to T.
        seed: of everything.

    Raises:
        DataError: no logged episode is long enough, or nearly all twins end before the horizon.
    """
    card = world.describe()
    shown = {one.name for one in source.schema.observations}
    signals = [s for s in card.schema.observations if s.kind is Kind.VECTOR and s.name in card.predicts]
    signals = [one for one in signals if one.name in shown]
    twins = branches(source, card.schema, episodes, context=context, horizon=horizon, seed=seed)
    pulsed = pulses(source, card.schema, episodes, context=context, horizon=horizon, seed=seed + 1)
    asked = answers(world, twins, signals)
    grades = {
        "C1": twin_effect(twins, asked, signals),
        "T1": beyond_persistence(twins, asked, signals),
        "T3": pulse_response(pulsed, answers(world, pulsed, signals), signals, lags),
    }
    return tuple(
        TwinTest(name=name, title=TITLES[name], grade=grade, verdict=verdict_of(grade))
        for name, grade in grades.items()
    )


def lost_tests(verdict: Verdict) -> tuple[TwinTest, ...]:
    """The three where twins could not be run.

    Args:
        verdict: UNSUPPORTED or ERROR.
    """
    grade = Grade(cells=(Cell(name="every signal", score=None, note="not asked"),))
    return tuple(TwinTest(name=name, title=title, grade=grade, verdict=verdict) for name, title in TITLES.items())


def furthest(episodes: Sequence[Episode], context: int, horizon: int) -> int:
    """Steps that twins can be followed for, at least 1: as far as the longest logged episode reaches from the branch.

    Args:
        episodes: logged ones, from which actions are taken.
        context: observations that the world is given.
        horizon: steps that it is asked for.
    """
    longest = max((one.num_steps for one in episodes), default=0)
    return max(1, min(horizon, FURTHEST, longest - (context - 1 + PREFIX)))


def branches(
    source: TwinSource, schema: Schema, episodes: Sequence[Episode], *, context: int, horizon: int, seed: int
) -> TwinEpisodes:
    """Twins under what was done in other episodes."""
    draw = np.random.default_rng([seed, 17])
    before = context - 1 + PREFIX

    def paths(_: int) -> list[Arrays]:
        first = _slice(episodes, schema, before + horizon, draw)
        others = [_slice(episodes, schema, horizon, draw) for _ in range(NUM_BRANCHES)]
        return [first, *({k: np.concatenate([v[:before], other[k]]) for k, v in first.items()} for other in others)]

    return _twins(_whole(source, paths, before + horizon, seed), schema, before, context)


def pulses(
    source: TwinSource, schema: Schema, episodes: Sequence[Episode], *, context: int, horizon: int, seed: int
) -> TwinEpisodes:
    """Twins of which one has one component of one action changed by a deviation at the first step."""
    draw, before = np.random.default_rng([seed, 19]), context - 1 + PREFIX
    parts = [(one, part) for one in schema.actions for part in range(1 if one.kind is Kind.DISCRETE else one.size)]
    spreads = {one.name: np.concatenate([e.actions[one.name] for e in episodes]).std(0) for one in schema.actions}

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

    return _twins(_whole(source, paths, before + horizon, seed), schema, before, context)


def _whole(
    source: TwinSource, paths: Callable[[int], Sequence[Arrays]], length: int, seed: int
) -> list[Sequence[Episode]]:
    """The episodes of each anchor, of those anchors from which none ends before the last step.

    Args:
        source: of twins.
        paths: the actions of each branch, for the anchor of this number among those that are kept.
        length: steps that each has to have.
        seed: of the first anchor.
    """
    kept: list[Sequence[Episode]] = []
    for tried in range(MAX_DRAWS):
        found: list[Episode] = []
        for path in paths(len(kept)):
            found.append(source.run(int(seed * 1000 + tried), path))
            if found[-1].num_steps < length:
                break
        else:
            kept.append(found)
        if len(kept) == NUM_ANCHORS:
            break
    if len(kept) < MIN_ANCHORS:
        raise DataError(
            f"from {len(kept)} of {MAX_DRAWS} starts the environment goes on for {plural(length, 'step')} "
            f"whatever branch is taken, and {MIN_ANCHORS} are needed for twins",
            fix="Give logs that hold longer episodes, whose actions keep it going, or audit without --env.",
        )
    return kept


def _slice(
    episodes: Sequence[Episode], schema: Schema, length: int, draw: np.random.Generator
) -> dict[str, NDArray[np.generic]]:
    """Consecutive actions of a logged episode."""
    long = [one for one in episodes if one.num_steps >= length]
    if not long:
        raise DataError(f"no logged episode has the {length} steps that twins take", fix="Give longer episodes.")
    one = long[int(draw.integers(len(long)))]
    start = int(draw.integers(one.num_steps - length + 1))
    return {signal.name: one.actions[signal.name][start : start + length] for signal in schema.actions}


def _twins(worlds: Sequence[Sequence[Episode]], schema: Schema, at: int, context: int) -> TwinEpisodes:
    """Episodes that share everything up to observation `at`, cut there.

    Raises:
        UnsupportedError: they do not: the environment does not do the same again.
    """
    for branches in worlds:
        for name, value in branches[0].observations.items():
            for other in branches[1:]:
                shared = value[: at + 1], other.observations[name][: at + 1]
                if not np.array_equal(*shared, equal_nan=value.dtype.kind == "f"):
                    raise UnsupportedError(
                        f"the environment does not do the same again: after the same actions {name!r} is another. Give "
                        "one that its seed decides all of, or audit without --env."
                    )
    histories = [one[0].history(at, context) for one in worlds]

    def stacked(arrays: Sequence[Arrays], role: Role) -> dict[str, NDArray[np.generic]]:
        return {s.name: np.stack([one[s.name] for one in arrays]) for s in schema.of(role) if s.name in arrays[0]}

    after, during = slice(at + 1, None), slice(at, None)
    names = [one.name for one in schema.observations if one.name in worlds[0][0].observations]
    return TwinEpisodes(
        history=History(
            observations=stacked([one.observations for one in histories], Role.OBSERVATION),
            actions=stacked([one.actions for one in histories], Role.ACTION),
            exogenous=stacked([one.exogenous for one in histories], Role.EXOGENOUS),
        ),
        actions={
            s.name: np.stack([np.stack([e.actions[s.name][during] for e in one]) for one in worlds])
            for s in schema.actions
        },
        exogenous={s.name: np.stack([one[0].exogenous[s.name][during] for one in worlds]) for s in schema.exogenous},
        truth={n: np.stack([np.stack([e.observations[n][after] for e in one]) for one in worlds]) for n in names},
        present={n: np.stack([one[0].observations[n][at] for one in worlds]) for n in names},
    )


def answers(world: World, twins: TwinEpisodes, signals: Sequence[Signal]) -> dict[str, Floats]:
    """What the world says of every branch, per signal [E, K, T, n]."""
    names, count = [one.name for one in signals], next(iter(twins.actions.values())).shape[1]
    given = twins.exogenous or None
    branches = [{name: value[:, k] for name, value in twins.actions.items()} for k in range(count)]
    parts = [
        forecasts(world, twins.history, actions, signals=names, exogenous=given, checked=False) for actions in branches
    ]
    return {name: np.stack([part[name].mean.astype(float) for part in parts], 1) for name in names}


def twin_effect(twins: TwinEpisodes, asked: Arrays, signals: Sequence[Signal]) -> Grade:
    """C1: 1 - sum |difference between branches, less the true one|^2 / sum |true one|^2; the gain beside it.

    A signal that the branches hardly differ in is gated, and has no gain.
    """
    cells, conditions = [], []
    for signal in signals:
        told, true = (_between(arrays[signal.name], signal) for arrays in (asked, twins.truth))
        loss, floor, inner = (
            (part**2).sum((1, 2, 3)) if k < 2 else part.sum((1, 2, 3))
            for k, part in enumerate((told - true, true, told * true))
        )
        spread = _squares(twins.truth[signal.name], signal)[:, 1:].sum((1, 2, 3))
        cells.append(skill_cell(signal.name, loss, floor, marginal=spread, gate=LEAST))
        if cells[-1].note.startswith(GATED):
            continue
        gain = float(ratio(inner.sum(keepdims=True), floor.sum(keepdims=True))[0])
        conditions.append(
            Condition(
                name=f"gain of {signal.name} in [{GAIN[0]}, {GAIN[1]}]",
                met=GAIN[0] <= gain <= GAIN[1],
                found=f"{gain:.2f}",
            )
        )
    return Grade(cells=tuple(cells), conditions=tuple(conditions))


def _between(values: NDArray[np.generic], signal: Signal) -> Floats:
    """Each branch less the first one [E, K-1, T, n]."""
    values = values.astype(float)
    return np.asarray(signal.difference(values[:, 1:], values[:, :1]))


def _squares(values: NDArray[np.generic], signal: Signal) -> Floats:
    """The squared distances [E, K, T, n] to the mean over anchors, branches and steps.

    Of a signal that never varies the squares themselves, or ones where it is 0: beside nothing at all, the rounding of
    an answer would pass for an invention.
    """
    found, sizes = signal.deviations(values) ** 2, values.astype(float) ** 2
    if found.sum() > ROUNDING**2 * sizes.sum():
        return found
    return sizes if sizes.any() else np.ones_like(sizes)


def beyond_persistence(twins: TwinEpisodes, asked: Arrays, signals: Sequence[Signal]) -> Grade:
    """T1: the mean over the steps of the error saved, against the present held.

    Steps by which a signal has hardly moved do not count; where that is all of them, it is gated.
    """
    cells = []
    for signal in signals:
        true = twins.truth[signal.name].astype(float)
        loss = signal.difference(asked[signal.name], true) ** 2
        held = signal.difference(twins.present[signal.name].astype(float)[:, None, None], true) ** 2
        spread = _squares(twins.truth[signal.name], signal)
        size = held.sum((0, 1, 3))
        moved = size > LEAST * spread.sum() / spread.shape[2]
        if not moved.any():
            sums = [part.sum((1, 2, 3)) for part in (loss, held, spread)]
            cells.append(skill_cell(signal.name, sums[0], sums[1], marginal=sums[2], gate=LEAST))
            continue
        weight = (moved / np.where(moved, size, 1.0))[None, None, :, None]  # every step weighs alike
        cells.append(skill_cell(signal.name, (loss * weight).sum((1, 2, 3)), (held * weight).sum((1, 2, 3))))
    return Grade(cells=tuple(cells))


def pulse_response(twins: TwinEpisodes, asked: Arrays, signals: Sequence[Signal], lags: Sequence[int]) -> Grade:
    """T3: 1 - |response, less the true one|^2 / |true one|^2 at some lags, and whether its peak is where it is.

    A signal that the pulse hardly moves is gated, and has no peak.
    """
    cells, conditions = [], []
    for signal in signals:
        told, true = (_between(arrays[signal.name], signal)[:, 0] for arrays in (asked, twins.truth))
        steps = [lag - 1 for lag in lags]
        loss = ((told - true)[:, steps] ** 2).sum((1, 2))
        floor = (true[:, steps] ** 2).sum((1, 2))
        spread = _squares(twins.truth[signal.name], signal)[:, 1, steps].sum((1, 2))
        cells.append(skill_cell(signal.name, loss, floor, marginal=spread, gate=LEAST))
        if cells[-1].note.startswith(GATED):
            continue
        sizes = [np.abs(one).sum(-1).mean(0) for one in (told, true)]
        peaks = [int(one.argmax()) for one in sizes]
        conditions.append(
            Condition(
                name=f"the response of {signal.name} is largest where the true one is, or within {PEAK} of it",
                met=bool(sizes[1][peaks[0]] >= PEAK * sizes[1][peaks[1]]),
                found=f"after {peaks[0] + 1} steps, in truth after {peaks[1] + 1}",
            )
        )
    return Grade(cells=tuple(cells), conditions=tuple(conditions))
