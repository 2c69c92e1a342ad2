"""Linear simulators of logs, to try controllers in many variants at once.

They show how much a judgement depends on the model: their disagreement, the effect of a larger gain or of a later
action, and whether a loop settles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.control.controllers import Controller
from worldline.control.imagination import Runs, loop_of
from worldline.episode import Arrays
from worldline.schema import Kind, Schema, Signal

Floats = NDArray[np.float64]

NUM_LAGS: Final = 8
"""Observations and inputs that a step depends on."""
SLOW: Final = (20.0, 60.0)
"""Steps of the slow averages that a step depends on, too."""
NUM_FOLDS: Final = 5
RIDGE: Final = 1e-4
"""Penalty relative to the number of rows, for z-scores."""
LIMIT: Final = 12.0
"""Largest magnitude of a simulated z-score."""
GAINS: Final = (1.0, 1.4)
"""Factors on the difference to the logged actions; the last variant delays it by one step instead."""
NUM_VARIANTS: Final = len(GAINS) + 1
SETTLE: Final = 200
"""Steps before and after the step that a loop must settle from."""
STEP: Final = 0.4
"""Height of this step, standard deviations of the log."""
SETTLE_GAINS: Final = (1.0, 1.2)
MIN_SHAKES: Final = 0.1
"""Standard deviation of an oscillation that counts, in those of the log."""
KEPT: Final = 0.9
"""Share of its size that a lasting oscillation keeps from one half to the next."""


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Signals of a role as columns of z-scores; discrete ones as one-hot.

    Args:
        signals: of the role.
        mean: [n].
        spread: [n], above 0.
    """

    signals: Sequence[Signal]
    mean: Floats
    spread: Floats

    @classmethod
    def fit(cls, signals: Sequence[Signal], runs: Runs, values: Arrays) -> _Columns:
        """The columns of logged values [W, T, *shape] or [W, T + 1, *shape]."""
        if not signals:
            return cls(signals=(), mean=np.zeros(0), spread=np.ones(0))
        raw, lead = cls(signals=signals, mean=np.zeros(1), spread=np.ones(1)), values[signals[0].name].shape[:2]
        rows = raw(values, lead)[:, -runs.inside.shape[1] :][runs.inside]
        spread = rows.std(0)
        return cls(signals=signals, mean=rows.mean(0), spread=np.where(spread > 1e-12, spread, 1.0))

    def __call__(self, values: Arrays, lead: Sequence[int]) -> Floats:
        """Z-scores [*lead, n]."""
        parts = [np.zeros((*lead, 0))]
        for signal in self.signals:
            value = np.asarray(values[signal.name])
            if signal.kind is Kind.DISCRETE:
                parts.append(np.eye(signal.num_values or 0)[value.astype(int)])
                continue
            numbers = np.asarray(value, np.float64).reshape(*lead, -1)
            if signal.period is not None and len(lead) > 1:
                numbers = np.unwrap(numbers, period=signal.period, axis=len(lead) - 1)
            parts.append(numbers)
        return np.asarray((np.concatenate(parts, -1) - self.mean) / self.spread)

    def arrays(self, scores: Floats) -> dict[str, NDArray[Any]]:
        """The signals in physical units, within their bounds."""
        values, split, start = scores * self.spread + self.mean, {}, 0
        for signal in self.signals:
            part = values[..., start : start + signal.size].reshape(*values.shape[:-1], *signal.shape)
            split[signal.name] = signal.bounded(signal.wrapped(part)).astype(signal.dtype)
            start += signal.size
        return split


@dataclass
class _Past:
    """What the next step of P plants depends on, besides its inputs: lags, the last first, and slow averages."""

    seen: Floats
    acted: Floats
    outside: Floats
    slow: Floats

    def features(self, seen: Floats, action: Floats, outside: Floats) -> Floats:
        """[P, F] for the present values and inputs [P, n]; moves one step on."""
        for name, now in (("seen", seen), ("acted", action), ("outside", outside)):
            setattr(self, name, np.concatenate([now[:, None], getattr(self, name)[:, :-1]], 1))
        now = np.concatenate([seen, action, outside], 1)
        parts = [part.reshape(len(seen), -1) for part in (self.seen, self.acted, self.outside, self.slow)]
        for number, steps in enumerate(SLOW):
            self.slow[:, number] += (now - self.slow[:, number]) / steps
        return np.concatenate([*parts, np.ones((len(seen), 1))], 1)


@final
class LinearLoops:
    """Ridge regressions of the next change on lags and slow averages, each fitted without one fold of the logs.

    Args:
        schema: of the runs; vectors as observations.
        logged: runs from which the simulators are fitted, and which they repeat under other controllers.
        context: observations that a controller sees, at most.

    Attributes:
        unexplained: share of the variance of the observations that open-loop simulations of the log miss.
    """

    def __init__(self, schema: Schema, logged: Runs, context: int = 2) -> None:
        self.schema, self.logged, self._context = schema, logged, context
        count, steps = logged.inside.shape
        self._seen = _Columns.fit(schema.observations, logged, logged.observations)
        self._acts = _Columns.fit(schema.actions, logged, logged.actions)
        self._outside = _Columns.fit(schema.exogenous, logged, logged.exogenous)
        self._y = self._seen(logged.observations, (count, steps + 1))
        self._u, self._d = self._acts(logged.actions, (count, steps)), self._outside(logged.exogenous, (count, steps))
        self._weights = self._fitted()
        replayed = self._replayed()
        self._errors = self._y - replayed
        missed = (self._errors[:, :, 1:] ** 2).mean((0, -1))[logged.inside].mean()
        self.unexplained = float(missed / max(1e-9, np.square(self._y[:, 1:][logged.inside]).mean()))

    def _fitted(self) -> Floats:
        """Weights [K, F, n] of the folds."""
        count, steps = self.logged.inside.shape
        past = self._rest(np.arange(count))
        table = np.stack([past.features(self._y[:, t], self._u[:, t], self._d[:, t]) for t in range(steps)], 1)
        change, usable = np.diff(self._y, axis=1), self.logged.inside.copy()
        if steps > 3 * NUM_LAGS:
            usable[:, :NUM_LAGS] = False  # lags before the first observation are not known
        folds, weights = np.arange(count) % NUM_FOLDS, list[Floats]()
        for fold in range(NUM_FOLDS):
            part = usable & ((folds != fold) | (count < 2 * NUM_FOLDS))[:, None]
            known, wanted = table[part], change[part]
            penalty = RIDGE * len(known) * np.eye(known.shape[1])
            penalty[-1, -1] = 1e-9
            weights.append(np.linalg.solve(known.T @ known + penalty, known.T @ wanted))
        return np.stack(weights)

    def _rest(self, plants: NDArray[np.integer]) -> _Past:
        """The first logged values of these plants, as if they had always been so."""
        first = [values[plants, 0] for values in (self._y, self._u, self._d)]
        lags = [np.repeat(value[:, None], NUM_LAGS, 1) for value in first]
        slow = np.repeat(np.concatenate(first, 1)[:, None], len(SLOW), 1)
        return _Past(seen=lags[0], acted=lags[1], outside=lags[2], slow=slow)

    def _next(self, past: _Past, y: Floats, u: Floats, d: Floats) -> Floats:
        """The next z-scores of plants [K B, n], B of each fold."""
        features = past.features(y, u, d)
        change = (features.reshape(NUM_FOLDS, -1, features.shape[1]) @ self._weights).reshape(y.shape)
        return np.asarray(np.clip(y + change, -LIMIT, LIMIT))

    def _replayed(self) -> Floats:
        """Open-loop simulations [K, W, T + 1, n] of the log."""
        count, steps = self.logged.inside.shape
        plants = np.tile(np.arange(count), NUM_FOLDS)
        past, rows = self._rest(plants), [self._y[plants, 0]]
        for step in range(steps):
            rows.append(self._next(past, rows[-1], self._u[plants, step], self._d[plants, step]))
        return np.stack(rows, 1).reshape(NUM_FOLDS, count, steps + 1, -1)

    def run(self, controller: Controller) -> list[Runs]:
        """The logged runs under a controller, for each variant and fold: with gains `GAINS`, then one step later.

        Raises:
            InputError: the controller returned no valid action.
        """
        (count, steps), logged = self.logged.inside.shape, self.logged
        plants = np.tile(np.arange(count), NUM_FOLDS * NUM_VARIANTS)
        folds = np.repeat(np.arange(NUM_FOLDS), NUM_VARIANTS * count)
        variants = np.tile(np.repeat(np.arange(NUM_VARIANTS), count), NUM_FOLDS)
        gains, late = np.array([*GAINS, 1.0])[variants][:, None], (variants == NUM_VARIANTS - 1)[:, None]
        loop, past, simulated = loop_of(controller, self.schema, self._context), self._rest(plants), self._y[plants, 0]
        seen, taken, last = list[Arrays](), list[Arrays](), np.zeros((len(plants), self._u.shape[-1]))
        for step in range(steps + 1):
            seen.append(self._seen.arrays(simulated + self._errors[folds, plants, step]))
            if step == steps:
                break
            before = {name: value[plants, max(0, step - 1)] for name, value in logged.exogenous.items()}
            goals = {name: value[plants, step] for name, value in logged.goals.items()}
            taken.append(loop.act(seen[-1], exogenous=before, goals=goals))
            acts = self._u[plants, step]
            moved = self._acts(taken[-1], (len(plants),)) - acts
            effect, last = acts + gains * np.where(late, last, moved), moved
            simulated = self._next(past, simulated, effect, self._d[plants, step])
        observations = {name: np.stack([row[name] for row in seen], 1) for name in seen[0]}
        actions = {name: np.stack([row[name] for row in taken], 1) for name in taken[0]}

        def part(values: Arrays, variant: int, fold: int) -> Arrays:
            rows = (variants == variant) & (folds == fold)
            return {name: value[rows] for name, value in values.items()}

        return [
            replace(logged, observations=part(observations, variant, fold), actions=part(actions, variant, fold))
            for variant in range(NUM_VARIANTS)
            for fold in range(NUM_FOLDS)
        ]

    def shakes(self, controller: Controller | None) -> Floats:
        """How much the loops of each fold and gain still oscillate after a step, see `lasting`; [K gains].

        Args:
            controller: chooses the actions; None to keep the mean of the logged ones.
        """
        plants = np.zeros(NUM_FOLDS * len(SETTLE_GAINS), int)
        size = len(plants)
        gains, y = np.tile(SETTLE_GAINS, NUM_FOLDS)[:, None], np.zeros((size, self._y.shape[-1]))
        u, d = np.zeros((size, self._u.shape[-1])), np.zeros((size, self._d.shape[-1]))
        past = self._rest(plants)
        for name in ("seen", "acted", "outside", "slow"):
            setattr(past, name, np.zeros_like(getattr(past, name)))
        loop = None if controller is None else loop_of(controller, self.schema, self._context)
        outside = {name: value[plants, 0] for name, value in self.logged.exogenous.items()}
        inside = self.logged.inside
        goals = {
            name: np.repeat(value[inside].mean(0, dtype=float)[None].astype(value.dtype), size, 0)
            for name, value in self.logged.goals.items()
        }
        path = list[Floats]()
        for step in range(2 * SETTLE):
            offset = STEP if step >= SETTLE else 0.0
            if loop is not None:
                acts = loop.act(self._seen.arrays(y + offset), exogenous=outside, goals=goals)
                u = self._acts(acts, (size,)) * gains
            elif step == SETTLE:
                u = u + STEP
            y = self._next(past, y, u, d)
            path.append(y)
        return lasting(np.stack(path[SETTLE:], 1))


def lasting(path: Floats) -> Floats:
    """The standard deviation of an oscillation that does not fade [P]; 0 if it fades.

    Args:
        path: z-scores [P, T, n] after a step.
    """
    half = path.shape[1] // 2
    sizes = list[Floats]()
    for part in (path[:, :half], path[:, half:]):
        time = np.linspace(-1, 1, part.shape[1])[:, None]
        centred = part - part.mean(1, keepdims=True)
        slope = (centred * time).sum(1, keepdims=True) / np.square(time).sum()
        sizes.append((centred - slope * time).std(1))
    stays = (sizes[1] > KEPT * sizes[0]) & (sizes[1] > MIN_SHAKES)
    return np.asarray(np.where(stays, sizes[1], 0.0).max(1))
