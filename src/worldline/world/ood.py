"""How unlike the calibration data a history is: its present, and how each step follows from those before it.

A world can change while every signal stays inside its range: a heater that gives half, a puck that slides further.
Then the steps of a history no longer follow from each other as they used to. Two sets of one-step errors tell: the
world's own, and those of a linear regression of the change on what was seen and done, fitted to the calibration data,
since a world may be off in other ways in every episode and still hide a change. Of the last L steps is looked at:

    novelty   of the present
    energy    mean over the steps of log(1 + |z|^2 / D), z being the errors of all predicted vectors, whitened; too
              much of it, and too little
    lean      sum z / sqrt(L), of each component: errors that lean one way
    drive     sum z x / sqrt(1 + sum x^2), x being the standardised present and inputs, of each pair of components:
              errors that follow what was seen or done
    pattern   how unusual the coefficients of a ridge regression of z on x and 1 are together: hidden causes that
              differ between episodes make some of them large in ordinary times too, always in the same proportions.
              In the directions in which they vary independently: the mean square, and the largest
    left      energy that this regression leaves; too much of it, and too little

Each is put on one scale by its median and 95 % quantile in one part of the calibration episodes, and the largest
counts. Its p-value is its rank among the other part, as in split conformal prediction, whatever they are worth.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.engines.base import Card, Engine, EngineBelief, Novelty
from worldline.episode import History
from worldline.schema import Kind
from worldline.world.input_novelty import InputNovelty
from worldline.world.pieces import Pieces, Places, cut, residuals, tail_of, unfold, vectors_of, worlds_of

Floats = NDArray[np.floating]

LENGTHS: Final = (0, 1, 2, 4, 8, 16, 32, 64)
"""How many steps can be looked at."""

MAX_PICTURES: Final = 8192
"""That are held at a time while steps are watched, a hundred megabytes of 64 by 64 pixels."""
MAX_STEPS: Final = 4096
"""That are watched at a time: an engine that remembers much holds a belief for each."""
MAX_PAIRS: Final = 150
"""Leans and drives whose pattern can be learned from some hundred windows."""

_SHRINKAGE: Final = 0.1
_CLIP: Final = 4.0


@dataclass(frozen=True, kw_only=True, eq=False)
class OODScore:
    """Fitted by `fit_strangeness`.

    Args:
        law: [F + 1, D], the regression of the change on standardised drive and 1.
        centre: [2, D], mean one-step error, of the world and of the regression.
        scale: [2, D], their standard deviations, above 0.
        whitening: [2, D, D]; what standardised errors are multiplied by.
        drive_centre: [F], mean of the present vectors and the inputs.
        drive_scale: [F], their standard deviations, above 0.
        centres: [2, L, P], mean coefficients of the windows' regressions; L are the first of `LENGTHS`.
        pattern: [2, L, P, P], what centred coefficients are multiplied by for their pattern. [2, L, 0, 0] where there
            are more than `MAX_PAIRS`, and no pattern is looked at.
        usual: [L, M], of each statistic its median.
        tail: [L, M], how far its 95 % quantile lies above, above 0.
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
        """Numbers of steps that it can look at."""
        return LENGTHS[: len(self.usual)]

    def row(self, num_steps: NDArray[np.integer]) -> NDArray[np.integer]:
        """Which of `lengths` is the largest that so many steps [W] allow, [W]."""
        return np.asarray(np.searchsorted(self.lengths, num_steps, side="right") - 1)

    def measure(self, engine: Engine, history: History, novelty: Floats, row: int) -> Floats:
        """The strangeness [W] of histories that hold the context and `lengths[row]` steps more.

        Args:
            engine: imagines one step at a time.
            history: W worlds.
            novelty: [W], of the present.
            row: which of `lengths`.
        """
        steps = self.lengths[row]
        return self.of(None if steps == 0 else watch(engine, history, steps), novelty, row)

    def of(self, seen: Watched | None, novelty: Floats, row: int) -> Floats:
        """The same [W] of what was watched already, `lengths[row]` steps or more; None where there was nothing."""
        found = self.statistics(seen, novelty, row)
        return np.asarray(((found - self.usual[row]) / self.tail[row]).max(1))

    def statistics(self, seen: Watched | None, novelty: Floats, row: int) -> Float[np.ndarray, "W M"]:
        """The statistics of the last `lengths[row]` steps; where there are none, all but novelty are -inf."""
        num_steps, num = self.lengths[row], self.usual.shape[1]
        if seen is None or num_steps == 0:
            return np.concatenate([novelty[:, None], np.full((len(novelty), num - 1), -np.inf)], 1)
        x, known = self._drive(seen, num_steps)
        found = [novelty[:, None]]
        for kind, z in enumerate(self._errors(seen, num_steps)):
            fit = _regression(z, x, known)
            left = z - np.einsum("wtf,wfd->wtd", _with_one(x, known), fit)
            for energy in (_energy(z, known), _energy(left, known)):
                found += [energy[:, None], -energy[:, None]]
            found.append(np.log(_signed(z, x, known) ** 2 + 1e-9))
            if self.pattern.shape[-1]:
                apart = (fit.reshape(len(fit), -1) - self.centres[kind, row]) @ self.pattern[kind, row]
                found += [np.log(most(apart**2, axis=1, keepdims=True) + 1e-9) for most in (np.mean, np.max)]
        return np.concatenate(found, 1)

    def _drive(self, seen: Watched, num_steps: int) -> tuple[Floats, Floats]:
        """Standardised drive [W, L, F], at most 4 deviations from its mean, and known, both as numbers."""
        known = seen.known[:, -num_steps:].astype(np.float64)
        drive = (seen.drive[:, -num_steps:] - self.drive_centre) / self.drive_scale
        return np.where(known[..., None] > 0, np.clip(drive, -_CLIP, _CLIP), 0.0), known

    def _errors(self, seen: Watched, num_steps: int) -> list[Floats]:
        """The world's errors, and those of the regression, whitened [W, L, D]."""
        drive = (seen.drive[:, -num_steps:] - self.drive_centre) / self.drive_scale
        lawless = seen.change[:, -num_steps:] - drive @ self.law[:-1] - self.law[-1]
        both = zip((seen.errors[:, -num_steps:], lawless), self.centre, self.scale, self.whitening, strict=True)
        known = seen.known[:, -num_steps:, None]
        return [
            np.where(known, ((errors - centre) / scale) @ whitening, 0.0) for errors, centre, scale, whitening in both
        ]


def _energy(z: Float[np.ndarray, "W T D"], known: Float[np.ndarray, "W T"]) -> Float[np.ndarray, "W"]:
    """As `energy` above."""
    return np.asarray((np.log1p((z**2).mean(-1)) * known).sum(1) / np.maximum(known.sum(1), 1))


def _with_one(x: Float[np.ndarray, "W T F"], known: Float[np.ndarray, "W T"]) -> Float[np.ndarray, "W T G"]:
    return np.concatenate([x, known[..., None]], -1)


def _regression(z: Floats, x: Floats, known: Floats) -> Float[np.ndarray, "W G D"]:
    """Coefficients of z on x and 1, pulled to 0 as if by one step of deviation 1."""
    wide = _with_one(x, known)
    gram = np.einsum("wtf,wtg->wfg", wide, wide) + np.eye(wide.shape[-1])
    return np.asarray(np.linalg.solve(gram, np.einsum("wtf,wtd->wfd", wide, z)))


def _signed(z: Floats, x: Floats, known: Floats) -> Float[np.ndarray, "W P"]:
    """Lean and drive of W stretches."""
    lean = z.sum(1) / np.sqrt(np.maximum(known.sum(1), 1))[:, None]
    drive = np.einsum("wtd,wtf->wdf", z, x) / np.sqrt(1 + (x**2).sum(1))[:, None]
    return np.concatenate([lean, drive.reshape(len(drive), -1)], 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """The last L steps of W histories.

    Args:
        errors: [W, L, D], what came less what was expected, all predicted vectors side by side; 0 where not known.
        change: [W, L, D], what came less what was there before.
        drive: [W, L, F], the vectors before the step and its inputs.
        known: [W, L], whether everything was observed before and after it.
    """

    errors: Floats
    change: Floats
    drive: Floats
    known: NDArray[np.bool_]


def watch(engine: Engine, history: History, num_steps: int) -> Watched:
    """What happened in the last `num_steps` steps of histories that hold so many beyond the context.

    The engine's draws are always those of seed 0, so that calibration and use see the same.
    """
    card = engine.describe()
    num_worlds = len(next(iter(history.observations.values())))
    part = np.arange(num_worlds) // max(1, _most_steps(card, history.observations) // num_steps)
    parts = [worlds_of(history, part == number) for number in range(part[-1] + 1)] if part[-1] else [history]
    seen = _joined([_watched(engine, unfold(card, one, num_steps)) for one in parts])
    return _taken(seen, np.arange(num_worlds * num_steps).reshape(num_worlds, num_steps))


def watch_places(engine: Engine, places: Places, num_steps: int) -> Watched:
    """The same of the steps that lead to places in episodes: what several of them share is predicted once.

    Args:
        engine: imagines one step at a time.
        places: W, the present at least `Card.context - 1 + num_steps`.
        num_steps: at least 1.
    """
    card = engine.describe()
    truth = [signal.name for signal in vectors_of(card)]
    episodes = list({id(episode): episode for episode, _ in places}.values())
    number = {id(episode): place for place, episode in enumerate(episodes)}
    steps = [[(number[id(one)], at) for at in range(present - num_steps, present)] for one, present in places]
    order = {step: place for place, step in enumerate(sorted({step for row in steps for step in row}))}
    every = [(episodes[which], at) for which, at in order]
    most = _most_steps(card, [s.name for s in card.schema.observations if s.name in episodes[0].observations])
    pieces = [every[first : first + most] for first in range(0, len(every), most)]
    seen = _joined(
        [_watched(engine, cut(card.schema, part, length=card.context, horizon=1, truth=truth)) for part in pieces]
    )
    return _taken(seen, np.array([[order[step] for step in row] for row in steps]))


def _most_steps(card: Card, observed: Collection[str]) -> int:
    """That are watched at a time; a picture is in as many of them as the context is long."""
    pictures = any(card.schema[name].kind is Kind.IMAGE for name in observed)
    return min(MAX_STEPS, MAX_PICTURES // card.context) if pictures else MAX_STEPS


def _watched(engine: Engine, pieces: Pieces) -> Watched:
    """Of n pieces of one step each; n takes the place of both W and L."""
    card = engine.describe()
    vectors = vectors_of(card)
    found = residuals(engine, pieces, seed=0)
    num_steps = len(next(iter(pieces.history.observations.values())))
    errors = [found[signal.name].reshape(num_steps, -1) for signal in vectors]
    known = np.logical_and.reduce([pieces.known[signal.name].astype(bool)[:, 0] for signal in vectors])
    change = [
        signal.difference(pieces.truth[signal.name][:, 0], pieces.history.observations[signal.name][:, -1])
        for signal in vectors
    ]
    drive: list[Floats] = []
    for signal in (*card.schema.observations, *card.schema.actions, *card.schema.exogenous):
        if signal.kind is not Kind.VECTOR:
            continue
        if signal.name in pieces.history.observations:
            value = pieces.history.observations[signal.name][:, -1]
            mask = pieces.history.observed.get(signal.name)
            known &= True if mask is None else mask[:, -1].astype(bool)
        elif signal.name in pieces.future.actions:
            value = pieces.future.actions[signal.name][:, 0, 0]
        elif signal.name in pieces.future.exogenous:
            value = pieces.future.exogenous[signal.name][:, 0]
        else:
            continue
        drive.append(value.astype(np.float64).reshape(num_steps, -1))
    return Watched(
        errors=np.concatenate(errors, -1),
        change=np.concatenate([one.reshape(num_steps, -1) for one in change], -1).astype(np.float64),
        drive=np.concatenate(drive, -1),
        known=known,
    )


def _taken(seen: Watched, index: NDArray[np.integer]) -> Watched:
    """The steps with these numbers."""
    return Watched(**{name: value[index] for name, value in vars(seen).items()})


def _joined(parts: Sequence[Watched]) -> Watched:
    """What was watched of some steps and of others."""
    return Watched(
        errors=np.concatenate([one.errors for one in parts]),
        change=np.concatenate([one.change for one in parts]),
        drive=np.concatenate([one.drive for one in parts]),
        known=np.concatenate([one.known for one in parts]),
    )


def fit_strangeness(seen: Watched | None, novelty: Floats, lengths: Sequence[int]) -> OODScore:
    """The measure under which what was watched is usual.

    Args:
        seen: the last `lengths[-1]` steps of W histories; None where that is 0.
        novelty: [W], of the present.
        lengths: the first few of `LENGTHS`; of those, it looks at steps only where two in a row were ever observed.
    """
    if seen is None or not seen.known.any():  # nothing can be learned of how steps follow
        nothing, one = np.zeros(0), np.ones((1, 1))
        plain = OODScore(
            law=np.zeros((1, 0)),
            centre=np.zeros((2, 0)),
            scale=np.zeros((2, 0)),
            whitening=np.zeros((2, 0, 0)),
            drive_centre=nothing,
            drive_scale=nothing,
            centres=np.zeros((2, 1, 0)),
            pattern=np.zeros((2, 1, 0, 0)),
            usual=one,
            tail=one,
        )
        return _on_scale(plain, None, novelty)
    drive, change = seen.drive[seen.known], seen.change[seen.known]
    spread = np.where(drive.std(0) > 0, drive.std(0), 1.0)
    wide = np.concatenate([(drive - drive.mean(0)) / spread, np.ones((len(drive), 1))], 1)
    law = np.linalg.solve(wide.T @ wide + np.eye(wide.shape[1]), wide.T @ change)
    scaled = [_scaling(rows) for rows in (seen.errors[seen.known], change - wide @ law)]
    num = change.shape[1] * wide.shape[1]
    statistics = np.ones((len(lengths), 1 + 2 * (4 + num + 2 * (num <= MAX_PAIRS))))
    fitted = OODScore(
        law=law,
        centre=np.stack([one.centre for one in scaled]),
        scale=np.stack([one.scale for one in scaled]),
        whitening=np.stack([one.whitening for one in scaled]),
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
    return _on_scale(fitted, seen, novelty)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scaling:
    """As in `OODScore`, of one kind of errors."""

    centre: Floats
    scale: Floats
    whitening: Floats


def _scaling(rows: Float[np.ndarray, "n D"]) -> _Scaling:
    """From one-step errors, each a row."""
    centre, scale = rows.mean(0), rows.std(0)
    # What is always foretold exactly says nothing of the scale on which an error matters, so any error is a large one.
    scale = np.where(scale > 0, scale, 1e-6)
    standard = (rows - centre) / scale
    covariance = (1 - _SHRINKAGE) * standard.T @ standard / len(rows) + _SHRINKAGE * np.eye(len(centre))
    variances, directions = np.linalg.eigh(covariance)
    return _Scaling(centre=centre, scale=scale, whitening=directions / np.sqrt(variances))


def _whitening(rows: Floats) -> Floats:
    """What rows [n, P] are multiplied by to be uncorrelated and of deviation 1; shrunk towards their own deviations."""
    scale = np.maximum(rows.std(0), 1e-9)
    standard = rows / scale
    shrinkage = 0.01 + 0.25 * min(1.0, len(scale) / len(rows))
    covariance = (1 - shrinkage) * standard.T @ standard / len(rows) + shrinkage * np.eye(len(scale))
    variances, directions = np.linalg.eigh(covariance)
    return np.asarray((directions / np.sqrt(variances)) / scale[:, None])


def _on_scale(fitted: OODScore, seen: Watched | None, novelty: Floats) -> OODScore:
    """With the median and the tail of each statistic."""
    usual, tail = np.zeros_like(fitted.usual), np.ones_like(fitted.tail)
    for row in range(len(usual)):
        found = fitted.statistics(seen, novelty, row)
        told = np.isfinite(found).all(0)
        usual[row, told] = np.median(found[:, told], axis=0)
        above = np.quantile(found[:, told], 0.95, axis=0) - usual[row, told]
        tail[row, told] = np.where(above > 0, above, 1e-9 + np.abs(usual[row, told]) * 1e-6)
    return replace(fitted, usual=usual, tail=tail)


def novelty_of(
    engine: Engine,
    measure: InputNovelty | None,
    history: History,
    *,
    belief: EngineBelief | None = None,
    seed: int,
) -> Floats:
    """The novelty [W] of the present of `history`, of which the last `Card.context` observations are looked at.

    Args:
        engine: measures it where `measure` is None.
        measure: of the last observation, for engines that cannot.
        history: W worlds.
        belief: after the whole history, if it is at hand; serves where that is no longer than the context.
        seed: of the engine's draws.
    """
    card = engine.describe()
    if measure is not None:
        return measure.measure(card.schema, history)
    assert isinstance(engine, Novelty)  # checked where a world is built
    if belief is None or next(iter(history.observations.values())).shape[1] > card.context:
        belief = engine.observe(None, tail_of(history, card.context), seed=seed)
    return np.asarray(engine.novelty(belief), dtype=np.float64)
