"""How unlike the calibration data a history is: its present, and how each step follows from those before it.

A world can change while every signal stays inside its range: a heater that gives half, a puck that slides further.
Then the steps of a history no longer follow from each other as they used to. What is looked at, of the last L steps:

    novelty   of the present
    energy    mean over the steps of log(1 + |z|^2 / D), z being the whitened one-step errors of all predicted vectors;
              too much of it, and too little
    bias      L (mean z)^2, of each component: errors that lean one way
    drive     (sum z x)^2 / (1 + sum x^2), x being the standardised present and inputs, of each pair of components:
              errors that follow what was seen or done
    effect    the mean of such drives over the components of a signal and of one in x, each over its usual size, with
              errors that are standardised instead of whitened: how far one signal acts on another

Each is put on one scale by its median and 95 % quantile in one part of the calibration episodes, and the largest
counts. Its p-value is its rank among the other part, as in split conformal prediction, whatever they are worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.contracts.engine import Card, Engine, EngineBelief, Novelty
from worldline.contracts.episode import History
from worldline.contracts.schema import Kind, Signal
from worldline.worlds.novelty import InputNovelty
from worldline.worlds.pieces import residuals, tail_of, unfold

Floats = NDArray[np.floating]

LENGTHS: Final = (0, 1, 2, 4, 8, 16, 32, 64)
"""How many steps can be looked at."""

_SHRINKAGE: Final = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class Strangeness:
    """Fitted by `fit_strangeness`.

    Args:
        centre: [D], mean one-step error.
        scale: [D], standard deviation of the errors, above 0.
        whitening: [D, D]; what standardised errors are multiplied by.
        drive_centre: [F], mean of the present vectors and the inputs.
        drive_scale: [F], their standard deviations, above 0.
        pairs: [G, D * F], which pairs of components a pair of signals has, as weights that add up to 1.
        size: [L, D * F], usual size of the drives of standardised errors; rows are the first L of `LENGTHS`.
        usual: [L, M], of each statistic its median.
        tail: [L, M], how far its 95 % quantile lies above, above 0.
    """

    centre: Floats
    scale: Floats
    whitening: Floats
    drive_centre: Floats
    drive_scale: Floats
    pairs: Floats
    size: Floats
    usual: Floats
    tail: Floats

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of steps that it can look at."""
        return LENGTHS[: len(self.usual)]

    def row(self, num_steps: int) -> int:
        """Which of `lengths` is the largest that so many steps allow."""
        return int(np.searchsorted(self.lengths, num_steps, side="right")) - 1

    def measure(self, engine: Engine, history: History, novelty: Floats, row: int) -> Floats:
        """The strangeness [W] of histories that hold the context and `lengths[row]` steps more.

        Args:
            engine: imagines one step at a time.
            history: W worlds.
            novelty: [W], of the present.
            row: which of `lengths`.
        """
        steps = self.lengths[row]
        seen = None if steps == 0 else watch(engine, history, steps)
        found = self.statistics(seen, novelty, row)
        return np.asarray(((found - self.usual[row]) / self.tail[row]).max(1))

    def statistics(self, seen: Watched | None, novelty: Floats, row: int) -> Float[np.ndarray, "W M"]:
        """The statistics of the last `lengths[row]` steps; where there are none, all but novelty are -inf."""
        num_steps, num = self.lengths[row], self.usual.shape[1]
        if seen is None or num_steps == 0:
            return np.concatenate([novelty[:, None], np.full((len(novelty), num - 1), -np.inf)], 1)
        known = seen.known[:, -num_steps:]
        count = np.maximum(known.sum(1), 1)
        e = np.where(known[..., None], (seen.errors[:, -num_steps:] - self.centre) / self.scale, 0.0)
        z = e @ self.whitening
        energy = (np.log1p((z**2).mean(-1)) * known).sum(1) / count
        bias = z.sum(1) ** 2 / count[:, None]
        x = np.where(known[..., None], self.standard(seen.drive[:, -num_steps:]), 0.0)
        effect = (_drive(e, x) / self.size[row]) @ self.pairs.T
        squares = np.log(np.concatenate([bias, _drive(z, x), effect], 1) + 1e-9)
        return np.concatenate([np.stack([novelty, energy, -energy], 1), squares], 1)

    def standard(self, drive: Floats) -> Floats:
        """Standardised present and inputs, at most 4 deviations from their mean."""
        return np.asarray(np.clip((drive - self.drive_centre) / self.drive_scale, -4, 4))


def _drive(errors: Float[np.ndarray, "W T D"], x: Float[np.ndarray, "W T F"]) -> Float[np.ndarray, "W P"]:
    """How errors follow x, of each pair of components."""
    found = np.einsum("wtd,wtf->wdf", errors, x) ** 2 / (1 + (x**2).sum(1))[:, None]
    return np.asarray(found.reshape(len(found), -1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """The last L steps of W histories.

    Args:
        errors: [W, L, D], what came less what was expected, all predicted vectors side by side; 0 where not known.
        drive: [W, L, F], the vectors before the step and its inputs.
        known: [W, L], whether everything was observed before and after it.
        sizes: of the signals that lie side by side in errors, and in drive.
    """

    errors: Floats
    drive: Floats
    known: NDArray[np.bool_]
    sizes: tuple[tuple[int, ...], tuple[int, ...]]


def watch(engine: Engine, history: History, num_steps: int) -> Watched:
    """What happened in the last `num_steps` steps of histories that hold so many beyond the context."""
    card = engine.describe()
    vectors = vectors_of(card)
    pieces = unfold(card, history, num_steps)
    num_worlds = len(next(iter(history.observations.values())))
    found = residuals(engine, pieces, seed=0)
    shape = (num_worlds, num_steps)
    errors = [found[signal.name][:, 0].reshape(*shape, -1) for signal in vectors]
    known = np.logical_and.reduce([pieces.known[signal.name].astype(bool)[:, 0] for signal in vectors])
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
        drive.append(value.astype(np.float64).reshape(*shape, -1))
    return Watched(
        errors=np.concatenate(errors, -1),
        drive=np.concatenate(drive, -1),
        known=known.reshape(shape),
        sizes=(tuple(one.shape[-1] for one in errors), tuple(one.shape[-1] for one in drive)),
    )


def vectors_of(card: Card) -> tuple[Signal, ...]:
    """The predicted vectors."""
    return tuple(card.schema[name] for name in card.predicts if card.schema[name].kind is Kind.VECTOR)


def fit_strangeness(engine: Engine, history: History, novelty: Floats, lengths: Sequence[int]) -> Strangeness:
    """The measure under which `history` is usual.

    Args:
        engine: frozen.
        history: W worlds, the context and `lengths[-1]` steps more.
        novelty: [W], of the present.
        lengths: the first few of `LENGTHS`; of those, it looks at steps only where two in a row were ever observed.
    """
    seen = watch(engine, history, lengths[-1]) if lengths[-1] else None
    if seen is None or not seen.known.any():  # nothing can be learned of how steps follow
        nothing, one = np.zeros(0), np.ones((1, 1))
        plain = Strangeness(
            centre=nothing,
            scale=nothing,
            whitening=np.zeros((0, 0)),
            drive_centre=nothing,
            drive_scale=nothing,
            pairs=np.zeros((0, 0)),
            size=np.ones((1, 0)),
            usual=one,
            tail=one,
        )
        return _on_scale(plain, None, novelty)
    rows, drive = seen.errors[seen.known], seen.drive[seen.known]
    centre, scale = rows.mean(0), rows.std(0)
    # What is always foretold exactly says nothing of the scale on which an error matters, so any error is a large one.
    scale = np.where(scale > 0, scale, 1e-6)
    standard = (rows - centre) / scale
    covariance = (1 - _SHRINKAGE) * standard.T @ standard / len(rows) + _SHRINKAGE * np.eye(len(centre))
    variances, directions = np.linalg.eigh(covariance)
    spread, pairs = drive.std(0), _pairs(*seen.sizes)
    num = 3 + len(centre) + pairs.shape[1] + len(pairs)
    fitted = Strangeness(
        centre=centre,
        scale=scale,
        whitening=directions / np.sqrt(variances),
        drive_centre=drive.mean(0),
        drive_scale=np.where(spread > 0, spread, 1.0),
        pairs=pairs,
        size=np.ones((len(lengths), pairs.shape[1])),
        usual=np.ones((len(lengths), num)),
        tail=np.ones((len(lengths), num)),
    )
    e = np.where(seen.known[..., None], (seen.errors - centre) / scale, 0.0)
    x = np.where(seen.known[..., None], fitted.standard(seen.drive), 0.0)
    sizes = [np.ones(pairs.shape[1]), *(_drive(e[:, -steps:], x[:, -steps:]).mean(0) for steps in lengths[1:])]
    return _on_scale(replace(fitted, size=np.maximum(sizes, 1e-9)), seen, novelty)


def _pairs(errors: Sequence[int], drive: Sequence[int]) -> Floats:
    """As `Strangeness.pairs`, of signals with these sizes."""
    of_error = np.repeat(np.arange(len(errors)), errors)[:, None]
    of_drive = np.repeat(np.arange(len(drive)), drive)[None]
    pair = (of_error * len(drive) + of_drive).ravel()
    member = np.arange(len(errors) * len(drive))[:, None] == pair
    return np.asarray(member / member.sum(1, keepdims=True))


def _on_scale(fitted: Strangeness, seen: Watched | None, novelty: Floats) -> Strangeness:
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
