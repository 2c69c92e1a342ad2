"""Logs in memory: frames of pandas or polars, mappings of arrays, and episodes.

    frame                              a table; a row holds the observations and the action that is chosen then
    {"level": [T+1], "heater": [T+1]}  a table, because all columns have the same length
    {"level": [T+1], "heater": [T]}    an episode of T steps
    [frame, frame], [mapping, ...]     several tables, or several episodes
    [worldline.Episode, ...]           episodes

An index of times becomes the column `time`; named levels of an index become columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldline.data.base import Logs, ReadOptions, refuse
from worldline.data.checks import arrays_of
from worldline.data.formats.reading import (
    FLAGS,
    MASK_PREFIX,
    TIMES,
    EpisodeDraft,
    EpisodeLogs,
    converted,
    draft_of_arrays,
)
from worldline.data.formats.tables.columns import ColumnTable, table_of
from worldline.data.formats.tables.tables import TableLogs
from worldline.data.infer import SchemaDraft, infer_schema, summarise
from worldline.data.roles import RoleGuess
from worldline.episode import Episode
from worldline.errors import InputError, MissingExtraError
from worldline.schema import Role, Schema

if TYPE_CHECKING:
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
        MissingExtraError: a frame is given, and pyarrow is not installed.
    """
    parts: list[Any] = list(logs) if isinstance(logs, list | tuple) else [logs]
    if not parts:
        raise InputError(f"the logs are an empty list. {_WANTED}")
    if all(isinstance(part, Episode) for part in parts):
        refuse(reading, "Episode")
        return EpisodesInMemory(parts, schema)
    if all(isinstance(part, Mapping) for part in parts):
        arrays = [{str(name): np.asarray(values) for name, values in part.items()} for part in parts]
        if any(_is_episode(part) for part in arrays):
            refuse(reading, "episode")
            return EpisodesInMemory(arrays, schema)
    tables = {}
    for number, part in enumerate(parts):
        name = f"frame {number}" if len(parts) > 1 else "frame"
        tables[name] = _arrow(part, name)

    def read(file: Path) -> ColumnTable:
        return table_of(tables[file.name], file)

    return TableLogs.of_files([Path(name) for name in tables], schema, reading, read=read)


def _is_episode(arrays: Mapping[str, Any]) -> bool:
    """Whether the arrays have different lengths, as the T+1 observations and T actions of an episode."""
    return len({len(values) for values in arrays.values() if values.ndim}) > 1


def _arrow(part: object, name: str) -> pa.Table:
    """Returns a frame or a mapping of columns as a table."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError("pyarrow", "tables") from error
    module = type(part).__module__.partition(".")[0]
    frame: Any = part
    with converted(f"{name} cannot be read", fix="Give columns of numbers, texts or times.", errors=(Exception,)):
        if module == "pandas" and hasattr(frame, "columns"):
            return pa.Table.from_pandas(_with_index(frame), preserve_index=False)
        if module == "polars" and hasattr(frame, "to_arrow"):
            return frame.to_arrow()
        if isinstance(part, Mapping):
            columns = {str(key): np.asarray(values) for key, values in part.items()}
            return pa.table({key: list(cells) if cells.ndim > 1 else pa.array(cells) for key, cells in columns.items()})
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


class EpisodesInMemory(EpisodeLogs[None]):
    """Episodes, or mappings of arrays of T+1 observations and T actions.

    A mapping may also hold what an .npz file may: end flags, a seed, masks and times.

    Args:
        episodes: at least one.
        schema: of every episode; None to infer it.
    """

    def __init__(self, episodes: Sequence[Episode | Mapping[str, Any]], schema: Schema | None) -> None:
        draft = SchemaDraft()
        self._episodes = tuple(episodes)
        files = [f"episode {number}" for number in range(len(episodes))]
        unclear: list[str] = []
        if schema is None:
            schema, unclear = self._infer(files, draft)
        super().__init__(schema, unclear, Path(), files)
        self.columns = tuple(draft.columns)

    def opened(self) -> nullcontext[None]:
        """Nothing has to be opened."""
        return nullcontext(None)

    def draft(self, opened: None, number: int) -> EpisodeDraft:
        """Returns an episode."""
        del opened  # nothing has to be opened
        episode = self._episodes[number]
        if not isinstance(episode, Episode):
            is_mask = {name: name.startswith(MASK_PREFIX) for name in episode}
            arrays = {name: values.astype(np.bool_) if is_mask[name] else values for name, values in episode.items()}
            return draft_of_arrays(arrays, {"episode": number}, fix=_ENDS)
        return EpisodeDraft(
            source={"episode": number},
            values={name: values for role in Role for name, values in arrays_of(episode, role).items()},
            observed=dict(episode.observed),
            terminated=episode.terminated,
            truncated=episode.truncated,
            seed=episode.seed,
            step_s=episode.step_s,
        )

    def _infer(self, files: Sequence[str], draft: SchemaDraft) -> tuple[Schema, list[str]]:
        """Infers the schema; the roles of the signals of an `Episode` are known."""
        whole = [episode for episode in self._episodes if isinstance(episode, Episode)]
        for role in Role if whole else ():
            arrays_of_role = [arrays_of(episode, role) for episode in whole]
            for name in arrays_of_role[0]:
                seen = [summarise(arrays[name]) for arrays in arrays_of_role if name in arrays]
                signal, doubts = draft.infer(name, role, seen)
                draft.add_guess(signal, RoleGuess(role=role, reason="its role in the episodes"), seen, doubts)
        if whole:
            return draft.result()
        arrays, steps_s = {}, []
        for file, episode in zip(files, self._episodes, strict=True):
            assert not isinstance(episode, Episode)
            arrays[file] = {
                name: summarise(values)
                for name, values in episode.items()
                if values.ndim and name not in (*FLAGS, *TIMES, "seed") and not name.startswith(MASK_PREFIX)
            }
            steps_s += [float(np.median(np.diff(episode[name]))) for name in TIMES if name in episode]
        return infer_schema(arrays, float(np.median(steps_s)) if steps_s else None, draft)
