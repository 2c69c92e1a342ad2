"""The base class of engines that predict from the last few observations only, and checks of their stored parts."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.engines.base import Card, EngineBelief, Noise, Parts, Samples, Storable
from worldline.engines.numpy_engine import NumpyEngine
from worldline.engines.validation import check_future, check_observations, own_belief
from worldline.episode import Arrays, Episode, Future, History
from worldline.errors import ConfigError, DataError
from worldline.schema import Kind, Schema, Signal

Config = TypeVar("Config")

FIX = "Fetch or save the world again"


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """The required shape, allowed dtypes and allowed range of a stored array."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = ("float32", "float64")
    low: float = -np.inf
    high: float = np.inf


def array_spec_of(signal: Signal) -> ArraySpec:
    """The requirements on an array [*shape] with one value of `signal`."""
    low, high = (-np.inf, np.inf) if signal.num_values is None else (0.0, signal.num_values - 1.0)
    return ArraySpec(shape=signal.shape, dtypes=(signal.dtype,), low=low, high=high)


def check_config(parts: Parts, config: type[Config]) -> Config:
    """The configuration in `parts`, as a frozen dataclass.

    Raises:
        DataError: the configuration is not plain JSON, has other keys, or a value of the wrong type or range.
    """
    try:
        return from_json(config, json.dumps(dict(parts.config)), where="the engine's configuration")
    except (ConfigError, TypeError) as error:
        raise DataError(str(error).rstrip("."), fix=FIX) from error


def check_arrays(parts: Parts, expected: Mapping[str, ArraySpec]) -> dict[str, NDArray[Any]]:
    """The arrays in `parts`, exactly those in `expected`.

    Raises:
        DataError: an array is missing or unknown, has the wrong shape or dtype, or holds a value that is not finite or
            out of range.
    """
    wrong = sorted(expected.keys() ^ parts.arrays.keys())
    if wrong:
        word = "missing" if wrong[0] in expected else "unknown"
        raise DataError(f"array {wrong[0]!r:.100} is {word}; the engine has the arrays {sorted(expected)}", fix=FIX)
    for name, wanted in expected.items():
        value: NDArray[Any] = parts.arrays[name]
        if value.shape != wanted.shape or value.dtype.name not in wanted.dtypes:
            raise DataError(
                f"array {name!r} is {value.dtype}{list(value.shape)}, expected {' or '.join(wanted.dtypes)}"
                f"{list(wanted.shape)}",
                fix=FIX,
            )
        if not (np.isfinite(value) & (wanted.low <= value) & (value <= wanted.high)).all():
            bounds = f"[{wanted.low:g}, {wanted.high:g}]"
            raise DataError(f"array {name!r} has a value that is not finite or outside {bounds}", fix=FIX)
    return dict(parts.arrays)


Value = TypeVar("Value", bound=np.generic)

MAX_CONTEXT: Final = 10_000
"""Largest context of an engine that is read from a file: each observation takes memory for every world."""

_TYPICAL: Final = "typical/"


@dataclass(frozen=True, kw_only=True, eq=False)
class Recent:
    """The belief: the last H observations, with gaps filled by the last value before them.

    Args:
        values: per signal [W, H, *shape].
        known: per signal [W, H], False before the first observed value.
    """

    values: Arrays
    known: Arrays


@dataclass(frozen=True, kw_only=True)
class FixedLagConfig:
    """The stored settings of a `FixedLagBaseline`: its context and the names of the predicted signals."""

    context: int
    predicts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.context <= MAX_CONTEXT:
            raise ConfigError(f"context is {self.context}. Give a number from 1 to {MAX_CONTEXT}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class FixedLagBaseline(NumpyEngine, Storable, ABC):
    """Predicts deterministically from the last H observations.

    Args:
        schema: of the world.
        typical: per predicted signal [*shape], used for signals that were never observed.
        context: H.
    """

    kind: ClassVar[str]
    """The registered name."""

    schema: Schema
    typical: Arrays
    context: int

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The predicted signals."""
        return tuple(signal for signal in self.schema.observations if signal.name in self.typical)

    @property
    def action_conditioned(self) -> bool:
        """Whether `path` uses the actions."""
        return True

    @abstractmethod
    def path(self, past: Arrays, future: Future) -> Arrays:
        """The prediction, per signal [W, N, T, *shape].

        Args:
            past: per signal [W, H, *shape], without gaps.
            future: W worlds, N versions, T steps.
        """

    def describe(self) -> Card:
        """The signals and settings of this engine."""
        names = tuple(signal.name for signal in self.signals)
        return Card(
            name=self.kind,
            engine=self.kind,
            schema=self.schema,
            inputs=names,
            predicts=names,
            context=self.context,
            deterministic=True,
            action_conditioned=self.action_conditioned,
        )

    def to_parts(self) -> Parts:
        """Context and typical values."""
        typical = {f"{_TYPICAL}{name}": value for name, value in self.typical.items()}
        return Parts(config={"context": self.context, "predicts": list(self.typical)}, arrays=typical)

    def observe(self, belief: EngineBelief | None, steps: History, *, seed: int) -> Recent:
        """The last `context` observations."""
        belief = None if belief is None else own_belief(belief, Recent)
        check_observations(steps, self.signals)
        values, known = {}, {}
        for signal in self.signals:
            new = steps.observations[signal.name].astype(signal.dtype, copy=False)
            observed = steps.mask(signal.name)
            if belief is None:
                before = np.zeros((len(new), self.context, *signal.shape), new.dtype)
                was_known = np.zeros((len(new), self.context), bool)
            else:
                before, was_known = belief.values[signal.name], belief.known[signal.name].astype(bool)
            filled, since = _carry(np.concatenate([before, new], 1), np.concatenate([was_known, observed], 1))
            values[signal.name], known[signal.name] = filled[:, -self.context :], since[:, -self.context :]
        return Recent(values=values, known=known)

    def imagine(
        self, belief: EngineBelief, future: Future, *, num_samples: int, noise: Noise | None = None, seed: int
    ) -> Samples:
        """One sample, S = 1."""
        check_future(future, self.schema)
        recent, past = own_belief(belief, Recent), {}
        for signal in self.signals:
            known = recent.known[signal.name].astype(bool)
            past[signal.name] = _backfill(recent.values[signal.name], known, self.typical[signal.name])
        predicted = self.path(past, future)
        dtypes = {signal.name: signal.dtype for signal in self.signals}
        return Samples(signals={k: v[:, :, None].astype(dtypes[k], copy=False) for k, v in predicted.items()})


def read_fixed_lag(schema: Schema, parts: Parts, fitted: Mapping[str, ArraySpec] | None = None) -> dict[str, Any]:
    """Validates what `FixedLagBaseline.to_parts` stored. Returns the typical values, the context and the fitted arrays.

    Args:
        schema: of the world.
        parts: untrusted.
        fitted: the arrays of the subclass; default is none.

    Raises:
        DataError: the parts do not fit the schema or `fitted`.
    """
    config = check_config(parts, FixedLagConfig)
    named = {signal.name: signal for signal in schema.observations if signal.name in config.predicts}
    if not named or len(named) != len(config.predicts):
        raise DataError(f"predicts is {list(config.predicts)}; some are not observation signals", fix=FIX)
    typical = {f"{_TYPICAL}{name}": array_spec_of(signal) for name, signal in named.items()}
    arrays = check_arrays(parts, {**typical, **(fitted or {})})
    means = {name: arrays[f"{_TYPICAL}{name}"] for name in named}
    return {"typical": means, "context": config.context, **{name: arrays[name] for name in fitted or {}}}


def typical_values(episodes: Sequence[Episode], signals: Sequence[Signal]) -> Arrays:
    """Per signal the mean of its observed values, truncated for integer signals; 0 for a signal without any."""
    means: dict[str, NDArray[np.generic]] = {}
    for signal in signals:
        total, count = np.zeros(signal.shape), 0
        for episode in episodes:
            values, observed = episode.observations[signal.name], episode.mask(signal.name)
            total, count = total + values[observed].sum(0, dtype=np.float64), count + int(observed.sum())
        means[signal.name] = np.asarray(total / max(count, 1)).astype(signal.dtype)
    return means


def joined(arrays: Arrays, signals: Sequence[Signal], leading: tuple[int, ...]) -> NDArray[np.floating]:
    """`signals` concatenated [*leading, size], discrete signals one-hot."""
    parts: list[NDArray[np.generic]] = [np.zeros((*leading, 0), np.float32)]
    for signal in signals:
        value = arrays[signal.name]
        parts.append(np.eye(signal.size, dtype=np.float32)[value] if signal.kind is Kind.DISCRETE else value)
    return np.concatenate(parts, -1, dtype=np.float32)


def _carry(values: NDArray[Value], known: Bool[np.ndarray, "W L"]) -> tuple[NDArray[Value], Bool[np.ndarray, "W L"]]:
    """`values` [W, L, *shape] with gaps filled by the last known value, and whether there was one."""
    last = np.maximum.accumulate(np.where(known, np.arange(known.shape[1]), -1), axis=1)
    return values[np.arange(len(values))[:, None], np.maximum(last, 0)], last >= 0


def _backfill(values: NDArray[Value], known: Bool[np.ndarray, "W H"], typical: NDArray[Value]) -> NDArray[Value]:
    """`values` [W, H, *shape], filled before the first known value by it, or by `typical` [*shape] if none is known."""
    if known.all():
        return values
    wide = (..., *(None,) * typical.ndim)
    first = values[np.arange(len(values)), known.argmax(1)]
    ever = np.asarray(known.any(1))
    first = np.where(ever[wide], first, typical)
    return np.where(known[wide], values, first[:, None])
