"""Limits on the settings in a bundle, which are checked before anything of their size is built."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Final, TypeVar

from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from worldline.config import from_json
from worldline.errors import BundleError, ConfigError, MissingExtraError, UnknownNameError, UnsupportedError

Config = TypeVar("Config")

MAX_SETTINGS_BYTES: Final = 2**20
"""Largest size of a file of settings, which takes up to 40 times as much as Python objects."""
MAX_SETTING: Final = 100_000
"""Largest whole number in a configuration."""
MAX_SEQUENCES: Final = 100_000
"""Largest product of the counts of a planner, such as candidates and iterations."""
PARTS_PER_TENSOR, MIN_PARTS, MAX_PARTS = 20, 200, 6_000
"""Modules, parameters and buffers that a network may have per stored tensor, that any network may have, and that none
may exceed: stored tensors can be empty, but each part takes 1.5 kB and 0.2 ms."""


def read_settings(config_class: type[Config], text: str, *, where: Path, planner: bool = False) -> Config:
    """The configuration in a file of a bundle.

    Args:
        config_class: a frozen dataclass.
        text: content of the file.
        where: path of the file, for errors.
        planner: whether the counts belong to a planner, which evaluates their product.

    Raises:
        BundleError: the file is invalid, or a number is too large.
    """
    if len(text) > MAX_SETTINGS_BYTES:
        raise BundleError(
            f"{where} has {len(text)} characters of settings, more than {MAX_SETTINGS_BYTES}. Save the world with less."
        )
    try:
        config = from_json(config_class, text, where=where)
    except ConfigError as error:
        raise BundleError(f"{error} Fetch the bundle again, or save the world again.") from error
    numbers = dict(_numbers(json.loads(text), ""))
    numbers.pop("bytes_per_candidate", None)  # a measurement; nothing is built from it
    for name, value in numbers.items():
        if abs(value) > MAX_SETTING:
            raise BundleError(f"{where}: {name} is {value}, and the limit is {MAX_SETTING}. Save the world with less.")
    counts = {name: value for name, value in numbers.items() if "num_" in name and "elites" not in name}
    if planner and prod(max(1, value) for value in counts.values()) > MAX_SEQUENCES:
        listed = ", ".join(f"{name} {value}" for name, value in counts.items())
        raise BundleError(
            f"{where}: {listed} make more than {MAX_SEQUENCES} evaluations. Save the world with less, or open it with "
            "another planner: worldline.open(..., planner=...)."
        )
    return config


@contextmanager
def limited_network(num_tensors: int, where: Path) -> Iterator[None]:
    """Ends the building of a network, in this thread, that has many more parts than the file has tensors.

    Raises:
        BundleError: it has, or its sizes are impossible.
    """
    builder, limit, count = threading.get_ident(), min(MIN_PARTS + PARTS_PER_TENSOR * num_tensors, MAX_PARTS), 0

    def registered(*_: object) -> None:
        nonlocal count
        count += threading.get_ident() == builder
        if count > limit:
            raise BundleError(f"{where}: the configuration has more layers than the {num_tensors} stored tensors.")

    registrations = (
        register_module_parameter_registration_hook,
        register_module_buffer_registration_hook,
        register_module_module_registration_hook,
    )
    handles = [register(registered) for register in registrations]
    try:
        yield
    except (BundleError, MissingExtraError, UnknownNameError, UnsupportedError):
        raise
    except (RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise BundleError(f"{where}: no network has these settings: {error}") from error
    finally:
        for handle in handles:
            handle.remove()


def _numbers(tree: object, name: str) -> Iterator[tuple[str, int]]:
    """The whole numbers in a JSON value, by path."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _numbers(value, f"{name}[{number}]")
    elif isinstance(tree, int) and not isinstance(tree, bool):
        yield name, tree
