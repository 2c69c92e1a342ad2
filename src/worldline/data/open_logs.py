"""Opening logs in any supported format, with detection of the format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from worldline.data.array_size import check_one_hot
from worldline.data.base import LoggedEpisode, Logs, ReadOptions, refuse
from worldline.data.checks import Finding
from worldline.data.formats.memory import logs_in_memory
from worldline.data.infer import NO_ACTION
from worldline.data.log_edits import LogEdits, edited_logs, moved_actions, with_noop
from worldline.data.role_names import RoleGuess
from worldline.data.roles import GIVEN, ColumnGuess
from worldline.data.schema_edits import IGNORE, SchemaEdits, apply_edits
from worldline.data.store import Store, is_store, open_store
from worldline.errors import DataError
from worldline.registry import BUILTIN, load, names
from worldline.schema import NOOP, Role, Schema


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
    if not (is_store(path) or path.exists()):
        raise DataError("the path does not exist", fix="Check the path of the logs.", file=path)
    builtin = list(BUILTIN["importer"])
    for name in (*builtin, *(name for name in names("importer") if name not in builtin)):  # plugins last
        if load("importer", name).recognises(path):
            return name
    problem = f"no importer recognises these logs (known: {', '.join(names('importer'))})"
    fix = "Name the format if only the file names differ, or see docs/howto/import-your-format.md."
    raise DataError(problem, fix=fix, file=path)


def open_logs(
    logs: Path | str | object,
    schema: Schema | None = None,
    *,
    importer: str | None = None,
    reading: ReadOptions | None = None,
    edits: SchemaEdits | None = None,
    log_edits: LogEdits | None = None,
) -> Logs:
    """The logs at a path, in any supported format, or in memory.

    If all roles are certain and none is an action, nothing is chosen: each step gets the action `NOOP`.

    Args:
        logs: a file or folder; or a pandas or polars frame, a mapping of arrays, a list of these, or a list of
            episodes (see `worldline.data.formats.memory`).
        schema: of the logs; default is the one next to them, or else an inferred one.
        importer: name of the format; default is to detect it.
        reading: settings; default is to infer them from the files, and to leave actions where they are.
        edits: corrections of the schema, such as {"heater": {"role": "action"}}.
        log_edits: episodes to leave out or to split, and observations to mark as missing. Their numbers are those of
            the logs before actions are moved.

    Raises:
        DataError: the path does not exist, no importer recognises it, or no episode can be read.
        ConfigError: the schema next to the logs cannot be read, or a correction is wrong.
        UnknownNameError: `importer` is not registered.
        InputError: the format does not support an option of `reading`, or the object in memory is no log. Or
            `log_edits` name what the logs do not hold; a wrong row is found when its episode is read.
        MissingExtraError: the format needs an extra that is not installed.
    """
    options, name, origin = reading or ReadOptions(), "memory", "memory"
    if schema is not None and not (isinstance(logs, Path | str) and is_store(logs)):
        schema = replace(schema, signals=tuple(signal for signal in schema.signals if signal != NOOP))
    if isinstance(logs, Path | str):
        path = Path(logs)
        name, origin = importer or recognise(path), path.resolve().name
        kind: type[Logs] = load("importer", name)
        if not path.exists():
            raise DataError("the path does not exist", fix="Check the path of the logs.", file=path)
        opened = _edited(lambda known: kind.open(path, known, options), schema, edits or {})
    else:
        opened = _edited(lambda known: logs_in_memory(logs, known, options), schema, edits or {})
    opened.importer, opened.origin = name, origin
    for signal in opened.schema.signals:
        check_one_hot(signal)
    if not opened.schema.actions and opened.schema.observations and all(c.guess.sure for c in opened.columns):
        opened = with_noop(opened)
    opened = opened if log_edits is None else edited_logs(opened, log_edits)
    return moved_actions(opened, options.action_lag) if options.action_lag else opened


def _edited(opened: Callable[[Schema | None], Logs], schema: Schema | None, edits: SchemaEdits) -> Logs:
    """Opens the logs and corrects their schema."""
    logs = opened(schema)
    if not edits:
        return logs
    corrected = apply_edits(logs.schema, edits, logs.columns)
    again = logs.with_schema(corrected)
    if again is None:
        again = opened(corrected)
    again.columns = tuple(_given(column, edits.get(column.name, {}).get("role")) for column in logs.columns)
    still = (line for line in logs.unclear if line.partition(":")[0] not in edits and line != NO_ACTION)
    again.unclear = tuple(dict.fromkeys((*still, *again.unclear)))
    return again


def _given(column: ColumnGuess, role: str | None) -> ColumnGuess:
    """The column with a role that the user gave."""
    if role is None:
        return column
    guess = RoleGuess(role=None if role == IGNORE else Role(role), reason=GIVEN)
    return replace(column, guess=guess, is_signal=role != IGNORE)
