"""Importers that are one function. It reads the episodes of a file; everything else happens here, once for all.

    @importer(".tape")
    def read(path, options):
        yield RawEpisode(values={"level": level, "heater": heater}, roles={"heater": "action"})

The schema is inferred in a first pass over the files, unless the user gives one. NaN marks a missing observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldline.data.base import LoggedEpisode, Logs, ReadOptions, refuse, schema_beside
from worldline.data.formats.reading import UNREADABLE, RawEpisode, natural, source_of, unreadable
from worldline.data.infer import SchemaDraft, Summary, infer_schema, summarise
from worldline.errors import DataError
from worldline.schema import Role, Schema

ReadFile = Callable[[Path, ReadOptions], Iterable[RawEpisode]]
"""Yields the episodes of a file, or of a folder that counts as one; raises any error of its library."""


@dataclass(frozen=True)
class Importer:
    """An importer of files with certain endings; made by `importer`.

    Args:
        read: reads one file.
        endings: of its name, such as ".tape".
        takes: the fields of `ReadOptions` that `read` uses; all others are refused.
    """

    read: ReadFile
    endings: tuple[str, ...]
    takes: tuple[str, ...] = ()

    def files(self, path: Path) -> list[Path]:
        """The file itself, or those with the endings in a folder, in natural order."""
        if path.is_file() or path.suffix in self.endings:
            return [path]
        return sorted((file for file in path.iterdir() if file.suffix in self.endings), key=natural)

    def recognises(self, path: Path) -> bool:
        """Whether `path` has one of the endings, or is a folder with such files; reads no data."""
        return any(file.suffix in self.endings for file in self.files(path))

    def open(self, path: Path, schema: Schema | None, reading: ReadOptions) -> FileLogs:
        """The logs at `path`; arguments and errors as in `Logs.open`."""
        refuse(reading, " and ".join(self.endings), self.takes)
        if not (files := self.files(path)):
            raise DataError(f"no file ends with {' or '.join(self.endings)}", fix="Check the path.", file=path)
        return FileLogs(self.read, files, reading, schema or schema_beside(path))


def importer(*endings: str, takes: Sequence[str] = ()) -> Callable[[ReadFile], Importer]:
    """Makes an importer of a function that yields the episodes of one file.

    Args:
        endings: of the files, such as ".tape"; a folder may have one, too.
        takes: the fields of `ReadOptions` that the function uses; all others are refused.
    """
    return lambda read: Importer(read, endings, tuple(takes))


class FileLogs(Logs):
    """The episodes of several files.

    Args:
        read: reads one file.
        files: in order, at least one.
        reading: options of the user.
        schema: None to infer it.

    Raises:
        DataError: no episode can be read, or no schema can be inferred.
    """

    def __init__(self, read: ReadFile, files: Sequence[Path], reading: ReadOptions, schema: Schema | None) -> None:
        self._read, self._files, self._reading, self._count = read, files, reading, 0
        seen, raws, failures = dict[str, dict[str, Summary]](), list[RawEpisode](), list[LoggedEpisode]()
        for file, index, raw in self._episodes():
            self._count += 1
            if isinstance(raw, Exception):
                failures.append(unreadable(raw, file.name, index))
            elif schema is None:
                seen[f"{file.name}, episode {index}"] = {n: summarise(np.asarray(v)) for n, v in raw.values.items()}
                raws.append(replace(raw, values={}, observed={}))
        if schema is None and not seen:
            first = failures[0].findings[0]
            raise replace(first, problem=f"no episode can be read; the first: {first.problem}").error()
        draft = SchemaDraft(files[0], ()) if any(raw.units for raw in raws) else SchemaDraft(files[0])
        super().__init__(*((schema, ()) if schema is not None else _inferred(seen, raws, draft)))
        self.columns = tuple(draft.columns)

    def __len__(self) -> int:
        return self._count

    def with_schema(self, schema: Schema) -> FileLogs:
        """The same logs with another schema."""
        other = copy(self)
        other.schema = schema
        return other

    def read(self) -> Iterator[LoggedEpisode]:
        """Every episode in order; a file that cannot be read any further becomes a finding."""
        for number, (file, index, raw) in enumerate(self._episodes()):
            try:
                if isinstance(raw, Exception):
                    raise raw
                draft = _checked(raw, self.schema)
                draft.source = source_of(file.name, index, draft.source)
                logged = draft.logged(self.schema, file.name, number)
            except UNREADABLE as error:
                logged = unreadable(error, file.name, number)
            yield logged

    def _episodes(self) -> Iterator[tuple[Path, int, RawEpisode | Exception]]:
        """The episodes with their files and numbers in them, and the error that ends a file."""
        for file in self._files:
            index = 0
            try:
                for raw in self._read(file, self._reading):
                    yield file, index, raw
                    index += 1
                if not index:
                    raise DataError("it holds no episode", fix="Leave the file out, or record it again.")
            except UNREADABLE as error:
                yield file, index, error


def _inferred(
    seen: Mapping[str, Mapping[str, Summary]], raws: Sequence[RawEpisode], draft: SchemaDraft
) -> tuple[Schema, list[str]]:
    """The schema of some episodes, and the assumptions."""
    roles = {name: Role(role) for raw in raws for name, role in raw.roles.items()}
    units = {name: unit for raw in raws for name, unit in raw.units.items()}
    timed = [np.diff(raw.times) for raw in raws if raw.times is not None and len(raw.times) > 1]
    step_s = draft.usual_step("time", np.concatenate(timed)) if timed else None
    schema, unclear = infer_schema(seen, step_s, draft, roles=roles)
    signals = tuple(replace(signal, unit=units.get(signal.name, signal.unit)) for signal in schema.signals)
    return replace(schema, signals=signals), unclear


def _checked(raw: RawEpisode, schema: Schema) -> RawEpisode:
    """The episode with NaN as missing values, and with a warning about each array that is no signal."""
    draft = replace(raw, values={}, observed={}, findings=list(raw.findings))
    signals = {signal.name: signal for signal in schema.signals}
    for name, values in raw.values.items():
        if name in signals:
            draft.add(signals[name], np.asarray(values), raw.observed.get(name))
        else:
            fix = "Add a signal of this name to schema.json to keep it."
            draft.warn("the array is not in the schema and is left out", fix, signal=name)
    return draft
