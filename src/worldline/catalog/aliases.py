"""The catalog on disk: worlds, versions, and the file of aliases of each world."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from worldline.config import from_json, to_json
from worldline.data.fsync import locked, sync
from worldline.errors import ConfigError, InputError, UnknownNameError

FORMAT = 1
"""Format version of `aliases.json`."""

ALIASES = "aliases.json"
SHADOW = "shadow"
PUBLISHING = ".publishing"
"""The lock of publications: they follow one another, while aliases can change."""

Stamp = tuple[int, int, int]
"""Modification time in ns, inode and size of a file. It differs after every change."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def check_name(kind: str, name: str) -> str:
    """The name, if it is valid. A valid name cannot lead out of its folder.

    Args:
        kind: "world", "alias" or "controller".
        name: letters, digits, `_`, `-` and `.`, the first neither `-` nor `.`; an alias is not a number.

    Raises:
        InputError: the name is not valid.
    """
    if not _NAME.fullmatch(name) or (kind == "alias" and name.isdigit()):
        raise InputError(
            f"{name[:120]!r} is not allowed as {kind} name. Use letters, digits, '_', '-' and '.', and begin "
            "with a letter, digit or '_'. An alias must not be a number."
        )
    return name


@final
@dataclass(frozen=True, kw_only=True)
class Reference:
    """A parsed reference, `name@alias` or `name@3`.

    Args:
        name: name of the world.
        alias: None if a version is named.
        version: None if an alias is named.
    """

    name: str
    alias: str | None
    version: int | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parses a reference.

        Raises:
            InputError: `text` is not a reference.
        """
        name, sign, which = text.partition("@")
        if not sign or not which:
            raise InputError(
                f"{text[:120]!r} names no version. Use NAME@ALIAS or NAME@NUMBER, such as greenhouse@prod."
            )
        check_name("world", name)
        if _NUMBER.fullmatch(which):
            return cls(name=name, alias=None, version=int(which))
        return cls(name=name, alias=check_name("alias", which), version=None)


@final
@dataclass(frozen=True, kw_only=True)
class Turn:
    """A version that an alias points or pointed to.

    Args:
        version: from 1.
        since: start, ISO 8601 with time zone.
        reason: reason in words.
    """

    version: int
    since: str
    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Alias:
    """The versions behind a name such as `prod`.

    Args:
        now: the serving version.
        earlier: previous versions, the oldest first, without those that were rolled back.
        shadow: the candidate that gets the same calls in shadow; None for none.
    """

    now: Turn
    earlier: tuple[Turn, ...] = ()
    shadow: int | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Aliases:
    """The content of `aliases.json`.

    Args:
        format: format version.
        aliases: by name.
        published: largest version number when the file was written; 0 for none.
    """

    format: int = FORMAT
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    published: int = 0

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigError(f"expected format {FORMAT}, got {self.format}. Upgrade worldline.")
        for name in self.aliases:
            check_name("alias", name)


@final
@dataclass(frozen=True, kw_only=True)
class WorldDirectory:
    """The folder of one named world. Reading takes no lock; writing requires `locked`.

    Args:
        folder: `<catalog>/worlds/<name>`.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the world."""
        return self.folder.name

    def path(self, version: int) -> Path:
        """The bundle folder of a version, which need not exist."""
        return self.folder / str(version)

    def numbers(self) -> tuple[int, ...]:
        """The existing versions, sorted."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        return tuple(sorted(int(path.name) for path in paths if _NUMBER.fullmatch(path.name)))

    def check_version(self, version: int) -> int:
        """The version, if it exists.

        Raises:
            UnknownNameError: it does not exist.
        """
        if version not in self.numbers():
            raise UnknownNameError(f"version of {self.name!r}", str(version), map(str, self.numbers()))
        return version

    def records(self, alias: str, serving: int, candidate: int) -> Path:
        """The file of shadow records of `candidate` against `serving`."""
        return self.folder / SHADOW / f"{alias}-{serving}-{candidate}.jsonl"

    def stamp(self) -> Stamp | None:
        """The stamp of `aliases.json`; None if the file does not exist or cannot be read."""
        try:
            status = (self.folder / ALIASES).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def aliases(self) -> Mapping[str, Alias]:
        """The aliases by name; empty if there are none.

        Raises:
            ConfigError: the file is damaged or of another format version.
        """
        return self._read().aliases

    def published(self) -> int:
        """The largest version number ever published, even if its folder was deleted; 0 for none.

        Raises:
            ConfigError: as in `aliases`.
        """
        return max([self._read().published, *self.numbers()])

    def _read(self) -> Aliases:
        path = self.folder / ALIASES
        try:
            return from_json(Aliases, path.read_bytes(), where=path)
        except FileNotFoundError:
            return Aliases()

    def alias(self, name: str) -> Alias:
        """The alias of this name.

        Raises:
            UnknownNameError: it does not exist.
        """
        known = self.aliases()
        if name not in known:
            raise UnknownNameError(f"alias of {self.name!r}", name, known)
        return known[name]

    def resolve(self, reference: Reference) -> Path:
        """The bundle folder that a reference to this world points to now.

        Raises:
            UnknownNameError: there is no such version or alias.
        """
        number = reference.version if reference.alias is None else self.alias(reference.alias).now.version
        assert number is not None  # a reference without an alias has a version
        return self.path(self.check_version(number))

    def locked(self, name: str = ".lock") -> AbstractContextManager[None]:
        """Excludes all other writers, in this process and in others; of several locks, those with this name."""
        lock = self.folder / name
        lock.touch()
        return locked(lock)

    def remove_drafts(self) -> None:
        """Deletes the drafts of killed publications. Call it while `locked(PUBLISHING)`: no process then has one."""
        for draft in self.folder.glob(".*.partial"):
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)

    def write(self, aliases: Mapping[str, Alias]) -> None:
        """Replaces `aliases.json` atomically, and flushes it to disk. Call it while `locked`."""
        path, fresh, before = self.folder / ALIASES, self.folder / f".{ALIASES}.partial", self.stamp()
        fresh.write_text(to_json(Aliases(aliases=aliases, published=self.published())))
        # File system clocks are coarse and inodes are reused, so without this two stamps could be equal.
        if before is not None and fresh.stat().st_mtime_ns <= before[0]:
            os.utime(fresh, ns=(before[0] + 1, before[0] + 1))
        sync(fresh)
        fresh.replace(path)
        sync(self.folder)
