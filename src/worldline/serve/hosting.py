"""The worlds that a service answers for, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.catalog.aliases import Reference
from worldline.catalog.named import NamedWorld
from worldline.catalog.opening import is_reference
from worldline.errors import InputError
from worldline.serve.callers import Caller, Scope
from worldline.serve.problems import ConflictError, NotFoundError
from worldline.world.base import World
from worldline.world.local import LocalWorld

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""Names of served worlds, which stand in URLs."""


@final
class HostedWorld:
    """A served world.

    Args:
        name: in URLs.
        reference: the world in the catalog, such as "greenhouse@prod"; None for a folder, whose path is not shown.
        world: answers the calls; `NamedWorld` for an alias.
        folder: its bundle; None for a world of the catalog, and if there is none.

    Attributes:
        version: the number of the version that answered last; None for a folder.
        card: of this version. Takes no time, so the event loop may ask.
        ranges: the logged range [2, n] of the signals of this version; empty if unknown.
    """

    def __init__(self, name: str, reference: str | None, world: World, folder: Path | None = None) -> None:
        self.name, self.reference, self.world, self.folder = name, reference, world, folder
        self._fixed = None if reference is None else Reference.parse(reference).version
        self.version, opened = self._serving()
        self.card, self.ranges = opened.describe(), _ranges_of(opened)

    def current(self) -> tuple[int | None, World]:
        """The number of the current version (None for a folder), and its world in this process.

        Opens the version if its alias was moved, so call it in a worker.
        """
        version, world = self._serving()
        if version != self.version:
            self.version, self.card, self.ranges = version, world.describe(), _ranges_of(world)
        return version, world

    def _serving(self) -> tuple[int | None, World]:
        return self.world.serving() if isinstance(self.world, NamedWorld) else (self._fixed, self.world)


@final
class Hosts(dict[str, HostedWorld]):
    """The served worlds by name. Threads may share it, and copy it before they iterate over it.

    Args:
        open_reference: opens a world of the catalog, such as "greenhouse@prod".
    """

    def __init__(self, open_reference: Callable[[str], World]) -> None:
        self._open, self._lock = open_reference, Lock()

    def __missing__(self, name: str) -> HostedWorld:
        raise NotFoundError("world", name)  # without names, which not every caller may read

    def find(self, name: str, caller: Caller) -> HostedWorld:
        """A served world.

        Args:
            name: in URLs.
            caller: who named it.

        Raises:
            NotFoundError: there is no such world. The message lists the served ones if the caller may read them.
        """
        if name not in self and Scope.READ in caller.scopes:
            raise NotFoundError("world", name, [*self])
        return self[name]

    def add(self, hosted: HostedWorld) -> None:
        """Serves a further world.

        Raises:
            InputError: the name is not valid.
            ConflictError: it is taken.
        """
        if not NAME.fullmatch(hosted.name):
            raise InputError(
                f"{hosted.name[:120]!r} is not allowed as name of a served world. Use letters, digits, '_', '-' and "
                "'.', and begin with a letter, digit or '_'. On the command line, name it with NAME=WORLD."
            )
        with self._lock:
            if hosted.name in self:
                raise ConflictError(
                    f"a world named {hosted.name!r} is served already. Choose another name. On the command line, name "
                    "it with NAME=WORLD."
                )
            self[hosted.name] = hosted

    def open(self, reference: str, name: str) -> HostedWorld:
        """Opens a world of the catalog and serves it.

        Args:
            reference: `name@alias` or `name@number`; never a path or URL.
            name: in URLs.

        Raises:
            InputError: as in `add`, or `reference` names no world of the catalog.
            ConflictError: as in `add`.
            UnknownNameError: the catalog has no such world, alias or version.
        """
        if not is_reference(reference):
            raise InputError(f"{reference[:120]!r} is not a world of the catalog. Use NAME@ALIAS or NAME@NUMBER.")
        hosted = HostedWorld(name, reference, self._open(reference))
        self.add(hosted)
        return hosted

    def remove(self, name: str) -> None:
        """Stops serving a world; running calls end.

        Raises:
            NotFoundError: there is no such world.
        """
        with self._lock:
            hosted = self[name]
            del self[name]
        if isinstance(hosted.world, NamedWorld):
            hosted.world.close()

    def close(self) -> None:
        """Ends shadow calls."""
        for hosted in [*self.values()]:
            if isinstance(hosted.world, NamedWorld):
                hosted.world.close()


def _ranges_of(world: World) -> Mapping[str, NDArray[np.floating]]:
    """The logged ranges of a world that is open in this process."""
    return {} if not isinstance(world, LocalWorld) or world.calibration is None else world.calibration.logged_range


def name_of(target: str) -> tuple[str, str]:
    """The name in URLs and the target that a command-line argument gives: `NAME=WORLD`, or `WORLD` named by itself."""
    name, sign, target_after = target.partition("=")
    if sign and NAME.fullmatch(name):
        return name, target_after
    if is_reference(target):
        return target.partition("@")[0], target
    return Path(target).name or Path(target).resolve().name, target
