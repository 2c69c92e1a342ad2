"""What turns an engine's predictions into intervals and p-values that keep their word, by split conformal prediction.

The unit is the episode: windows of one episode resemble each other, so K episodes with k windows each are K pieces of
evidence, not K * k. A band of some level reaches the smallest score r for which
`#{scores <= r} / k >= level * (K + 1)`. A window of a fresh episode, drawn in the same way, then lies inside with at
least that probability, whatever the engine and the data.

Source: Vovk et al. 2005, chapter 2, for k = 1; Lee, Barber, Willett 2023 (2306.06342), section 3, for k > 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldline.contracts.engine import Engine, Novelty
from worldline.contracts.episode import Arrays, Episode
from worldline.contracts.schema import Kind, Schema
from worldline.errors import DataError, InputError
from worldline.worlds.abduction import causes_of
from worldline.worlds.causes import HiddenCauses
from worldline.worlds.novelty import InputNovelty, fit_input_novelty
from worldline.worlds.pieces import cut, errors

Floats = NDArray[np.floating]

SCALE_SHARE = 4
"""One episode in so many sets the shape of the bands; only the others, which had no say in it, set their width."""

SCALE_WINDOWS = 256
"""Windows that the shape is drawn from, in all. They need not be independent."""

_GRID = np.linspace(0, 1, 201)
_PARTS = ("scale", "scores", "one_step", "unit", "entities", "climatology", "spread")


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Fitted by `calibrate`.

    Args:
        num_windows: k, windows taken from each episode.
        scale: per predicted vector signal [T, *shape], mean absolute error of each step, above 0.
        scores: per vector signal [T, K * k], sorted along the last axis: of each window the largest error over
            scale among its components and first t + 1 steps.
        one_step: per predicted signal [K * k], sorted: of each window the largest error of its first step, over scale
            where there is one.
        unit: per predicted signal [], what such an error is measured in where signals are taken together, above 0.
        entities: per entity [K * k], sorted: of each window the largest `one_step` error over unit of its signals.
        steps: [K * k], sorted: likewise of all predicted signals.
        climatology: per vector signal [201, *shape], quantiles of its values: what is known without any prediction.
        spread: per vector signal [*shape], standard deviation of its values.
        novelty: [K * k], sorted, of the windows' presents.
        input_novelty: measures novelty where the engine does not; None where it does.
        causes: how episodes differ from what the engine expects, for `World.what_if`; None where nothing was found.
    """

    num_windows: int
    scale: Mapping[str, Floats]
    scores: Mapping[str, Floats]
    one_step: Mapping[str, Floats]
    unit: Mapping[str, Floats]
    entities: Mapping[str, Floats]
    steps: Floats
    climatology: Mapping[str, Floats]
    spread: Mapping[str, Floats]
    novelty: Floats
    input_novelty: InputNovelty | None
    causes: HiddenCauses | None = None

    @property
    def tells_errors(self) -> bool:
        """Whether there are bands and p-values of what is predicted."""
        return bool(self.one_step)

    def without_errors(self) -> Calibration:
        """What holds however it is predicted: trust in the present, and the spread of the signals."""
        return replace(self, scale={}, scores={}, one_step={}, unit={}, entities={}, steps=np.zeros(0), causes=None)

    @property
    def num_episodes(self) -> int:
        """K, the episodes that set the widths."""
        return len(self.novelty) // self.num_windows

    @property
    def horizon(self) -> int:
        """T, the longest prediction that has a band; 0 where no vector signal is predicted."""
        return max((len(scale) for scale in self.scale.values()), default=0)

    def half_width(self, signal: str, num_steps: int, level: float) -> Floats:
        """Half of the joint band's width [num_steps, *shape]: the whole stretch lies inside with probability `level`.

        Args:
            signal: its name.
            num_steps: in [1, horizon].
            level: in (0, 1).

        Raises:
            InputError: longer than calibrated, or a level that these few episodes cannot support.
        """
        if not 0 < level < 1:
            raise InputError(f"level is {level}. Give a probability between 0 and 1, such as 0.9.")
        if num_steps > self.horizon:
            raise InputError(
                f"{num_steps} steps were asked for, but bands were calibrated up to {self.horizon}. Ask for fewer, or "
                f"calibrate with horizon={num_steps}."
            )
        rank = math.ceil(level * (self.num_episodes + 1) * self.num_windows - 1e-9)
        if rank > len(self.novelty):
            needed = math.ceil(level / (1 - level) - 1e-9)
            raise InputError(
                f"level {level} needs at least {_with_scale(needed)} calibration episodes; there are "
                f"{_with_scale(self.num_episodes)} of the length that is needed. Log more, or lower the level."
            )
        return np.asarray(self.scores[signal][num_steps - 1, rank - 1] * self.scale[signal][:num_steps])

    def horizon_of(self, signal: str, half_width: Floats, level: float) -> int:
        """The last step, from 1, at which the band is no wider than the central `level` of all values; 0 for none.

        Args:
            signal: its name.
            half_width: [T, *shape], from `half_width`.
            level: in (0, 1).
        """
        low, high = (_quantile(self.climatology[signal], (1 + sign * level) / 2) for sign in (-1, 1))
        narrower = 2 * half_width.reshape(len(half_width), -1).sum(1) <= (high - low).sum() * (1 + 1e-6)
        return int(np.flatnonzero(narrower)[-1]) + 1 if narrower.any() else 0

    def trust(self, novelty: Floats) -> Floats:
        """The p-value [W] of each novelty [W]: at most a with probability a, for a present like those calibrated on."""
        return _p_value(self.novelty, novelty, self.num_windows)

    def surprise(self, schema: Schema, errors: Mapping[str, Floats]) -> StepPValues:
        """The p-values [W] of one-step errors [W, ...] of every predicted signal, as `pieces.errors` gives them."""
        scores = {name: _one_step(error, self.scale.get(name)) for name, error in errors.items()}
        together = _together(schema, scores, self.unit)
        return StepPValues(
            signals={n: _p_value(self.one_step[n], score, self.num_windows) for n, score in scores.items()},
            entities={n: _p_value(self.entities[n], score, self.num_windows) for n, score in together.entities.items()},
            steps=_p_value(self.steps, together.steps, self.num_windows),
        )

    def tolerance(self, signal: str) -> Floats:
        """The error [*shape] that counts as 1 in a goal: a standard deviation.

        For a component that never changes, that of the one that changes most, or 1.
        """
        spread = self.spread[signal]
        largest = spread.max()
        return np.where(spread > 1e-6 * largest, spread, largest) if largest > 0 else np.ones_like(spread)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything, as named arrays."""
        arrays: dict[str, NDArray[np.generic]] = {
            f"{part}/{name}": value for part in _PARTS for name, value in vars(self)[part].items()
        }
        arrays |= {"novelty": self.novelty, "steps": self.steps}
        arrays |= {"num_windows": np.asarray(self.num_windows, dtype=np.int64)}
        if self.input_novelty is not None:
            arrays |= {f"input_novelty/{name}": value for name, value in vars(self.input_novelty).items()}
        if self.causes is not None:
            arrays |= {f"causes/{name}": value for name, value in vars(self.causes).items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Calibration:
        """The calibration that `to_arrays` wrote.

        Raises:
            DataError: an array is missing or is not one of its own.
        """
        groups: dict[str, dict[str, Floats]] = {part: {} for part in (*_PARTS, "input_novelty", "causes")}
        whole = {}
        for name, value in arrays.items():
            part, _, signal = name.partition("/")
            if part in groups and signal:
                groups[part][signal] = np.asarray(value, dtype=np.float64)
            else:
                whole[name] = value
        measure, causes = groups["input_novelty"], groups["causes"]
        same = all(groups[part].keys() == groups["scale"].keys() for part in ("scores", "climatology", "spread"))
        if whole.keys() != {"novelty", "num_windows", "steps"} or measure.keys() not in (set(), _MEASURE) or not same:
            raise DataError(f"arrays {sorted(arrays)} are no calibration", fix="Calibrate the world again.")
        return cls(
            num_windows=int(np.asarray(whole["num_windows"])),
            scale=groups["scale"],
            scores=groups["scores"],
            one_step=groups["one_step"],
            unit=groups["unit"],
            entities=groups["entities"],
            steps=np.asarray(whole["steps"], dtype=np.float64),
            climatology=groups["climatology"],
            spread=groups["spread"],
            novelty=np.asarray(whole["novelty"], dtype=np.float64),
            input_novelty=InputNovelty(**measure) if measure else None,
            causes=HiddenCauses.from_arrays(causes) if causes else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class StepPValues:
    """Of W steps; also the scores that lead to them.

    Args:
        signals: per predicted signal [W].
        entities: per entity [W].
        steps: [W].
    """

    signals: Mapping[str, Floats]
    entities: Mapping[str, Floats]
    steps: Floats


_MEASURE = {"centre", "scale", "whitening"}


def calibrate(
    engine: Engine,
    episodes: Sequence[Episode],
    *,
    horizon: int,
    num_windows: int,
    seed: int,
    with_causes: bool = True,
) -> Calibration:
    """The calibration of `engine` on episodes that it has not seen.

    Bands and p-values hold for presents that are observed as the windows are: with `Card.context` observations.

    Args:
        engine: frozen; whatever is changed in it afterwards makes the calibration void.
        episodes: held out from all fitting, in the schema's dtypes; those shorter than a window are left out.
        horizon: T, the longest prediction that will have a band, at least 1.
        num_windows: k, windows from each episode at random places, at least 1. More make the result less a matter
            of chance, not the level more certain: K episodes support levels up to K / (K + 1).
        seed: of the windows and of the engine's draws.
        with_causes: whether to learn how episodes differ, for `World.what_if`. Asks for a prediction of every step of
            every episode, which may be too much of an engine that is slow or has a price.

    Raises:
        InputError: `horizon` or `num_windows` is below 1.
        DataError: fewer than two episodes are long enough.
    """
    if horizon < 1 or num_windows < 1:
        raise InputError(f"horizon {horizon} and num_windows {num_windows} must both be at least 1.")
    card, rng = engine.describe(), np.random.default_rng(seed)
    length, vectors = card.context, [name for name in card.predicts if card.schema[name].kind is Kind.VECTOR]
    usable = _long_enough(episodes, length, horizon)
    order = [usable[i] for i in rng.permutation(len(usable))]
    num_scale = max(1, len(order) // SCALE_SHARE)
    shaping = _places(order[:num_scale], length, horizon, max(num_windows, -(-SCALE_WINDOWS // num_scale)), rng)
    scoring = _places(order[num_scale:], length, horizon, num_windows, rng)
    shape = cut(card.schema, shaping, length=length, horizon=horizon, truth=vectors)
    pieces = cut(card.schema, scoring, length=length, horizon=horizon, truth=vectors)
    first = cut(card.schema, scoring, length=length, horizon=1, truth=card.predicts)
    shape_first = cut(card.schema, shaping, length=length, horizon=1, truth=card.predicts)
    values = {name: _values(usable, name) for name in vectors}
    spread = {name: value.std(0) for name, value in values.items()}
    scale = {
        name: np.maximum(error.mean(0), 1e-3 * spread[name] + 1e-12)
        for name, error in errors(engine, shape, seed=seed).items()
    }
    if isinstance(engine, Novelty):
        measure, novelty = None, engine.novelty(engine.observe(None, pieces.history, seed=seed))
    else:
        measure = fit_input_novelty(card.schema, shape.history)
        novelty = measure.measure(card.schema, pieces.history)
    unit = {
        name: _unit(_one_step(error[:, 0], scale.get(name)))
        for name, error in errors(engine, shape_first, seed=seed).items()
    }
    one_step = {
        name: _one_step(error[:, 0], scale.get(name)) for name, error in errors(engine, first, seed=seed).items()
    }
    together = _together(card.schema, one_step, unit)
    return Calibration(
        num_windows=num_windows,
        scale=scale,
        scores={n: _so_far(error, scale[n]) for n, error in errors(engine, pieces, seed=seed).items()},
        one_step={name: np.sort(score) for name, score in one_step.items()},
        unit=unit,
        entities={name: np.sort(score) for name, score in together.entities.items()},
        steps=np.sort(together.steps),
        climatology={name: np.quantile(value, _GRID, axis=0) for name, value in values.items()},
        spread=spread,
        novelty=np.sort(np.asarray(novelty, dtype=np.float64)),
        input_novelty=measure,
        causes=causes_of(engine, usable, seed=seed) if with_causes else None,
    )


def _long_enough(episodes: Sequence[Episode], length: int, horizon: int) -> list[Episode]:
    """The episodes that hold a window, at least two."""
    needed = length - 1 + horizon
    usable = [episode for episode in episodes if episode.num_steps >= needed]
    if len(usable) < 2:
        raise DataError(
            f"{len(usable)} of {len(episodes)} calibration episodes have the {needed} steps of a window ({length} "
            f"observations, {horizon} steps ahead), and two are needed",
            fix="Hold out more episodes, or calibrate for a shorter horizon.",
        )
    return usable


def _places(
    episodes: Sequence[Episode], length: int, horizon: int, num_windows: int, rng: np.random.Generator
) -> list[tuple[Episode, int]]:
    """`num_windows` places in each episode, drawn independently."""
    return [
        (episode, int(at))
        for episode in episodes
        for at in rng.integers(length - 1, episode.num_steps - horizon + 1, num_windows)
    ]


def _so_far(error: Floats, scale: Floats) -> Floats:
    """The scores [T, W] of errors [W, T, *shape], the largest over scale up to each step, sorted over W."""
    return np.sort(np.maximum.accumulate((error / scale).max(-1), axis=1).T, axis=1)


def _one_step(error: Floats, scale: Floats | None) -> Floats:
    """The score [W] of one-step errors [W, ...]: the largest, over the first step of `scale` if there is one."""
    relative = error if scale is None else error / scale[0]
    return np.asarray(relative.reshape(len(error), -1).max(1))


def _unit(score: Floats) -> Floats:
    """What scores [W] are measured in: that which one in ten exceeds, or 1 where that is 0."""
    usual = np.quantile(score, 0.9)
    return np.asarray(usual if usual > 0 else 1.0)


def _together(schema: Schema, scores: Mapping[str, Floats], unit: Mapping[str, Floats]) -> StepPValues:
    """The scores [W] of each entity and of all signals: the largest over unit."""
    relative = {name: score / unit[name] for name, score in scores.items()}
    entities: dict[str, Floats] = {}
    for name, score in relative.items():
        entity = schema[name].entity
        if entity is not None:
            entities[entity] = np.maximum(entities.get(entity, score), score)
    return StepPValues(signals=relative, entities=entities, steps=np.maximum.reduce(list(relative.values())))


def _values(episodes: Sequence[Episode], name: str) -> Floats:
    """Every observed value of a signal [n, *shape], at least one."""
    seen = [
        episode.observations[name][episode.observed.get(name, np.ones(episode.num_steps + 1, bool)).astype(bool)]
        for episode in episodes
    ]
    values = np.concatenate(seen).astype(np.float64)
    if not len(values):
        raise DataError("it is never observed", fix="Leave it out of the schema, or add logs.", signal=name)
    return values


def _quantile(climatology: Floats, share: float) -> Floats:
    """The quantile [*shape] between the two nearest of the stored ones."""
    position = share * (len(climatology) - 1)
    below = min(int(position), len(climatology) - 2)
    return np.asarray(climatology[below] + (position - below) * (climatology[below + 1] - climatology[below]))


def _p_value(reference: Floats, score: Floats, num_windows: int) -> Floats:
    """Share of episodes, this one among them, whose windows scored as high; `reference` is sorted."""
    higher = len(reference) - np.searchsorted(reference, score, side="left")
    return np.asarray((1 + higher / num_windows) / (1 + len(reference) // num_windows))


def _with_scale(num_scoring: int) -> int:
    """Episodes that must be held out so that `num_scoring` are left to set the widths."""
    total = num_scoring
    while total - max(1, total // SCALE_SHARE) < num_scoring:
        total += 1
    return total
