"""Opening logs in any supported format, with detection of the format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from worldline.data.base import LoggedEpisode, Logs, ReadOptions, refuse
from worldline.data.checks import Finding
from worldline.data.store import Store, is_store, open_store
from worldline.errors import DataError
from worldline.registry import BUILTIN, load, names
from worldline.schema import Schema


class StoreLogs(Logs):
    """The episodes of a store, as logs.

    Args:
        store: to read from.
        schema: of the episodes; that of the store unless the user gave another one.
    """

    def __init__(self, store: Store, schema: Schema) -> None:
        super().__init__(schema, max_error=store.card.max_error, notes=store.card.notes)
        self._store = store

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a store."""
        return is_store(path)

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> StoreLogs:
        """Opens the store at `path`."""
        refuse(reading, "store")
        store = open_store(path)
        return cls(store, schema or store.schema)

    def __len__(self) -> int:
        return len(self._store)

    def read(self) -> Iterator[LoggedEpisode]:
        """Every episode in order; a damaged one becomes a finding."""
        name = self._store.path.name
        for number in range(len(self._store)):
            try:
                episode, source = self._store.verify(number), self._store.entry(number).source
            except DataError as error:
                finding = Finding.of(error, episode=number)
                yield LoggedEpisode(file=name, number=number, episode=None, findings=(finding,))
            else:
                yield LoggedEpisode(file=name, number=number, episode=episode, source=source)


def recognise(path: Path | str) -> str:
    """The name of the importer that recognises the logs at `path`.

    Raises:
        DataError: the path does not exist, or no importer recognises it.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("the path does not exist", fix="Check the path of the logs.", file=path)
    builtin = list(BUILTIN["importer"])
    for name in (*builtin, *(name for name in names("importer") if name not in builtin)):  # plugins last
        if load("importer", name).recognises(path):
            return name
    problem = f"no importer recognises these logs (known: {', '.join(names('importer'))})"
    fix = "Name the format if only the file names differ, or see docs/howto/import-your-format.md."
    raise DataError(problem, fix=fix, file=path)


def open_logs(
    path: Path | str, schema: Schema | None = None, *, importer: str | None = None, reading: ReadOptions | None = None
) -> Logs:
    """The logs at `path`, in any supported format.

    Args:
        path: a file or folder.
        schema: of the logs; default is the one next to them, or else an inferred one.
        importer: name of the format; default is to detect it.
        reading: settings for timestamped rows; default is to infer them from the files.

    Raises:
        DataError: the path does not exist, no importer recognises it, or no episode can be read.
        ConfigError: the schema next to the logs cannot be read.
        UnknownNameError: `importer` is not registered.
        InputError: the format does not support an option of `reading`.
        MissingExtraError: the format needs an extra that is not installed.
    """
    kind: type[Logs] = load("importer", importer or recognise(path))
    if not Path(path).exists():
        raise DataError("the path does not exist", fix="Check the path of the logs.", file=path)
    return kind.open(Path(path), schema, reading or ReadOptions())
