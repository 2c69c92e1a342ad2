"""Opens whatever logs a user has, and brings them into a store with nothing dropped in silence."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from worldline.contracts.schema import Schema
from worldline.data.checks import Finding, Severity, check_actions, check_episode, raise_errors
from worldline.data.logs import LoggedEpisode, Logs
from worldline.data.store import Store, is_store, open_store
from worldline.errors import DataError
from worldline.registry import BUILTIN, load, names


class StoreLogs(Logs):
    """The episodes of a store, as logs.

    Args:
        store: to read from.
        schema: to read it as; differs from the store's own only where the user gave one.
    """

    def __init__(self, store: Store, schema: Schema) -> None:
        self._store, self._schema = store, schema

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether there is a store in this folder."""
        return is_store(path)

    @classmethod
    def open(cls, path: Path, schema: Schema | None) -> StoreLogs:
        """See `Logs`."""
        store = open_store(path)
        return cls(store, schema or store.schema)

    @property
    def schema(self) -> Schema:
        """See `Logs`."""
        return self._schema

    @property
    def unclear(self) -> tuple[str, ...]:
        """Nothing: a store has its schema."""
        return ()

    def __len__(self) -> int:
        return len(self._store)

    def read(self) -> Iterator[LoggedEpisode]:
        """See `Logs`."""
        for number, entry in enumerate(self._store.entries):
            yield LoggedEpisode(
                file=self._store.path.name, number=number, episode=self._store.episode(number), source=entry.source
            )


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """What became of one file.

    Args:
        file: its name.
        kept: episodes that are in the store now.
        left_out: episodes that are not; the findings say why.
    """

    file: str
    kept: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of some logs.

    Args:
        destination: the store that was made; its `schema.json` is the schema that was used.
        schema: the same.
        files: every file, in order.
        findings: all that was noticed, errors and warnings.
        unclear: what could not be told from the logs, in full sentences that say what was assumed.
    """

    destination: Path
    schema: Schema
    files: tuple[ImportedFile, ...]
    findings: tuple[Finding, ...]
    unclear: tuple[str, ...]

    @property
    def num_episodes(self) -> int:
        """Episodes in the store."""
        return sum(file.kept for file in self.files)


def open_logs(path: Path | str, schema: Schema | None = None) -> Logs:
    """The logs at `path`: a store, a folder of .npz files, one .npz file, or whatever an installed importer knows.

    Args:
        path: a file or folder.
        schema: of the logs; default is the one beside them, or else an inferred one.

    Raises:
        DataError: nothing is there, no importer knows it, or not one file can be read.
        ConfigError: the schema beside the logs cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise DataError("there is nothing here", fix="Check the path of the logs.", file=path)
    known = names("importer")
    for name in sorted(known, key=lambda name: name not in BUILTIN["importer"]):  # plugins only if they are needed
        importer: type[Logs] = load("importer", name)
        if importer.recognises(path):
            return importer.open(path, schema)
    problem = f"no importer knows these logs (there are: {', '.join(known)})"
    fix = "Give a folder of .npz files, one an episode, with T+1 observations and T actions; or a store."
    raise DataError(problem, fix=fix, file=path)


def import_logs(
    source: Path | str,
    destination: Path | str,
    schema: Schema | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Brings logs into a new store. What cannot be used is left out and reported; all else is kept.

    Args:
        source: what `open_logs` takes.
        destination: a new folder.
        schema: of the logs; default is the one beside them, or else an inferred one.
        progress: called with the number of episodes tried and their total.

    Raises:
        DataError: no episode can be used, or no action ever changes; no store is left behind.
        InputError: the destination exists.
    """
    logs = open_logs(source, schema)
    store = Store.create(destination, logs.schema)
    findings: list[Finding] = []
    tried: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for logged in logs.read():
        problems = list(logged.findings)
        if logged.episode is not None:
            problems += check_episode(logged.episode, logs.schema, file=logged.file, number=logged.number)
        if logged.episode is not None and not any(finding.severity is Severity.ERROR for finding in problems):
            store.append(logged.episode, logged.source)
            kept[logged.file] += 1
        tried[logged.file] += 1
        findings += problems
        if progress is not None:
            progress(tried.total(), len(logs))
    try:
        findings += _check_all(store, findings, Path(source))
    except DataError:
        shutil.rmtree(store.path)
        raise
    return ImportReport(
        destination=store.path,
        schema=logs.schema,
        files=tuple(ImportedFile(file=f, kept=kept[f], left_out=n - kept[f]) for f, n in tried.items()),
        findings=tuple(findings),
        unclear=logs.unclear,
    )


def _check_all(store: Store, findings: list[Finding], source: Path) -> tuple[Finding, ...]:
    """What is noticed only in all episodes together; raises where nothing can be learned from them."""
    if not len(store):
        errors = [finding for finding in findings if finding.severity is Severity.ERROR]
        first = f"The first reason: {errors[0].error()}" if errors else "There are none"
        raise DataError("none of the episodes can be used", fix=first, file=source)
    names_of_actions = [signal.name for signal in store.schema.actions]
    lengths = store.num_steps.tolist()
    actions = ({name: store.read(name, i, 0, steps) for name in names_of_actions} for i, steps in enumerate(lengths))
    noticed = check_actions(store.schema, actions)
    raise_errors(noticed)
    return noticed
