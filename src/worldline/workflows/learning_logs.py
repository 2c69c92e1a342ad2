"""Opens logs for learning: a store is used in place, other logs are imported into a store next to the world."""

from __future__ import annotations

import re
import shlex
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

from worldline.data.base import Logs, ReadOptions, noted_lag, schema_beside
from worldline.data.checks import Finding, Severity, check_actions, raise_errors
from worldline.data.correcting import correct_schema
from worldline.data.formats.tables.tables import TableLogs
from worldline.data.importing import import_logs, logged_actions, realign_command, wider_bounds, with_lag_of
from worldline.data.index import Source
from worldline.data.open_logs import open_logs
from worldline.data.schema_edits import SchemaEdits
from worldline.data.splits import MIN_EPISODES
from worldline.data.store import Store, is_store, open_store
from worldline.errors import InputError, WorldlineError
from worldline.progress import OnProgress
from worldline.schema import Schema

CUT_STEPS = 100
"""Steps of each episode that a long recording in memory is cut into."""


def partial_folder(out: Path) -> Path:
    """Folder of the checkpoint of an interrupted training, next to the bundle.

    It is empty if the import was interrupted, and absent if there is nothing to resume.
    """
    return out.with_name(f"{out.name}.partial")


def store_folder(out: Path) -> Path:
    """Folder of the imported logs, next to the bundle."""
    return out.with_name(f"{out.name}.store")


def open_for_learning(
    logs: Path | str | object,
    out: Path,
    progress: OnProgress | None,
    *,
    edits: SchemaEdits | None,
    action_lag: int | None,
    resume: bool,
) -> tuple[Store, tuple[str, ...], tuple[str, ...]]:
    """The store, the findings about the logs, and the ambiguities in them."""
    noticed: tuple[Finding, ...]
    unclear: tuple[str, ...]
    if is_stored(logs):
        if edits:
            raise InputError(f"edits are given, but {logs} is a store. Correct it with worldline.data.correct_schema.")
        _check_lag(open_store(logs), action_lag)
        store, widened = _with_logged_bounds(open_store(logs))
        noticed, unclear = check_actions(store.schema, logged_actions(store)), widened
    else:
        destination, unfinished = store_folder(out), partial_folder(out)
        unfinished.mkdir(parents=True, exist_ok=True)
        known = open_store(destination).schema if resume and is_store(destination) else None
        reading = ReadOptions(action_lag=action_lag)
        if known is not None or isinstance(logs, Path | str):  # else an earlier store is replaced
            reading = with_lag_of(destination, logs, reading)
        try:
            source = logs if isinstance(logs, Path | str) else _cut_into_episodes(logs, known, edits, reading)
            if isinstance(source, Logs) and is_store(destination) and not resume:
                _remove_earlier(destination)  # the new logs can be read
            imported = import_logs(
                source, destination, reading=reading, edits=edits, keep_going=True, only=True, progress=progress
            )
        except WorldlineError:
            with suppress(OSError):  # not empty: it has a checkpoint
                unfinished.rmdir()
            raise
        store, widened = _with_logged_bounds(open_store(destination))
        noticed, unclear = imported.findings, (*imported.unclear, *widened, *_other_schema(logs, store))
    useless = [finding for finding in noticed if finding.episode is None and finding.severity is Severity.ERROR]
    raise_errors(replace(finding, fix=" ".join((finding.fix, *_other_schema(logs, store)))) for finding in useless)
    return store, tuple(map(str, noticed)), unclear


def _check_lag(store: Store, action_lag: int | None) -> None:
    """Refuses to move the actions of a store.

    Raises:
        InputError: the store was imported with another lag.
    """
    lag = noted_lag(store.card.notes)
    if action_lag is None or action_lag == lag:
        return
    command = shlex.join(["worldline", *realign_command(store.path, action_lag - lag)])
    raise InputError(
        f"action_lag is {action_lag}, but {store.path} is a store, imported with {lag}. Leave the option out, or move "
        f"its actions into a new store: {command}"
    )


def is_stored(logs: object) -> TypeGuard[Path | str]:
    """Whether the logs are a store."""
    return isinstance(logs, Path | str) and is_store(logs)


def _remove_earlier(path: Path) -> None:
    """Removes the store of earlier logs in memory.

    Raises:
        InputError: the store holds other logs, also if they were added later; they may exist nowhere else.
    """
    store = open_store(path)
    in_memory = store.card.notes.get("importer") == "memory"
    if not in_memory or not all(_was_in_memory(entry.source) for entry in store.entries()):
        raise InputError(f"{path} holds logs that were not in memory. Choose another `out`, or move the store away.")
    shutil.rmtree(path)


def _was_in_memory(source: Source) -> bool:
    """Whether the origin of an episode is a frame or a list of episodes, see `worldline.data.formats.memory`."""
    if "file" in source:
        return re.fullmatch(r"frame( \d+)?", str(source["file"])) is not None
    return source.keys() == {"episode"}


def _cut_into_episodes(logs: object, schema: Schema | None, edits: SchemaEdits | None, reading: ReadOptions) -> Logs:
    """Logs in memory; one long recording becomes episodes of `CUT_STEPS` steps."""
    found = open_logs(logs, schema, edits=edits)
    note = f"The logs are {len(found)} recordings without episodes; they were cut into episodes of {CUT_STEPS} steps."
    is_cut = len(found) < MIN_EPISODES and isinstance(found, TableLogs)
    if is_cut or reading.action_lag:
        reading = replace(reading, max_steps=CUT_STEPS if is_cut else None)
        found = open_logs(logs, schema, edits=edits, reading=reading)
        found.unclear = (*found.unclear, *([note] if is_cut else []))
    return found


def _with_logged_bounds(store: Store) -> tuple[Store, tuple[str, ...]]:
    """The store with inferred bounds of actions widened to all its episodes, and a sentence for each of them."""
    wider = wider_bounds(store)
    notes = (f"{name}: its inferred bounds were widened to the range of all logs." for name in wider)
    return (correct_schema(store, wider) if wider else store), tuple(notes)


def _other_schema(logs: Path | str | object, store: Store) -> tuple[str, ...]:
    """A note if the schema next to the logs differs from the one in use, which may have been edited."""
    if not isinstance(logs, Path | str) or is_stored(logs) or schema_beside(Path(logs)) in (None, store.schema):
        return ()
    return (
        f"The schema next to the logs was not used: {store.path} has another. Move this store away to use the schema.",
    )
