"""How far imagined signals are from a goal, and how much they break a rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from worldline.contracts.engine import Samples
from worldline.contracts.episode import Arrays
from worldline.contracts.schema import Signal
from worldline.errors import ConfigError, InputError, UnknownNameError

Floats = NDArray[np.floating]
Bound = float | tuple[float, ...]


def goal_cost(
    samples: Samples,
    targets: Arrays,
    scale: Mapping[str, float | NDArray[np.floating]],
    signals: Mapping[str, Signal] | None = None,
) -> Float[np.ndarray, "W N"]:
    """The expected squared error to the goal, summed over the imagined steps and the targeted signals.

    Args:
        samples: imagined signals.
        targets: per signal the wanted value [W, *shape] (W may be 1), physical units. Integer signals count as
            labels: their error is 1 where they differ.
        scale: per targeted signal the error that counts as 1, above 0: a number, or one for each component.
        signals: the targeted signals that repeat, whose error is the shorter way round; default is that none does.

    Raises:
        InputError: no target, one of the wrong shape, or a scale that is not above 0.
        UnknownNameError: a target is not imagined, or has no scale.
    """
    if not targets:
        raise InputError("the goal has no target. Name at least one signal and the value that it should have.")
    total: Floats = np.zeros(())
    for name, target in targets.items():
        values = _imagined(samples, name)
        if name not in scale:
            raise UnknownNameError("scale", name, scale)
        unit = np.asarray(scale[name], dtype=float)
        if not np.all(unit > 0):
            raise InputError(f"the scale of {name!r} is {scale[name]}. It must be above 0.")
        if target.ndim != values.ndim - 3 or target.shape[1:] != values.shape[4:]:
            due = (len(values), *values.shape[4:])
            raise InputError(f"the target of {name!r} has shape {target.shape}. [W, *shape] = {due} is wanted.")
        wanted = target[:, None, None, None]
        labels = np.issubdtype(values.dtype, np.integer)
        if labels:
            error = values != wanted
        elif signals is not None and name in signals:
            error = signals[name].difference(values.astype(float), wanted)
        else:
            error = values.astype(float) - wanted
        squares = ((error / unit) ** 2).reshape(*values.shape[:4], -1)
        total = total + squares.mean(-1).sum(-1).mean(-1)
    return total


@dataclass(frozen=True, kw_only=True)
class AtMost:
    """The signal stays at or below a bound. Called on samples: the violation [W, N], in the signal's unit.

    The violation of one sample is its largest excess over all steps and components.

    Args:
        signal: a vector signal.
        bound: for every component, or one for each; infinity where there is none.
        quantile: which of the S samples counts, from 0 (the best) to 1 (the worst, and the default). With 0.9, one
            sample in ten may break the rule.
    """

    signal: str
    bound: Bound
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.quantile, self.bound)

    def __call__(self, samples: Samples) -> Float[np.ndarray, "W N"]:
        """The violation; 0 where the bound holds."""
        excess = _components(samples, self.signal, self.bound) - np.asarray(self.bound)
        return _worst(excess.max(-1), self.quantile)


@dataclass(frozen=True, kw_only=True)
class AtLeast:
    """The signal stays at or above a bound; otherwise as `AtMost`.

    Args:
        signal: a vector signal.
        bound: for every component, or one for each; minus infinity where there is none.
        quantile: as in `AtMost`.
    """

    signal: str
    bound: Bound
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.quantile, self.bound)

    def __call__(self, samples: Samples) -> Float[np.ndarray, "W N"]:
        """The violation; 0 where the bound holds."""
        shortfall = np.asarray(self.bound) - _components(samples, self.signal, self.bound)
        return _worst(shortfall.max(-1), self.quantile)


@dataclass(frozen=True, kw_only=True)
class KeepOut:
    """The signals are never inside a box all at once. Called on samples: the violation [W, N].

    The violation of one sample is the deepest that it gets: how far the nearest face is, in the unit of the signal
    that this face belongs to. Only the imagined states count, not the way between two of them.

    Args:
        low: per vector signal the lower face for every component, or one for each; minus infinity for no face.
        high: the upper face; the same names as in `low`.
        quantile: as in `AtMost`.
    """

    low: Mapping[str, Bound]
    high: Mapping[str, Bound]
    quantile: float = 1.0

    def __post_init__(self) -> None:
        if not self.low or self.low.keys() != self.high.keys():
            raise ConfigError(f"low names {sorted(self.low)}, high {sorted(self.high)}. Name the same signals in both.")
        _check(self.quantile, *self.low.values(), *self.high.values())
        faces = [np.ravel(bound) for bound in (*self.low.values(), *self.high.values())]
        if np.isinf(np.concatenate(faces)).all():
            raise ConfigError("the box has no face. Give at least one finite bound, or leave the constraint out.")

    def __call__(self, samples: Samples) -> Float[np.ndarray, "W N"]:
        """The violation; 0 outside of the box and on its faces."""
        depths = []
        for name, low in self.low.items():
            high = self.high[name]
            values = _components(samples, name, low, high)
            depths.append(np.minimum(values - np.asarray(low), np.asarray(high) - values).min(-1))
        return _worst(np.minimum.reduce(depths), self.quantile)


def _imagined(samples: Samples, name: str) -> NDArray[np.generic]:
    if name not in samples.signals:
        raise UnknownNameError("imagined signal", name, samples.signals)
    return samples.signals[name]


def _components(samples: Samples, name: str, *bounds: Bound) -> Floats:
    """The vector signal [W, N, S, T, components], once its bounds are known to fit it."""
    values = _imagined(samples, name)
    if values.ndim != 5:
        raise InputError(f"signal {name!r} has values of shape {values.shape[4:]}. A bound needs a vector signal.")
    for bound in bounds:
        if isinstance(bound, tuple) and len(bound) != values.shape[-1]:
            raise InputError(f"signal {name!r} has {values.shape[-1]} components, its bound {bound} {len(bound)}.")
    return values.astype(float)


def _worst(excess: Float[np.ndarray, "W N S T"], quantile: float) -> Float[np.ndarray, "W N"]:
    """The quantile over the samples of the largest excess over the steps, at least 0; NaN where there is a NaN."""
    # "higher" reports a violation that was really imagined, never a mixture of two samples.
    largest = np.quantile(excess.max(-1), quantile, axis=-1, method="higher")
    return np.asarray(np.maximum(largest, 0.0))


def _check(quantile: float, *bounds: Bound) -> None:
    if not 0 <= quantile <= 1:
        raise ConfigError(f"quantile is {quantile}. It must be in [0, 1].")
    for bound in bounds:
        if np.isnan(bound).any():
            raise ConfigError(f"a bound is {bound}. It must not be NaN.")
