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
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from worldline.engines.base import Card, Engine, EngineBelief, Novelty
from worldline.episode import Arrays, Episode, History
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Schema, Signal
from worldline.world.hidden_causes import HiddenCauses
from worldline.world.input_novelty import InputNovelty, fit_input_novelty
from worldline.world.ood import LENGTHS, OODScore, fit_strangeness, novelty_of, watch_places
from worldline.world.pieces import Pieces, Places, cut, errors, mean_of, tail_of, vectors_of, worlds_of
from worldline.world.what_if import causes_of

Floats = NDArray[np.floating]

SCALE_SHARE = 4
"""One episode in so many sets the shape of the bands; only the others, which had no say in it, set their width."""

SCALE_WINDOWS = 256
"""Windows that the shape is drawn from, in all. They need not be independent."""

SURE = 2.5
"""Standard errors by which an error has to be smaller to count as skill: it is looked for at every step."""

_PARTS = ("scale", "scores", "one_step", "unit", "entities", "skill", "spread")


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Fitted by `calibrate`.

    Args:
        num_windows: k, windows taken from each episode.
        scale: per predicted vector signal [T, *shape], mean absolute error of each step, above 0.
        scores: per vector signal [T, K * k], sorted along the last axis: of each window the largest error over
            scale among its components and first t + 1 steps; NaN, at the end, for a window in which none was observed.
        one_step: per predicted signal [n], sorted: of each window in which its first step was observed the largest
            error of that, over scale where there is one; n is at most K * k.
        unit: per predicted signal [], what such an error is measured in where signals are taken together, above 0.
        entities: per entity [n], sorted: of each window the largest `one_step` error over unit of its signals.
        steps: [n], sorted: likewise of all predicted signals.
        skill: per vector signal [], the last step at which its prediction has skill, see `Forecast.horizon`.
        spread: per vector signal [*shape], standard deviation of its values.
        novelty: [K * k], sorted, of the windows' presents.
        input_novelty: measures novelty where the engine does not; None where it does.
        strangeness: measures how unlike the windows a history is, its steps too.
        strange: [L - 1, K * k], sorted along the last axis: of the windows, for each of `strangeness.lengths` but 0, of
            which `novelty` tells.
        complete: whether nothing was missing in the windows that `ood_scores` was measured on.
        causes: how episodes differ from what the engine expects, for `World.what_if`; None where nothing was found.
    """

    num_windows: int
    scale: Mapping[str, Floats]
    scores: Mapping[str, Floats]
    one_step: Mapping[str, Floats]
    unit: Mapping[str, Floats]
    entities: Mapping[str, Floats]
    steps: Floats
    skill: Mapping[str, Floats]
    spread: Mapping[str, Floats]
    novelty: Floats
    input_novelty: InputNovelty | None
    ood: OODScore
    ood_scores: Floats
    complete: bool
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

        Infinite where the signal was observed in too few of the windows to tell.

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
        scores, scale = self.scores[signal][num_steps - 1], self.scale[signal][:num_steps]
        seen = np.count_nonzero(np.isfinite(scores))
        rank = math.ceil(level * (seen + self.num_windows) - 1e-9)
        return np.asarray(scores[rank - 1] * scale if rank <= seen else np.full_like(scale, np.inf))

    def horizon_of(self, signal: str, num_steps: int) -> int:
        """The last of `num_steps` steps at which the prediction has skill; 0 for none."""
        return min(int(self.skill[signal]), num_steps)

    def trust(self, novelty: Floats) -> Floats:
        """The p-value [W] of each novelty [W]: at most a with probability a, for a present like those calibrated on."""
        return _p_value(self.novelty, novelty, self.num_windows)

    def trust_in(self, engine: Engine, belief: EngineBelief, history: History, *, seed: int) -> Floats:
        """The p-value [W] of each history [W, H, *shape]: of its present, and of its steps beyond the context.

        Where nothing was missing in the calibration data, a history is judged from its last gap on. Where they had gaps
        themselves it is judged as a whole: its p-value then holds for histories with gaps like theirs.

        Args:
            engine: the one that was calibrated.
            belief: after the whole history.
            history: W worlds. Where it lacks a vector that the calibration data hold, only the present is judged.
            seed: of what the engine draws for the present; for the steps before it that is always drawn with seed 0.
        """
        card = engine.describe()
        novelty = novelty_of(engine, self.input_novelty, history, belief=belief, seed=seed)
        length = next(iter(history.observations.values())).shape[1]
        whole = all(s.name in history.observations for s in card.schema.observations if s.kind is Kind.VECTOR)
        if not whole or not self.tells_errors:
            return self.trust(novelty)
        lengths = _since_gap(history) if self.complete else np.full(len(novelty), length)
        rows = self.ood.row(np.maximum(lengths - card.context, 0))
        trust = self.trust(novelty)
        for row in np.unique(rows[rows > 0]):
            those = rows == row
            steps = tail_of(worlds_of(history, those), card.context + self.ood.lengths[row])
            ood_scores = self.ood.measure(engine, steps, novelty[those], int(row))
            trust[those] = _p_value(self.ood_scores[row - 1], ood_scores, self.num_windows)
        return trust

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
        arrays |= {"novelty": self.novelty, "steps": self.steps, "ood_scores": self.ood_scores}
        arrays |= {"num_windows": np.asarray(self.num_windows, dtype=np.int64), "complete": np.asarray(self.complete)}
        if self.input_novelty is not None:
            arrays |= {f"input_novelty/{name}": value for name, value in vars(self.input_novelty).items()}
        arrays |= {f"ood/{name}": value for name, value in vars(self.ood).items()}
        if self.causes is not None:
            arrays |= {f"causes/{name}": value for name, value in self.causes.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Calibration:
        """The calibration that `to_arrays` wrote.

        Raises:
            DataError: an array is missing or is not one of its own.
        """
        groups: dict[str, dict[str, Floats]] = {part: {} for part in (*_PARTS, "input_novelty", "ood", "causes")}
        whole = {}
        for name, value in arrays.items():
            part, _, signal = name.partition("/")
            if part in groups and signal:
                groups[part][signal] = np.asarray(value, dtype=np.float64)
            else:
                whole[name] = value
        measure, causes = groups["input_novelty"], groups["causes"]
        same = all(groups[part].keys() == groups["scale"].keys() for part in ("scores", "skill", "spread"))
        ood = groups["ood"]
        complete = whole.keys() == _WHOLE and ood.keys() == _OOD
        complete = complete and len(whole["ood_scores"]) == len(ood["usual"]) - 1
        if not complete or measure.keys() not in (set(), _MEASURE) or not same:
            raise DataError(f"arrays {sorted(arrays)} are no calibration", fix="Calibrate the world again.")
        return cls(
            num_windows=int(np.asarray(whole["num_windows"])),
            scale=groups["scale"],
            scores=groups["scores"],
            one_step=groups["one_step"],
            unit=groups["unit"],
            entities=groups["entities"],
            steps=np.asarray(whole["steps"], dtype=np.float64),
            skill=groups["skill"],
            spread=groups["spread"],
            novelty=np.asarray(whole["novelty"], dtype=np.float64),
            input_novelty=InputNovelty(**measure) if measure else None,
            ood=OODScore(**ood),
            ood_scores=np.asarray(whole["ood_scores"], dtype=np.float64),
            complete=bool(whole["complete"]),
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
_OOD = {field.name for field in fields(OODScore)}
_WHOLE = {"complete", "novelty", "num_windows", "steps", "ood_scores"}


def calibrate(
    engine: Engine,
    episodes: Sequence[Episode],
    *,
    horizon: int,
    num_windows: int,
    seed: int,
    trust_steps: int = LENGTHS[-1],
    with_causes: bool = True,
) -> Calibration:
    """The calibration of `engine` on episodes that it has not seen.

    Bands and p-values hold for presents that are observed as the windows are: with `Card.context` observations, and at
    places that have `horizon` steps ahead of them. Where that is most of an episode, these are the beginnings alone.

    Args:
        engine: frozen; whatever is changed in it afterwards makes the calibration void.
        episodes: held out from all fitting, in the schema's dtypes; those shorter than a window are left out.
        horizon: T, the longest prediction that will have a band, at least 1.
        num_windows: k, windows from each episode at random places, at least 1. More make the result less a matter
            of chance, not the level more certain: K episodes support levels up to K / (K + 1).
        seed: of the windows and of the engine's draws, but for those of the steps that trust judges: as when a world is
            asked for its trust, their seed is 0.
        trust_steps: the most steps of a history beyond the context that trust judges, each of which is predicted in
            every window; 0 for the present alone, where predictions are dear.
        with_causes: whether to learn how episodes differ, for `World.what_if`. Asks for a prediction of every step of
            every episode, which may be too much of an engine that is slow or has a price.

    Raises:
        InputError: `horizon` or `num_windows` is below 1.
        DataError: fewer than two episodes are long enough.
    """
    if horizon < 1 or num_windows < 1:
        raise InputError(f"horizon {horizon} and num_windows {num_windows} must both be at least 1.")
    card, rng = engine.describe(), np.random.default_rng(seed)
    vectors = [signal.name for signal in vectors_of(card)]
    usable = _long_enough(episodes, card.context, horizon)
    order = [usable[i] for i in rng.permutation(len(usable))]
    num_scale = max(1, len(order) // SCALE_SHARE)
    both = (order[:num_scale], max(num_windows, -(-SCALE_WINDOWS // num_scale))), (order[num_scale:], num_windows)
    shaping, scoring = (_places(part, card.context, horizon, count, rng) for part, count in both)
    shape = cut(card.schema, shaping, length=card.context, horizon=horizon, truth=vectors)
    pieces = cut(card.schema, scoring, length=card.context, horizon=horizon, truth=vectors)
    values = {name: _values(usable, name) for name in vectors}
    spread = {name: value.std(0) for name, value in values.items()}
    scale = {
        name: np.maximum(_usual(error, shape.known[name].astype(bool)), 1e-3 * spread[name] + 1e-12)
        for name, error in errors(engine, shape, seed=seed).items()
    }
    found = errors(engine, pieces, seed=seed)
    usual, one_step = (_first_scores(engine, card, places, scale, seed) for places in (shaping, scoring))
    unit = {name: _unit(score) for name, score in usual.items()}
    together = _together(card.schema, one_step, unit)
    measure = None if isinstance(engine, Novelty) else fit_input_novelty(card.schema, shape.history)
    num_steps = _trust_steps(card, order, trust_steps)
    pasts = [_places(part, card.context + num_steps, 1, count, rng) for part, count in both]
    trust = _trust(engine, measure, pasts, num_steps, seed)
    return Calibration(
        num_windows=num_windows,
        scale=scale,
        scores={name: _so_far(error, scale[name], pieces.known[name].astype(bool)) for name, error in found.items()},
        one_step={name: _sorted(score) for name, score in one_step.items()},
        unit=unit,
        entities={name: _sorted(score) for name, score in together.entities.items()},
        steps=_sorted(together.steps),
        skill={name: _skill(found[name], pieces, card.schema[name], values[name], num_windows) for name in vectors},
        spread=spread,
        input_novelty=measure,
        ood=trust.ood,
        ood_scores=trust.ood_scores,
        novelty=trust.novelty,
        complete=trust.complete,
        causes=causes_of(engine, usable, seed=seed) if with_causes else None,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trust:
    """The parts of a calibration that tell how far a history can be trusted."""

    ood: OODScore
    ood_scores: Floats
    novelty: Floats
    complete: bool


def _trust(engine: Engine, measure: InputNovelty | None, pasts: Sequence[Places], num_steps: int, seed: int) -> _Trust:
    """From the places that set the shape, and those that set the p-values, with so many steps before each."""
    card = engine.describe()
    names = {signal.name for signal in card.schema.observations}
    lengths = [length for length in LENGTHS if length <= num_steps]
    presents = [cut(card.schema, past, length=card.context, horizon=1, truth=()).history for past in pasts]
    usual, novelty = (novelty_of(engine, measure, present, seed=seed) for present in presents)
    shaping, scoring = (watch_places(engine, past, num_steps) if num_steps else None for past in pasts)
    ood = fit_strangeness(shaping, usual, lengths)
    ood_scores = np.zeros((len(ood.lengths) - 1, len(novelty)))
    for row in range(len(ood_scores)):
        ood_scores[row] = np.sort(ood.of(scoring, novelty, row + 1))
    seen = [
        flags[at - card.context - num_steps + 1 : at + 1]
        for past in pasts
        for episode, at in past
        for name, flags in episode.observed.items()
        if name in names
    ]
    return _Trust(
        ood=ood,
        ood_scores=ood_scores,
        novelty=np.sort(novelty),
        complete=all(flags.all() for flags in seen),
    )


def _trust_steps(card: Card, episodes: Sequence[Episode], most: int) -> int:
    """Steps beyond the context that are judged: as many as all episodes allow, `most` at most."""
    whole = all(s.name in episodes[0].observations for s in card.schema.observations if s.kind is Kind.VECTOR)
    spare = min(episode.num_steps for episode in episodes) - card.context
    told = bool(vectors_of(card)) and whole
    return max(length for length in LENGTHS if length <= (min(spare, most) if told else 0) or length == 0)


def _first_scores(
    engine: Engine, card: Card, places: Places, scale: Mapping[str, Floats], seed: int
) -> dict[str, Floats]:
    """Per predicted signal the score [W] of the first step after each place; NaN where it was not observed."""
    pieces = cut(card.schema, places, length=card.context, horizon=1, truth=card.predicts)
    found = errors(engine, pieces, seed=seed)
    return {
        name: np.where(pieces.known[name][:, 0].astype(bool), _one_step(error[:, 0], scale.get(name)), np.nan)
        for name, error in found.items()
    }


def _skill(error: Floats, pieces: Pieces, signal: Signal, values: Floats, num_windows: int) -> Floats:
    """The last step [] at which a signal is predicted with skill, see `Forecast.horizon`.

    Episodes that did not observe it at a step say nothing of that step.

    Args:
        error: [W, T, *shape] of the world.
        pieces: that it was made on; `num_windows` from each episode, one episode after the other.
        signal: which.
        values: [n, *shape], every value in the log.
        num_windows: k.
    """
    truth, known = pieces.truth[signal.name], pieces.known[signal.name].astype(bool)
    variance = max(float(values.var(0).sum()), 1e-12 * (1 + float(np.abs(values).max())) ** 2)
    mean = mean_of(signal, values[None])[0] if signal.period is not None else values.mean(0)
    last = pieces.history.observations[signal.name][:, -1] if signal.name in pieces.history.observations else mean
    seen = pieces.history.observed.get(signal.name)
    last = np.where(np.ones(len(truth), bool)[:, None] if seen is None else seen[:, -1:].astype(bool), last, mean)

    count = known.reshape(-1, num_windows, known.shape[1]).sum(1)
    told = (count > 0).sum(0)
    enough = told >= min(2, len(count))

    def loss(apart: Floats) -> Floats:
        """Per episode and step the mean squared error over the variance; NaN where nothing was observed."""
        each = np.where(known, (apart**2).sum(-1) / variance, 0.0).reshape(-1, num_windows, known.shape[1]).sum(1)
        return np.where(enough, each / np.where(count > 0, count, np.nan), 0.0)

    own, held, typical = (
        loss(x) for x in (error, signal.difference(truth, last[:, None]), signal.difference(truth, mean))
    )
    floor = np.where(np.nanmean(held, 0) < np.nanmean(typical, 0), held, typical)
    better = floor - own
    # One episode tells nothing of others.
    spread = np.nanstd(better, axis=0, ddof=1) if len(better) > 1 else math.inf
    sure = np.nanmean(better, 0) > SURE * spread / np.sqrt(np.maximum(told, 1))
    good = np.flatnonzero(enough & (sure | (np.nanmean(own, 0) <= 0.05)))
    return np.asarray(good[-1] + 1 if len(good) else 0, dtype=np.float64)


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


def _usual(error: Floats, known: NDArray[np.bool_]) -> Floats:
    """The mean error [T, n] of errors [W, T, n] that are `known` [W, T], 0 where not; of all steps where none is."""
    count = known.sum(0)[:, None]
    whole = error.sum((0, 1)) / max(1, known.sum())
    return np.asarray(np.where(count > 0, error.sum(0) / np.maximum(count, 1), whole))


def _so_far(error: Floats, scale: Floats, known: NDArray[np.bool_]) -> Floats:
    """The scores [T, W] of errors [W, T, *shape], the largest over scale up to each step, sorted over W.

    NaN where nothing was `known` [W, T] up to that step; errors of what was not are 0.
    """
    largest = np.maximum.accumulate((error / scale).max(-1), axis=1)
    return np.sort(np.where(np.logical_or.accumulate(known, axis=1), largest, np.nan).T, axis=1)


def _sorted(score: Floats) -> Floats:
    """The scores that there are."""
    return np.sort(score[np.isfinite(score)])


def _one_step(error: Floats, scale: Floats | None) -> Floats:
    """The score [W] of one-step errors [W, ...]: the largest, over the first step of `scale` if there is one."""
    relative = error if scale is None else error / scale[0]
    return np.asarray(relative.reshape(len(error), -1).max(1))


def _unit(score: Floats) -> Floats:
    """What scores [W] are measured in: that which one in ten exceeds, or 1 where that is 0 or there is none."""
    seen = _sorted(score)
    usual = np.quantile(seen, 0.9) if len(seen) else 0.0
    return np.asarray(usual if usual > 0 else 1.0)


def _together(schema: Schema, scores: Mapping[str, Floats], unit: Mapping[str, Floats]) -> StepPValues:
    """The scores [W] of each entity and of all signals: the largest over unit of those that are no NaN."""
    relative = {name: score / unit[name] for name, score in scores.items()}
    entities: dict[str, Floats] = {}
    for name, score in relative.items():
        entity = schema[name].entity
        if entity is not None:
            entities[entity] = np.fmax(entities.get(entity, score), score)
    # A world of pictures alone may predict nothing, and is calibrated for its trust.
    steps = np.fmax.reduce(list(relative.values())) if relative else np.zeros(0)
    return StepPValues(signals=relative, entities=entities, steps=steps)


def _since_gap(history: History) -> NDArray[np.integer]:
    """How many observations [W] lie behind the last at which something was missing; all where nothing was."""
    shape = next(iter(history.observations.values())).shape[:2]
    seen = np.logical_and.reduce([np.ones(shape, bool), *(mask.astype(bool) for mask in history.observed.values())])
    return np.asarray(np.logical_and.accumulate(seen[:, ::-1], axis=1).sum(1))


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


def _p_value(reference: Floats, score: Floats, num_windows: int) -> Floats:
    """Share of episodes, this one among them, whose windows scored as high; `reference` is sorted."""
    higher = len(reference) - np.searchsorted(reference, score, side="left")
    return np.asarray((1 + higher / num_windows) / (1 + len(reference) / num_windows))


def _with_scale(num_scoring: int) -> int:
    """Episodes that must be held out so that `num_scoring` are left to set the widths."""
    total = num_scoring
    while total - max(1, total // SCALE_SHARE) < num_scoring:
        total += 1
    return total
