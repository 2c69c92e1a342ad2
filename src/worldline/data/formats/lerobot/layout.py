"""Layout of a LeRobot dataset (v2.0, v2.1 or v3.0): features and places of its episodes, from checked metadata.

v2.x    meta/episodes.jsonl, meta/tasks.jsonl.
One parquet file per episode, one video per camera and episode.
v3.0    meta/episodes/*/*.parquet, meta/tasks.parquet.
Each file holds many episodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from worldline.data.checks import Finding
from worldline.data.formats.lerobot.tables import (
    FIX,
    NUMBER,
    WHOLE,
    Checked,
    ParquetRows,
    parse_json,
    read_bytes,
    read_object,
    within,
)
from worldline.errors import DataError

INFO_FILE = "meta/info.json"
EPISODES_FOLDER = "meta/episodes"
EPISODES_LINES = "meta/episodes.jsonl"
TASKS_FILE = "meta/tasks.parquet"
TASKS_LINES = "meta/tasks.jsonl"
OWN_FILE = "meta/worldline.json"
"""File of our exporter with the signal of each feature."""
OWN = "worldline"
"""Prefix of our exporter's columns."""

_FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column or camera.

    Args:
        key: its name in the dataset.
        dtype: "video", "image", "string" or a number type.
        shape: declared shape of one value.
        components: one name per number, or empty.
        is_depth: whether it is a depth map.
        height_width: declared size of an image.
        num_channels: declared channels of an image.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    components: tuple[str, ...] = ()
    is_depth: bool = False
    height_width: tuple[int, int] = (0, 0)
    num_channels: int = 0


@dataclass(frozen=True, kw_only=True)
class VideoPlace:
    """The place of an episode's frames.

    Args:
        file: relative to the dataset.
        start_s: time of the first frame, in seconds from the start of the file.
        length_s: seconds; None if the file holds one episode only.
    """

    file: str
    start_s: float = 0.0
    length_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class EpisodePlace:
    """One entry of the list of episodes.

    Args:
        number: its `episode_index`.
        num_rows: as listed.
        tasks: task descriptions.
        data: the parquet file, relative to the dataset.
        videos: by feature.
        own: values of our exporter, by column without its prefix.
    """

    number: int
    num_rows: int
    tasks: tuple[str, ...]
    data: str
    videos: Mapping[str, VideoPlace]
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LeRobotLayout:
    """A dataset.

    Args:
        root: its folder.
        fps: rows per second.
        features: by key, in order.
        episodes: in the order of their numbers.
        lost: errors in the lists of episodes and tasks; each is reported as an unreadable episode.
        tasks: descriptions by `task_index`.
        signals: signal names by feature key, if our exporter wrote them.
        is_own: whether our exporter wrote the dataset.
    """

    root: Path
    fps: float
    features: Mapping[str, Feature]
    episodes: tuple[EpisodePlace, ...]
    lost: tuple[Finding, ...]
    tasks: Mapping[int, str]
    signals: Mapping[str, str]
    is_own: bool


def read_layout(root: Path) -> LeRobotLayout:
    """Reads the folder `meta` of the dataset in `root`.

    Raises:
        DataError: `meta/info.json` is invalid, or no episode is listed.
        MissingExtraError: the dataset is v3.0 and the package pyarrow is not installed.
    """
    info = read_object(root, INFO_FILE)
    version = info.get("codebase_version", str)
    fps: float = info.get("fps", Annotated[float, Meta(gt=0, lt=1e300)])
    features = {key: _feature(key, value) for key, value in info.get("features", dict[str, Any]).items()}
    if re.fullmatch(r"v2\.\d+", version):
        places, lost = _listed(_json_lines(root, EPISODES_LINES), lambda row: _place_v2(info, row, features))
    elif re.fullmatch(r"v3\.\d+", version):
        places, lost = _listed(_parquet_rows(root), lambda row: _place_v3(info, row, features))
    else:
        fix = "Convert the dataset with the lerobot package to v2.1 or v3.0."
        raise DataError(f"the version {version!r:.40} is not supported", fix=fix, file=INFO_FILE)
    lost += _miscounted(info, places) if not lost else []
    if not places:
        raise lost[0].error() if lost else info.error("no episode is listed")
    is_own = (root / OWN_FILE).exists()
    tasks: dict[int, str] = {}
    try:
        tasks |= _tasks(root)
    except DataError as error:
        lost.append(Finding.of(error))
    return LeRobotLayout(
        root=root,
        fps=fps,
        features=features,
        episodes=tuple(places),
        lost=tuple(lost),
        tasks=tasks,
        signals=_signals(root, features) if is_own else {},
        is_own=is_own,
    )


def _feature(key: str, value: Any) -> Feature:
    entry = Checked(value, INFO_FILE, f"feature {key!r:.80}")
    dtype: str = entry.get("dtype", str)
    shape: list[int] = entry.get("shape", list[Annotated[int, Meta(ge=0, lt=1 << 31)]])
    names = entry.entries.get("names")
    if dtype not in ("video", "image"):
        return Feature(key=key, dtype=dtype, shape=tuple(shape), components=_components(names, math.prod(shape)))
    if len(shape) != 3 or 0 in shape:
        raise entry.error(f"the shape of an image is {shape}; expected three dimensions")
    details = [entry.entries.get(name) for name in ("info", "video_info")]
    is_depth = any(bool(d.get(f"{p}is_depth_map")) for d in details if isinstance(d, dict) for p in ("", "video."))
    size = _height_width(shape, names)
    channels = math.prod(shape) // math.prod(size)
    return Feature(
        key=key, dtype=dtype, shape=tuple(shape), is_depth=is_depth, height_width=size, num_channels=channels
    )


def _height_width(shape: Sequence[int], names: Any) -> tuple[int, int]:
    """Returns height and width of a shape with channels first or last, by the names of its dimensions or by size."""
    if isinstance(names, list) and len(names) == 3 and "height" in names and "width" in names:
        return shape[names.index("height")], shape[names.index("width")]
    return (shape[1], shape[2]) if shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4) else (shape[0], shape[1])


def _components(names: Any, size: int) -> tuple[str, ...]:
    """Returns one name per number: from a list, lists under headings, or a mapping from name to index; else ()."""
    if isinstance(names, dict):
        values = list(names.values())
        if values and all(isinstance(value, list) for value in values):
            names = [name for value in values for name in value]
        elif len(values) == size and sorted(v for v in values if type(v) is int) == list(range(size)):
            names = sorted(names, key=lambda name: int(names[name]))
    fits = isinstance(names, list) and len(names) == size and all(isinstance(name, str) and name for name in names)
    return tuple(names) if fits else ()


def _fill(template: str, info: Checked, values: Mapping[str, int | str]) -> str:
    """Fills in the plain fields of a path template; `str.format` is unsafe for untrusted templates."""

    def one(match: re.Match[str]) -> str:
        name, width = match[1], int(match[2] or 0)
        if name not in values:
            raise info.error(f"the path {template!r:.200} has the unknown field {name!r}")
        return str(values[name]).zfill(width)

    path = _FIELD.sub(one, template)
    if "{" in path or "}" in path:
        raise info.error(f"the path {template!r:.200} has an invalid field")
    return path


def _listed(
    rows: Iterable[Checked | DataError], place_of: Callable[[Checked], EpisodePlace]
) -> tuple[list[EpisodePlace], list[Finding]]:
    """Returns the places of the episodes in the order of their numbers, and an error for each lost row."""
    places: dict[int, EpisodePlace] = {}
    lost: list[Finding] = []
    for row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            place = place_of(row)
            if place.number in places:
                problem = f"episode_index {place.number} occurs twice; the second one is left out"
                raise DataError(problem, fix=FIX, file=row.file)
        except DataError as error:
            lost.append(Finding.of(error))
            continue
        places[place.number] = place
    return [places[number] for number in sorted(places)], lost


def _place_v2(info: Checked, row: Checked, features: Mapping[str, Feature]) -> EpisodePlace:
    number: int = row.get("episode_index", WHOLE)
    chunk = number // info.get("chunks_size", Annotated[int, Meta(gt=0)])
    fields: dict[str, int | str] = {"episode_chunk": chunk, "episode_index": number}
    return EpisodePlace(
        number=number,
        num_rows=row.get("length", WHOLE),
        tasks=row.texts("tasks"),
        data=_fill(info.get("data_path", str), info, fields),
        videos={
            key: VideoPlace(file=_fill(info.get("video_path", str), info, fields | {"video_key": key}))
            for key, feature in features.items()
            if feature.dtype == "video"
        },
    )


def _json_lines(root: Path, file: str) -> Iterator[Checked | DataError]:
    """Yields each line of a file with JSON lines; an error instead of an invalid line."""
    for number, line in enumerate(read_bytes(root, file).splitlines(), 1):
        try:
            if line.strip():
                yield Checked(parse_json(line, file, f"line {number}: "), file, f"line {number}")
        except DataError as error:
            yield error


def _parquet_rows(root: Path) -> Iterator[Checked | DataError]:
    """Yields each row of the parquet files in meta/episodes; an error instead of an unreadable file."""
    for path in sorted((root / EPISODES_FOLDER).glob("*/*.parquet")):
        file = path.relative_to(root).as_posix()
        try:
            rows = ParquetRows(within(root, file))
            table = rows.read([name for name in rows.names if not name.startswith("stats/")]).to_pylist()
        except DataError as error:
            yield DataError(error.problem, fix=error.fix, file=file)
            continue
        yield from (Checked(entries, file, f"row {number}") for number, entries in enumerate(table))


def _place_v3(info: Checked, row: Checked, features: Mapping[str, Feature]) -> EpisodePlace:
    videos = {}
    for key in (key for key, feature in features.items() if feature.dtype == "video"):
        start_s, stop_s = (row.get(f"videos/{key}/{end}_timestamp", NUMBER) for end in ("from", "to"))
        fields = _indices(row, f"videos/{key}") | {"video_key": key}
        file = _fill(info.get("video_path", str), info, fields)
        videos[key] = VideoPlace(file=file, start_s=start_s, length_s=stop_s - start_s)
    num_rows = row.get("dataset_to_index", WHOLE) - row.get("dataset_from_index", WHOLE)
    if num_rows != (length := row.get("length", WHOLE)):
        raise row.error(f"the length is {length}, but its indices span {num_rows} rows")
    return EpisodePlace(
        number=row.get("episode_index", WHOLE),
        num_rows=num_rows,
        tasks=row.texts("tasks"),
        data=_fill(info.get("data_path", str), info, _indices(row, "data")),
        videos=videos,
        own={k.removeprefix(f"{OWN}/"): v for k, v in row.entries.items() if k.startswith(f"{OWN}/")},
    )


def _indices(row: Checked, of: str) -> dict[str, int | str]:
    return {name: row.get(f"{of}/{name}", WHOLE) for name in ("chunk_index", "file_index")}


def _miscounted(info: Checked, places: Sequence[EpisodePlace]) -> Iterator[Finding]:
    """Yields a finding for each total that differs from the list of episodes."""
    for key, listed in (("total_episodes", len(places)), ("total_frames", sum(place.num_rows for place in places))):
        if info.entries.get(key) != listed:
            problem = f"{key} is {info.entries.get(key)!r:.40}, but the list of episodes has {listed}"
            fix = f"Complete the download; if nothing is missing, set it to {listed}."
            yield Finding(problem=problem, fix=fix, file=INFO_FILE)


def _tasks(root: Path) -> dict[int, str]:
    """Returns task descriptions by `task_index`; empty if the dataset has no list of tasks."""
    entries: Iterable[Checked | DataError] = ()
    if (root / TASKS_FILE).exists():
        rows = ParquetRows(within(root, TASKS_FILE))
        column = "task" if "task" in rows.names else "__index_level_0__"  # pandas' name of an unnamed index
        if missing := [name for name in ("task_index", column) if name not in rows.names]:
            raise rows.error(f"the column {missing[0]!r} is missing")
        table = rows.read(["task_index", column]).rename_columns(["task_index", "task"])
        entries = [Checked(row, TASKS_FILE, f"entry {number}") for number, row in enumerate(table.to_pylist())]
    elif (root / TASKS_LINES).exists():
        entries = _json_lines(root, TASKS_LINES)
    tasks: dict[int, str] = {}
    for row in entries:
        if isinstance(row, DataError):
            raise row
        if (index := row.get("task_index", WHOLE)) in tasks:
            raise row.error(f"task_index {index} occurs twice")
        tasks[index] = row.get("task", str)
    return tasks


def _signals(root: Path, features: Mapping[str, Feature]) -> Mapping[str, str]:
    """Reads the signal of each feature from our exporter's file."""
    own = read_object(root, OWN_FILE)
    signals: dict[str, str] = own.get("signals", dict[str, str])
    if unknown := [key for key in signals if key not in features]:
        raise own.error(f"the dataset has no feature {unknown[0]!r:.80}")
    if len(set(signals.values())) < len(signals):
        raise own.error("two features have the same signal")
    return signals
