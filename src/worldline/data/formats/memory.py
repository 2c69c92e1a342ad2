"""Logs in memory: frames of pandas or polars, mappings of arrays, and episodes.

    frame                              a table; a row holds the observations and the action that is chosen then
    {"level": [T+1], "heater": [T+1]}  a table, because all columns have the same length
    {"level": [T+1], "heater": [T]}    an episode of T steps
    [frame, frame], [mapping, ...]     several tables, or several episodes
    [worldline.Episode, ...]           episodes

An index of times becomes the column `time`; named levels of an index become columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldline.data.base import Logs, ReadOptions, refuse
from worldline.data.checks import arrays_of
from worldline.data.formats.importer import FileEpisode, episode_logs
from worldline.data.formats.npz import draft_of_arrays
from worldline.data.formats.raw_episode import EpisodeLogs, RawEpisode
from worldline.data.formats.reading import UNREADABLE, converted
from worldline.data.formats.tables.columns import ColumnTable, table_of
from worldline.data.formats.tables.layout import scan_tables
from worldline.data.formats.tables.tables import TableLogs
from worldline.episode import Episode
from worldline.errors import InputError, MissingExtraError
from worldline.schema import Role, Schema

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_WANTED = "Give a pandas or polars frame, a mapping of arrays, a list of these, or a list of episodes."
_ENDS = "Give one mapping for each episode."


def logs_in_memory(logs: object, schema: Schema | None, reading: ReadOptions) -> Logs:
    """Returns the logs in an object.

    Args:
        logs: see the head of this module.
        schema: of the logs; None to infer it.
        reading: settings for timestamped rows; episodes accept only the defaults.

    Raises:
        InputError: the object is of another type.
        DataError: it holds no usable episode.
        MissingExtraError: a polars frame is given, and pyarrow is not installed.
    """
    parts: list[Any] = list(logs) if isinstance(logs, list | tuple) else [logs]
    if not parts:
        raise InputError(f"the logs are an empty list. {_WANTED}")
    if all(isinstance(part, Episode) for part in parts):
        refuse(reading, "Episode")
        return _episode_logs(parts, schema)
    if all(isinstance(part, Mapping) for part in parts):
        arrays = [{str(name): np.asarray(values) for name, values in part.items()} for part in parts]
        # T+1 observations and T actions make an episode; columns of a table have one length.
        if any(len({len(values) for values in part.values() if values.ndim}) > 1 for part in arrays):
            refuse(reading, "episode")
            return _episode_logs(arrays, schema)
    names = ["frame"] if len(parts) == 1 else [f"frame {number}" for number in range(len(parts))]
    tables = {name: _table(part, name) for name, part in zip(names, parts, strict=True)}
    files = [Path(name) for name in tables]

    def read(file: Path) -> ColumnTable:
        return table_of(tables[file.name], file)

    return TableLogs(scan_tables(files, reading, read), schema, reading, read)


def _table(part: object, name: str) -> pa.Table | pd.DataFrame:
    """Returns a frame or a mapping of columns as a table."""
    import pandas as pd

    module = type(part).__module__.partition(".")[0]
    frame: Any = part
    with converted(f"{name} cannot be read", fix="Give columns of numbers, texts or times.", errors=(Exception,)):
        if module == "pandas" and hasattr(frame, "columns"):
            return _with_index(frame)
        if module == "polars" and hasattr(frame, "to_arrow"):
            try:
                return frame.to_arrow()
            except ImportError as error:
                raise MissingExtraError("pyarrow", "tables") from error
        if isinstance(part, Mapping):
            columns = {str(key): np.asarray(values) for key, values in part.items()}
            return pd.DataFrame({key: list(cells) if cells.ndim > 1 else cells for key, cells in columns.items()})
    hint = " Call collect() first." if module == "polars" else ""
    raise InputError(f"the logs are of the type {type(part).__qualname__}.{hint} {_WANTED}")


def _with_index(frame: Any) -> Any:
    """Returns a pandas frame with the levels of its index as columns, unless the index only counts the rows."""
    import pandas as pd

    frame = frame.rename(columns=str)
    if isinstance(frame.index, pd.RangeIndex):
        return frame
    is_unnamed = frame.index.nlevels == 1 and frame.index.name is None
    if is_unnamed and not isinstance(frame.index, pd.DatetimeIndex | pd.TimedeltaIndex):
        return frame  # row numbers that a selection left
    return frame.reset_index(names="time" if is_unnamed else None)


def _episode_logs(episodes: Sequence[Episode | Mapping[str, Any]], schema: Schema | None) -> EpisodeLogs:
    """Returns the logs in episodes, or in mappings of arrays of T+1 observations and T actions.

    A mapping may also hold what an .npz file may: end flags, a seed, masks and times.
    """

    def read() -> Iterator[FileEpisode]:
        for number, episode in enumerate(episodes):
            try:
                yield f"episode {number}", _raw(episode, number)
            except UNREADABLE as error:
                yield f"episode {number}", error

    return episode_logs(read, schema, Path())


def _raw(episode: Episode | Mapping[str, Any], number: int) -> RawEpisode:
    if not isinstance(episode, Episode):
        return draft_of_arrays(episode, {"episode": number}, fix=_ENDS)
    by_role = {role: arrays_of(episode, role) for role in Role}
    return RawEpisode(
        source={"episode": number},
        values={name: values for arrays in by_role.values() for name, values in arrays.items()},
        roles={name: role for role, arrays in by_role.items() for name in arrays},
        observed=dict(episode.observed),
        terminated=episode.terminated,
        truncated=episode.truncated,
        seed=episode.seed,
        step_s=episode.step_s,
    )
