"""Reading what an engine left on disk, as if from a stranger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from worldline.config import from_json
from worldline.engines.base import Parts
from worldline.errors import ConfigError, DataError, InputError, UnsupportedError
from worldline.labs.abilities import Configured
from worldline.labs.base import Lab
from worldline.registry import load, name_of
from worldline.schema import Signal

Config = TypeVar("Config")

FIX = "Fetch or save the world again"


@dataclass(frozen=True, kw_only=True)
class Due:
    """What one array has to be.

    Args:
        shape: its sizes.
        dtypes: those that are allowed.
        least: the smallest value that is allowed.
        most: the largest.
    """

    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = ("float32", "float64")
    least: float = -np.inf
    most: float = np.inf


def due_of(signal: Signal) -> Due:
    """What an array [*shape] with one value of `signal` has to be."""
    most = np.inf if signal.num_values is None else signal.num_values - 1
    least = -np.inf if signal.num_values is None else 0
    return Due(shape=signal.shape, dtypes=(signal.dtype,), least=float(least), most=float(most))


def check_config(parts: Parts, config: type[Config]) -> Config:
    """The configuration in `parts`, as a frozen dataclass.

    Raises:
        DataError: it is no plain JSON, has other keys, or a value of another type or range.
    """
    try:
        return from_json(config, json.dumps(dict(parts.config)), where="the engine's configuration")
    except (ConfigError, TypeError) as error:
        raise DataError(str(error).rstrip("."), fix=FIX) from error


def check_arrays(parts: Parts, due: Mapping[str, Due]) -> dict[str, NDArray[Any]]:
    """The arrays in `parts`, all of those in `due` and no other.

    Raises:
        DataError: one is missing or unknown, or has another shape or dtype, or a value that is not finite or not
            allowed.
    """
    wrong = sorted(due.keys() ^ parts.arrays.keys())
    if wrong:
        word = "missing" if wrong[0] in due else "unknown"
        raise DataError(f"array {wrong[0]!r:.100} is {word}; those of the engine are {sorted(due)}", fix=FIX)
    for name, wanted in due.items():
        value: NDArray[Any] = parts.arrays[name]
        if value.shape != wanted.shape or value.dtype.name not in wanted.dtypes:
            raise DataError(
                f"array {name!r} is {value.dtype}{list(value.shape)} where {' or '.join(wanted.dtypes)}"
                f"{list(wanted.shape)} is due",
                fix=FIX,
            )
        if not (np.isfinite(value) & (wanted.least <= value) & (value <= wanted.most)).all():
            bounds = f"[{wanted.least:g}, {wanted.most:g}]"
            raise DataError(f"array {name!r} has a value that is not finite or outside {bounds}", fix=FIX)
    return dict(parts.arrays)


@dataclass(frozen=True, kw_only=True)
class LabName:
    """A lab by name.

    Args:
        lab: its registered name.
        settings: what it is built with; see `Configured`.
    """

    lab: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def name_lab(lab: Lab) -> LabName:
    """How to build `lab` again.

    Raises:
        UnsupportedError: it is not registered, or does not tell its settings.
    """
    name = name_of("lab", type(lab))
    if not isinstance(lab, Configured):
        raise UnsupportedError(f"the lab {name!r} does not tell its settings. Implement labs.abilities.Configured.")
    return LabName(lab=name, settings=lab.settings)


def build_lab(found: LabName) -> Lab:
    """The lab of this name and these settings; only what is registered as a lab is imported.

    Raises:
        UnknownNameError: no such lab is installed.
        DataError: the settings are not those of the lab.
    """
    part: object = load("lab", found.lab)
    if not (isinstance(part, type) and issubclass(part, Configured)):
        raise DataError(f"the lab {found.lab!r} cannot be built from settings", fix=FIX)
    try:
        lab: object = part.from_settings(found.settings)
    except (ConfigError, InputError) as error:
        raise DataError(str(error).rstrip("."), fix=FIX) from error
    if not isinstance(lab, Lab):
        raise DataError(f"{found.lab!r} is no Lab", fix=FIX)
    return lab
