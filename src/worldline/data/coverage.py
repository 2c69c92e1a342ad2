"""What part of its states and actions a log covers, and which data would help.

Also what such questions are asked of: contiguous parts of some episodes as tables of numbers, and regressions that are
judged on episodes that were held out of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worldline.contracts.episode import Episode
from worldline.contracts.schema import Kind, Role, Schema, Signal
from worldline.data.checks import arrays_of
from worldline.data.store import Store
from worldline.errors import DataError, InputError

Floats = NDArray[np.floating]
Booleans = NDArray[np.bool_]

MAX_STEPS: Final = 15_000
"""Steps that are looked at; more make the figures sharper, and little else."""
MAX_PICTURES: Final = 9_000
SEGMENT: Final = 400
"""Longest contiguous part that is taken of an episode."""
GRID: Final = 16
"""Pictures are shrunk to about so many rows and columns."""
NUM_FOLDS: Final = 5
NUM_BINS: Final = 6
MAX_PAIRED: Final = 12
"""Components that are looked at in pairs."""
PREDICTABLE: Final = 0.9
SPARSE: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Track:
    """A contiguous part of one episode as tables of numbers.

    Args:
        number: of the episode.
        states: per signal [T+1, d] observations that are no pictures.
        pictures: per camera [T+1, rows, columns, channels], shrunk.
        known: per signal and camera [T+1] whether it was observed.
        actions: [T, m].
        inputs: [T, e] exogenous signals, and the time that the step took [s].
    """

    number: int
    states: Mapping[str, Floats]
    pictures: Mapping[str, Floats]
    known: Mapping[str, Booleans]
    actions: Floats
    inputs: Floats

    @property
    def table(self) -> Floats:
        """[T+1, d] all states side by side."""
        return np.concatenate([np.empty((len(self.actions) + 1, 0)), *self.states.values()], 1)

    @property
    def whole(self) -> Booleans:
        """[T+1] whether everything was observed."""
        return np.asarray(np.all([np.ones(len(self.actions) + 1, np.bool_), *self.known.values()], axis=0))


class Sample:
    """Which episodes of a store are looked at, and their tracks as they come.

    Args:
        store: to sample from.
        episodes: to choose among; None for all.
        seed: of the choice.

    Raises:
        InputError: an episode does not exist.
    """

    def __init__(self, store: Store, episodes: Sequence[int] | None, seed: int) -> None:
        self.schema, self.tracks = store.schema, list[Track]()
        among = np.arange(len(store)) if episodes is None else np.unique(np.asarray(episodes, np.int64))
        if len(among) and not (among[0] >= 0 and among[-1] < len(store)):
            raise InputError(f"episodes are {among[0]} to {among[-1]}. The store has {len(store)}, counted from 0.")
        draw = np.random.default_rng(seed)
        shuffled = draw.permutation(among)
        steps = store.num_steps[shuffled]
        pictures = any(signal.kind is Kind.IMAGE for signal in store.schema.observations)
        enough = np.cumsum(np.minimum(steps, SEGMENT)) - np.minimum(steps, SEGMENT) < (
            MAX_PICTURES if pictures else MAX_STEPS
        )
        starts = draw.integers(0, np.maximum(steps - SEGMENT, 0) + 1)
        self._starts = dict(zip(shuffled[enough].tolist(), starts[enough].tolist(), strict=True))

    @property
    def episodes(self) -> tuple[int, ...]:
        """The numbers of the chosen episodes, ascending."""
        return tuple(sorted(self._starts))

    def add(self, number: int, episode: Episode) -> None:
        """Keeps the track of an episode, if it was chosen."""
        if number in self._starts:
            self.tracks.append(track(number, episode, self.schema, self._starts[number]))


def track(number: int, episode: Episode, schema: Schema, start: int = 0) -> Track:
    """The tables of at most `SEGMENT` steps of an episode; choices are one-hot without their last value.

    Args:
        number: of the episode.
        episode: that fits the schema.
        schema: of its signals.
        start: first step.
    """
    stop = min(start + SEGMENT, episode.num_steps)
    known: dict[str, Booleans] = {}
    states: dict[str, Floats] = {}
    pictures: dict[str, Floats] = {}
    for signal in schema.observations:
        name, rows = signal.name, slice(start, stop + 1)
        mask = episode.observed.get(name)
        known[name] = np.ones(stop + 1 - start, np.bool_) if mask is None else mask[rows].astype(np.bool_)
        if signal.kind is Kind.IMAGE:
            pictures[name] = shrink(episode.observations[name][rows])
        else:
            states[name] = _columns(episode.observations[name][rows], signal)
    usual = np.full(episode.num_steps, schema.step_s or 1.0, np.float32)
    times = (usual if episode.step_s is None else episode.step_s)[start:stop, None].astype(np.float64)
    return Track(
        number=number,
        states=states,
        pictures=pictures,
        known=known,
        actions=_table(episode, schema, Role.ACTION)[start:stop],
        inputs=np.concatenate([_table(episode, schema, Role.EXOGENOUS)[start:stop], times], 1),
    )


def seldom_seen(tracks: Sequence[Track]) -> tuple[str, ...]:
    """The observation signals to do without, so that everything else is observed in at least half of the steps.

    Args:
        tracks: of one schema.
    """
    left = list(tracks[0].known) if tracks else []
    masks = {name: np.concatenate([one.known[name] for one in tracks]) for name in left}
    left.sort(key=lambda name: float(masks[name].mean()))
    dropped = []
    while len(left) > 1 and np.all([masks[name] for name in left], axis=0).mean() < 0.5:
        dropped.append(left.pop(0))
    return tuple(dropped)


def without(one: Track, names: Sequence[str]) -> Track:
    """The track without some of its observation signals."""
    kept: list[dict[str, NDArray[Any]]] = [
        {name: values for name, values in arrays.items() if name not in names}
        for arrays in (one.states, one.pictures, one.known)
    ]
    return replace(one, states=kept[0], pictures=kept[1], known=kept[2])


def shrink(pictures: NDArray[np.generic]) -> Floats:
    """Pictures [n, h, w, c] as the means of about 16 by 16 blocks, [n, rows, columns, c] float32; edges are cut."""
    num, height, width, channels = pictures.shape
    down, across = max(1, height // GRID), max(1, width // GRID)
    cut = pictures[:, : height // down * down, : width // across * across]
    blocks = cut.reshape(num, height // down, down, width // across, across * channels)
    lines = blocks.sum(2, dtype=np.float32)
    return np.asarray(lines.reshape(*lines.shape[:3], across, channels).sum(3) / (down * across))


def component_names(schema: Schema, role: Role) -> tuple[str, ...]:
    """A name for each column of the tables of a track."""
    return tuple(name for signal in schema.of(role) if signal.kind is not Kind.IMAGE for name in _names(signal))


def _names(signal: Signal) -> list[str]:
    if signal.num_values is not None:
        return [f"{signal.name}={value}" for value in range(_num_columns(signal))]
    if signal.size == 1:
        return [signal.name]
    return [f"{signal.name}.{part}" for part in (signal.components or tuple(map(str, range(signal.size))))]


def _num_columns(signal: Signal) -> int:
    """Columns of a choice: one-hot without the last value, which the others tell; a number where there are many."""
    return max(1, signal.size - 1)


def _table(episode: Episode, schema: Schema, role: Role) -> Floats:
    arrays = arrays_of(episode, role)
    parts = [_columns(arrays[s.name], s) for s in schema.of(role) if s.kind is not Kind.IMAGE]
    return np.concatenate([np.empty((episode.num_steps, 0)), *parts], 1)


def _columns(values: NDArray[np.generic], signal: Signal) -> Floats:
    if signal.num_values is None:
        return values.reshape(len(values), -1).astype(np.float64)
    return np.asarray(values[:, None] == np.arange(_num_columns(signal)), np.float64)


class HeldOut:
    """Ridge regressions on any columns of a table, judged where they were not fitted.

    Args:
        inputs: [n, P]; scaled here.
        targets: [n, q].
        fold: [n] which of `NUM_FOLDS` parts each row belongs to; a row is predicted from the other parts.
    """

    def __init__(self, inputs: Floats, targets: Floats, fold: NDArray[np.integer]) -> None:
        deviation = inputs.std(0)
        scaled = (inputs - inputs.mean(0)) / np.where(deviation > 0, deviation, 1.0)
        self._inputs = np.concatenate([scaled, np.ones((len(inputs), 1))], 1)
        self._targets, self._rows = targets, [np.flatnonzero(fold == part) for part in range(NUM_FOLDS)]
        self._squares = np.stack([self._inputs[rows].T @ self._inputs[rows] for rows in self._rows])
        self._products = np.stack([self._inputs[rows].T @ targets[rows] for rows in self._rows])

    def residual(self, columns: NDArray[np.integer], targets: NDArray[np.integer], ridge: float) -> Floats:
        """What a regression on these columns leaves of these targets, [n, targets].

        Args:
            columns: numbers of the inputs; the constant comes on top.
            targets: numbers of the targets.
            ridge: penalty a row, for inputs of deviation 1.
        """
        columns = np.append(columns, self._inputs.shape[1] - 1)
        left = self._targets[:, targets].copy()
        squares, products = self._squares.sum(0), self._products.sum(0)
        for part, rows in enumerate(self._rows):
            matrix = (squares - self._squares[part])[np.ix_(columns, columns)]
            matrix[np.diag_indices(len(columns))] += ridge * (len(left) - len(rows)) + 1e-9
            weights = np.linalg.solve(matrix, (products - self._products[part])[np.ix_(columns, targets)])
            left[rows] -= self._inputs[np.ix_(rows, columns)] @ weights
        return left


def folds(group: NDArray[np.integer], draw: np.random.Generator) -> NDArray[np.integer]:
    """A part for each row, so that rows of one group share it."""
    return np.asarray(draw.permutation(int(group.max()) + 1)[group] % NUM_FOLDS)


def waves(table: Floats, num: int, draw: np.random.Generator) -> Floats:
    """Random cosines [n, num] of the rows of `table` [n, d], with which a linear regression can bend.

    Source: Rahimi and Recht 2007, "Random features for large-scale kernel machines", section 3.
    """
    if not table.shape[1]:
        return np.empty((len(table), 0))
    lengths = np.sqrt(table.shape[1]) * draw.choice([0.5, 1.0, 2.0], num)
    turns = table @ (draw.normal(size=(table.shape[1], num)) / lengths)
    return np.asarray(np.sqrt(2) * np.cos(turns + draw.uniform(0, 2 * np.pi, num)))


def scaled(table: Floats) -> Floats:
    """The columns of `table` that vary, as z-scores."""
    if not len(table):
        return table[:, :0]
    deviation = table.std(0)
    live = deviation > 1e-9 * np.abs(table).max(0, initial=0)
    return np.asarray((table[:, live] - table[:, live].mean(0)) / deviation[live])


def clipped(table: Floats) -> Floats:
    """`table` without the wildest values, which would outweigh all others."""
    if not len(table):
        return table
    low, high = np.quantile(table, (0.005, 0.995), axis=0)
    span = np.where(high > low, high - low, np.inf)
    return np.asarray(np.clip(table, low - span, high + span))


@dataclass(frozen=True, kw_only=True)
class ActionCoverage:
    """How one component of the actions was used.

    Args:
        name: of the signal and component.
        predictable: share of its variation that follows from what went before, on held-out episodes, 0 to 1.
        excitation: the rest, from which its effect can be learned.
        least: smallest logged value.
        greatest: largest logged value.
        low: smallest possible value; None where the schema does not say.
        high: largest possible value; None where the schema does not say.
        used: share of the tenths of the possible range (else of the logged one) in which there is a value; for a
            choice, share of its values.
        never: values of a choice that were never taken.
    """

    name: str
    predictable: float
    excitation: float
    least: float
    greatest: float
    low: float | None
    high: float | None
    used: float
    never: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PairCoverage:
    """How much of a plane was visited.

    Args:
        one: name of a component.
        other: name of another.
        share: of the cells that could be visited, each component having its logged range.
    """

    one: str
    other: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What part of its states and actions a log covers.

    Args:
        actions: per component.
        effective_dimension: in how many independent directions the observations vary; pictures count if there is
            nothing else.
        num_components: how many they have that vary.
        spread: mean share of the cells of all pairs that was visited; None where there is no pair.
        narrow: the pairs of which least was visited, emptiest first.
        advice: which data would help, in full sentences; empty where nothing is amiss.
        num_episodes: that were looked at.
        num_steps: that were looked at.
    """

    actions: tuple[ActionCoverage, ...]
    effective_dimension: float
    num_components: int
    spread: float | None
    narrow: tuple[PairCoverage, ...]
    advice: tuple[str, ...]
    num_episodes: int
    num_steps: int


def coverage(store: Store, episodes: Sequence[int] | None = None, seed: int = 0) -> Coverage:
    """What a store covers.

    Args:
        store: to look at.
        episodes: to choose among; default is all. At most some 15,000 steps are looked at.
        seed: of the choice and the regressions.

    Raises:
        InputError: an episode does not exist.
        DataError: an episode is damaged, or there is none.
    """
    sample = Sample(store, episodes, seed)
    for number in sample.episodes:
        sample.add(number, store.episode(number))
    return survey(sample.tracks, store.schema, seed)


def survey(tracks: Sequence[Track], schema: Schema, seed: int = 0) -> Coverage:
    """The same, for tracks.

    Args:
        tracks: at least one.
        schema: of their signals.
        seed: of the regressions.

    Raises:
        DataError: there is no track.
    """
    if not tracks:
        raise DataError("there is no episode to look at", fix="Record or import some first.")
    dropped = seldom_seen(tracks)
    tracks = [without(one, dropped) for one in tracks]
    states = np.concatenate([one.table[:-1] for one in tracks])
    actions = np.concatenate([one.actions for one in tracks])
    known = np.concatenate([one.whole[:-1] for one in tracks])
    used = _actions(tracks, schema, np.random.default_rng([seed, 3]))
    kept = Schema(signals=tuple(signal for signal in schema.signals if signal.name not in dropped))
    names = (*component_names(kept, Role.OBSERVATION), *component_names(kept, Role.ACTION))
    pairs = _pairs(np.concatenate([states, actions], 1)[known], names)
    seen = scaled(clipped(states[known]))
    if not seen.shape[1] and tracks[0].pictures:
        camera = next(iter(tracks[0].pictures))
        pixels = np.concatenate([one.pictures[camera][:-1].reshape(len(one.actions), -1) for one in tracks])[known]
        seen = pixels[np.random.default_rng([seed, 4]).permutation(len(pixels))[:4000]].astype(np.float64)
    return Coverage(
        actions=used,
        effective_dimension=_effective_dimension(seen),
        num_components=seen.shape[1],
        spread=float(np.mean([pair.share for pair in pairs])) if pairs else None,
        narrow=pairs[:3],
        advice=_advice(used, pairs),
        num_episodes=len(tracks),
        num_steps=len(actions),
    )


def _effective_dimension(table: Floats) -> float:
    """Participation ratio of the variances along the principal axes; 0 where nothing varies.

    Source: Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement", section 2.
    """
    if len(table) < 2 or not table.shape[1]:
        return 0.0
    centred = table - table.mean(0)
    covariance = centred.T @ centred
    squares = float((covariance**2).sum())
    return float(np.trace(covariance) ** 2 / squares) if squares > 0 else 0.0


def _actions(tracks: Sequence[Track], schema: Schema, draw: np.random.Generator) -> tuple[ActionCoverage, ...]:
    actions = np.concatenate([one.actions for one in tracks])
    predictable = _predictable(tracks, draw)
    found: list[ActionCoverage] = []
    column = 0
    for signal in (one for one in schema.actions if one.kind is not Kind.IMAGE):
        width = len(_names(signal))
        table, share = actions[:, column : column + width], predictable[column : column + width]
        column += width
        if signal.num_values is not None:
            found.append(_choice(signal, table, float(share.mean())))
            continue
        for part, name in enumerate(_names(signal)):
            low, high, values = _bound(signal.low, part), _bound(signal.high, part), table[:, part]
            least, greatest = float(values.min()), float(values.max())
            first = least if low is None else low
            span = (greatest if high is None else high) - first
            tenths = np.unique(np.clip((values - first) / (span or 1.0) * 10, 0, 9).astype(np.int64))
            found.append(
                ActionCoverage(
                    name=name,
                    predictable=float(share[part]),
                    excitation=1 - float(share[part]),
                    least=least,
                    greatest=greatest,
                    low=low,
                    high=high,
                    used=len(tenths) / 10,
                    never=(),
                )
            )
    return tuple(found)


def _choice(signal: Signal, one_hot: Floats, predictable: float) -> ActionCoverage:
    last = one_hot.sum(1) == 0
    chosen = np.where(last, one_hot.shape[1], one_hot.argmax(1))
    values = np.unique(chosen)
    return ActionCoverage(
        name=signal.name,
        predictable=predictable,
        excitation=1 - predictable,
        least=float(values[0]),
        greatest=float(values[-1]),
        low=0.0,
        high=float(signal.size - 1),
        used=len(values) / signal.size,
        never=tuple(sorted(set(range(signal.size)) - set(values.tolist()))),
    )


def _bound(bounds: tuple[float, ...] | None, part: int) -> float | None:
    return None if bounds is None or not np.isfinite(bounds[part]) else bounds[part]


def _predictable(tracks: Sequence[Track], draw: np.random.Generator) -> Floats:
    """R², from 0 to 1, of each component of action t on actions t-2 and t-1, observations t-1 and t, and inputs t."""
    rows = [np.arange(2, len(one.actions)) for one in tracks]
    steps = [at[one.whole[at] & one.whole[at - 1]] for at, one in zip(rows, tracks, strict=True)]
    if sum(map(len, steps)) < 10 * NUM_FOLDS:
        return np.zeros(tracks[0].actions.shape[1])
    size = 20 if len(tracks) < NUM_FOLDS else SEGMENT
    group = np.concatenate([number * SEGMENT + at // size for number, at in enumerate(steps)])
    past = [
        np.concatenate([one.actions[at - 2], one.actions[at - 1], one.table[at - 1], one.table[at], one.inputs[at]], 1)
        for one, at in zip(tracks, steps, strict=True)
    ]
    target = np.concatenate([one.actions[at] for one, at in zip(tracks, steps, strict=True)])
    chosen = np.sort(draw.permutation(len(target))[: MAX_STEPS // 2])
    table, target = np.clip(scaled(clipped(np.concatenate(past)))[chosen], -6, 6), target[chosen]
    table = np.concatenate([table, waves(table, min(100, len(table) // 10), draw)], 1)
    held_out = HeldOut(table, target, folds(np.unique(group[chosen], return_inverse=True)[1], draw))
    guess = target - held_out.residual(np.arange(table.shape[1]), np.arange(target.shape[1]), 1e-3)
    left = target - np.clip(guess, target.min(0), target.max(0))  # an odd episode must not be guessed without limit
    spread = target.var(0)
    share = 1 - (left**2).mean(0) / np.where(spread > 0, spread, 1.0)
    return np.asarray(np.where(spread > 0, np.clip(share, 0, 1), 1.0))


def _pairs(table: Floats, names: Sequence[str]) -> tuple[PairCoverage, ...]:
    """Per pair of components the share of visited cells among those that both ranges allow, emptiest first."""
    bins: list[NDArray[np.intp]] = []
    kept: list[str] = []
    for name, values in zip(names, table.T, strict=True):
        if len(kept) == MAX_PAIRED or not len(values):
            break
        low, high = np.quantile(values, (0.01, 0.99))
        if high <= low:
            continue
        cell = np.clip((values - low) / (high - low) * NUM_BINS, 0, NUM_BINS - 1).astype(np.int64)
        bins.append(np.unique(cell, return_inverse=True)[1])
        kept.append(name)
    found = []
    for i, one in enumerate(bins):
        for j in range(i + 1, len(bins)):
            width = int(bins[j].max()) + 1
            visited = len(np.unique(one * width + bins[j]))
            share = visited / ((int(one.max()) + 1) * width)
            found.append(PairCoverage(one=kept[i], other=kept[j], share=share))
    return tuple(sorted(found, key=lambda pair: pair.share))


def _advice(actions: Sequence[ActionCoverage], pairs: Sequence[PairCoverage]) -> tuple[str, ...]:
    said = []
    for one in actions:
        if one.least == one.greatest:
            said.append(f"'{one.name}' is always {one.least:g}: its effect cannot be learned. Log other values.")
            continue
        if one.predictable >= PREDICTABLE:
            said.append(
                f"'{one.name}' is {100 * one.predictable:.0f} % predictable from the past: add segments in which it is "
                "drawn at random."
            )
        said += _unused(one)
    said += [
        f"'{pair.one}' and '{pair.other}' were seen together in {100 * pair.share:.0f} % of their combinations: log "
        "more of the others."
        for pair in pairs[:3]
        if pair.share < SPARSE
    ]
    return tuple(said)


def _unused(one: ActionCoverage) -> list[str]:
    """What part of the possible range was never used: values of a choice, or a fifth or more at an end."""
    if one.never:
        return [f"{', '.join(map(str, one.never))} was never chosen for '{one.name}': log episodes with it."]
    if one.low is None or one.high is None or one.low >= one.high:
        return []
    span = one.high - one.low
    below, above = (one.least - one.low) / span, (one.high - one.greatest) / span
    return [
        f"the {which} {100 * share:.0f} % of the range of '{one.name}' ({one.low:g} to {one.high:g}) was never used: "
        "log values there, or narrow its bounds in schema.json."
        for which, share in (("lower", below), ("upper", above))
        if share >= 0.2
    ]
