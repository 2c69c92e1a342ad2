"""Where named worlds lie on disk: names, versions, and the file that says which version an alias stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from worldline.config import from_json, to_json
from worldline.data.fsync import sync_folder
from worldline.data.locking import locked
from worldline.errors import ConfigError, InputError, UnknownNameError

FORMAT = 1
"""Of `aliases.json`: the version that this code writes and reads."""

ALIASES = "aliases.json"
MAX_BYTES = 2**22
SHADOW = "shadow"

Stamp = tuple[int, int, int]
"""Time of the last change, inode and size of a file: differs after every change."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def check_name(kind: str, name: str) -> str:
    """The name, which cannot lead out of the folder that it is a name in.

    Args:
        kind: "world" or "alias".
        name: letters, digits, `_`, `-` and `.`, the first neither `-` nor `.`; an alias is not a number.

    Raises:
        InputError: it is not such a name.
    """
    if not _NAME.fullmatch(name) or (kind == "alias" and name.isdigit()):
        raise InputError(
            f"{name[:120]!r} is not allowed as {kind} name. Use letters, digits, '_', '-' and '.', begin with a "
            "letter, digit or '_', and let an alias be no number."
        )
    return name


@final
@dataclass(frozen=True, kw_only=True)
class Reference:
    """What `name@alias` or `name@3` says.

    Args:
        name: of the world.
        alias: None where a version is named.
        version: None where an alias is.
    """

    name: str
    alias: str | None
    version: int | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference that `text` is.

        Raises:
            InputError: it is none.
        """
        name, sign, which = text.partition("@")
        if not sign or not which:
            raise InputError(f"{text[:120]!r} names no version. Write NAME@ALIAS or NAME@NUMBER, as greenhouse@prod.")
        check_name("world", name)
        if _NUMBER.fullmatch(which):
            return cls(name=name, alias=None, version=int(which))
        return cls(name=name, alias=check_name("alias", which), version=None)


@final
@dataclass(frozen=True, kw_only=True)
class Turn:
    """A version that an alias stands or stood for.

    Args:
        version: from 1.
        since: when it began, ISO 8601 with time zone.
        reason: why, in words.
    """

    version: int
    since: str
    reason: str

    def __post_init__(self) -> None:
        _check_version(self.version)


@final
@dataclass(frozen=True, kw_only=True)
class Alias:
    """What a name such as `prod` stands for.

    Args:
        now: the version that answers.
        earlier: those before, the oldest first; what was rolled back is not among them.
        shadow: the version that is asked the same beside it; None for none.
    """

    now: Turn
    earlier: tuple[Turn, ...] = ()
    shadow: int | None = None

    def __post_init__(self) -> None:
        if self.shadow is not None:
            _check_version(self.shadow)


@final
@dataclass(frozen=True, kw_only=True)
class Aliases:
    """The content of `aliases.json`.

    Args:
        format: version of the layout.
        aliases: by name.
        published: the largest number that a version was ever given, as far as known; 0 for none.
    """

    format: int = FORMAT
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    published: int = 0

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigError(f"format {self.format}, but this version of worldline reads {FORMAT}. Upgrade worldline.")
        for name in self.aliases:
            check_name("alias", name)
        if self.published < 0:
            raise ConfigError(f"published is {self.published}; versions count from 1.")


@final
@dataclass(frozen=True, kw_only=True)
class WorldDirectory:
    """The folder of one name. Reading takes no lock; whoever writes holds `locked`.

    Args:
        folder: `<catalogue>/<name>`.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Of the world."""
        return self.folder.name

    def path(self, version: int) -> Path:
        """The bundle of a version, whether it is there or not."""
        return self.folder / str(version)

    def numbers(self) -> tuple[int, ...]:
        """The versions that are there, in order."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return tuple(sorted(int(path.name) for path in found if _NUMBER.fullmatch(path.name)))

    def check_version(self, version: int) -> int:
        """The version, which is there.

        Raises:
            UnknownNameError: it is not.
        """
        if version not in self.numbers():
            raise UnknownNameError(f"version of {self.name!r}", str(version), map(str, self.numbers()))
        return version

    def records(self, alias: str, serving: int, candidate: int) -> Path:
        """Where calls are written down that `candidate` was asked beside `serving`."""
        return self.folder / SHADOW / f"{alias}-{serving}-{candidate}.jsonl"

    def stamp(self) -> Stamp | None:
        """Tells whether `aliases.json` changed since; None where it is not there or cannot be reached."""
        try:
            found = (self.folder / ALIASES).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def aliases(self) -> Mapping[str, Alias]:
        """By name; empty where none was made yet.

        Raises:
            ConfigError: the file is damaged or of another version.
        """
        return self._read().aliases

    def published(self) -> int:
        """The largest number that a version was ever given, also where its folder is gone; 0 for none.

        Raises:
            ConfigError: as in `aliases`.
        """
        known = self._read()
        turns = [turn.version for alias in known.aliases.values() for turn in (*alias.earlier, alias.now)]
        shadows = [alias.shadow or 0 for alias in known.aliases.values()]
        return max([known.published, *self.numbers(), *turns, *shadows])

    def _read(self) -> Aliases:
        path = self.folder / ALIASES
        try:
            with path.open("rb") as file:
                text = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return Aliases()
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes. Restore it from a copy.")
        return from_json(Aliases, text, where=path)

    def alias(self, name: str) -> Alias:
        """The alias of this name.

        Raises:
            UnknownNameError: there is none.
        """
        known = self.aliases()
        if name not in known:
            raise UnknownNameError(f"alias of {self.name!r}", name, known)
        return known[name]

    def resolve(self, reference: Reference) -> Path:
        """The bundle that a reference to this name stands for now.

        Raises:
            UnknownNameError: there is no such version or alias.
        """
        number = reference.version if reference.alias is None else self.alias(reference.alias).now.version
        assert number is not None  # where no alias is named, a version is
        return self.path(self.check_version(number))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes meanwhile, in this process or another."""
        lock = self.folder / ".lock"
        lock.touch()
        with locked(lock):
            yield

    def write(self, aliases: Mapping[str, Alias]) -> None:
        """Replaces `aliases.json` whole; it is on disk when this returns. To be called while `locked`."""
        path, fresh, before = self.folder / ALIASES, self.folder / f".{ALIASES}.partial", self.stamp()
        text = to_json(Aliases(aliases=aliases, published=self.published()))
        with fresh.open("w") as file:
            file.write(text)
            file.flush()
            # Clocks of file systems are coarse and inodes are used again, so two changes could look like none.
            if before is not None and os.fstat(file.fileno()).st_mtime_ns <= before[0]:
                os.utime(file.fileno(), ns=(before[0] + 1, before[0] + 1))
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_folder(self.folder)


def _check_version(version: int) -> None:
    if version < 1:
        raise ConfigError(f"version {version}; versions count from 1.")
