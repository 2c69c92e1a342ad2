"""Rules that plans keep, on named signals in physical units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from worldline.errors import ConfigError
from worldline.planning.base import Rollout
from worldline.planning.costs.rollout_signals import PerComponent, end


@dataclass(frozen=True, kw_only=True)
class AtMost:
    """The signal stays at or below a bound. Called on an outlook: the violation [W, N], in the signal's unit.

    The violation of one sample is its largest excess over all steps and components.

    Args:
        signal: a vector signal.
        bound: for every component, or one for each; infinity where there is none.
        quantile: which of the S samples counts, from 0 (the best) to 1 (the worst, and the default). With 0.9, one
            sample in ten may break the rule.
    """

    signal: str
    bound: PerComponent
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.quantile, self.bound)

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N"]:
        """The violation; 0 where the bound holds."""
        excess = end(rollout, self.signal, 1, self.bound) - np.asarray(self.bound)
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
    bound: PerComponent
    quantile: float = 1.0

    def __post_init__(self) -> None:
        _check(self.quantile, self.bound)

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N"]:
        """The violation; 0 where the bound holds."""
        shortfall = np.asarray(self.bound) - end(rollout, self.signal, -1, self.bound)
        return _worst(shortfall.max(-1), self.quantile)


@dataclass(frozen=True, kw_only=True)
class KeepOut:
    """The signals are never inside a box all at once. Called on an outlook: the violation [W, N].

    The violation of one sample is the deepest that it gets: how far the nearest face is, in the unit of the signal
    that this face belongs to. Only the imagined states count, not the way between two of them.

    Args:
        low: per vector signal the lower face for every component, or one for each; minus infinity for no face.
        high: the upper face; the same names as in `low`.
        quantile: as in `AtMost`.
    """

    low: Mapping[str, PerComponent]
    high: Mapping[str, PerComponent]
    quantile: float = 1.0

    def __post_init__(self) -> None:
        if not self.low or self.low.keys() != self.high.keys():
            raise ConfigError(f"low names {sorted(self.low)}, high {sorted(self.high)}. Name the same signals in both.")
        _check(self.quantile, *self.low.values(), *self.high.values())
        faces = [np.ravel(bound) for bound in (*self.low.values(), *self.high.values())]
        if np.isinf(np.concatenate(faces)).all():
            raise ConfigError("the box has no face. Give at least one finite bound, or leave the constraint out.")

    def __call__(self, rollout: Rollout) -> Float[np.ndarray, "W N"]:
        """The violation; 0 outside of the box and on its faces."""
        depths = []
        for name, low in self.low.items():
            high = self.high[name]
            above, below = end(rollout, name, 1, low, high), end(rollout, name, -1, low, high)
            depths.append(np.minimum(above - np.asarray(low), np.asarray(high) - below).min(-1))
        return _worst(np.minimum.reduce(depths), self.quantile)


def _worst(excess: Float[np.ndarray, "W N S T"], quantile: float) -> Float[np.ndarray, "W N"]:
    """The quantile over the samples of the largest excess over the steps, at least 0; NaN where there is a NaN."""
    # "higher" reports a violation that was really imagined, never a mixture of two samples.
    largest = np.quantile(excess.max(-1), quantile, axis=-1, method="higher")
    return np.asarray(np.maximum(largest, 0.0))


def _check(quantile: float, *bounds: PerComponent) -> None:
    if not 0 <= quantile <= 1:
        raise ConfigError(f"quantile is {quantile}. It must be in [0, 1].")
    for bound in bounds:
        if np.isnan(bound).any():
            raise ConfigError(f"a bound is {bound}. It must not be NaN.")
