"""What an importer is: logs in someone's format, read as episodes one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from worldline.contracts.episode import Episode
from worldline.contracts.schema import Schema
from worldline.data.checks import Finding
from worldline.data.store import Source


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
    """

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` holds logs of this format; looks at names only and reads no data."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path, schema: Schema | None) -> Logs:
        """The logs at `path`.

        Args:
            path: an existing file or folder that `recognises` accepted.
            schema: of the logs; None to read it from beside them, or else to infer it.

        Raises:
            DataError: nothing there can be read, or no schema can be inferred.
            ConfigError: the schema beside the logs cannot be read.
        """

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """The signals of every episode."""

    @property
    @abstractmethod
    def unclear(self) -> tuple[str, ...]:
        """What could not be told from the logs, in full sentences that say what was assumed."""

    @abstractmethod
    def __len__(self) -> int:
        """How many episodes `read` will try."""

    @abstractmethod
    def read(self) -> Iterator[LoggedEpisode]:
        """Every episode in order, readable or not."""
