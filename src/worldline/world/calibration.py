"""Conformal calibration: prediction bands and p-values for the predictions of any engine.

The unit is the episode. Windows of one episode resemble each other, so K episodes with k windows each count as fewer
than K * k observations. The band at some level reaches the smallest score r with
`#{scores <= r} >= level * (K * k + d)`. The design effect d lies between 1, for windows that are as different as those
of different episodes, and k, for equal windows in an episode. A window of a new episode, drawn in the same way, then
lies inside with that probability: at least, for k = 1 and every engine and data distribution; approximately for k > 1,
where d is an estimate. P-values of histories use an estimate of d too; those of single steps use d = k, so they are
never too small on average. With few episodes, each can be predicted by an engine that was fitted to the others
(`out_of_fold`). The coverage then holds approximately, for stable fits.

All of this holds for histories of one length. A calibration therefore holds further ones, for shorter histories.

Source: Vovk et al. 2005, chapter 2, for k = 1; Lee, Barber, Willett 2023 (2306.06342), section 3, for d = k; Kish 1965,
Survey Sampling, for d; Barber et al. 2021 (1905.02928) for fits without an episode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, History
from worldline.errors import DataError, UnsupportedError
from worldline.planning.calls import check_level
from worldline.schema import Kind, Schema
from worldline.world.hidden_causes import HiddenCauses
from worldline.world.ood import InputNovelty, OODScore, StepErrors

Floats = NDArray[np.floating]

SCALE_SHARE = 4
"""One in this many episodes sets the shape of the bands. Scores of the others set the width, as conformal scores need
episodes that did not shape them."""

_FIX = "Calibrate the world again."

DEFAULT_LEVEL = 0.9
"""Level of bands if none is requested, and if there are enough calibration episodes for it."""

_ERROR_PARTS = ("scale", "scores", "one_step", "unit", "entities", "residuals", "design_effect")


@dataclass(frozen=True, kw_only=True, eq=False)
class StepPValues:
    """P-values of W steps.

    Args:
        signals: per predicted signal [W].
        entities: per entity [W].
        steps: [W].
    """

    signals: Mapping[str, Floats]
    entities: Mapping[str, Floats]
    steps: Floats


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
        effects: d of `novelty` (1) and of each row of `ood_scores` ("ood", [L - 1]). Without them it is k.
        length: number of observations of the histories; 0 if unknown.
        shorter: by number of observations below `length`, the calibration for histories of so many. It has the error
            parts, `novelty` and its effect only; the others are empty.
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
    effects: Mapping[str, Floats] = field(default_factory=dict)
    length: int = 0
    shorter: Mapping[int, Calibration] = field(default_factory=dict)

    def at(self, num_observations: int) -> Calibration:
        """The calibration for histories of so many observations, from 1: the longest one that is not longer."""
        if num_observations >= self.length or not self.shorter:
            return self
        return self.shorter[max(length for length in self.shorter if length <= num_observations)]

    @property
    def has_error_scores(self) -> bool:
        """Whether bands and p-values of predictions exist."""
        return bool(self.one_step)

    def without_errors(self) -> Calibration:
        """The parts that do not depend on predictions: trust in the present, and the spread of the signals."""
        nothing: dict[str, Any] = {part: {} for part in _ERROR_PARTS}
        shorter = {length: replace(part, **nothing, steps=np.zeros(0)) for length, part in self.shorter.items()}
        return replace(self, **nothing, steps=np.zeros(0), causes=None, shorter=shorter)

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
        """The highest level of a band: n / (n + d) for n windows with the largest design effect d of any step."""
        sizes = [
            scores.shape[1] / (scores.shape[1] + float(part.design_effect[name].max()))
            for part in (self, *self.shorter.values())
            for name, scores in part.scores.items()
            if part.design_effect
        ]
        return min(sizes, default=self.num_episodes / (self.num_episodes + 1))

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
        if level <= self.highest_level + 1e-9:  # rounding of a quotient must not exclude the highest level itself
            return
        available = max([scores.shape[1] for scores in self.scores.values()], default=len(self.novelty))
        available //= self.num_windows
        odds = level / (1 - level) / (self.highest_level / (1 - self.highest_level))
        needed = math.ceil(available * odds - 1e-9)
        raise UnsupportedError(
            f"level {level} needs about {needed} episodes that set the width of bands; there are {available}. "
            "The highest available level is "
            f"{math.floor(1e4 * self.highest_level) / 1e4:g}. Lower the level, or log more episodes."
        )

    def padded_half_width(self, signal: str, num_steps: int, level: float) -> Floats:
        """As `band_half_width` for any number of steps; infinite after `horizon`."""
        known = self.band_half_width(signal, min(num_steps, self.horizon), level)
        beyond = np.full((num_steps - len(known), *known.shape[1:]), np.inf)
        return np.concatenate([known, beyond])

    def sample_paths(
        self, schema: Schema, means: Arrays, num_samples: int, *, num_observations: int, seed: int
    ) -> dict[str, Floats]:
        """Paths [W, S, T, *shape] around predictions: each mean plus the residuals of one calibration window.

        The errors of a path are correlated over steps, components and signals, as in the calibration data. The share of
        paths inside a band is its level, up to 1 / (K + 1) for K episodes. Windows are drawn without replacement, as
        long as there are enough. All W worlds share the draws. After a short history, the residuals are those of full
        histories, enlarged like the mean error of each step.

        Args:
            schema: of the signals.
            means: per predicted vector signal [W, T, *shape].
            num_samples: S, at least 1.
            num_observations: of the histories.
            seed: of the draws.

        Raises:
            UnsupportedError: there are no stored residuals, or T exceeds `horizon`.

        Source: Vovk, Petej, Nouretdinov, Manokhin, Gammerman 2020, "Computationally efficient versions of conformal
            predictive distributions" (Neurocomputing 397), with whole paths in the place of numbers.
        """
        num_steps = next(iter(means.values())).shape[1]
        if not self.residuals or num_steps > self.horizon:
            raise UnsupportedError(
                f"sampled paths need stored residuals of {num_steps} steps, and this calibration has "
                f"{self.horizon if self.residuals else 0}. Calibrate again with horizon={num_steps}, or predict fewer "
                "steps."
            )
        scale = self.at(num_observations).scale
        # Whole windows are drawn, for all signals together, so that errors stay correlated.
        num_paths, rng = len(next(iter(self.residuals.values()))), np.random.default_rng(seed)
        rounds = -(-num_samples // num_paths)
        rows = np.concatenate([rng.permutation(num_paths) for _ in range(rounds)])[:num_samples]
        paths = dict[str, Floats]()
        for name, mean in means.items():
            residuals = self.residuals[name] * (scale[name] / self.scale[name])
            paths[name] = schema[name].wrapped(mean[:, None].astype(np.float64) + residuals[rows, :num_steps])
        return paths

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
        """The smallest p-value that n windows resolve, 1 / (n + 1)."""
        return 1 / (len(self.novelty) + 1)

    def horizon_of(self, signal: str, num_steps: int) -> int:
        """The last of `num_steps` steps with skill; 0 for none."""
        return min(int(self.skill[signal]), num_steps)

    def trust(self, novelty: Floats, num_observations: int | None = None) -> Floats:
        """The p-value [W] of each novelty [W] after so many observations; None for a full history.

        It is at most a with probability a, for a present like those of the calibration data. Between two calibrated
        lengths, it is the larger one of their p-values.
        """
        parts = [self]
        if num_observations is not None and num_observations < self.length and self.shorter:
            longer = [length for length in self.shorter if length >= num_observations]
            parts = [self.at(num_observations), self.shorter[min(longer)] if longer else self]
        return np.asarray(np.max([p_value(part.novelty, novelty, part.effect("novelty")) for part in parts], 0))

    def effect(self, part: str, row: int = 0) -> float:
        """The design effect of a row of the novelty or of the out-of-distribution scores."""
        return float(self.effects[part][row]) if part in self.effects else float(self.num_windows)

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
        self, novelty: Floats, seen: StepErrors | None, num_steps: NDArray[np.integer], num_observations: int
    ) -> Floats:
        """The p-value [W] of presents and of the steps before them.

        Args:
            novelty: [W], of the presents; see `novelty_of`.
            seen: one-step errors of the last steps; None for none.
            num_steps: [W], number of steps to test, at most those in `seen`; none if it is not above 0.
            num_observations: of the histories, which the belief holds.
        """
        trust = self.trust(novelty, num_observations)
        if seen is None:
            return trust
        rows = self.ood.row(np.maximum(num_steps, 0))
        for row in np.unique(rows[rows > 0]):
            those = rows == row
            score = self.ood.of(seen.worlds(those), novelty[those], int(row))
            trust[those] = p_value(self.ood_scores[row - 1], score, self.effect("ood", row - 1))
        return trust

    def surprise(self, schema: Schema, errors: Mapping[str, Floats]) -> StepPValues:
        """The p-values [W] of absolute one-step errors [W, ...] of every predicted signal; see `step_differences`."""
        scores = {name: one_step_scores(error, self.scale.get(name)) for name, error in errors.items()}
        entities, steps = combined_scores(schema, scores, self.unit)
        return StepPValues(
            signals={n: p_value(self.one_step[n], score, self.num_windows) for n, score in scores.items()},
            entities={n: p_value(self.entities[n], score, self.num_windows) for n, score in entities.items()},
            steps=p_value(self.steps, steps, self.num_windows),
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
        arrays = dict[str, NDArray[np.generic]]()
        for name, value in vars(self).items():
            parts = value if isinstance(value, Mapping) else vars(value) if is_dataclass(value) else {"": value}
            for key, inner in parts.items():
                if isinstance(inner, Calibration):
                    arrays |= {f"{name}/{key}/{part}": array for part, array in inner.to_arrays().items()}
                elif inner is not None and (name != "length" or inner):
                    arrays[f"{name}/{key}" if key else name] = np.asarray(inner)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Calibration:
        """The calibration that `to_arrays` wrote.

        Raises:
            DataError: an array is missing or unknown, is not float64, or has a value that is not finite.
        """
        groups, shorter = dict[str, dict[str, Any]](), dict[int, dict[str, Any]]()
        single = dict[str, NDArray[np.generic]]()
        for name, value in arrays.items():
            part, _, key = name.partition("/")
            # Other types would need a conversion, which multiplies their size. Missing scores are NaN.
            usable = value.size <= 1 or value.dtype in (np.float64, np.float32)
            if not usable or np.any(~np.isfinite(value) & ~(("scores" in (part, *key.split("/"))) & np.isnan(value))):
                raise DataError(f"{name} of the calibration is {value.dtype} or not finite", fix=_FIX)
            length, _, inner = key.partition("/")
            if part == "shorter" and length.isdecimal() and not inner.startswith("shorter"):
                shorter.setdefault(int(length), {})[inner] = value
            elif key:
                groups.setdefault(part, {})[key] = value
            else:
                single[name] = value
        histories = {length: cls.from_arrays(part) for length, part in shorter.items()}
        ood, measure, causes = (groups.pop(part, {}) for part in ("ood", "input_novelty", "causes"))
        parts: Any = {part: {} for part in (*_ERROR_PARTS, "skill", "spread", "effects")} | groups
        parts |= {name: value if value.ndim else value.item() for name, value in single.items()}
        try:
            calibration = cls(
                **parts,
                input_novelty=InputNovelty(**measure) if measure else None,
                ood=OODScore(**ood),
                causes=HiddenCauses(**causes | {"still": bool(causes["still"])}) if causes else None,
                shorter=histories,
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"arrays are not those of a calibration: {error}", fix=_FIX) from error
        same = all(parts[name].keys() == parts["scale"].keys() for name in ("scores", "skill", "spread"))
        if not same or len(calibration.ood_scores) != len(calibration.ood.usual) - 1:
            raise DataError("arrays are not those of a calibration: signals or lengths differ", fix=_FIX)
        return calibration


def one_step_scores(error: Floats, scale: Floats | None) -> Floats:
    """The score [W] of one-step errors [W, ...]: the largest, over the first step of `scale` if there is one."""
    relative = error if scale is None else error / scale[0]
    return np.asarray(relative.reshape(len(error), -1).max(1))


def combined_scores(
    schema: Schema, scores: Mapping[str, Floats], unit: Mapping[str, Floats]
) -> tuple[dict[str, Floats], Floats]:
    """The scores [W] per entity, and of all signals: the largest score over unit, without NaN."""
    relative = {name: score / unit[name] for name, score in scores.items()}
    entities: dict[str, Floats] = {}
    for name, score in relative.items():
        entity = schema[name].entity
        if entity is not None:
            entities[entity] = np.fmax(entities.get(entity, score), score)
    # A world of images only may predict nothing; it is calibrated for trust.
    return entities, np.fmax.reduce(list(relative.values())) if relative else np.zeros(0)


def p_value(reference: Floats, score: Floats, effect: float) -> Floats:
    """The conformal p-value: the share of windows, this one included, that scored as high.

    Args:
        reference: [n] sorted scores.
        score: [W].
        effect: d, the number of windows that are worth an independent one. This window counts as so many.
    """
    higher = len(reference) - np.searchsorted(reference, score, side="left")
    return np.asarray((effect + higher) / (effect + len(reference)))


def _since_gap(history: History) -> NDArray[np.integer]:
    """The number of observations [W] after the last one with a missing value; all if none is missing."""
    shape = next(iter(history.observations.values())).shape[:2]
    seen = np.logical_and.reduce([np.ones(shape, bool), *(mask.astype(bool) for mask in history.observed.values())])
    return np.asarray(np.logical_and.accumulate(seen[:, ::-1], axis=1).sum(1))
