"""What an importer is: logs in someone's format, read as episodes one at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from worldline.config import from_json
from worldline.data.checks import Finding
from worldline.data.store import SCHEMA_FILE, Source
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.schema import Schema


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How timestamped rows are to be read, where the rows do not tell. Formats without timestamps take none of it.

    Args:
        episode: the column whose value tells episodes apart; None to look for one by name.
        time: the column of times; None to look for one by name.
        gap_s: seconds; a longer gap between two rows ends an episode. None for ten times the usual one.
        rate_hz: resample everything to so many steps a second; None to keep the rows as they are.
        rule: what a resampled signal is between two of its rows: the last one, a straight line, or the nearest one.
    """

    episode: str | None = None
    time: str | None = None
    gap_s: float | None = None
    rate_hz: float | None = None
    rule: Literal["hold", "linear", "nearest"] = "hold"

    def __post_init__(self) -> None:
        if self.rule != "hold" and self.rate_hz is None:
            raise InputError(f"rule is {self.rule!r}, and nothing is resampled without a rate_hz. Give one.")
        for name in ("gap_s", "rate_hz"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value}. It must be a positive number.")


@dataclass(frozen=True, kw_only=True)
class LoggedEpisode:
    """One attempt to read an episode.

    Args:
        file: where it lies, relative to the logs.
        number: of the episode in the logs, from 0.
        episode: None where it could not be read; `findings` then says why.
        findings: what was noticed on reading; values are not checked yet.
        source: kept beside the episode in a store.
    """

    file: str
    number: int
    episode: Episode | None
    findings: tuple[Finding, ...] = ()
    source: Source = field(default_factory=dict)


class Logs(ABC):
    """Logged episodes, wherever they lie. An importer is a subclass, registered as kind `importer`.

    A file that cannot be read is a finding of its episode, never an exception and never passed over.

    Args:
        schema: the signals of every episode.
        unclear: what could not be told from the logs, in full sentences that say what was assumed.
        max_error: per picture what it had lost before, as on the card of a store.
        notes: on the origin, as on the card of a store.
    """

    def __init__(
        self,
        schema: Schema,
        unclear: Sequence[str] = (),
        *,
        max_error: Mapping[str, int] | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self.schema, self.unclear = schema, tuple(unclear)
        self.max_error, self.notes = dict(max_error or {}), dict(notes or {})

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` holds logs of this format; looks at names only and reads no data."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> Logs:
        """The logs at `path`.

        Args:
            path: an existing file or folder.
            schema: of the logs; None to read it from beside them, or else to infer it.
            reading: for formats of timestamped rows; all others pass it to `refuse`.

        Raises:
            DataError: nothing there can be read, or no schema can be inferred.
            ConfigError: the schema beside the logs cannot be read.
            InputError: this format has no use for what `reading` asks for.
        """

    @abstractmethod
    def __len__(self) -> int:
        """How many episodes `read` will try."""

    @abstractmethod
    def read(self) -> Iterator[LoggedEpisode]:
        """Every episode in order, readable or not."""


def schema_beside(path: Path) -> Schema | None:
    """The `schema.json` that lies beside the logs, which is what the user has corrected; None where there is none.

    Args:
        path: a file, or the folder of the logs.

    Raises:
        ConfigError: it cannot be read.
    """
    file = (path.parent if path.is_file() else path) / SCHEMA_FILE
    return from_json(Schema, file.read_bytes(), where=file) if file.is_file() else None


def refuse(reading: ReadOptions, what: str) -> None:
    """For formats whose files tell everything: refuses a reading that asks for something.

    Args:
        reading: as given by the user.
        what: the format's name, for the message.

    Raises:
        InputError: it differs from the default.
    """
    asked = [f.name for f in fields(ReadOptions) if getattr(reading, f.name) != f.default]
    if asked:
        raise InputError(f"{what} logs take no {', '.join(asked)}: it belongs to timestamped rows. Leave it out.")
