"""Brings logs into a store, with nothing dropped in silence and nothing added twice."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from worldline.data.base import LoggedEpisode, Logs, ReadOptions
from worldline.data.checks import Finding, Severity, check_actions, check_episode, raise_errors
from worldline.data.data_card import CARD_FILE
from worldline.data.locking import locked
from worldline.data.open_logs import open_logs, recognise
from worldline.data.resizing import scale, scaled_schema
from worldline.data.store import SCHEMA_FILE, Source, Store, is_store, open_store
from worldline.episode import Arrays
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Schema


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """What became of one file.

    Args:
        file: its name.
        kept: episodes that were added to the store.
        present: episodes that an earlier import had added already.
        left_out: episodes that are not in the store; the findings say why.
    """

    file: str
    kept: int
    present: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of some logs.

    Args:
        destination: the store; its `schema.json` is the schema that was used.
        importer: name of the format that they were read as.
        schema: of the store.
        files: every file, in order.
        findings: all that was noticed, errors and warnings.
        unclear: what could not be told from the logs, in full sentences that say what was assumed.
    """

    destination: Path
    importer: str
    schema: Schema
    files: tuple[ImportedFile, ...]
    findings: tuple[Finding, ...]
    unclear: tuple[str, ...]

    @property
    def num_episodes(self) -> int:
        """Episodes that were added to the store."""
        return sum(file.kept for file in self.files)


def import_logs(
    source: Path | str,
    destination: Path | str,
    schema: Schema | None = None,
    *,
    importer: str | None = None,
    reading: ReadOptions | None = None,
    keep_going: bool = False,
    max_error: int = 0,
    size: tuple[int, int] | None = None,
    only: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Brings logs into a store: a new one, or one that is there, to which it adds what it does not hold yet.

    Killed at any moment, the store holds every episode that was complete, and the same call goes on from there.

    Args:
        source: what `open_logs` takes.
        destination: a new folder, or a store.
        schema: of the logs; default is that of the store, else the one beside the logs, else an inferred one.
        importer: name of the format; default is to recognise it.
        reading: as for `open_logs`.
        keep_going: leave out what cannot be used, and report it, instead of stopping there.
        max_error: of a new store: how far off a pixel may be, in grey levels from 0 (exact) to 64.
        size: of a new store: height and width that pictures are scaled to; default is to keep theirs.
        only: refuse a store with episodes that these logs do not hold; nothing is added to it then.
        progress: called with the number of episodes tried and their total.

    Raises:
        DataError: an episode cannot be used (without `keep_going`), or none can; the message says what was imported.
        InputError: the destination is something else, holds other signals, or another import into it is under way.
            With `only`, it holds other episodes.
    """
    source, destination = Path(source), Path(destination)
    importer = importer or recognise(source)
    old = open_store(destination) if is_store(destination) else None
    logs = open_logs(source, old.schema if schema is None and old else schema, importer=importer, reading=reading)
    new = logs.schema if size is None else scaled_schema(logs.schema, _checked(size))
    if old is None:
        notes = {"importer": importer, "source": source.resolve().name, "assumed": " ".join(logs.unclear)}
        notes |= {"size": f"{size[0]}x{size[1]}"} if size else {}
        store = _create(destination, new, max_error, {**logs.notes, **notes}, logs.max_error)
    elif old.schema == new and (not max_error or max_error in old.card.max_error.values()):
        store = old
    else:
        raise InputError(f"{destination} is a store with another schema or loss. Import into a new folder.")
    with _alone(store):
        try:
            scaled = size is not None or "size" in store.card.notes
            files, findings = _add_all(logs, store, scaled=scaled, keep_going=keep_going, only=only, progress=progress)
            if not len(store):
                raise _nothing(findings, source)
        except DataError as error:
            if len(store):
                raise _stopped(error, store) from error
            if old is None:
                shutil.rmtree(store.path)
            raise
    return ImportReport(
        destination=store.path,
        importer=importer,
        schema=store.schema,
        files=files,
        findings=(*findings, *check_actions(store.schema, logged_actions(store))),
        unclear=logs.unclear,
    )


def logged_actions(store: Store) -> Iterator[Arrays]:
    """The actions of each episode, per signal [T, *shape]."""
    signals = [signal.name for signal in store.schema.actions]
    for number, steps in enumerate(store.num_steps.tolist()):
        yield {name: store.read(name, number, 0, steps) for name in signals}


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if min(size) < 1:
        raise InputError(f"size is {size[0]}x{size[1]}. Height and width are at least 1 pixel.")
    return size


def _create(
    destination: Path, schema: Schema, max_error: int, notes: Mapping[str, str], before: Mapping[str, int]
) -> Store:
    """A new store; what was lost `before`, in a store that is copied, is on its card too."""
    images = [signal.name for signal in schema.signals if signal.kind is Kind.IMAGE]
    if not images and (max_error or "size" in notes):
        raise InputError("max_error and size are for pictures, and the logs hold none. Leave them out.")
    lost = {name: max(max_error, before.get(name, 0)) for name in images}
    return Store.create(destination, schema, max_error=lost, notes=notes)


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Keeps every other import out of the store."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(store.path / CARD_FILE, wait=False))
        except BlockingIOError as error:
            raise InputError(f"another import into {store.path} is under way. Wait until it has ended.") from error
        store.refresh()
        yield


def _add_all(
    logs: Logs, store: Store, *, scaled: bool, keep_going: bool, only: bool, progress: Callable[[int, int], None] | None
) -> tuple[tuple[ImportedFile, ...], list[Finding]]:
    """Adds the episodes that can be used and are not there yet.

    With `only`, nothing is added before every episode of the store was found in the logs. Logs in another order than
    the store therefore take a second pass.
    """
    postponed, unseen = False, len(store) if only else 0
    there = Counter((_origin(entry.source), entry.digest) for entry in store.entries())
    origins = {origin for origin, _ in there}
    findings: list[Finding] = []
    tried, kept, present = Counter[str](), Counter[str](), Counter[str]()
    for number, logged in enumerate(logs.read(), start=1):
        if scaled and logged.episode is not None:
            logged = replace(logged, episode=scale(logged.episode, store.schema))
        problems = list(logged.findings)
        if logged.episode is not None:
            problems += check_episode(logged.episode, store.schema, file=logged.file, number=logged.number)
        findings += problems
        tried[logged.file] += 1
        if not keep_going:
            raise_errors(problems)
        if logged.episode is not None and not any(finding.severity is Severity.ERROR for finding in problems):
            origin, digest = _origin(logged.source), store.digest(logged.episode)
            known = origin, digest
            if there[known]:
                there[known] -= 1
                unseen -= only
                present[logged.file] += 1
            elif unseen:
                postponed = True
            else:
                findings += [_changed(logged)] if logged.source and origin in origins else []
                store.append_checked(logged.episode, logged.source, digest=digest)
                kept[logged.file] += 1
        if progress is not None:
            progress(number, len(logs))
    if unseen:
        raise _foreign(store, unseen, findings)
    if postponed:
        return _add_all(logs, store, scaled=scaled, keep_going=keep_going, only=False, progress=progress)
    files = (
        ImportedFile(file=f, kept=kept[f], present=present[f], left_out=n - kept[f] - present[f])
        for f, n in tried.items()
    )
    return tuple(files), findings


def _origin(source: Source) -> str:
    return json.dumps(dict(source), sort_keys=True)


def _changed(logged: LoggedEpisode) -> Finding:
    return Finding(
        problem="the store holds another episode of the same origin, and now both",
        fix="If the file was corrected, import all logs into a new store.",
        severity=Severity.WARNING,
        file=logged.file,
        episode=logged.number,
    )


def _foreign(store: Store, count: int, findings: Sequence[Finding]) -> InputError:
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    reason = f" The first problem in the logs: {errors[0].error()}" if errors else ""
    return InputError(
        f"{store.path} holds {len(store)} episodes, and {count} of them are not in the logs. Nothing was added. "
        f"To use these episodes, give {store.path} in place of the logs. To import the logs again, move it away; "
        f"a copy of its {SCHEMA_FILE} beside the logs keeps the schema.{reason}"
    )


def _stopped(error: DataError, store: Store) -> DataError:
    """The same error, with the schema that counts and what is in the store already."""
    fix = error.fix.replace(SCHEMA_FILE, str(store.path / SCHEMA_FILE))
    fix = f"{fix} {store.path} holds {len(store)} episodes; --keep-going imports all others as well."
    return DataError(
        error.problem, fix=fix, file=error.file, episode=error.episode, signal=error.signal, step=error.step
    )


def _nothing(findings: Sequence[Finding], source: Path) -> DataError:
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    first = f"The first reason: {errors[0].error()}" if errors else "There are none."
    return DataError("none of the episodes can be used", fix=first, file=source)
