"""Import of logs into a store. Every episode that is left out is reported, and no episode is added twice."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from worldline.data.base import LoggedEpisode, Logs, ReadOptions, noted_lag
from worldline.data.checks import Finding, Severity, check_episode, raise_errors, warning
from worldline.data.conversion import scale, scaled_schema
from worldline.data.data_card import CARD_FILE
from worldline.data.formats.raw_episode import without_step
from worldline.data.fsync import locked
from worldline.data.index import Source
from worldline.data.log_edits import LOG_EDITS, NO_EDITS, LogEdits
from worldline.data.open_logs import open_logs
from worldline.data.roles import ColumnGuess, likely_actions
from worldline.data.schema_edits import SchemaEdits
from worldline.data.store import SCHEMA_FILE, Store, is_store, open_store
from worldline.data.store_notes import findings_about_actions, guess_notes, inferred_bounds
from worldline.episode import Episode
from worldline.errors import DataError, InputError
from worldline.progress import OnProgress, tell
from worldline.schema import Kind, Role, Schema
from worldline.workers import Workers, is_alone, run_in_order

SIZE: Final = "size"
"""Note of a store whose images were scaled."""


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """The result of importing one file.

    Args:
        file: name of the file.
        kept: number of episodes added to the store.
        present: number of episodes that an earlier import had already added.
        left_out: number of episodes that are not in the store; the findings give the reasons.
    """

    file: str
    kept: int
    present: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """The result of an import.

    Args:
        destination: the store; its `schema.json` is the schema that was used.
        importer: name of the format of the logs.
        schema: of the store.
        files: every file, in order.
        findings: all errors and warnings.
        unclear: assumptions that the logs do not confirm, as full sentences.
        columns: what was inferred of each column; see `Logs`.
    """

    destination: Path
    importer: str
    schema: Schema
    files: tuple[ImportedFile, ...]
    findings: tuple[Finding, ...]
    unclear: tuple[str, ...]
    columns: tuple[ColumnGuess, ...] = ()

    @property
    def num_episodes(self) -> int:
        """Number of episodes added to the store."""
        return sum(file.kept for file in self.files)


def import_logs(
    source: Path | str | Logs | object,
    destination: Path | str,
    schema: Schema | None = None,
    *,
    importer: str | None = None,
    reading: ReadOptions | None = None,
    edits: SchemaEdits | None = None,
    log_edits: LogEdits | None = None,
    keep_going: bool = False,
    max_error: int = 0,
    size: tuple[int, int] | None = None,
    only: bool = False,
    workers: Workers = 1,
    progress: OnProgress | None = None,
) -> ImportReport:
    """Imports logs into a new store, or adds the episodes that an existing store does not hold yet.

    If the process is killed, the store holds every complete episode, and the same call continues the import.

    Args:
        source: as `logs` of `open_logs`: a path, a frame, a mapping of arrays, episodes; or `Logs` that are open.
        destination: a new folder, or a store.
        schema: of the logs; default is that of the store, else the one next to the logs, else an inferred one.
        importer: name of the format; default is to detect it.
        reading: as for `open_logs`.
        edits: as for `open_logs`; corrections of the schema.
        log_edits: as for `open_logs`; later imports need the same, or an empty `LogEdits()` to add logs as they are.
        keep_going: skip and report episodes that cannot be used, instead of stopping at the first.
        max_error: of a new store: largest error of a pixel, in grey levels from 0 (lossless) to 64.
        size: of a new store: height and width that images are scaled to; default is to keep their size.
        only: refuse a store with episodes that are not in these logs; nothing is added to it then.
        workers: that read tables and their videos, a file each; see `worldline.workers.Workers`.
        progress: called after each processed episode.

    Raises:
        DataError: an episode cannot be used (without `keep_going`), or none can, or the logs have no observation,
            or no action while a role is uncertain. Complete episodes stay in the store.
        ConfigError: as for `open_logs`.
        InputError: an argument does not fit the logs or the store, or another import into the store is running.
    """
    old = open_store(destination) if is_store(destination) else None
    if not isinstance(source, Logs):
        known = old.schema if schema is None and old else schema
        reading = with_lag_of(Path(destination), source, reading)
        source = open_logs(source, known, importer=importer, reading=reading, edits=edits, log_edits=log_edits)
    elif log_edits is not None:
        raise InputError("log_edits are given for open logs. Give them to worldline.data.open instead.")
    fitted = source.schema if size is None else scaled_schema(source.schema, size)
    if old is not None:
        _check_same(old, source, fitted, max_error)
    store = _new_store(source, Path(destination), fitted, max_error, size) if old is None else old
    adding: Any = {"keep_going": keep_going, "only": only, "workers": workers, "progress": progress}
    with _filling(store, is_new=old is None):
        files, findings = _add_all(source, store, is_scaled=size is not None or SIZE in store.card.notes, **adding)
        if not len(store):
            raise _no_episode_error(findings, source.origin)
    noted = (*findings, *findings_about_actions(store))
    origin: dict[str, Any] = {"importer": source.importer, "unclear": source.unclear, "columns": source.columns}
    return ImportReport(destination=store.path, schema=store.schema, files=files, findings=noted, **origin)


@contextmanager
def _filling(store: Store, *, is_new: bool) -> Iterator[None]:
    """Adds episodes to a store that no other import fills; removes a new store that would be empty."""
    problem = f"another import into {store.path} is running. Wait until it has ended."
    with locked(store.path / CARD_FILE, busy=problem):
        store.refresh()
        try:
            yield
        except (DataError, InputError) as error:  # an edit of a row that an episode lacks is an InputError
            if len(store) and isinstance(error, DataError):
                raise _with_progress(error, store) from error
            if is_new:
                shutil.rmtree(store.path)
            raise


def _new_store(logs: Logs, destination: Path, schema: Schema, max_error: int, size: tuple[int, int] | None) -> Store:
    """A store whose card notes the origin. Images of a copied store keep the error that they already have."""
    _require_roles(logs)
    images = [signal.name for signal in schema.signals if signal.kind is Kind.IMAGE]
    if not images and (max_error or size):
        raise InputError("max_error and size apply to images, but the logs hold none. Leave them out.")
    notes = {**logs.notes, "importer": logs.importer, "source": logs.origin, "assumed": " ".join(logs.unclear)}
    notes |= guess_notes(logs) | ({SIZE: f"{size[0]}x{size[1]}"} if size else {})
    notes |= {LOG_EDITS: ""} if logs.notes.get(LOG_EDITS) == NO_EDITS else {}
    lost = {name: max(max_error, logs.max_error.get(name, 0)) for name in images}
    return Store.create(destination, schema, max_error=lost, notes=notes)


def _check_same(old: Store, logs: Logs, schema: Schema, max_error: int) -> None:
    """Checks that the logs are read as those that the store holds.

    Raises:
        InputError: the store has another schema, `action_lag`, `max_error` or edits.
    """
    lag, before = noted_lag(logs.notes), noted_lag(old.card.notes)
    if logs.importer != "store" and lag != before:
        raise InputError(
            f"{old.path} was imported with --action-lag {before}, and these logs are read with {lag}. Leave the "
            "option out to use the same, or import into a new folder."
        )
    ours, theirs = logs.notes.get(LOG_EDITS, ""), old.card.notes.get(LOG_EDITS, "")
    if ours not in (theirs, NO_EDITS):
        raise InputError(
            f"{old.path} was imported with the edits {theirs or NO_EDITS}, and these logs with {ours or NO_EDITS}. "
            "Give the same edits to import the same logs. To add other logs, import them into a new store, and "
            f"then add its episodes: worldline import NEW {old.path} --drop {NO_EDITS}"
        )
    if old.schema != schema or (max_error and max_error not in old.card.max_error.values()):
        raise InputError(
            f"{old.path} is a store with another schema or max_error. Import into a new folder, or correct the "
            f"schema of the store first: worldline schema {old.path}"
        )


def _read(logs: Logs, workers: Workers) -> Iterator[LoggedEpisode]:
    """Every episode in order."""
    parts = [] if is_alone(workers) else logs.parts()
    if len(parts) < 2:
        yield from logs.read()
        return
    tasks = {f"part {number}": (part,) for number, part in enumerate(parts)}
    episodes = chain.from_iterable(run_in_order(_read_part, tasks, workers, "import"))
    for number, logged in enumerate(episodes):
        findings = (item if item.episode is None else replace(item, episode=number) for item in logged.findings)
        yield replace(logged, number=number, findings=tuple(findings))


def _read_part(logs: Logs) -> list[LoggedEpisode]:
    return list(logs.read())


def _add_all(
    logs: Logs,
    store: Store,
    *,
    keep_going: bool,
    only: bool,
    is_scaled: bool,
    workers: Workers,
    progress: OnProgress | None,
) -> tuple[tuple[ImportedFile, ...], list[Finding]]:
    """Adds the usable episodes that the store does not hold yet.

    With `only`, nothing is added before every episode of the store was found in the logs. Logs in another order
    than the store therefore take a second pass.
    """
    stored = Counter((_origin(entry.source), entry.digest) for entry in store.entries())
    origins = {origin for origin, _ in stored}
    num_not_found, is_postponed = len(store) if only else 0, False
    findings, counts, inferred = list[Finding](), dict[str, Counter[str]](), inferred_bounds(store)
    for number, logged in enumerate(_read(logs, workers), start=1):
        episode, problems = _checked(logged, store, inferred, is_scaled=is_scaled)
        findings += problems
        if not keep_going:
            raise_errors(problems)
        outcome = "left_out"
        if episode is not None:
            origin, digest = _origin(logged.source), store.digest(episode)
            if stored[origin, digest]:
                stored[origin, digest] -= 1
                num_not_found -= only
                outcome = "present"
            elif num_not_found:
                is_postponed = True
            else:
                findings += [_changed_finding(logged)] if logged.source and origin in origins else []
                store.append_checked(episode, logged.source, digest=digest)
                outcome = "kept"
        counts.setdefault(logged.file, Counter())[outcome] += 1
        tell(progress, "import", number, len(logs))
    if num_not_found:
        raise _other_episodes_error(store, num_not_found, findings)
    if is_postponed:
        again: Any = {"keep_going": keep_going, "is_scaled": is_scaled, "workers": workers, "progress": progress}
        return _add_all(logs, store, only=False, **again)
    outcomes = ("kept", "present", "left_out")
    files = (ImportedFile(file=file, **{n: count[n] for n in outcomes}) for file, count in counts.items())
    return tuple(files), findings


def _checked(
    logged: LoggedEpisode, store: Store, unbounded: Sequence[str], *, is_scaled: bool
) -> tuple[Episode | None, list[Finding]]:
    """The episode as the store takes it, or None, and what is wrong with it."""
    episode, problems = logged.episode, list(logged.findings)
    if episode is not None and is_scaled:
        episode = scale(episode, store.schema)
    if episode is not None and episode.num_steps < 1:
        problems.append(replace(without_step("observation", 1), file=logged.file, episode=logged.number))
        episode = None
    if episode is not None:
        problems += check_episode(episode, store.schema, file=logged.file, number=logged.number, unbounded=unbounded)
    return None if any(finding.severity is Severity.ERROR for finding in problems) else episode, problems


def with_lag_of(destination: Path, source: object, reading: ReadOptions | None) -> ReadOptions:
    """The options for an import; without an `action_lag`, they get that of the logs in an existing store.

    Args:
        destination: a new folder, or a store.
        source: the logs. The actions of a store are at their place, if the store was imported with the same lag.
        reading: as given by the user.

    Raises:
        InputError: the logs are a store that was imported with another lag, and the user gives none.
    """
    reading = reading or ReadOptions()
    if reading.action_lag is not None or not is_store(destination):
        return reading
    lag = noted_lag(open_store(destination).card.notes)
    if not (isinstance(source, Path | str) and is_store(source)):
        return replace(reading, action_lag=lag)
    if (other := noted_lag(open_store(source).card.notes)) != lag:
        raise InputError(
            f"{destination} was imported with --action-lag {lag}, and {source} with {other}. Give --action-lag "
            f"{lag - other} to move the actions of {source}, or --action-lag 0 to add them as they are."
        )
    return reading


def _require_roles(logs: Logs) -> None:
    """Checks that the logs have an action and an observation.

    Raises:
        DataError: they have none; the message names columns that may be one, and the option to type.
    """
    lacking = [role for role in (Role.ACTION, Role.OBSERVATION) if not logs.schema.of(role)]
    if not lacking:
        return
    role, likely = lacking[0], likely_actions(logs.columns)
    possible = [column.name for column in likely if not column.guess.sure]
    known = [signal.name for signal in logs.schema.signals if signal.kind is not Kind.IMAGE]
    name = next(iter([*possible, *(column.name for column in likely), *known]), "NAME")
    doubt = f"These may be {role}s: {', '.join(possible)}. " if possible else ""
    start = ["worldline", "import", "LOGS", "STORE"]
    command = shlex.join([*start, f"--{role}", name])
    fix = f'{doubt}Name one: {command} (in Python: edits={{"{name}": {{"role": "{role}"}}}}).'
    if role is Role.ACTION:
        doubtful = [word for column in logs.columns if not column.guess.sure for word in ("--observation", column.name)]
        fix += f" If nothing is chosen in these logs, confirm it: {shlex.join([*start, *doubtful])}" if doubtful else ""
    raise DataError(
        f"no column is known to be an {role}, so nothing can be learned; nothing was written",
        fix=fix,
        file=logs.origin or None,
    )


def _origin(source: Source) -> str:
    return json.dumps(dict(source), sort_keys=True)


def _changed_finding(logged: LoggedEpisode) -> Finding:
    problem = "the store already holds a different episode of the same origin; it now holds both"
    fix = "If the file was corrected, import all logs into a new store."
    return warning(problem=problem, fix=fix, file=logged.file, episode=logged.number)


def _other_episodes_error(store: Store, count: int, findings: Sequence[Finding]) -> InputError:
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    reason = f" The first problem in the logs: {errors[0].error()}" if errors else ""
    return InputError(
        f"{store.path} holds {len(store)} episodes, and {count} of them are not in the logs. Nothing was added. "
        f"To use these episodes, give {store.path} in place of the logs. To import the logs again, move the store; "
        f"a copy of its {SCHEMA_FILE} next to the logs keeps the schema.{reason}"
    )


def _with_progress(error: DataError, store: Store) -> DataError:
    """The same error, with the path of the store's schema and the number of episodes in the store."""
    fix = error.fix.replace(SCHEMA_FILE, str(store.path / SCHEMA_FILE))
    fix = f"{fix} {store.path} holds {len(store)} episodes; --keep-going imports all other episodes too."
    return replace(Finding.of(error), fix=fix).error()


def _no_episode_error(findings: Sequence[Finding], source: str) -> DataError:
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    first = f"The first reason: {errors[0].error()}" if errors else "The logs hold no episode."
    return DataError("none of the episodes can be used", fix=first, file=source)
