"""Exporter of stores to LeRobot v3.0 datasets, which `LeRobotLogs` reads back bit for bit.

Each episode is a file. Images are PNGs in the parquet files, because a video would lose detail. LeRobot needs an action
in the row of the last observation, so the previous action is repeated there. The column `worldline` in the list of
episodes holds masks, ends, seed, step durations and source in JSON. The schema is in `schema.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from worldline.config import to_json
from worldline.data.checks import arrays_of
from worldline.data.draft_folder import drafted
from worldline.data.formats.decoding import encode_picture
from worldline.data.formats.lerobot.metadata import EPISODES_FOLDER, INFO_FILE, NOTE, OWN_FILE, TASKS_FILE, EpisodeNote
from worldline.data.formats.reading import duplicate
from worldline.data.index import Entry
from worldline.data.store import SCHEMA_FILE, Store
from worldline.episode import Episode
from worldline.errors import InputError, MissingExtraError, UnsupportedError
from worldline.schema import Kind, Role, Schema, Signal

try:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtraError("pyarrow", "lerobot") from error

Array = NDArray[np.generic]

_FILES_A_CHUNK = 1000
_PATTERN = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_DEFAULTS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
             "task_index": "int64"}  # fmt: skip


def export_lerobot(store: Store, destination: Path) -> None:
    """Writes a dataset; until it is complete, it has a temporary name next to the destination.

    Args:
        store: with at least one episode, and `step_s` in its schema.
        destination: a folder that does not exist yet.

    Raises:
        InputError: the destination exists, or the store has no episodes, no `step_s` or names that collide.
        UnsupportedError: an image does not have 1, 3 or 4 channels.
    """
    if not len(store):
        raise InputError(f"{store.path} has no episodes. Import or record some first.")
    columns, fps = _columns(store.schema), _fps(store.schema)
    with drafted(destination) as draft:
        (draft / "meta").mkdir(parents=True)
        tasks, num_rows = _write_episodes(draft, store, columns, fps)
        _write_meta(draft, store, columns, fps, tasks, num_rows)


def _fps(schema: Schema) -> int | float:
    """Returns rows per second, as int if possible, because the lerobot package expects that."""
    if schema.step_s is None:
        raise InputError("LeRobot needs the step duration. Write step_s into the store's schema.json.")
    fps = 1 / schema.step_s
    return round(fps) if round(fps) and abs(fps - round(fps)) < 1e-6 * fps else fps


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A signal and the key of its feature."""

    key: str
    signal: Signal

    @property
    def feature(self) -> dict[str, Any]:
        """The entry in meta/info.json."""
        signal = self.signal
        if signal.kind is Kind.IMAGE:
            return {"dtype": "image", "shape": list(signal.shape), "names": ["height", "width", "channels"]}
        names = list(signal.components) if signal.components and signal.kind is Kind.VECTOR else None
        return {"dtype": signal.dtype, "shape": list(signal.shape) or [1], "names": names}

    def cells(self, values: Array) -> pa.Array:
        """Converts values to a column of numbers, lists of equal length, or PNG files."""
        if self.signal.kind is Kind.IMAGE:
            files = [encode_picture(np.asarray(picture, np.uint8)) for picture in values]
            names = [f"frame-{number:06d}.png" for number in range(len(files))]
            return pa.StructArray.from_arrays([pa.array(files, pa.binary()), pa.array(names)], ["bytes", "path"])
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        size = values[:1].size
        return flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)


def _columns(schema: Schema) -> list[_Column]:
    """Returns a column for each signal, named by LeRobot's conventions."""
    columns = [_Column(key=_key(signal, schema), signal=signal) for signal in schema.signals]
    if twice := duplicate(column.key for column in columns):
        signals = [column.signal.name for column in columns if column.key == twice]
        raise InputError(f"the signals {' and '.join(signals)} would both get the key {twice!r}. Rename one.")
    for signal in schema.signals:
        if signal.kind is Kind.IMAGE and signal.shape[2] not in (1, 3, 4):
            problem = f"{signal.name} has {signal.shape[2]} channels, but a PNG has 1, 3 or 4"
            raise UnsupportedError(f"{problem}. Export to HDF5, or split the signal into several.")
    return columns


def _key(signal: Signal, schema: Schema) -> str:
    name = signal.name
    prefix = {
        Role.OBSERVATION: "observation.images." if signal.kind is Kind.IMAGE else "observation.",
        Role.ACTION: "action.",
        Role.EXOGENOUS: "exogenous.",
        Role.REWARD: "next.reward.",
    }[signal.role]
    if name.startswith(("next." if signal.role is Role.REWARD else prefix.split(".")[0] + ".",)):
        return name
    is_alone = len(schema.of(signal.role)) == 1 and signal.role in (Role.ACTION, Role.REWARD)
    return prefix.rstrip(".") if is_alone else prefix + name


def _rows(columns: Sequence[_Column], episode: Episode, defaults: Mapping[str, Array]) -> pa.Table:
    """Returns the rows of an episode; the last of T inputs is repeated."""
    steps = np.minimum(np.arange(episode.num_steps + 1), episode.num_steps - 1)
    cells: dict[str, Any] = dict(defaults)
    for column in columns:
        values = arrays_of(episode, column.signal.role)[column.signal.name]
        cells[column.key] = column.cells(values if column.signal.role is Role.OBSERVATION else values[steps])
    return pa.table(cells)


def _write_episodes(root: Path, store: Store, columns: Sequence[_Column], fps: float) -> tuple[dict[str, int], int]:
    """Writes all episodes and their list; returns the tasks and the number of rows."""
    tasks, listed, num_rows = dict[str, int](), list[dict[str, Any]](), 0
    for number in range(len(store)):
        episode, entry = store.verify(number), store.entry(number)
        task, rows = _task(entry), np.arange(episode.num_steps + 1)
        defaults: dict[str, Array] = {
            "timestamp": (rows / fps).astype(np.float32),
            "frame_index": rows,
            "episode_index": np.full(len(rows), number),
            "index": rows + num_rows,
            "task_index": np.full(len(rows), tasks.setdefault(task, len(tasks))),
        }
        place = {"chunk_index": number // _FILES_A_CHUNK, "file_index": number % _FILES_A_CHUNK}
        _write(root / "data" / _PATTERN.format(**place), _rows(columns, episode, defaults))
        described = {
            "episode_index": number,
            "tasks": [task],
            "length": len(rows),
            **{f"data/{name}": value for name, value in place.items()},
            "dataset_from_index": num_rows,
            "dataset_to_index": num_rows + len(rows),
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
            NOTE: msgspec.json.encode(_note(episode, entry)).decode(),
        }
        listed.append(described)
        num_rows += len(rows)
    _write(root / EPISODES_FOLDER / _PATTERN.format(chunk_index=0, file_index=0), pa.Table.from_pylist(listed))
    return tasks, num_rows


def _write_meta(
    root: Path, store: Store, columns: Sequence[_Column], fps: float, tasks: Mapping[str, int], num_rows: int
) -> None:
    """Writes the metadata of all episodes."""
    features = {column.key: column.feature for column in columns}
    features |= {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in _DEFAULTS.items()}
    info = {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(store),
        "total_frames": num_rows,
        "total_tasks": len(tasks),
        "chunks_size": _FILES_A_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{len(store)}"},
        "data_path": f"data/{_PATTERN}",
        "video_path": None,
        "features": features,
    }
    own = {"signals": {column.key: column.signal.name for column in columns}}
    for file, content in ((INFO_FILE, info), (OWN_FILE, own)):
        (root / file).write_text(json.dumps(content, indent=4, ensure_ascii=False), "utf-8")
    (root / SCHEMA_FILE).write_text(to_json(store.schema), "utf-8")
    # The lerobot package expects the texts as the index of pandas.
    index = pd.Index(list(tasks), dtype=object, name="task")
    _write(root / TASKS_FILE, pa.Table.from_pandas(pd.DataFrame({"task_index": list(tasks.values())}, index)))


def _note(episode: Episode, entry: Entry) -> EpisodeNote:
    return EpisodeNote(
        terminated=episode.terminated,
        truncated=episode.truncated,
        seed=episode.seed,
        step_s=None if episode.step_s is None else episode.step_s.tolist(),
        observed={name: mask.tolist() for name, mask in episode.observed.items()},
        source=dict(entry.source),
    )


def _task(entry: Entry) -> str:
    """Returns the task description; empty if there is none."""
    task = entry.source.get("task", "")
    return task if isinstance(task, str) else ""


def _write(path: Path, table: pa.Table) -> None:
    """Writes a parquet file with page checksums."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="snappy", write_page_checksum=True)
