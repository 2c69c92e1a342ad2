"""Opens whatever logs a user has."""

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
        schema: to read it as; differs from the store's own only where the user gave one.
    """

    def __init__(self, store: Store, schema: Schema) -> None:
        super().__init__(schema, max_error=store.card.max_error, notes=store.card.notes)
        self._store = store

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether there is a store in this folder."""
        return is_store(path)

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> StoreLogs:
        """See `Logs`."""
        refuse(reading, "store")
        store = open_store(path)
        return cls(store, schema or store.schema)

    def __len__(self) -> int:
        return len(self._store)

    def read(self) -> Iterator[LoggedEpisode]:
        """See `Logs`."""
        name = self._store.path.name
        for number in range(len(self._store)):
            try:
                episode, source = self._store.verify(number), self._store.entry(number).source
            except DataError as error:
                finding = Finding(problem=error.problem, fix=error.fix, file=str(error.file), episode=number)
                yield LoggedEpisode(file=name, number=number, episode=None, findings=(finding,))
            else:
                yield LoggedEpisode(file=name, number=number, episode=episode, source=source)


def recognise(path: Path | str) -> str:
    """The name of the importer that knows the logs at `path`.

    Raises:
        DataError: nothing is there, or no importer knows it.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("there is nothing here", fix="Check the path of the logs.", file=path)
    builtin = list(BUILTIN["importer"])
    for name in (*builtin, *(name for name in names("importer") if name not in builtin)):  # plugins if they are needed
        if load("importer", name).recognises(path):
            return name
    problem = f"no importer knows these logs (there are: {', '.join(names('importer'))})"
    fix = "Name the format if the files are merely called differently, or see docs/howto/import-your-format.md."
    raise DataError(problem, fix=fix, file=path)


def open_logs(
    path: Path | str, schema: Schema | None = None, *, importer: str | None = None, reading: ReadOptions | None = None
) -> Logs:
    """The logs at `path`, in whatever format they are.

    Args:
        path: a file or folder.
        schema: of the logs; default is the one beside them, or else an inferred one.
        importer: name of the format; default is to recognise it.
        reading: how timestamped rows are to be read; default is to see what the files tell.

    Raises:
        DataError: nothing is there, no importer knows it, or nothing in it can be read.
        ConfigError: the schema beside the logs cannot be read.
        UnknownNameError: there is no such importer.
        InputError: the format has no use for what `reading` asks for.
        MissingExtraError: the format needs an extra that is not installed.
    """
    kind: type[Logs] = load("importer", importer or recognise(path))
    if not Path(path).exists():
        raise DataError("there is nothing here", fix="Check the path of the logs.", file=path)
    return kind.open(Path(path), schema, reading or ReadOptions())
