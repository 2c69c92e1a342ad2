"""Importers that are one function. It reads the episodes of a file; everything else happens here, once for all.

    @importer(".tape")
    def read(path, options):
        yield RawEpisode(values={"level": level, "heater": heater}, roles={"heater": "action"})

The schema is inferred in a first pass over the files, unless the user gives one. NaN marks a missing observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldline.data.base import ReadOptions, refuse, schema_beside
from worldline.data.checks import Finding
from worldline.data.formats.raw_episode import EpisodeLogs, RawEpisode, ReadEpisode, source_of
from worldline.data.formats.reading import UNREADABLE, natural, readable, unread
from worldline.data.infer import NO_UNITS, SchemaDraft, Summary, infer_schema, summarise
from worldline.errors import DataError
from worldline.schema import Role, Schema

ReadFile = Callable[[Path, ReadOptions], Iterable[RawEpisode]]
"""Yields the episodes of a file, or of a folder that counts as one; raises any error of its library."""
FileEpisode = tuple[str, RawEpisode | Exception]
"""The name of a file, and an episode in it or the error that ends the file."""


@dataclass(frozen=True)
class Importer:
    """An importer of files with certain endings; made by `importer`.

    Args:
        read: reads one file.
        endings: of its name, such as ".tape".
        takes: the fields of `ReadOptions` that `read` uses; all others are refused.
        is_single: whether each file is one episode, which then has no number in its source.
    """

    read: ReadFile
    endings: tuple[str, ...]
    takes: tuple[str, ...] = ()
    is_single: bool = False

    def files(self, path: Path) -> list[Path]:
        """The file itself, or those with the endings in a folder, in natural order."""
        if path.is_file() or path.suffix in self.endings:
            return [path]
        return sorted((file for file in path.iterdir() if file.suffix in self.endings), key=natural)

    def recognises(self, path: Path) -> bool:
        """Whether `path` has one of the endings, or is a folder with such files; reads no data."""
        return any(file.suffix in self.endings for file in self.files(path))

    def open(self, path: Path, schema: Schema | None, reading: ReadOptions) -> EpisodeLogs:
        """The logs at `path`; arguments and errors as in `Logs.open`."""
        kind = " and ".join(self.endings)
        refuse(reading, kind, self.takes)
        if not (files := self.files(path)):
            raise DataError(f"no file ends with {' or '.join(self.endings)}", fix="Check the path.", file=path)
        logs = episode_logs(lambda: self._episodes(files, reading), schema or schema_beside(path), path)
        logs.unclear += tuple(unread(path, files, f"not {kind} files"))
        return logs

    def _episodes(self, files: Sequence[Path], reading: ReadOptions) -> Iterator[FileEpisode]:
        """The episodes of all files in order."""
        for file in files:
            index = -1
            try:
                for index, raw in enumerate(self.read(file, reading)):
                    single, several = {"file": file.name, **raw.source}, source_of(file.name, index, raw.source)
                    yield file.name, replace(raw, source=single if self.is_single else several)
                if index < 0:
                    raise DataError("it holds no episode", fix="Leave the file out, or record it again.")
            except UNREADABLE as error:
                yield file.name, Finding.of(error, file=str(file)).error() if isinstance(error, DataError) else error


def importer(*endings: str, takes: Sequence[str] = (), is_single: bool = False) -> Callable[[ReadFile], Importer]:
    """Makes an importer of a function that yields the episodes of one file.

    Args:
        endings: of the files, such as ".tape"; a folder may have one, too.
        takes: the fields of `ReadOptions` that the function uses; all others are refused.
        is_single: whether each file is one episode, which then has no number in its source.
    """
    return lambda read: Importer(read, endings, tuple(takes), is_single)


def episode_logs(episodes: Callable[[], Iterator[FileEpisode]], schema: Schema | None, root: Path) -> EpisodeLogs:
    """The logs in episodes that are read one after another, once to infer a schema and once to import them.

    Args:
        episodes: starts a pass.
        schema: of the logs; None to infer it.
        root: the path of the logs, for errors.

    Raises:
        DataError: no episode can be read.
    """
    names, draft, unclear = list[str](), SchemaDraft(unclear=()), list[str]()

    def listed() -> Iterator[FileEpisode]:
        for item in episodes():
            names.append(item[0])
            yield item

    is_known = schema is not None
    looks = [look for _, look in readable(listed(), lambda item: _look(item, is_known), what="files", file=root)]
    if schema is None:
        schema, unclear = _inferred(looks, draft)
    known = schema

    def reader(_: ExitStack) -> ReadEpisode:
        items = episodes()
        return lambda _: _draft_of(next(items)[1], known)

    return EpisodeLogs(known, unclear, root=root, files=names, reader=reader, columns=draft.columns)


def _look(item: FileEpisode, is_known: bool) -> tuple[str, dict[str, Summary], RawEpisode]:
    """The file, the summaries of numeric arrays if the schema is not known, and the episode without its arrays."""
    file, raw = item
    if isinstance(raw, Exception):
        raise raw
    arrays = {name: values if hasattr(values, "dtype") else np.asarray(values) for name, values in raw.values.items()}
    numeric = {name: values for name, values in arrays.items() if values.dtype.kind in "fiub" and not is_known}
    summaries = {name: summarise(values) for name, values in numeric.items()}
    return file, summaries, replace(raw, values={}, observed={})


def _inferred(
    looks: Sequence[tuple[str, dict[str, Summary], RawEpisode]], draft: SchemaDraft
) -> tuple[Schema, list[str]]:
    """The schema of the episodes, and the assumptions."""
    raws = [raw for *_, raw in looks]
    units = {name: unit for raw in raws for name, unit in raw.units.items()}
    roles = {name: Role(role) for raw in raws for name, role in raw.roles.items()}
    gaps = [np.diff(raw.times) for raw in raws if raw.times is not None and len(raw.times) > 1]
    if not units:
        draft.note(NO_UNITS)
    step_s = draft.usual_step("time", np.concatenate(gaps)) if gaps else None
    seen: dict[str, dict[str, Summary]] = {}
    for number, (file, summaries, _) in enumerate(looks):
        seen[file if file not in seen else f"{file}, episode {number}"] = summaries
    schema, unclear = infer_schema(seen, step_s if step_s is None or step_s > 0 else None, draft, roles)
    signals = tuple(replace(signal, unit=units.get(signal.name, signal.unit)) for signal in schema.signals)
    return replace(schema, signals=signals), unclear


def _draft_of(raw: RawEpisode | Exception, schema: Schema) -> RawEpisode:
    """The episode with NaN as missing values, and with a warning about each array that is no signal."""
    if isinstance(raw, Exception):
        raise raw
    masks = {name: mask for name, mask in raw.observed.items() if name not in raw.values}  # the checks report them
    draft = replace(raw, values={}, observed=masks, findings=list(raw.findings))
    signals = {signal.name: signal for signal in schema.signals}
    for name, values in raw.values.items():
        if name in signals:
            draft.add(signals[name], np.asarray(values), raw.observed.get(name))
        else:
            fix = "Add a signal of this name to schema.json to keep it."
            draft.warn("the array is not in the schema and is left out", fix, signal=name)
    return draft
