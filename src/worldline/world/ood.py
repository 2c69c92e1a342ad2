"""Out-of-distribution score of a history: of its present, and of how each step follows from the steps before it.

A system can change while every signal stays inside its range: a heater that gives half its power, a puck that slides
further. Its steps then no longer follow from each other as in the calibration data. Two sets of one-step errors detect
this: the errors of the world, and those of a linear regression of the change on the present and the inputs. The
regression is needed because a world may have other errors in every episode that hide a change.

The score uses these statistics of the last L steps. z are the whitened errors of all predicted vectors, x are the
standardised present and inputs (the drive).

    novelty   of the present
    energy    mean over the steps of log(1 + |z|^2 / D); both tails count.
    bias      sum z / sqrt(L), per component: errors with one sign
    drive     sum z x / sqrt(1 + sum x^2), per pair of components: errors that correlate with the drive.
    pattern   whitened coefficients of a ridge regression of z on x and 1: mean square and maximum. Hidden causes
              make some coefficients large in normal episodes too, but in fixed proportions.
    rest      energy that this regression leaves; both tails count

Each statistic is scaled by its median and 95 % quantile on one part of the calibration episodes. The largest one is the
score. Its p-value is its rank among the other part, as in split conformal prediction, so it is valid for any
statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.data.windows import Places
from worldline.engines.base import Card, Engine, EngineBelief, Novelty
from worldline.engines.validation import check_answer
from worldline.episode import Arrays, Episode, History
from worldline.schema import Kind, Role, Schema
from worldline.world.prediction_errors import mean_of, num_samples, vectors_of

Floats = NDArray[np.floating]

LENGTHS: Final = (0, 1, 2, 4, 8, 16, 32, 64)
"""Numbers of steps L that can be scored."""

MAX_PICTURES: Final = 8192
"""Images in memory at a time, 100 MB at 64 by 64 pixels."""
MAX_STEPS: Final = 4096
"""Steps predicted at a time. Each holds one belief of the engine, which may be large."""
MAX_PAIRS: Final = 150
"""Largest number of coefficients whose covariance can be estimated from a few hundred windows."""

GRID: Final = 8
"""Images count by the averages over a grid of so many rows and columns."""

_SHRINKAGE: Final = 0.1
_CLIP: Final = 4.0


@dataclass(frozen=True, kw_only=True, eq=False)
class OODScore:
    """The fitted score; see `fit_ood_score`.

    Args:
        law: [F + 1, D], regression of the change on the standardised drive and 1.
        centre: [2, D], mean one-step error of the world and of the regression.
        scale: [2, D], their standard deviations, above 0.
        whitening: [2, D, D], multiplies standardised errors.
        drive_centre: [F], mean of the drive: present vectors and inputs.
        drive_scale: [F], its standard deviations, above 0.
        centres: [2, L, P], mean coefficients of the windows' regressions, for the first L of `LENGTHS`.
        pattern: [2, L, P, P], multiplies centred coefficients. [2, L, 0, 0], without pattern statistics, if there are
            more than `MAX_PAIRS` coefficients.
        usual: [L, M], median of each statistic.
        tail: [L, M], distance from the median to the 95 % quantile, above 0.
    """

    law: Floats
    centre: Floats
    scale: Floats
    whitening: Floats
    drive_centre: Floats
    drive_scale: Floats
    centres: Floats
    pattern: Floats
    usual: Floats
    tail: Floats

    @property
    def lengths(self) -> tuple[int, ...]:
        """The numbers of steps that can be scored."""
        return LENGTHS[: len(self.usual)]

    def row(self, num_steps: NDArray[np.integer]) -> NDArray[np.integer]:
        """The index [W] of the largest of `lengths` that is at most `num_steps` [W]."""
        return np.asarray(np.searchsorted(self.lengths, num_steps, side="right") - 1)

    def scored_steps(self, num_steps: NDArray[np.integer]) -> int:
        """The number of steps that a score needs of worlds with `num_steps` [W] steps."""
        return self.lengths[int(self.row(np.maximum(num_steps, 0)).max())]

    def of(self, seen: StepErrors | None, novelty: Floats, row: int) -> Floats:
        """The score [W] of step errors of at least `lengths[row]` steps; None if there are no steps."""
        statistics = self.statistics(seen, novelty, row)
        return np.asarray(((statistics - self.usual[row]) / self.tail[row]).max(1))

    def statistics(self, seen: StepErrors | None, novelty: Floats, row: int) -> Float[np.ndarray, "W M"]:
        """The statistics of the last `lengths[row]` steps; without steps, all but novelty are -inf."""
        num_steps, num = self.lengths[row], self.usual.shape[1]
        if seen is None or num_steps == 0:
            return np.concatenate([novelty[:, None], np.full((len(novelty), num - 1), -np.inf)], 1)
        x, known = self._drive(seen, num_steps)
        columns = [novelty[:, None]]
        for kind, z in enumerate(self._errors(seen, num_steps)):
            fit = _regression(z, x, known)
            rest = z - np.einsum("wtf,wfd->wtd", _with_one(x, known), fit)
            for energy in (_energy(z, known), _energy(rest, known)):
                columns += [energy[:, None], -energy[:, None]]
            columns.append(np.log(_bias_and_drive(z, x, known) ** 2 + 1e-9))
            if self.pattern.shape[-1]:
                apart = (fit.reshape(len(fit), -1) - self.centres[kind, row]) @ self.pattern[kind, row]
                columns += [np.log(reduce(apart**2, axis=1, keepdims=True) + 1e-9) for reduce in (np.mean, np.max)]
        return np.concatenate(columns, 1)

    def _drive(self, seen: StepErrors, num_steps: int) -> tuple[Floats, Floats]:
        """The standardised drive [W, L, F], clipped at 4 deviations, and the mask [W, L] as numbers."""
        known = seen.known[:, -num_steps:].astype(np.float64)
        drive = (seen.drive[:, -num_steps:] - self.drive_centre) / self.drive_scale
        return np.where(known[..., None] > 0, np.clip(drive, -_CLIP, _CLIP), 0.0), known

    def _errors(self, seen: StepErrors, num_steps: int) -> list[Floats]:
        """The whitened errors [W, L, D] of the world and of the regression."""
        drive = (seen.drive[:, -num_steps:] - self.drive_centre) / self.drive_scale
        residual = seen.change[:, -num_steps:] - drive @ self.law[:-1] - self.law[-1]
        both = zip((seen.errors[:, -num_steps:], residual), self.centre, self.scale, self.whitening, strict=True)
        known = seen.known[:, -num_steps:, None]
        return [np.where(known, ((errors - centre) / scale) @ basis, 0.0) for errors, centre, scale, basis in both]


def _energy(z: Float[np.ndarray, "W T D"], known: Float[np.ndarray, "W T"]) -> Float[np.ndarray, "W"]:
    """The statistic `energy`."""
    return np.asarray((np.log1p((z**2).mean(-1)) * known).sum(1) / np.maximum(known.sum(1), 1))


def _with_one(x: Float[np.ndarray, "W T F"], known: Float[np.ndarray, "W T"]) -> Float[np.ndarray, "W T G"]:
    return np.concatenate([x, known[..., None]], -1)


def _regression(z: Floats, x: Floats, known: Floats) -> Float[np.ndarray, "W G D"]:
    """The coefficients of z on x and 1, with a ridge penalty of 1."""
    wide = _with_one(x, known)
    gram = np.einsum("wtf,wtg->wfg", wide, wide) + np.eye(wide.shape[-1])
    return np.asarray(np.linalg.solve(gram, np.einsum("wtf,wtd->wfd", wide, z)))


def _bias_and_drive(z: Floats, x: Floats, known: Floats) -> Float[np.ndarray, "W P"]:
    """The statistics `bias` and `drive`."""
    bias = z.sum(1) / np.sqrt(np.maximum(known.sum(1), 1))[:, None]
    drive = np.einsum("wtd,wtf->wdf", z, x) / np.sqrt(1 + (x**2).sum(1))[:, None]
    return np.concatenate([bias, drive.reshape(len(drive), -1)], 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class StepErrors:
    """One-step errors over the last L steps of W histories.

    Args:
        errors: [W, L, D], observed minus predicted, all predicted vectors concatenated; 0 where unknown.
        change: [W, L, D], observed minus the value before the step.
        drive: [W, L, F], the vectors before the step and its inputs.
        known: [W, L], whether everything was observed before and after the step.
    """

    errors: Floats
    change: Floats
    drive: Floats
    known: NDArray[np.bool_]

    def worlds(self, index: slice | NDArray[np.bool_]) -> StepErrors:
        """The steps of some worlds."""
        return StepErrors(**{name: value[index] for name, value in vars(self).items()})

    def steps(self, index: slice) -> StepErrors:
        """Some steps of all worlds."""
        return StepErrors(**{name: value[:, index] for name, value in vars(self).items()})

    def then(self, later: StepErrors) -> StepErrors:
        """These steps and `later` ones; the last `LENGTHS[-1]` of them."""
        both = {name: np.concatenate([value, vars(later)[name]], 1) for name, value in vars(self).items()}
        return StepErrors(**both).steps(slice(-LENGTHS[-1], None))


def step_errors(engine: Engine, history: History, steps: int, *, seed: int) -> tuple[StepErrors | None, EngineBelief]:
    """The errors over the last `steps` steps of a history, and the belief after it.

    Every observation is encoded once.

    Args:
        engine: predicts one step at a time.
        history: W worlds.
        steps: L, 0 or more; the errors are None if it is 0.
        seed: seed of the engine's draws.
    """
    card = engine.describe()
    replayed = engine.replay(history, steps, num_samples=num_samples(card), seed=seed)
    check_answer(replayed.signals, card.name, axis=1)
    return errors_of(card, history, replayed.signals) if steps else None, replayed.belief


def errors_of(card: Card, history: History, predicted: Arrays) -> StepErrors:
    """The errors of one-step predictions.

    Of a deterministic engine with several members, the first one counts. Calibration may ask single members, whose
    errors are larger than those of their mean.

    Args:
        card: of the engine.
        history: W worlds, with L steps or more.
        predicted: per predicted signal the samples [W, L, S, *shape] of the observation after each of the last L steps.
    """
    shape = next(iter(predicted.values())).shape[:2]
    before, after = history.last(shape[1] + 1, axis=1), history.last(shape[1], axis=1)
    errors, change, drive = list[Floats](), list[Floats](), list[NDArray[np.generic]]()
    known = np.ones(shape, bool)
    for signal in vectors_of(card):
        value, seen = after.observations[signal.name].astype(np.float64), after.mask(signal.name)
        samples = predicted[signal.name][:, :, :1] if card.deterministic else predicted[signal.name]
        mean = mean_of(signal, np.moveaxis(samples, 2, 1))
        errors.append(np.where(seen[..., None], signal.difference(np.where(seen[..., None], value, 0.0), mean), 0.0))
        change.append(signal.difference(value, before.observations[signal.name][:, :-1]))
        known &= seen
    for signal in (*card.schema.observations, *card.schema.actions, *card.schema.exogenous):
        if signal.kind is Kind.VECTOR and signal.name in before.observations:
            drive.append(before.observations[signal.name][:, :-1])
            known &= before.mask(signal.name)[:, : shape[1]]
        elif signal.kind is Kind.VECTOR and signal.role is not Role.OBSERVATION:
            inputs = before.actions if signal.role is Role.ACTION else before.exogenous
            drive.append(inputs[signal.name])
    return StepErrors(
        errors=np.concatenate(errors, -1),
        change=np.concatenate(change, -1),
        drive=np.concatenate(drive, -1, dtype=np.float64),
        known=known,
    )


def step_errors_at(engine: Engine, places: Places, num_steps: int, *, seed: int) -> StepErrors:
    """The errors over the steps that lead to places in episodes. Each episode is replayed once, from its beginning.

    Args:
        engine: predicts one step at a time.
        places: W places with the present at `Card.context - 1 + num_steps` or later.
        num_steps: L, at least 1.
        seed: seed of the engine's draws.
    """
    card = engine.describe()
    names, first = [signal.name for signal in card.schema.signals], card.context - 1
    by_length: dict[int, dict[int, Episode]] = {}
    for episode, _ in places:
        by_length.setdefault(episode.num_steps, {})[id(episode)] = episode
    pictures = any(s.kind is Kind.IMAGE and s.name in places[0][0].observations for s in card.schema.observations)
    errors = dict[int, StepErrors]()
    for length, group in by_length.items():
        keys, size = list(group), max(1, (MAX_PICTURES if pictures else MAX_STEPS) // length)
        for part in (keys[start : start + size] for start in range(0, len(keys), size)):
            history = History.stack([group[key].select(names).history() for key in part])
            seen, _ = step_errors(engine, history, length - first, seed=seed)
            assert seen is not None  # there is at least one step
            errors |= {key: seen.worlds(slice(row, row + 1)) for row, key in enumerate(part)}
    parts = [errors[id(log)].steps(slice(at - num_steps - first, at - first)) for log, at in places]
    return StepErrors(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def fit_ood_score(seen: StepErrors | None, novelty: Floats, lengths: Sequence[int]) -> OODScore:
    """Fits the score to calibration histories.

    Args:
        seen: errors over the last `lengths[-1]` steps of W histories; None if that is 0.
        novelty: [W], novelty of the present.
        lengths: the first few of `LENGTHS`. Steps are scored only if two consecutive observations were ever complete.
    """
    if seen is None or not seen.known.any():  # only the novelty of the present can be scored
        shapes = {"law": (1, 0), "centre": (2, 0), "scale": (2, 0), "whitening": (2, 0, 0)}
        shapes |= {"drive_centre": (0,), "drive_scale": (0,), "centres": (2, 1, 0), "pattern": (2, 1, 0, 0)}
        nothing, ones = {name: np.zeros(shape) for name, shape in shapes.items()}, np.ones((1, 1))
        return _with_quantiles(OODScore(**nothing, usual=ones, tail=ones), None, novelty)
    drive, change = seen.drive[seen.known], seen.change[seen.known]
    spread = np.where(drive.std(0) > 0, drive.std(0), 1.0)
    wide = np.concatenate([(drive - drive.mean(0)) / spread, np.ones((len(drive), 1))], 1)
    law = np.linalg.solve(wide.T @ wide + np.eye(wide.shape[1]), wide.T @ change)
    both = (_scaling(rows) for rows in (seen.errors[seen.known], change - wide @ law))
    centre, scale, whitening = (np.stack(part) for part in zip(*both, strict=True))
    num = change.shape[1] * wide.shape[1]
    statistics = np.ones((len(lengths), 1 + 2 * (4 + num + 2 * (num <= MAX_PAIRS))))
    fitted = OODScore(
        law=law,
        centre=centre,
        scale=scale,
        whitening=whitening,
        drive_centre=drive.mean(0),
        drive_scale=spread,
        centres=np.zeros((2, len(lengths), num)),
        pattern=np.zeros((2, len(lengths), 0, 0)),
        usual=statistics,
        tail=statistics,
    )
    if num <= MAX_PAIRS:
        fits = np.zeros((2, len(lengths), len(novelty), num))
        for row, steps in list(enumerate(lengths))[1:]:
            for kind, z in enumerate(fitted._errors(seen, steps)):
                fits[kind, row] = _regression(z, *fitted._drive(seen, steps)).reshape(len(novelty), -1)
        centres = fits.mean(2)
        pattern = [[_whitening(fit - fit.mean(0)) for fit in of_kind] for of_kind in fits]
        fitted = replace(fitted, centres=centres, pattern=np.array(pattern))
    return _with_quantiles(fitted, seen, novelty)


def _scaling(rows: Float[np.ndarray, "n D"]) -> tuple[Floats, Floats, Floats]:
    """Centre, scale and whitening of one-step errors, one per row."""
    centre, scale = rows.mean(0), rows.std(0)
    # A component that is always predicted exactly gives no scale, so any error counts as large.
    scale = np.where(scale > 0, scale, 1e-6)
    standard = (rows - centre) / scale
    covariance = (1 - _SHRINKAGE) * standard.T @ standard / len(rows) + _SHRINKAGE * np.eye(len(centre))
    variances, directions = np.linalg.eigh(covariance)
    return centre, scale, directions / np.sqrt(variances)


def _whitening(rows: Floats) -> Floats:
    """The matrix that whitens rows [n, P]; the covariance is shrunk towards its diagonal."""
    scale = np.maximum(rows.std(0), 1e-9)
    standard = rows / scale
    shrinkage = 0.01 + 0.25 * min(1.0, len(scale) / len(rows))
    covariance = (1 - shrinkage) * standard.T @ standard / len(rows) + shrinkage * np.eye(len(scale))
    variances, directions = np.linalg.eigh(covariance)
    return np.asarray((directions / np.sqrt(variances)) / scale[:, None])


def _with_quantiles(fitted: OODScore, seen: StepErrors | None, novelty: Floats) -> OODScore:
    """Sets the median and the tail of each statistic."""
    usual, tail = np.zeros_like(fitted.usual), np.ones_like(fitted.tail)
    for row in range(len(usual)):
        statistics = fitted.statistics(seen, novelty, row)
        finite = np.isfinite(statistics).all(0)
        usual[row, finite] = np.median(statistics[:, finite], axis=0)
        above = np.quantile(statistics[:, finite], 0.95, axis=0) - usual[row, finite]
        tail[row, finite] = np.where(above > 0, above, 1e-9 + np.abs(usual[row, finite]) * 1e-6)
    return replace(fitted, usual=usual, tail=tail)


def novelty_of(engine: Engine, measure: InputNovelty | None, history: History, belief: EngineBelief) -> Floats:
    """The novelty [W] of the present.

    Args:
        engine: measures the novelty of a belief if `measure` is None.
        measure: measures the last observation, for engines that do not.
        history: W worlds.
        belief: after the history.
    """
    if measure is not None:
        return measure.measure(engine.describe().schema, history)
    assert isinstance(engine, Novelty)  # checked where a world is built
    return np.asarray(engine.novelty(belief), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class InputNovelty:
    """The Mahalanobis distance of the last observation, with a covariance shrunk towards the identity.

    Args:
        centre: [F], mean of the features.
        scale: [F], their standard deviations, above 0.
        whitening: [F, F], multiplies standardised features.
    """

    centre: Floats
    scale: Floats
    whitening: Floats

    @classmethod
    def fit(cls, schema: Schema, history: History) -> InputNovelty:
        """Fits the distance to the last observations of `history` (W worlds)."""
        values = features(schema, history)
        known = ~np.isnan(values)
        count = np.maximum(known.sum(0), 1)
        centre = np.where(known, values, 0).sum(0) / count
        spread = np.sqrt((np.where(known, values - centre, 0) ** 2).sum(0) / count)
        # A constant feature gives no scale, so any change counts as large.
        scale = np.where(spread > 0, spread, 1e-6 * (1 + np.abs(centre)))
        # Few windows determine a covariance badly. Shrinking it bounds distances along directions of hardly any
        # variance.
        standard = np.where(known, (values - centre) / scale, 0)
        covariance = standard.T @ standard / len(standard)
        shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.eye(len(centre))
        variances, directions = np.linalg.eigh(shrunk)
        return cls(centre=centre, scale=scale, whitening=directions / np.sqrt(variances))

    def measure(self, schema: Schema, history: History) -> Floats:
        """The distance [W]; missing values count as the mean."""
        values = features(schema, history)
        values = np.nan_to_num((values - self.centre) / self.scale, nan=0.0)
        return np.asarray(np.linalg.norm(values @ self.whitening, axis=1))


def features(schema: Schema, history: History) -> Float[np.ndarray, "W F"]:
    """Vectors, and images averaged over an 8 by 8 grid, of the last observation; NaN where missing."""
    num_worlds = len(next(iter(history.observations.values())))
    columns: list[Floats] = [np.zeros((num_worlds, 0))]
    for signal in schema.observations:
        if signal.kind is Kind.DISCRETE:
            continue
        if signal.name in history.observations:
            last = history.observations[signal.name][:, -1].astype(np.float64)
            column = _pool(last) if signal.kind is Kind.IMAGE else last
            if signal.name in history.observed:
                column = np.where(history.observed[signal.name][:, -1].astype(bool)[:, None], column, np.nan)
        else:
            size = signal.size
            if signal.kind is Kind.IMAGE:
                size = min(GRID, signal.shape[0]) * min(GRID, signal.shape[1]) * signal.shape[2]
            column = np.full((num_worlds, size), np.nan)
        columns.append(column)
    return np.concatenate(columns, 1)


def _pool(images: Floats) -> Floats:
    """Images [W, height, width, channels] averaged over a grid and flattened."""
    for axis in (1, 2):
        size = images.shape[axis]
        edges = np.linspace(0, size, min(GRID, size) + 1).astype(int)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        images = np.add.reduceat(images, edges[:-1], axis=axis) / np.diff(edges).reshape(shape)
    return images.reshape(len(images), -1)
