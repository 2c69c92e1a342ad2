"""The contract of importers: `Logs` reads episodes of a file format one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final

from worldline.config import from_json
from worldline.data.array_size import check_size
from worldline.data.checks import Finding
from worldline.data.index import Source
from worldline.data.read_options import ReadOptions as ReadOptions  # for importers: part of their contract
from worldline.data.roles import ColumnGuess
from worldline.data.store import SCHEMA_FILE
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.schema import Schema

ACTION_LAG: Final = "action_lag"
"""Name of the option, and of the note in a store."""
PIECE: Final = "piece"
"""Key of the sources: the number of an episode among the pieces that a recording was cut into."""
SIDECAR: Final = f".{SCHEMA_FILE}"
"""End of the name of the schema of a single file: `plant.csv.schema.json` is that of `plant.csv`."""
BYTES_A_JSON_BYTE: Final = 32
"""Memory that a byte of a schema in JSON takes until it is checked."""


@dataclass(frozen=True, kw_only=True)
class LoggedEpisode:
    """The result of reading one episode.

    Args:
        file: path of the file, relative to the logs.
        number: number of the episode in the logs, from 0.
        episode: None if it could not be read; `findings` then gives the reason.
        findings: problems found while reading; values are not checked yet.
        source: origin of the episode, kept with it in a store.
    """

    file: str
    number: int
    episode: Episode | None
    findings: tuple[Finding, ...] = ()
    source: Source = field(default_factory=dict)


class Logs(ABC):
    """Logged episodes in one file format. An importer is a subclass that is registered as kind `importer`.

    A file that cannot be read becomes a finding of its episode. It is never an exception and never skipped.

    Args:
        schema: the signals of every episode.
        unclear: assumptions that the logs do not confirm, as full sentences.
        max_error: per image signal, the error that its pixels already have, as in `DataCard`.
        notes: notes on the origin, as in `DataCard`.
    """

    columns: tuple[ColumnGuess, ...] = ()
    """What was inferred of each column; empty if the schema was given, or the format declares the signals."""
    importer: str = ""
    """Name of the format; set by `open_logs`."""
    origin: str = ""
    """Name of the file, folder or kind of object; set by `open_logs`."""

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
    def recognises(cls, path: Path) -> bool:
        """Whether `path` holds logs of this format; checks names only and reads no data. False without a format."""
        del path
        return False

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> Logs:
        """The logs at `path`.

        Args:
            path: an existing file or folder.
            schema: of the logs; None to read the `schema.json` next to them, or else to infer one.
            reading: for formats of timestamped rows; all others pass it to `refuse`.

        Raises:
            DataError: no episode can be read, or no schema can be inferred.
            ConfigError: the schema next to the logs cannot be read.
            InputError: this format does not support an option of `reading`, or these logs have no format.
        """
        del schema, reading
        raise InputError(f"{cls.__name__} reads no path, such as {path}. Use worldline.data.open.")

    def with_schema(self, schema: Schema) -> Logs | None:
        """The same logs with another schema, without another pass over the files; None if they must be opened again.

        Args:
            schema: a corrected form of the inferred schema.
        """
        del schema  # formats that need no pass over all files are opened again
        return None

    @abstractmethod
    def __len__(self) -> int:
        """The number of episodes that `read` yields."""

    @abstractmethod
    def read(self) -> Iterator[LoggedEpisode]:
        """Every episode in order, including those that cannot be read."""

    def parts(self) -> Sequence[Logs]:
        """Logs that together have these episodes in this order, such as one for each file, which workers can read."""
        return [self]


def schema_beside(path: Path) -> Schema | None:
    """The schema next to the logs, which the user may have corrected: `FILE.schema.json`, or `schema.json`.

    None without that file.

    Args:
        path: a file, or the folder of the logs.

    Raises:
        ConfigError: the file cannot be read.
    """
    file = path / SCHEMA_FILE
    if path.is_file():
        file = own if (own := sidecar(path)).is_file() else path.parent / SCHEMA_FILE
    if not file.is_file():
        return None
    check_size(BYTES_A_JSON_BYTE * file.stat().st_size, "the schema", file=file)
    return from_json(Schema, file.read_bytes(), where=file)


def sidecar(file: Path) -> Path:
    """The path of the schema that belongs to a single file."""
    return file.with_name(f"{file.name}{SIDECAR}")


def noted_lag(notes: Mapping[str, str]) -> int:
    """The `action_lag` in the notes of logs or of a store: the steps by which their actions were moved."""
    return int(notes.get(ACTION_LAG, 0))


def refuse(reading: ReadOptions, what: str, takes: Collection[str] = ()) -> None:
    """Raises if an option of timestamped rows is set. For formats without such rows.

    Args:
        reading: as given by the user.
        what: the format's name, for the message.
        takes: the options that the format supports nevertheless.

    Raises:
        InputError: an option differs from its default.
    """
    known = {ACTION_LAG, *takes}
    changed = [f.name for f in fields(ReadOptions) if getattr(reading, f.name) != f.default and f.name not in known]
    if changed:
        raise InputError(f"{what} logs take no {', '.join(changed)}: only timestamped rows do. Leave it out.")
