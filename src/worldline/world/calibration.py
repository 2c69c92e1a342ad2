"""Conformal calibration: prediction bands and p-values for the predictions of any engine.

The unit is the episode. Windows of one episode resemble each other, so K episodes with k windows each count as fewer
than K * k observations. The band at some level reaches the smallest score r with
`#{scores <= r} >= level * (K * k + d)`. The design effect d lies between 1, for windows that are as different as those
of different episodes, and k, for equal windows in an episode. A window of a new episode, drawn in the same way, then
lies inside with that probability: at least, for k = 1 and every engine and data distribution; approximately for k > 1,
where d is an estimate. P-values use d = k, so they are never too small on average. With few episodes, each can be
predicted by an engine that was fitted to the others (`out_of_fold`). The coverage then holds approximately, for stable
fits.

Source: Vovk et al. 2005, chapter 2, for k = 1; Lee, Barber, Willett 2023 (2306.06342), section 3, for d = k; Kish 1965,
Survey Sampling, for d; Barber et al. 2021 (1905.02928) for fits without an episode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.data.windows import ForecastWindows, Places, forecast_windows, random_places
from worldline.engines.base import Card, Engine, EngineBelief, Novelty
from worldline.episode import Arrays, Episode, History
from worldline.errors import DataError, InputError, UnsupportedError
from worldline.schema import Kind, Schema
from worldline.world.error_scores import (
    StepPValues,
    combined_scores,
    design_effect,
    mean_error,
    one_step_scores,
    p_value,
    running_scores,
    score_unit,
    sorted_scores,
)
from worldline.world.hidden_causes import HiddenCauses
from worldline.world.input_novelty import InputNovelty, fit_input_novelty
from worldline.world.logged_range import observed_values, ranges_of
from worldline.world.ood import (
    LENGTHS,
    OODScore,
    StepErrors,
    fit_ood_score,
    novelty_of,
    step_errors,
    step_errors_at,
)
from worldline.world.out_of_fold import OutOfFold
from worldline.world.prediction_errors import errors, residuals, vectors_of
from worldline.world.sampled_paths import residual_paths, sample_paths
from worldline.world.skill import last_skilled_step
from worldline.world.validation import check_level
from worldline.world.what_if import causes_of

Floats = NDArray[np.floating]

SCALE_SHARE = 4
"""One in this many episodes sets the shape of the bands. Scores of the others set the width, as conformal scores need
episodes that did not shape them."""

SCALE_WINDOWS = 256
"""Total number of windows that set the shape. They need not be independent."""

DEFAULT_LEVEL = 0.9
"""Level of bands if none is requested, and if there are enough calibration episodes for it."""

_ADDED_PARTS = ("residuals", "design_effect")
"""Parts that calibrations of earlier releases lack."""
_ERROR_PARTS = ("scale", "scores", "one_step", "unit", "entities", *_ADDED_PARTS)
_PARTS = (*_ERROR_PARTS, "skill", "spread", "logged_range")


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """The calibration of one engine, fitted by `calibrate`.

    Args:
        num_windows: k, windows per episode.
        scale: per predicted vector signal [T, *shape], mean absolute error of each step, above 0.
        scores: per predicted vector signal [T, K * k], sorted along the last axis. The score of a window at row t is
            the largest error over scale among its components and first t + 1 steps. Windows without an observed value
            are NaN, at the end.
        design_effect: per predicted vector signal [T], d for each row of `scores`, 1 to k. Empty in calibrations that
            were stored before it existed; they use k.
        one_step: per predicted signal [n], sorted, n at most K * k: the largest error of the first step of each window
            that observed it, over scale if there is one.
        unit: per predicted signal [], above 0: divides one-step scores before signals are combined.
        entities: per entity [n], sorted: per window the largest `one_step` score over `unit` among its signals.
        steps: [n], sorted: the same among all predicted signals.
        skill: per predicted vector signal [], the last step with skill; see `Forecast.horizon`.
        spread: per predicted vector signal [*shape], standard deviation of its values.
        novelty: [K * k], sorted: novelty of the last observation of each window.
        input_novelty: measures novelty if the engine does not; None if it does.
        ood: the out-of-distribution score of histories.
        ood_scores: [L - 1, K * k], sorted along the last axis: one row per entry of `ood.lengths` after the first. The
            first, length 0, is covered by `novelty`.
        complete: whether the windows behind `ood_scores` have no missing values.
        causes: how episodes differ from the predictions of the engine, for `World.what_if`; None if nothing was found.
        residuals: per predicted vector signal [P, T, *shape], observed minus predicted in P windows, the same ones for
            all signals. Empty in calibrations that were stored before sampled paths existed.
        logged_range: per vector signal [2, n], lowest and highest logged value of each component; see `ranges_of`.
            Empty in calibrations that were stored before it existed: the range is then unknown.
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
    residuals: Mapping[str, Floats] = field(default_factory=dict)
    design_effect: Mapping[str, Floats] = field(default_factory=dict)
    logged_range: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def has_error_scores(self) -> bool:
        """Whether bands and p-values of predictions exist."""
        return bool(self.one_step)

    def without_errors(self) -> Calibration:
        """The parts that do not depend on predictions: trust in the present, and the spread of the signals."""
        nothing: dict[str, Any] = {part: {} for part in _ERROR_PARTS}
        return replace(self, **nothing, steps=np.zeros(0), causes=None)

    @property
    def num_episodes(self) -> int:
        """K, number of episodes that set the widths."""
        return len(self.novelty) // self.num_windows

    @property
    def horizon(self) -> int:
        """T, the longest prediction with a band; 0 if no vector signal is predicted."""
        return max((len(scale) for scale in self.scale.values()), default=0)

    @property
    def highest_level(self) -> float:
        """The highest level of a band, K / (K + 1)."""
        return self.num_episodes / (self.num_episodes + 1)

    @property
    def default_level(self) -> float:
        """The level of bands if none is requested."""
        return min(DEFAULT_LEVEL, self.highest_level)

    def check_available(self, level: float) -> None:
        """Checks that the calibration supports bands at a level.

        Raises:
            InputError: `level` is not in (0, 1).
            UnsupportedError: `level` needs more episodes. The message names the highest available level.
        """
        check_level(level)
        # 1e-9, here and below: rounding of a float product must not raise the rank by one.
        if math.ceil(level * (self.num_episodes + 1) * self.num_windows - 1e-9) <= len(self.novelty):
            return
        needed = math.ceil(level / (1 - level) - 1e-9)
        raise UnsupportedError(
            f"level {level} needs at least {_with_scale(needed)} calibration episodes; there are "
            f"{_with_scale(self.num_episodes)} that are long enough. The highest available level is "
            f"{math.floor(1e4 * self.highest_level) / 1e4:g}. Lower the level, or log more episodes."
        )

    def padded_half_width(self, signal: str, num_steps: int, level: float) -> Floats:
        """As `band_half_width` for any number of steps; infinite after `horizon`."""
        known = self.band_half_width(signal, min(num_steps, self.horizon), level)
        beyond = np.full((num_steps - len(known), *known.shape[1:]), np.inf)
        return np.concatenate([known, beyond])

    def sample_paths(self, schema: Schema, means: Arrays, num_samples: int, *, seed: int) -> dict[str, Floats]:
        """Paths [W, S, T, *shape] around predictions; see `sampled_paths.sample_paths`.

        Raises:
            UnsupportedError: there are no stored residuals, or T exceeds `horizon`.
        """
        return sample_paths(self.residuals, schema, means, num_samples, horizon=self.horizon, seed=seed)

    def band_half_width(self, signal: str, num_steps: int, level: float) -> Floats:
        """Half the width of the simultaneous band [num_steps, *shape], in the unit of the signal.

        Infinite if too few windows observed the signal.

        Args:
            signal: name of a predicted vector signal.
            num_steps: number of steps, 1 to `horizon`.
            level: probability that the whole path lies inside, in (0, 1).

        Raises:
            UnsupportedError: `num_steps` exceeds `horizon`, or there are too few calibration episodes for `level`.
        """
        self.check_available(level)
        if num_steps > self.horizon:
            raise UnsupportedError(
                f"bands are calibrated up to {self.horizon} steps, got {num_steps}. Predict fewer steps, or "
                f"calibrate with horizon={num_steps}."
            )
        scores, scale = self.scores[signal][num_steps - 1], self.scale[signal][:num_steps]
        seen = np.count_nonzero(np.isfinite(scores))
        effect = self.design_effect[signal][num_steps - 1] if self.design_effect else self.num_windows
        rank = math.ceil(level * (seen + effect) - 1e-9)
        return np.asarray(scores[rank - 1] * scale if rank <= seen else np.full_like(scale, np.inf))

    @property
    def smallest_trust(self) -> float:
        """The smallest p-value that the calibration resolves, 1 / (K + 1)."""
        return 1 / (self.num_episodes + 1)

    def horizon_of(self, signal: str, num_steps: int) -> int:
        """The last of `num_steps` steps with skill; 0 for none."""
        return min(int(self.skill[signal]), num_steps)

    def trust(self, novelty: Floats) -> Floats:
        """The p-value [W] of each novelty [W].

        It is at most a with probability a, for a present like those of the calibration data.
        """
        return p_value(self.novelty, novelty, self.num_windows)

    def look(
        self, engine: Engine, history: History, *, seed: int
    ) -> tuple[EngineBelief, StepErrors | None, NDArray[np.integer]]:
        """The belief after W histories [W, H, *shape], the errors of their last steps, and `tested_lengths`.

        Encodes every observation once.

        Args:
            engine: the calibrated engine.
            history: W worlds. If it lacks a vector of the calibration data, only the present is tested.
            seed: seed of the engine's draws.
        """
        card = engine.describe()
        lengths = self.tested_lengths(card.schema, history)
        num_steps = self.ood.lengths[int(self.ood.row(np.maximum(lengths - card.context, 0)).max())]
        seen, belief = step_errors(engine, history, num_steps, seed=seed)
        return belief, seen, lengths

    def tested_lengths(self, schema: Schema, history: History) -> NDArray[np.integer]:
        """The number of observations [W] at the end of each history that trust tests.

        If the calibration data have no gaps, these are the observations after the last gap. If they have gaps, all are
        tested. The p-value then holds for histories with similar gaps.
        """
        vectors = [signal.name for signal in schema.observations if signal.kind is Kind.VECTOR]
        if not self.has_error_scores or not set(vectors) <= history.observations.keys():
            return np.zeros(history.num_worlds, int)
        length = next(iter(history.observations.values())).shape[1]
        return _since_gap(history) if self.complete else np.full(history.num_worlds, length)

    def trust_in(
        self,
        engine: Engine,
        belief: EngineBelief,
        history: History,
        seen: StepErrors | None,
        lengths: NDArray[np.integer],
    ) -> Floats:
        """The p-value [W] of presents and of the steps before them.

        Args:
            engine: the calibrated engine.
            belief: of the present.
            history: W worlds; only the last observation is read.
            seen: one-step errors of the last steps; None for none.
            lengths: [W], number of observations to test, at most `Card.context` more than the steps in `seen`.
        """
        novelty = novelty_of(engine, self.input_novelty, history, belief)
        trust = self.trust(novelty)
        if seen is None:
            return trust
        rows = self.ood.row(np.maximum(lengths - engine.describe().context, 0))
        for row in np.unique(rows[rows > 0]):
            those = rows == row
            score = self.ood.of(seen.worlds(those), novelty[those], int(row))
            trust[those] = p_value(self.ood_scores[row - 1], score, self.num_windows)
        return trust

    def surprise(self, schema: Schema, errors: Mapping[str, Floats]) -> StepPValues:
        """The p-values [W] of one-step errors [W, ...], from `prediction_errors.errors`, of every predicted signal."""
        scores = {name: one_step_scores(error, self.scale.get(name)) for name, error in errors.items()}
        together = combined_scores(schema, scores, self.unit)
        return StepPValues(
            signals={n: p_value(self.one_step[n], score, self.num_windows) for n, score in scores.items()},
            entities={n: p_value(self.entities[n], score, self.num_windows) for n, score in together.entities.items()},
            steps=p_value(self.steps, together.steps, self.num_windows),
        )

    def tolerance(self, signal: str) -> Floats:
        """The default tolerance of a goal [*shape], in the unit of the signal: its standard deviation.

        A constant component gets the largest deviation among the components. All-constant signals get 1.
        """
        spread = self.spread[signal]
        largest = spread.max()
        return np.where(spread > 1e-6 * largest, spread, largest) if largest > 0 else np.ones_like(spread)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The calibration as named arrays; the inverse of `from_arrays`."""
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
            DataError: an array is missing or unknown.
        """
        groups: dict[str, dict[str, Floats]] = {part: {} for part in (*_PARTS, "input_novelty", "ood", "causes")}
        single = {}
        for name, value in arrays.items():
            part, _, signal = name.partition("/")
            if part in groups and signal:
                # Residuals keep their dtype: twice the size would gain nothing when the calibration is stored again.
                groups[part][signal] = np.asarray(value, dtype=value.dtype if part == "residuals" else np.float64)
            else:
                single[name] = value
        measure, causes = groups["input_novelty"], groups["causes"]
        same = all(groups[part].keys() == groups["scale"].keys() for part in ("scores", "skill", "spread"))
        same = same and all(groups[part].keys() in (set(), groups["scale"].keys()) for part in _ADDED_PARTS)
        ood = groups["ood"]
        complete = single.keys() == _SINGLE_ARRAYS and ood.keys() == _OOD_ARRAYS
        complete = complete and len(single["ood_scores"]) == len(ood["usual"]) - 1
        if not complete or measure.keys() not in (set(), _NOVELTY_ARRAYS) or not same:
            raise DataError(f"arrays {sorted(arrays)} are not those of a calibration", fix="Calibrate the world again.")
        return cls(
            num_windows=int(np.asarray(single["num_windows"])),
            scale=groups["scale"],
            scores=groups["scores"],
            one_step=groups["one_step"],
            unit=groups["unit"],
            entities=groups["entities"],
            steps=np.asarray(single["steps"], dtype=np.float64),
            skill=groups["skill"],
            spread=groups["spread"],
            novelty=np.asarray(single["novelty"], dtype=np.float64),
            input_novelty=InputNovelty(**measure) if measure else None,
            ood=OODScore(**ood),
            ood_scores=np.asarray(single["ood_scores"], dtype=np.float64),
            complete=bool(single["complete"]),
            causes=HiddenCauses.from_arrays(causes) if causes else None,
            residuals=groups["residuals"],
            design_effect=groups["design_effect"],
            logged_range=groups["logged_range"],
        )


_NOVELTY_ARRAYS = {"centre", "scale", "whitening"}
_OOD_ARRAYS = {field.name for field in fields(OODScore)}
_SINGLE_ARRAYS = {"complete", "novelty", "num_windows", "steps", "ood_scores"}


def calibrate(
    engine: Engine,
    episodes: Sequence[Episode],
    *,
    horizon: int,
    num_windows: int,
    seed: int,
    trust_steps: int = LENGTHS[-1],
    with_causes: bool = True,
    out_of_fold: Sequence[Engine] | None = None,
    logged_range: Mapping[str, Floats] | None = None,
) -> Calibration:
    """Calibrates `engine` on held-out episodes.

    Bands and p-values hold for histories like the windows: `Card.context` observations, followed by at least `horizon`
    steps. If `horizon` is most of an episode, all windows lie near its beginning.

    Args:
        engine: frozen. A later change of it invalidates the calibration.
        episodes: in the schema's dtypes, held out from fitting (see `out_of_fold`). Short ones are left out.
        horizon: T, longest prediction with a band, at least 1.
        num_windows: k, windows at random places of each episode, at least 1. More of them only reduce the variance.
        seed: seed of the windows and of the engine's draws. Draws for trust always use seed 0, as `World` verbs do.
        trust_steps: most steps before the present that trust tests, each at one prediction per window; 0 for none.
        with_causes: whether to learn how episodes differ, for `World.what_if`, by predicting every step of all.
        out_of_fold: per episode an engine of the same kind that was fitted without it; None for `engine`.
        logged_range: as in `Calibration`, of all logs; None for that of `episodes`.

    Raises:
        InputError: `horizon` or `num_windows` is below 1.
        DataError: fewer than two episodes are long enough.
    """
    if horizon < 1 or num_windows < 1:
        raise InputError(f"horizon {horizon} and num_windows {num_windows} must both be at least 1.")
    card, rng = engine.describe(), np.random.default_rng(seed)
    engines = OutOfFold.of(episodes, [engine] * len(episodes) if out_of_fold is None else out_of_fold)
    usable = _long_enough(episodes, card.context, horizon)
    order = [usable[i] for i in rng.permutation(len(usable))]  # logs are ordered in time, and must be exchangeable
    num_scale = max(1, len(order) // SCALE_SHARE)
    both = (order[:num_scale], max(num_windows, -(-SCALE_WINDOWS // num_scale))), (order[num_scale:], num_windows)
    num_steps = _trust_steps(card, order, trust_steps)
    places, pasts = (
        [random_places(part, length=length, horizon=ahead, count=count, rng=rng) for part, count in both]
        for length, ahead in ((card.context, horizon), (card.context + num_steps, 1))
    )
    targets = [signal.name for signal in vectors_of(card)]
    shape, windows = (
        forecast_windows(part, length=card.context, horizon=horizon, schema=card.schema, targets=targets)
        for part in places
    )
    measured = _error_parts(engines, card, usable, places, (shape, windows), num_windows, rng, seed)
    measure = None if isinstance(engine, Novelty) else fit_input_novelty(card.schema, shape.history)
    return Calibration(
        num_windows=num_windows,
        input_novelty=measure,
        causes=causes_of(engine, usable, seed=seed) if with_causes else None,
        logged_range=ranges_of(card.schema, episodes) if logged_range is None else logged_range,
        **vars(measured),
        **vars(_trust(engines, card, measure, pasts, num_steps, seed)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _ErrorParts:
    """The parts of a calibration that come from errors of predictions, and the spread that bounds their scale."""

    scale: Mapping[str, Floats]
    scores: Mapping[str, Floats]
    one_step: Mapping[str, Floats]
    unit: Mapping[str, Floats]
    entities: Mapping[str, Floats]
    steps: Floats
    skill: Mapping[str, Floats]
    spread: Mapping[str, Floats]
    residuals: Mapping[str, Floats]
    design_effect: Mapping[str, Floats]


def _error_parts(
    engines: OutOfFold,
    card: Card,
    episodes: Sequence[Episode],
    places: Sequence[Places],
    windows: tuple[ForecastWindows, ForecastWindows],
    num_windows: int,
    rng: np.random.Generator,
    seed: int,
) -> _ErrorParts:
    """Measures errors in two sets of windows, which begin at `places`: for the shape of bands, and for their width."""
    shape, scored = windows
    values = {name: observed_values(episodes, name) for name in scored.truth}
    spread = {name: value.std(0) for name, value in values.items()}
    usual_left, left = (
        engines.ask(part, partial(_residuals, one, seed=seed)) for part, one in zip(places, windows, strict=True)
    )
    scale = {
        name: np.maximum(mean_error(np.abs(error), shape.known[name]), 1e-3 * spread[name] + 1e-12)
        for name, error in usual_left.items()
    }
    found = {name: np.abs(value) for name, value in left.items()}
    usual, one_step = (engines.ask(part, partial(_first_scores, card, part, scale, seed=seed)) for part in places)
    unit = {name: score_unit(score) for name, score in usual.items()}
    together = combined_scores(card.schema, one_step, unit)
    scores = {name: running_scores(error, scale[name], scored.known[name]) for name, error in found.items()}
    return _ErrorParts(
        scale=scale,
        scores={name: np.sort(score) for name, score in scores.items()},
        design_effect={name: design_effect(score, num_windows) for name, score in scores.items()},
        one_step={name: sorted_scores(score) for name, score in one_step.items()},
        unit=unit,
        entities={name: sorted_scores(score) for name, score in together.entities.items()},
        steps=sorted_scores(together.steps),
        skill={
            name: last_skilled_step(found[name], scored, card.schema[name], value, num_windows)
            for name, value in values.items()
        },
        spread=spread,
        residuals={name: residual_paths(value, scored.known[name], rng) for name, value in left.items()},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trust:
    """The parts of a calibration that measure trust in a history."""

    ood: OODScore
    ood_scores: Floats
    novelty: Floats
    complete: bool


def _trust(
    engines: OutOfFold, card: Card, measure: InputNovelty | None, pasts: Sequence[Places], num_steps: int, seed: int
) -> _Trust:
    """Fits trust on two sets of places, for the shape and for the p-values, with `num_steps` steps before each."""
    names = {signal.name for signal in card.schema.observations}
    lengths = [length for length in LENGTHS if length <= num_steps]

    def novelties(past: Places, engine: Engine, rows: Sequence[int]) -> dict[str, Floats]:
        part = [past[row] for row in rows]
        history = forecast_windows(part, length=card.context, horizon=1, schema=card.schema, targets=()).history
        return {"novelty": novelty_of(engine, measure, history, engine.observe(None, history, seed=seed))}

    def step_errors(past: Places, engine: Engine, rows: Sequence[int]) -> dict[str, NDArray[Any]]:
        return dict(vars(step_errors_at(engine, [past[row] for row in rows], num_steps, seed=seed)))

    usual, novelty = (engines.ask(past, partial(novelties, past))["novelty"] for past in pasts)
    shaping, scoring = (
        StepErrors(**engines.ask(past, partial(step_errors, past))) if num_steps else None for past in pasts
    )
    ood = fit_ood_score(shaping, usual, lengths)
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


def _trust_steps(card: Card, episodes: Sequence[Episode], limit: int) -> int:
    """The number of tested steps beyond the context: the largest of `LENGTHS` that all episodes and `limit` allow."""
    has_vectors = all(s.name in episodes[0].observations for s in card.schema.observations if s.kind is Kind.VECTOR)
    spare = min(episode.num_steps for episode in episodes) - card.context
    usable = bool(vectors_of(card)) and has_vectors
    return max(length for length in LENGTHS if length <= (min(spare, limit) if usable else 0) or length == 0)


def _residuals(windows: ForecastWindows, engine: Engine, rows: Sequence[int], *, seed: int) -> dict[str, Floats]:
    """Observed minus predicted [W, T, *shape] of each target in some of the windows."""
    part = windows if len(rows) == windows.num_worlds else windows.select(rows)  # saves a copy with a single engine
    return residuals(engine, part, seed=seed)


def _first_scores(
    card: Card, places: Places, scale: Mapping[str, Floats], engine: Engine, rows: Sequence[int], *, seed: int
) -> dict[str, Floats]:
    """Per predicted signal the score [W] of the first step after some places; NaN if it was not observed."""
    part = [places[row] for row in rows]
    windows = forecast_windows(part, length=card.context, horizon=1, schema=card.schema, targets=card.predicts)
    found = errors(engine, windows, seed=seed)
    return {
        name: np.where(windows.known[name][:, 0], one_step_scores(error[:, 0], scale.get(name)), np.nan)
        for name, error in found.items()
    }


def _long_enough(episodes: Sequence[Episode], length: int, horizon: int) -> list[Episode]:
    """The episodes that are long enough for a window, at least two."""
    needed = length - 1 + horizon
    usable = [episode for episode in episodes if episode.num_steps >= needed]
    if len(usable) < 2:
        raise DataError(
            f"{len(usable)} of {len(episodes)} calibration episodes have the {needed} steps of a window ({length} "
            f"observations, {horizon} steps ahead); at least two are needed",
            fix="Hold out more episodes, or calibrate for a shorter horizon.",
        )
    return usable


def _since_gap(history: History) -> NDArray[np.integer]:
    """The number of observations [W] after the last one with a missing value; all if none is missing."""
    shape = next(iter(history.observations.values())).shape[:2]
    seen = np.logical_and.reduce([np.ones(shape, bool), *(mask.astype(bool) for mask in history.observed.values())])
    return np.asarray(np.logical_and.accumulate(seen[:, ::-1], axis=1).sum(1))


def _with_scale(num_scoring: int) -> int:
    """The number of held-out episodes that leaves `num_scoring` episodes to set the widths."""
    total = max(num_scoring, SCALE_SHARE * num_scoring // (SCALE_SHARE - 1) - 2)  # near the result, for levels near 1
    while total - max(1, total // SCALE_SHARE) < num_scoring:
        total += 1
    return total
