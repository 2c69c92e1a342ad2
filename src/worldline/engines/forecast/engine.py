"""A pretrained forecaster of time series as an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import nn

from worldline.config import BoundedConfig, Size
from worldline.engines.base import Card, EngineBelief, Noise, Parts, Samples, Storable
from worldline.engines.fixed_lag import FIX, ArraySpec, array_spec_of, check_arrays, check_config, joined
from worldline.engines.forecast.forecasters import FORECASTERS, Chronos, Fracast
from worldline.engines.numpy_engine import NumpyEngine
from worldline.engines.validation import check_future, check_inputs, check_observations, own_belief
from worldline.episode import Arrays, Future, History
from worldline.errors import ConfigError, DataError
from worldline.schema import Kind, Schema, Signal

Floats = NDArray[np.floating]

MIN_VALUES: Final = 8
"""Fewest known values of a time series; shorter ones are extended by their first value."""
_TYPICAL: Final = "typical/"
_WEIGHT: Final = "weight/"


@dataclass(frozen=True, kw_only=True, eq=False)
class PastTable:
    """The belief: the last observations, each with the inputs that led to it.

    Args:
        rows: [W, H, D + U]; NaN where a value is missing.
    """

    rows: Float[np.ndarray, "W H D+U"]


@dataclass(frozen=True, kw_only=True)
class _StoredForecaster(BoundedConfig):
    """The stored settings of a `ForecastEngine`."""

    forecaster: str
    settings: Mapping[str, Any]
    inputs: tuple[str, ...]
    context: Size
    notes: Mapping[str, str]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ForecastEngine(NumpyEngine, Storable):
    """Predicts medians of vector observations; a calibration gives them bands.

    Actions and exogenous signals are known inputs of the forecaster if it takes any. Otherwise they change nothing, and
    the card says that the world is not action-conditioned.

    Args:
        schema: of the world.
        forecaster: such as `Fracast()` or `Chronos.from_folder(folder)`.
        inputs: vector observations that it reads and predicts; at least one.
        context: H, observations that it reads.
        typical: per such signal [*shape], used for signals that were never observed.
        notes: for the card.

    Raises:
        ConfigError: `inputs` names no vector observation, or the context is longer than that of the forecaster.
    """

    schema: Schema
    forecaster: Fracast | Chronos
    inputs: tuple[str, ...]
    context: int
    typical: Arrays
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vectors = [signal.name for signal in self.schema.observations if signal.kind is Kind.VECTOR]
        if not self.inputs or not set(self.inputs) <= set(vectors):
            raise ConfigError(f"inputs are {', '.join(self.inputs) or 'none'}. Name some of: {', '.join(vectors)}.")
        if not 1 <= self.context <= self.forecaster.context:
            raise ConfigError(f"context is {self.context}. Give a number from 1 to {self.forecaster.context}.")

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The predicted signals."""
        return tuple(signal for signal in self.schema.observations if signal.name in self.inputs)

    @property
    def driving(self) -> tuple[Signal, ...]:
        """Actions and exogenous signals."""
        return (*self.schema.actions, *self.schema.exogenous)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.forecaster.network

    def describe(self) -> Card:
        """The signals and settings of this engine."""
        return Card(
            name=self.forecaster.name,
            engine="forecast",
            schema=self.schema,
            inputs=self.inputs,
            predicts=self.inputs,
            context=self.context,
            deterministic=True,
            action_conditioned=self.forecaster.takes_inputs and bool(self.schema.actions),
            notes=self.notes,
        )

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> PastTable:
        """The last `context` observations, and the inputs before them."""
        num_worlds, length = check_observations(steps, self.signals)
        check_inputs(steps, self.schema, length if belief is not None else length - 1)
        names = [signal.name for signal in self.signals]
        seen = [np.where(steps.mask(name)[..., None], steps.observations[name], np.nan) for name in names]
        driving = joined({**steps.actions, **steps.exogenous}, self.driving, (num_worlds, length - (belief is None)))
        if belief is None:  # no input led to the first observation
            driving = np.pad(driving, ((0, 0), (1, 0), (0, 0)), constant_values=np.nan)
        rows = np.concatenate([*seen, driving], -1, dtype=np.float64)
        if belief is not None:
            rows = np.concatenate([own_belief(belief, PastTable).rows, rows], 1)
        return PastTable(rows=rows[:, -self.context :])

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """The medians, S = 1. Without inputs all versions are equal."""
        size, past = check_future(future, self.schema), own_belief(belief, PastTable)
        exogenous = {name: np.repeat(value[:, None], size.num_versions, 1) for name, value in future.exogenous.items()}
        leading = (size.num_worlds, size.num_versions, size.horizon)
        driving = joined({**future.actions, **exogenous}, self.driving, leading)
        columns = past.rows.shape[-1] - driving.shape[-1]
        driving = driving if self.forecaster.takes_inputs else driving[..., :0]
        num_inputs = driving.shape[-1]
        versions = size.num_versions if num_inputs else 1
        series, middle = self._series(past.rows[..., :columns])
        inputs = past.rows[..., columns : columns + num_inputs].swapaxes(1, 2)
        ahead = driving[:, :versions].swapaxes(2, 3).reshape(size.num_worlds * versions, num_inputs, size.horizon)
        # Series that were extended have inputs from their beginning on, equal to the first one.
        padding = series.shape[-1] - inputs.shape[-1]
        inputs = np.repeat(np.pad(inputs, ((0, 0), (0, 0), (padding, 0)), constant_values=np.nan), versions, 0)
        inputs = _held(inputs, ahead[..., 0])
        medians = self.forecaster.forecast(np.repeat(series, versions, 0), inputs, ahead)
        values = medians.reshape(size.num_worlds, versions, columns, size.horizon).swapaxes(2, 3)
        values = np.broadcast_to(values + middle, (*leading, columns))[:, :, None]
        parts = np.split(values, np.cumsum([signal.size for signal in self.signals])[:-1], -1)
        return Samples(signals={s.name: part.astype(s.dtype) for s, part in zip(self.signals, parts, strict=True)})

    def _series(self, seen: Float[np.ndarray, "W H D"]) -> tuple[Float[np.ndarray, "W D H"], Floats]:
        """The time series without their typical values, and these values.

        A series with few known values gets the last value before each gap. Angles are unwrapped.
        """
        middle = np.concatenate([self.typical[signal.name].astype(float) for signal in self.signals])
        rows = (seen - middle).swapaxes(1, 2)
        rows = np.pad(rows, ((0, 0), (0, 0), (max(0, MIN_VALUES - rows.shape[-1]), 0)), constant_values=np.nan)
        known, complete = np.isfinite(rows), _held(rows, np.zeros(rows.shape[:2]))
        start = 0
        for signal in self.signals:
            end = start + signal.size
            if signal.period is not None:  # backwards, so that the present value does not change
                backwards = complete[:, start:end, ::-1]
                complete[:, start:end] = np.unwrap(backwards, period=signal.period)[..., ::-1]
            start = end
        few = known.sum(-1, keepdims=True) < MIN_VALUES
        return np.where(known | few, complete, np.nan), middle

    def to_parts(self) -> Parts:
        """The forecaster, and typical values."""
        own = self.forecaster.to_parts()
        stored = _StoredForecaster(
            forecaster=self.forecaster.name,
            settings=own.config,
            inputs=self.inputs,
            context=self.context,
            notes=self.notes,
        )
        typical = {f"{_TYPICAL}{name}": value for name, value in self.typical.items()}
        weights = {f"{_WEIGHT}{name}": value for name, value in own.arrays.items()}
        return Parts(config=json.loads(json.dumps(asdict(stored))), arrays={**typical, **weights})

    @classmethod
    def from_parts(cls, schema: Schema, parts: Parts) -> ForecastEngine:
        """The engine that `to_parts` stored.

        Raises:
            DataError: the parts do not fit the schema, or the forecaster is not the installed one.
            MissingExtraError: the package of the forecaster is not installed.
        """
        stored = check_config(parts, _StoredForecaster)
        named = [signal for signal in schema.observations if signal.name in stored.inputs]
        expected = {f"{_TYPICAL}{signal.name}": array_spec_of(signal) for signal in named}
        weights = {name: value.shape for name, value in parts.arrays.items() if name.startswith(_WEIGHT)}
        arrays = check_arrays(
            parts, expected | {n: ArraySpec(shape=shape, dtypes=("float32",)) for n, shape in weights.items()}
        )
        try:
            if stored.forecaster not in FORECASTERS:
                raise ConfigError(f"the forecaster is {stored.forecaster!r:.100}, expected {' or '.join(FORECASTERS)}")
            own = Parts(config=stored.settings, arrays={name.removeprefix(_WEIGHT): arrays[name] for name in weights})
            return cls(
                schema=schema,
                forecaster=FORECASTERS[stored.forecaster].from_parts(own),
                inputs=stored.inputs,
                context=stored.context,
                typical={name.removeprefix(_TYPICAL): arrays[name] for name in expected},
                notes=stored.notes,
            )
        except ConfigError as error:
            raise DataError(str(error).rstrip("."), fix=FIX) from error


def _held(rows: Floats, otherwise: Floats) -> Floats:
    """Time series [..., T] with the last known value in each gap, the first one before it, or `otherwise` [...]."""
    known = np.isfinite(rows)
    last = np.maximum.accumulate(np.where(known, np.arange(rows.shape[-1]), 0), -1)
    at = np.maximum(last, known.argmax(-1, keepdims=True))
    return np.where(known.any(-1, keepdims=True), np.take_along_axis(rows, at, -1), otherwise[..., None])
