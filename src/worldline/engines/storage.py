"""Validation of the stored parts of an engine, which are untrusted input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.engines.base import Parts
from worldline.errors import ConfigError, DataError
from worldline.schema import Signal

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
    high = np.inf if signal.num_values is None else signal.num_values - 1
    low = -np.inf if signal.num_values is None else 0
    return ArraySpec(shape=signal.shape, dtypes=(signal.dtype,), low=float(low), high=float(high))


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
