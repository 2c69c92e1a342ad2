"""The schema of a world: named, typed signals in physical units."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from worldline.errors import ConfigError, UnknownNameError

__all__ = ["Kind", "Role", "Schema", "Signal"]


class Role(StrEnum):
    """Role of a signal."""

    OBSERVATION = "observation"
    ACTION = "action"
    EXOGENOUS = "exogenous"
    REWARD = "reward"


class Kind(StrEnum):
    """Layout of a signal's values."""

    VECTOR = "vector"
    IMAGE = "image"
    DISCRETE = "discrete"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A named, typed quantity in a log.

    Args:
        name: unique within the schema.
        role: observation, action, exogenous or reward.
        kind: `vector` holds numbers of shape `(n,)`; `image` uint8 of shape `(height, width, channels)`;
            `discrete` int64 of shape `()` in `[0, num_values)`.
        shape: of one value, without time.
        unit: physical unit, such as "m" or "degC"; "1" for a plain number, "?" if unknown.
        low: smallest possible value per component (vector only); None if unbounded or unknown.
        high: largest possible value per component (vector only); None if unbounded or unknown.
        num_values: number of values of a discrete signal.
        components: a name for each component of a vector, or for each value of a discrete signal; may be empty.
        entity: the object that the signal belongs to.
        period: period of every component in its unit, such as 360 for an angle in degrees (vector only); None if not
            periodic.
        precision: dtype in which a vector is stored; models always compute in float32.
    """

    name: str
    role: Role
    kind: Kind
    shape: tuple[int, ...]
    unit: str = "1"
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    num_values: int | None = None
    components: tuple[str, ...] = ()
    entity: str | None = None
    period: float | None = None
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        where = f"signal {self.name!r}"
        if not self.name or any(c in self.name for c in "/\\\0") or self.name.startswith("."):
            raise ConfigError(f"{where}: a name must be non-empty, without slashes or a leading dot. Rename it.")
        dimensions = {Kind.VECTOR: 1, Kind.IMAGE: 3, Kind.DISCRETE: 0}[self.kind]
        if len(self.shape) != dimensions or any(n < 1 for n in self.shape):
            raise ConfigError(f"{where}: a {self.kind} has {dimensions} positive dimensions, not shape {self.shape}.")
        if (self.kind is Kind.DISCRETE) != (self.num_values is not None):
            raise ConfigError(f"{where}: discrete signals need num_values, and other signals must not have it.")
        for label, bound in (("low", self.low), ("high", self.high)):
            if bound is None:
                continue
            if self.kind is not Kind.VECTOR or len(bound) != self.size or any(math.isnan(b) for b in bound):
                raise ConfigError(f"{where}: {label} needs {self.size} numbers, one per component; got {bound}.")
        if self.low and self.high and any(a > b for a, b in zip(self.low, self.high, strict=True)):
            raise ConfigError(f"{where}: low {self.low} exceeds high {self.high}.")
        if self.period is not None and not (
            self.kind is Kind.VECTOR and self.period > 0 and math.isfinite(self.period)
        ):
            raise ConfigError(f"{where}: period must be a positive number, for vectors only; got {self.period}.")
        if self.precision != "float32" and self.kind is not Kind.VECTOR:
            raise ConfigError(f"{where}: precision {self.precision} is for vectors only, but this is a {self.kind}.")
        if self.components and (self.kind is Kind.IMAGE or len(self.components) != self.size):
            raise ConfigError(f"{where}: {len(self.components)} component names for shape {self.shape}.")

    @property
    def size(self) -> int:
        """The number of scalars in one value; for a discrete signal the number of values (one-hot)."""
        return self.num_values if self.num_values is not None else math.prod(self.shape)

    @property
    def dtype(self) -> str:
        """The NumPy dtype of stored values."""
        return {Kind.VECTOR: self.precision, Kind.IMAGE: "uint8", Kind.DISCRETE: "int64"}[self.kind]

    def difference(self, values: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
        """`values` - `others`; of a periodic signal, wrapped to half a period around 0."""
        difference: NDArray[Any] = values - others
        if self.period is None:
            return difference
        return np.mod(difference + self.period / 2, self.period) - self.period / 2

    def wrapped(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """`values` [..., n]; of a periodic signal, in [low, low + period)."""
        if self.period is None:
            return values
        low = np.asarray(self.low or 0.0)
        return np.asarray(np.mod(values - low, self.period) + low)

    def bounded(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` [..., n] clipped to low and high; unchanged if the signal is periodic or has neither."""
        if self.period is not None or (self.low is None and self.high is None):
            return values
        return np.asarray(np.clip(values, self.low, self.high), values.dtype)

    def deviations(self, values: NDArray[np.generic]) -> NDArray[np.floating]:
        """`values` [..., n] minus the mean over all axes but the last; of a periodic signal, the circular mean.

        Source: Mardia and Jupp (2000), "Directional statistics", section 2.2 (the mean direction).
        """
        known = values.astype(float)
        flat = known.reshape(-1, known.shape[-1])
        if self.period is None:
            return np.asarray(known - flat.mean(0))
        turn = 2 * np.pi / self.period
        return np.asarray(self.difference(known, np.angle(np.exp(1j * turn * flat).mean(0)) / turn))


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The signals of a world, and the time between two steps.

    Args:
        signals: in the order of concatenation.
        step_s: seconds from one step to the next; None if unknown.
    """

    signals: tuple[Signal, ...]
    step_s: float | None = None

    def __post_init__(self) -> None:
        names = [signal.name for signal in self.signals]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"signals named twice: {', '.join(twice)}. Rename one of each pair.")
        if self.step_s is not None and not (self.step_s > 0 and math.isfinite(self.step_s)):
            raise ConfigError(f"step_s must be a positive number of seconds, not {self.step_s}.")

    def __getitem__(self, name: str) -> Signal:
        for signal in self.signals:
            if signal.name == name:
                return signal
        raise UnknownNameError("signal", name, (signal.name for signal in self.signals))

    def of(self, role: Role) -> tuple[Signal, ...]:
        """The signals with this role, in order."""
        return tuple(signal for signal in self.signals if signal.role is role)

    @cached_property
    def observations(self) -> tuple[Signal, ...]:
        """The observation signals, in order."""
        return self.of(Role.OBSERVATION)

    @cached_property
    def actions(self) -> tuple[Signal, ...]:
        """The action signals, in order."""
        return self.of(Role.ACTION)

    @property
    def has_choice(self) -> bool:
        """Whether anything can be chosen: there is an action, and it is not `NOOP` alone."""
        return self.actions not in ((), (NOOP,))

    @cached_property
    def exogenous(self) -> tuple[Signal, ...]:
        """The exogenous signals, in order."""
        return self.of(Role.EXOGENOUS)


NOOP: Final = Signal(name="noop", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=1, components=("wait",))
"""The action of logs in which nothing is chosen. Its only value is 0, and its length is the number of steps."""
