"""Baseline engines: persistence, constant velocity, and linear autoregression with and without actions."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.engines.base import Parts
from worldline.engines.fixed_lag import (
    FIX,
    ArraySpec,
    FixedLagBaseline,
    FixedLagConfig,
    check_config,
    joined,
    read_fixed_lag,
    typical_values,
)
from worldline.episode import Arrays, Episode, Future
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Schema, Signal

Floats = NDArray[np.floating]
Extrapolated = TypeVar("Extrapolated", bound="Extrapolation")
Fitted = TypeVar("Fitted", bound="Autoregression")


@dataclass(frozen=True, kw_only=True, eq=False)
class Extrapolation(FixedLagBaseline, ABC):
    """Extrapolates the last `min_context` observations. Nothing is fitted."""

    min_context: ClassVar[int]

    @property
    def action_conditioned(self) -> bool:
        """False."""
        return False

    @classmethod
    def from_parts(cls: type[Extrapolated], schema: Schema, parts: Parts) -> Extrapolated:
        """The engine that `to_parts` stored."""
        stored = read_fixed_lag(schema, parts)
        if (context := stored["context"]) < cls.min_context:
            raise DataError(f"context is {context}, and {cls.kind} needs at least {cls.min_context}", fix=FIX)
        return cls(schema=schema, **stored)

    @classmethod
    def fit(cls: type[Extrapolated], episodes: Sequence[Episode], schema: Schema) -> Extrapolated:
        """The engine; `episodes` only give the typical values of signals that were never observed."""
        return cls(schema=schema, typical=typical_values(episodes, schema.observations), context=cls.min_context)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Persistence(Extrapolation):
    """Predicts that every signal keeps its last observed value."""

    kind = "persistence"
    min_context = 1

    def path(self, past: Arrays, future: Future) -> Arrays:
        """The last value, repeated T times."""
        return _hold(past, future)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ConstantVelocity(Extrapolation):
    """Predicts that vectors keep their last rate of change; images and discrete signals keep their last value."""

    kind = "constant_velocity"
    min_context = 2

    def path(self, past: Arrays, future: Future) -> Arrays:
        """The last value plus the last change times the number of steps."""
        predicted = dict(_hold(past, future))
        for signal in self.signals:
            if signal.kind is Kind.VECTOR:
                last, recent = (array[signal.name].astype(np.float32) for array in (predicted, past))
                elapsed = np.arange(1, last.shape[2] + 1, dtype=np.float32)[:, None]
                change = signal.difference(recent[:, -1], recent[:, -2])[:, None, None]
                predicted[signal.name] = (last + elapsed * change).astype(np.float32)
        return predicted


@dataclass(frozen=True, kw_only=True, eq=False)
class Autoregression(FixedLagBaseline, ABC):
    """Ridge regression of the next change of all vectors on the last H observations and the inputs, rolled out.

    Args:
        centre: [D + U], mean of the D concatenated vector signals, then of the U concatenated inputs.
        scale: [D + U], standard deviation in the same order; 1 for constant components.
        weights: [H * D + U + 1, D], from standardised observations (oldest first), inputs and a constant to the
            standardised change. Regressing the change shrinks the prediction towards persistence.
    """

    uses_actions: ClassVar[bool]

    centre: Floats
    scale: Floats
    weights: Floats

    @classmethod
    def actions_of(cls, schema: Schema) -> tuple[Signal, ...]:
        """The action signals that the regression uses."""
        return schema.actions if cls.uses_actions else ()

    @classmethod
    def fit(
        cls: type[Fitted], episodes: Sequence[Episode], schema: Schema, *, context: int = 3, ridge: float = 1e-6
    ) -> Fitted:
        """The engine, fitted by least squares to every complete window of `context` + 1 observations.

        Args:
            episodes: any number; windows with a missing value are left out.
            schema: of the world; needs a vector observation signal.
            context: H, at least 1.
            ridge: penalty on the squared standardised weights, relative to the mean squared error.

        Raises:
            InputError: the schema has no vector observation signal, or `context` is below 1.
            DataError: no window is complete, or a signal has no value.
        """
        signals = tuple(signal for signal in schema.observations if signal.kind is Kind.VECTOR)
        if not signals or context < 1:
            raise InputError(
                f"{len(signals)} vector observation signals and context {context}: both must be at least 1."
            )
        tables = [_table(episode, signals, cls.actions_of(schema), schema.exogenous) for episode in episodes]
        every = np.concatenate(tables) if tables else np.zeros((0, 1))
        if np.isnan(every).all(0).any():
            raise DataError("a signal has no value in any episode", fix="Leave it out of the schema, or add logs.")
        centre, scale = np.nanmean(every, 0), np.nanstd(every, 0)
        scale = np.where(scale > 1e-9 * (1 + np.abs(centre)), scale, 1.0)  # constants deviate by rounding only
        pairs = [_regression(table, signals, context, centre, scale) for table in tables]
        features, targets = (np.concatenate(part) for part in zip(*pairs, strict=True))
        if not len(features):
            raise DataError(
                f"no {context + 1} consecutive observations are complete", fix="Add logs, or choose a smaller context."
            )
        penalty = ridge * len(features) * np.eye(features.shape[1])
        penalty[-1, -1] = 0.0  # the constant is not penalised
        weights = np.linalg.lstsq(features.T @ features + penalty, features.T @ targets, rcond=None)[0]
        return cls(
            schema=schema,
            typical=typical_values(episodes, signals),
            context=context,
            centre=centre.astype(np.float32),
            scale=scale.astype(np.float32),
            weights=weights.astype(np.float32),
        )

    def to_parts(self) -> Parts:
        """Context, typical values and the regression."""
        parts = super().to_parts()
        fitted = {"centre": self.centre, "scale": self.scale, "weights": self.weights}
        return replace(parts, arrays={**parts.arrays, **fitted})

    @classmethod
    def from_parts(cls: type[Fitted], schema: Schema, parts: Parts) -> Fitted:
        """The engine that `to_parts` stored."""
        context = check_config(parts, FixedLagConfig).context
        vectors = [signal for signal in schema.observations if signal.kind is Kind.VECTOR]
        size = sum(signal.size for signal in vectors)
        num_inputs = sum(signal.size for signal in (*cls.actions_of(schema), *schema.exogenous))
        fitted = {
            "centre": ArraySpec(shape=(size + num_inputs,)),
            "scale": ArraySpec(shape=(size + num_inputs,), low=float(np.finfo(np.float32).tiny)),
            "weights": ArraySpec(shape=(context * size + num_inputs + 1, size)),
        }
        stored = read_fixed_lag(schema, parts, fitted)
        names = {signal.name for signal in vectors}
        if (known := stored["typical"].keys()) != names:
            raise DataError(f"predicts is {sorted(known)}, expected all vectors {sorted(names)}", fix=FIX)
        return cls(schema=schema, **stored)

    @property
    def action_conditioned(self) -> bool:
        """Whether the regression uses any action."""
        return bool(self.actions_of(self.schema))

    def path(self, past: Arrays, future: Future) -> Arrays:
        """The regression applied T times to its own output."""
        size, lags = self.weights.shape[1], self.context * self.weights.shape[1]
        drive = self._drive(future, size, lags)
        num_worlds, num_versions, horizon, _ = drive.shape
        recent = _unwrapped(joined(past, self.signals, (num_worlds, self.context)), self.signals)
        recent = (recent - self.centre[:size]) / self.scale[:size]
        state = np.repeat(recent.reshape(num_worlds, 1, lags), num_versions, 1)
        predicted = np.empty(drive.shape, np.float32)
        for step in range(horizon):
            latest = state[..., -size:] + state @ self.weights[:lags] + drive[:, :, step]
            predicted[:, :, step] = latest
            state = np.concatenate([state[..., size:], latest], -1)
        physical = predicted * self.scale[:size] + self.centre[:size]
        ends = np.cumsum([signal.size for signal in self.signals])[:-1]
        return {s.name: part for s, part in zip(self.signals, np.split(physical, ends, -1), strict=True)}

    def _drive(self, future: Future, size: int, lags: int) -> Float[np.ndarray, "W N T D"]:
        """The contribution of the inputs and the constant to the standardised change."""
        leading = next(iter(future.actions.values())).shape[:3]
        used = self.actions_of(self.schema)
        actions = joined(future.actions, used, leading)
        exogenous = joined(future.exogenous, self.schema.exogenous, (leading[0], leading[2]))
        middle, last = size + actions.shape[-1], lags + actions.shape[-1]
        actions = (actions - self.centre[size:middle]) / self.scale[size:middle]
        exogenous = (exogenous - self.centre[middle:]) / self.scale[middle:]
        drive = actions @ self.weights[lags:last] + self.weights[-1]
        return np.asarray(drive + (exogenous @ self.weights[last:-1])[:, None])


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(Autoregression):
    """Linear autoregression with actions and exogenous inputs."""

    kind = "linear"
    uses_actions = True


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ActionBlind(Autoregression):
    """Linear autoregression without actions: a model that beats it has learned the effects of actions."""

    kind = "action_blind"
    uses_actions = False


def _hold(past: Arrays, future: Future) -> Arrays:
    """The last value of each signal [W, H, *shape] as a read-only view [W, N, T, *shape]."""
    shape = next(iter(future.actions.values())).shape[:3]
    return {name: np.broadcast_to(value[:, -1][:, None, None], shape + value.shape[2:]) for name, value in past.items()}


def _table(
    episode: Episode, observations: Sequence[Signal], actions: Sequence[Signal], exogenous: Sequence[Signal]
) -> Floats:
    """Observations and inputs [T + 1, D + U] of one episode; NaN if missing, and for the inputs of the last row."""
    steps = episode.num_steps
    seen = joined(episode.observations, observations, (steps + 1,)).astype(float)
    first = 0
    for signal in observations:
        if signal.name in episode.observed:
            seen[~episode.observed[signal.name].astype(bool), first : first + signal.size] = np.nan
        first += signal.size
    inputs = [joined(episode.actions, actions, (steps,)), joined(episode.exogenous, exogenous, (steps,))]
    # No input follows the last observation.
    driven = np.pad(np.concatenate(inputs, 1).astype(float), ((0, 1), (0, 0)), constant_values=np.nan)
    return np.concatenate([seen, driven], 1)


def _regression(
    table: Floats, signals: Sequence[Signal], context: int, centre: Floats, scale: Floats
) -> tuple[Floats, Floats]:
    """Standardised features [n, context * D + U + 1] and changes [n, D] of every complete window in a table."""
    num_rows, size = max(len(table) - context, 0), sum(signal.size for signal in signals)
    windows = np.arange(num_rows)[:, None] + np.arange(context)
    present = windows[:, -1]
    recent = (_unwrapped(table[windows, :size], signals) - centre[:size]) / scale[:size]
    inputs = (table[present, size:] - centre[size:]) / scale[size:]
    features = np.concatenate([recent.reshape(num_rows, context * size), inputs, np.ones((num_rows, 1))], 1)
    pairs = np.stack([table[present, :size], table[present + 1, :size]], 1)
    change = np.diff(_unwrapped(pairs, signals), axis=1)[:, 0] / scale[:size]
    complete = ~(np.isnan(features).any(1) | np.isnan(change).any(1))
    return features[complete], change[complete]


def _unwrapped(values: Floats, signals: Sequence[Signal]) -> Floats:
    """Observations [n, T, D] with periodic signals unwrapped backwards from the last one, which is unchanged."""
    ends = np.cumsum([signal.size for signal in signals])[:-1]
    parts = [
        part if signal.period is None else np.unwrap(part[:, ::-1], axis=1, period=signal.period)[:, ::-1]
        for signal, part in zip(signals, np.split(values, ends, -1), strict=True)
    ]
    return np.concatenate(parts, -1, dtype=values.dtype)
