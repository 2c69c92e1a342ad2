"""Import of logs into a store. Every episode that is left out is reported, and no episode is added twice."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldline.config import from_json, to_json, to_strict_json
from worldline.data.base import LoggedEpisode, Logs, ReadOptions, noted_lag
from worldline.data.checks import Finding, Severity, check_actions, check_episode, raise_errors, warning
from worldline.data.conversion import scale, scaled_schema
from worldline.data.data_card import CARD_FILE
from worldline.data.formats.reading import DAMAGED, reason, without_step
from worldline.data.fsync import locked
from worldline.data.index import Source
from worldline.data.limited_process import limit_process, run_limited
from worldline.data.log_edits import LOG_EDITS, NO_EDITS, LogEdits, suggested_edits
from worldline.data.open_logs import open_logs
from worldline.data.roles import ColumnGuess, likely_actions, uncertain
from worldline.data.schema_edits import SchemaEdits, edit_command
from worldline.data.store import SCHEMA_FILE, Store, is_store, open_store
from worldline.episode import Arrays
from worldline.errors import DataError, InputError, WorldlineError
from worldline.progress import OnProgress, tell
from worldline.schema import Kind, Role, Schema

_BOUNDS_NOTE, _ROLES_NOTE = "inferred_bounds", "uncertain_roles"


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
    untrusted: bool = False,
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
        log_edits: as for `open_logs`. The card of the store notes them, and later imports into it must have the same.
            An empty `LogEdits()` adds the episodes of other logs as they are.
        keep_going: skip and report episodes that cannot be used, instead of stopping at the first.
        max_error: of a new store: largest error of a pixel, in grey levels from 0 (lossless) to 64.
        size: of a new store: height and width that images are scaled to; default is to keep their size.
        only: refuse a store with episodes that are not in these logs; nothing is added to it then.
        untrusted: read the files in a process with a limit of memory and time, see `worldline.data.limited_process`.
        progress: called after each processed episode; if `untrusted`, at the start and at the end.

    Raises:
        DataError: an episode cannot be used (without `keep_going`), or none can; the message says what was imported.
            No signal of a new store is an action, or none an observation; nothing is written then. With `untrusted`,
            the process reached a limit or crashed; complete episodes stay in the store.
        ConfigError: as for `open_logs`.
        InputError: the destination is not a store, has another schema, `action_lag` or `log_edits`, or another import
            into it is running. With `only`, it holds other episodes. Or `log_edits` name what the logs do not hold, or
            are given for `Logs` that are open; a new store is then removed. Or `untrusted` is set for logs in memory.
    """
    destination = Path(destination)
    if untrusted:
        if not isinstance(source, Path | str):
            raise InputError("untrusted applies to files, and the logs are in memory. Leave it out.")
        request = _ImportRequest(
            source=Path(source),
            destination=destination,
            schema=schema,
            importer=importer,
            reading=reading,
            edits=edits,
            log_edits=log_edits,
            keep_going=keep_going,
            max_error=max_error,
            size=size,
            only=only,
        )
        return _import_in_process(request, progress)
    old = open_store(destination) if is_store(destination) else None
    if isinstance(source, Logs):
        if log_edits is not None:
            raise InputError("log_edits are given for logs that are open. Give them to worldline.data.open instead.")
        logs = source
    else:
        known = old.schema if schema is None and old else schema
        reading = with_lag_of(destination, source, reading)
        logs = open_logs(source, known, importer=importer, reading=reading, edits=edits, log_edits=log_edits)
    store = _target(logs, destination, old, max_error=max_error, size=size)
    problem = f"another import into {store.path} is running. Wait until it has ended."
    with locked(store.path / CARD_FILE, busy=problem):
        store.refresh()
        try:
            scaled = size is not None or "size" in store.card.notes
            files, findings = _add_all(logs, store, scaled=scaled, keep_going=keep_going, only=only, progress=progress)
            if not len(store):
                raise _no_episode_error(findings, logs.origin)
        except (DataError, InputError) as error:  # an edit of a row that an episode lacks is an InputError
            if len(store) and isinstance(error, DataError):
                raise _with_progress(error, store) from error
            if old is None:
                shutil.rmtree(store.path)
            raise
    return ImportReport(
        destination=store.path,
        importer=logs.importer,
        schema=store.schema,
        files=files,
        findings=(*findings, *_findings_about_actions(store)),
        unclear=logs.unclear,
        columns=logs.columns,
    )


@dataclass(frozen=True, kw_only=True)
class _ImportRequest:
    """The arguments of `import_logs` for another process."""

    source: Path
    destination: Path
    schema: Schema | None
    importer: str | None
    reading: ReadOptions | None
    edits: SchemaEdits | None
    log_edits: LogEdits | None
    keep_going: bool
    max_error: int
    size: tuple[int, int] | None
    only: bool


@dataclass(frozen=True, kw_only=True)
class _ImportAnswer:
    """What the process returns: a report, a failure of the data, or the text of another error."""

    report: ImportReport | None = None
    failure: Finding | None = None
    refusal: str = ""


def _import_in_process(request: _ImportRequest, progress: OnProgress | None) -> ImportReport:
    """Imports in a limited process; an interrupted one leaves complete episodes, or no new store."""
    is_new = not is_store(request.destination)
    tell(progress, "import", 0)
    try:
        text = run_limited(__name__, to_json(request), file=request.source)
    except DataError:
        if is_new and is_store(request.destination) and not len(open_store(request.destination)):
            shutil.rmtree(request.destination)
        raise
    answer = from_json(_ImportAnswer, text, where="the answer of the process")
    if answer.failure is not None:
        raise answer.failure.error()
    if answer.report is None:
        raise InputError(answer.refusal)
    tell(progress, "import", 1)
    return answer.report


def _main() -> None:
    """The limited process: reads a request from standard input, and writes the answer to standard output."""
    limit_process(int(sys.argv[1]), int(sys.argv[2]))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    request = from_json(_ImportRequest, sys.stdin.buffer.read(), where="the request")
    try:
        answer = _ImportAnswer(report=import_logs(**vars(request)))
    except DataError as error:
        answer = _ImportAnswer(failure=Finding.of(error))
    except WorldlineError as error:
        answer = _ImportAnswer(refusal=str(error))
    except Exception as error:  # noqa: BLE001  # damaged files raise any error of a library
        problem = f"it cannot be read ({reason(error)})"
        answer = _ImportAnswer(failure=Finding(problem=problem, fix=DAMAGED, file=str(request.source)))
    with answers:
        answers.write(to_strict_json(answer))


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


def realign_command(store: Path, lag: int) -> tuple[str, ...]:
    """The command, without its first word, that imports a store into another one with its actions moved.

    Args:
        store: its folder.
        lag: steps by which its actions are logged too late.
    """
    return "import", str(store), _beside(store, "aligned"), "--action-lag", str(lag)


def edit_logs_command(store: Path, findings: Iterable[Finding], num_episodes: int) -> tuple[str, ...]:
    """The command, without its first word, that imports a store into another one with the edits that findings suggest.

    Args:
        store: its folder.
        findings: about the store.
        num_episodes: of the store.

    Returns:
        The words; empty if no edit is suggested.
    """
    options = suggested_edits(findings, num_episodes).options
    return ("import", str(store), _beside(store, "edited"), *options) if options else ()


def _beside(store: Path, ending: str) -> str:
    """The path of a changed copy of a store."""
    store = store if store.name else store.resolve()  # the working directory has no name
    return str(store.with_name(f"{store.name}-{ending}"))


def _require_roles(logs: Logs) -> None:
    """Checks that the logs have an action and an observation.

    Raises:
        DataError: they have none; the message names columns that may be one, and the option to type.
    """
    likely = likely_actions(logs.columns)
    possible = [column.name for column in likely if not column.guess.sure]
    known = [signal.name for signal in logs.schema.signals if signal.kind is not Kind.IMAGE]
    for role, verb in ((Role.ACTION, "chosen"), (Role.OBSERVATION, "measured")):
        if logs.schema.of(role):
            continue
        name = next(iter([*possible, *(column.name for column in likely), *known]), "NAME")
        doubt = f"These may be {verb}: {', '.join(possible)}. " if possible else ""
        command = shlex.join(["worldline", "import", "LOGS", "STORE", f"--{role}", name])
        raise DataError(
            f"no column is known to be an {role}, so nothing can be learned; nothing was written",
            fix=f'{doubt}Name what is {verb}: {command} (in Python: edits={{"{name}": {{"role": "{role}"}}}}).',
            file=logs.origin or None,
        )


def uncertain_roles(store: Store) -> dict[str, str]:
    """The roles by signal that were guessed at the import and that no user confirmed or changed since."""
    noted = json.loads(store.card.notes.get(_ROLES_NOTE, "{}"))
    roles = {signal.name: str(signal.role) for signal in store.schema.signals}
    return {name: role for name, role in noted.items() if roles.get(name) == role}


def inferred_bounds(store: Store) -> tuple[str, ...]:
    """The actions whose bounds are the range of the first logs, and were not corrected since."""
    noted = json.loads(store.card.notes.get(_BOUNDS_NOTE, "{}"))
    bounds = {signal.name: [list(signal.low or ()), list(signal.high or ())] for signal in store.schema.actions}
    return tuple(name for name in noted if bounds.get(name) == noted[name])


def _bounds_note(logs: Logs) -> dict[str, str]:
    """The note about the actions whose bounds are the logged range."""
    ranges = {column.name: (column.low, column.high) for column in logs.columns if column.low}
    inferred = {
        signal.name: (signal.low, signal.high)
        for signal in logs.schema.actions
        if signal.low is not None and ranges.get(signal.name) == (signal.low, signal.high)
    }
    return {_BOUNDS_NOTE: json.dumps(inferred)} if inferred else {}


def wider_bounds(store: Store) -> SchemaEdits:
    """The edits that widen inferred bounds of actions to the range of all logs; empty if no action goes beyond them."""
    signals = [store.schema[name] for name in inferred_bounds(store)]
    known = {
        signal.name: (np.array(signal.low, signal.dtype), np.array(signal.high, signal.dtype)) for signal in signals
    }
    reached = dict(known)
    for actions in logged_actions(store) if known else ():
        for name, (low, high) in reached.items():
            values = actions[name]
            reached[name] = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
    edits: dict[str, dict[str, list[float]]] = {}
    for name in known:
        for bound, before, now in zip(("low", "high"), known[name], reached[name], strict=True):
            if (before != now).any():
                # The text of a number is its shortest form that is exact in its dtype.
                edits.setdefault(name, {})[bound] = [float(str(value)) for value in now]
    return edits


def _findings_about_actions(store: Store) -> tuple[Finding, ...]:
    beyond = []
    for name, wider in wider_bounds(store).items():
        texts = [
            f"{name}.{bound}={','.join(str(value).removesuffix('.0') for value in values)}"
            for bound, values in wider.items()
        ]
        problem = "it goes beyond its bounds, which were inferred from earlier logs"
        fix = f"If the actuator allows it, type: {edit_command(store.path, texts)}"
        beyond.append(warning(problem=problem, fix=fix, signal=name))
    return (*check_actions(store.schema, logged_actions(store)), *beyond)


def logged_actions(store: Store) -> Iterator[Arrays]:
    """Yields the actions of each episode, per signal [T, *shape]."""
    signals = [signal.name for signal in store.schema.actions]
    for number, steps in enumerate(store.num_steps.tolist()):
        yield {name: store.read(name, number, 0, steps) for name in signals}


def _target(logs: Logs, destination: Path, old: Store | None, *, max_error: int, size: tuple[int, int] | None) -> Store:
    """The store that is there already, or else a new one.

    Raises:
        DataError: as for `import_logs`; a new store would lack an action or an observation.
        InputError: `old` has another schema, `action_lag`, `max_error` or edits, or an option does not fit the logs.
    """
    if size is not None and min(size) < 1:
        raise InputError(f"size is {size[0]}x{size[1]}. Height and width must be at least 1 pixel.")
    schema = logs.schema if size is None else scaled_schema(logs.schema, size)
    if old is None:
        _require_roles(logs)
        notes = {"importer": logs.importer, "source": logs.origin, "assumed": " ".join(logs.unclear)}
        notes |= _bounds_note(logs)
        doubtful = {column.name: str(column.guess.role) for column in uncertain(logs.columns) if column.is_signal}
        notes |= {_ROLES_NOTE: json.dumps(doubtful)} if doubtful else {}
        notes |= {"size": f"{size[0]}x{size[1]}"} if size else {}
        notes |= {LOG_EDITS: ""} if logs.notes.get(LOG_EDITS) == NO_EDITS else {}
        return _create(destination, schema, max_error, {**logs.notes, **notes}, logs.max_error)
    if logs.importer != "store" and (lag := noted_lag(logs.notes)) != (before := noted_lag(old.card.notes)):
        raise InputError(
            f"{destination} was imported with --action-lag {before}, and these logs are read with {lag}. Leave the "
            "option out to use the same, or import into a new folder."
        )
    ours, theirs = logs.notes.get(LOG_EDITS, ""), old.card.notes.get(LOG_EDITS, "")
    if ours not in (theirs, NO_EDITS):
        raise InputError(
            f"{destination} was imported with the edits {theirs or NO_EDITS}, and these logs with {ours or NO_EDITS}. "
            "Give the same edits to import the same logs. To add other logs, import them into a new store, and then "
            f"add its episodes: worldline import NEW {destination} --drop {NO_EDITS}"
        )
    if old.schema == schema and (not max_error or max_error in old.card.max_error.values()):
        return old
    raise InputError(
        f"{destination} is a store with another schema or max_error. Import into a new folder, or correct the "
        f"schema of the store first: worldline schema {destination}"
    )


def _create(path: Path, schema: Schema, max_error: int, notes: Mapping[str, str], before: Mapping[str, int]) -> Store:
    """A new store. Its card includes the error `before` that images of a copied store already have."""
    images = [signal.name for signal in schema.signals if signal.kind is Kind.IMAGE]
    if not images and (max_error or "size" in notes):
        raise InputError("max_error and size apply to images, but the logs hold none. Leave them out.")
    lost = {name: max(max_error, before.get(name, 0)) for name in images}
    return Store.create(path, schema, max_error=lost, notes=notes)


def _add_all(
    logs: Logs, store: Store, *, scaled: bool, keep_going: bool, only: bool, progress: OnProgress | None
) -> tuple[tuple[ImportedFile, ...], list[Finding]]:
    """Adds the usable episodes that the store does not hold yet.

    With `only`, nothing is added before every episode of the store was found in the logs. Logs in another order than
    the store therefore take a second pass.
    """
    inferred = inferred_bounds(store)
    postponed, num_not_found = False, len(store) if only else 0
    stored = Counter((_origin(entry.source), entry.digest) for entry in store.entries())
    origins = {origin for origin, _ in stored}
    findings: list[Finding] = []
    tried, kept, present = Counter[str](), Counter[str](), Counter[str]()
    for number, logged in enumerate(logs.read(), start=1):
        if scaled and logged.episode is not None:
            logged = replace(logged, episode=scale(logged.episode, store.schema))
        problems = list(logged.findings)
        if logged.episode is not None and logged.episode.num_steps < 1:
            problems.append(replace(without_step("observation", 1), file=logged.file, episode=logged.number))
            logged = replace(logged, episode=None)
        if logged.episode is not None:
            problems += check_episode(
                logged.episode, store.schema, file=logged.file, number=logged.number, unbounded=inferred
            )
        findings += problems
        tried[logged.file] += 1
        if not keep_going:
            raise_errors(problems)
        if logged.episode is not None and not any(finding.severity is Severity.ERROR for finding in problems):
            origin, digest = _origin(logged.source), store.digest(logged.episode)
            known = origin, digest
            if stored[known]:
                stored[known] -= 1
                num_not_found -= only
                present[logged.file] += 1
            elif num_not_found:
                postponed = True
            else:
                findings += [_changed_finding(logged)] if logged.source and origin in origins else []
                store.append_checked(logged.episode, logged.source, digest=digest)
                kept[logged.file] += 1
        tell(progress, "import", number, len(logs))
    if num_not_found:
        raise _other_episodes_error(store, num_not_found, findings)
    if postponed:
        return _add_all(logs, store, scaled=scaled, keep_going=keep_going, only=False, progress=progress)
    files = (
        ImportedFile(file=f, kept=kept[f], present=present[f], left_out=n - kept[f] - present[f])
        for f, n in tried.items()
    )
    return tuple(files), findings


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


if __name__ == "__main__":
    _main()
