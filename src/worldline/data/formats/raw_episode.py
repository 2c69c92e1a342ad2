"""Episodes as importers read them, and logs that are read episode by episode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import LoggedEpisode, Logs
from worldline.data.checks import Finding, Severity, warning
from worldline.data.conversion import steps_s, to_episode
from worldline.data.formats.reading import DAMAGED, UNKNOWN_FIX, UNREADABLE, Array, Metadata, filled, reason
from worldline.data.roles import ColumnGuess
from worldline.errors import DataError
from worldline.schema import Role, Schema, Signal


@dataclass(kw_only=True)
class RawEpisode:
    """What an importer reads of one episode.

    Args:
        source: origin of the episode, kept with it in a store, such as its task.
        values: by signal, T+1 rows of observations and T of other roles; action t leads from observation t to t+1.
        observed: by observation [T+1] bool, False if its value is missing.
        findings: problems; the file and the number of the episode are added at the end.
        is_left_out: whether the episode is not read, without an error; a finding says why.
        terminated: as in `Episode`.
        truncated: as in `Episode`.
        seed: as in `Episode`.
        times: [T+1] seconds; None if unknown.
        step_s: as in `Episode`, if `times` is None.
        roles: by signal "observation", "action", "exogenous" or "reward", where the format tells the role.
        units: by signal, where the format tells the unit.
    """

    source: Metadata = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    observed: dict[str, Array] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    is_left_out: bool = False
    terminated: bool = False
    truncated: bool = True
    seed: int | None = None
    times: NDArray[np.float64] | None = None
    step_s: NDArray[np.float32] | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    def warn(self, problem: str, fix: str, *, signal: str | None = None, step: int | None = None) -> None:
        """Adds a warning."""
        self.findings.append(warning(problem=problem, fix=fix, signal=signal, step=step))

    def put(self, name: str, values: Array, mask: Array | None = None) -> None:
        """Adds a signal; rows where the mask is False are missing."""
        self.values[name] = values
        if mask is not None and not mask.all():
            self.observed[name] = mask

    def add(self, signal: Signal, values: Array, mask: Array | None = None) -> None:
        """Adds a signal in which NaN is a missing value. A row with a missing component counts as missing.

        Missing rows are replaced by the last known row, else by the next one, else by 0.

        Raises:
            DataError: a value of an action, exogenous signal or reward is missing.
        """
        table = values.reshape(len(values), math.prod(values.shape[1:]))
        gone = np.isnan(table) if values.dtype.kind == "f" else np.zeros((len(values), 0), bool)
        missing = np.asarray(gone.any(1))
        if signal.role is not Role.OBSERVATION and (steps := np.flatnonzero(missing).tolist()):
            problem = f"the value is missing ({len(steps)} steps)"
            raise DataError(problem, fix=UNKNOWN_FIX, signal=signal.name, step=steps[0])
        if steps := np.flatnonzero(missing & ~gone.all(1)).tolist():
            problem = f"some components are missing in {len(steps)} of {len(values)} rows; these rows count as missing"
            fix = "To use the other components, log the incomplete ones as separate signals."
            self.warn(problem, fix, signal=signal.name, step=steps[0])
        self.put(signal.name, filled(values, ~missing), ~missing if mask is None else ~missing & mask.astype(np.bool_))

    def end(self, terminated: bool | None, truncated: bool | None) -> None:
        """Sets how the episode ended; an unknown `truncated` is the opposite of `terminated`."""
        self.terminated = bool(terminated)
        self.truncated = not terminated if truncated is None else truncated

    def logged(self, schema: Schema, file: str, number: int) -> LoggedEpisode:
        """Returns the episode, without its arrays if a finding is an error."""
        findings = tuple(replace(finding, file=file, episode=number) for finding in self.findings)
        if self.failed or self.is_left_out:
            return LoggedEpisode(file=file, number=number, episode=None, findings=findings, source=self.source)
        episode = to_episode(
            self.values,
            schema,
            observed=self.observed,
            terminated=self.terminated,
            truncated=self.truncated,
            seed=self.seed,
            step_s=self.step_s if self.times is None else steps_s(self.times, schema.step_s),
        )
        return LoggedEpisode(file=file, number=number, episode=episode, findings=findings, source=self.source)


class LazyArray:
    """An array whose values are read when NumPy needs them.

    Args:
        shape: of the array.
        dtype: of the array.
        load: reads it.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], Array]) -> None:
        self.shape, self.dtype, self.ndim, self._load = shape, dtype, len(shape), load

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self._load()


def without_step(what: str, count: int, *, where: str = "") -> Finding:
    """Returns the warning that an episode without a step is left out.

    Args:
        what: it has, such as "row".
        count: their number, 0 or 1.
        where: added to the problem.
    """
    counted = f"a single {what}" if count else f"no {what}"
    problem = f"the episode has {counted}{where} and is left out: a step needs two observations"
    return warning(problem=problem, fix="Nothing to do, if it is no loss.")


def too_short(what: str, count: int, *, where: str = "") -> RawEpisode:
    """Returns the draft of an episode that is left out, because it has no step; arguments as in `without_step`."""
    return RawEpisode(findings=[without_step(what, count, where=where)], is_left_out=True)


ReadEpisode = Callable[[int], RawEpisode]
"""Reads an episode by its number; raises one of `UNREADABLE` if it cannot."""


class EpisodeLogs(Logs):
    """Logs that are read episode by episode from one open source; an unreadable episode becomes a finding.

    Args:
        schema: see `Logs`.
        unclear: see `Logs`.
        root: the folder of the logs.
        files: of each episode, relative to the folder.
        reader: opens the source until the stack is closed, and returns the function that reads an episode of it.
        columns: see `Logs`.
    """

    def __init__(
        self,
        schema: Schema,
        unclear: Sequence[str],
        *,
        root: Path,
        files: Sequence[str],
        reader: Callable[[ExitStack], ReadEpisode],
        columns: Sequence[ColumnGuess] = (),
    ) -> None:
        super().__init__(schema, unclear)
        self.columns = tuple(columns)
        self._root, self._files, self._reader = root, tuple(files), reader

    def __len__(self) -> int:
        return len(self._files)

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields every episode in order."""
        with ExitStack() as stack:
            try:
                read_episode = self._reader(stack)
            except DataError as error:
                yield from (self.failed(error, number) for number in range(len(self)))
                return
            for number in range(len(self)):
                try:
                    logged = read_episode(number).logged(self.schema, self._files[number], number)
                except UNREADABLE as error:
                    logged = self.failed(error, number)
                yield logged

    def failed(self, error: Exception, number: int) -> LoggedEpisode:
        """Returns the episode that cannot be read because of an error."""
        if not isinstance(error, DataError):
            error = DataError(f"it cannot be read ({reason(error)})", fix=DAMAGED)
        finding = Finding.of(error, file=relative(self._root, error.file) or self._files[number], episode=number)
        return LoggedEpisode(file=self._files[number], number=number, episode=None, findings=(finding,))


def relative(root: Path, file: Path | str | None) -> str | None:
    """Returns the path of a file relative to the folder of the logs; other paths are kept."""
    if file is None:
        return None
    if not Path(file).is_relative_to(root):
        return str(file)
    return Path(file).relative_to(root).as_posix()


def source_of(file: str, episode: int, metadata: Metadata) -> Metadata:
    """Returns the source metadata of an episode for a store.

    Args:
        file: relative to the logs.
        episode: number in the file.
        metadata: of the episode in the file; names in use get the prefix `source.`.
    """
    source: Metadata = {"file": file, "episode": episode}
    for name, value in metadata.items():
        free = name
        while free in source or (free != name and free in metadata):
            free = f"source.{free}"
        source[free] = value
    return source
