"""Layout of a LeRobot dataset (v2.0, v2.1 or v3.0): features and places of its episodes, from checked metadata.

v2.x    meta/episodes.jsonl, meta/tasks.jsonl.
One parquet file per episode, one video per camera and episode.
v3.0    meta/episodes/*/*.parquet, meta/tasks.parquet.
Each file holds many episodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from worldline.data.array_size import check_episodes
from worldline.data.checks import Finding
from worldline.data.formats.lerobot.tables import FIX, ParquetRows, within
from worldline.data.formats.reading import converted
from worldline.errors import DataError

INFO_FILE = "meta/info.json"
EPISODES_FOLDER = "meta/episodes"
EPISODES_LINES = "meta/episodes.jsonl"
TASKS_FILE = "meta/tasks.parquet"
TASKS_LINES = "meta/tasks.jsonl"
OWN_FILE = "meta/worldline.json"
"""File of our exporter with the signal of each feature."""
NOTE = "worldline"
"""Column of our exporter in the list of episodes, with a `EpisodeNote` in JSON."""

_FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
_Whole = Annotated[int, Meta(ge=0)]
_Seconds = Annotated[float, Meta(gt=-1e300, lt=1e300)]


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One column or camera, as declared.

    Args:
        dtype: "video", "image", "string" or a number type.
        shape: of one value.
        names: of its components or dimensions, in several forms.
        info: details of a video.
        video_info: details of a video in older datasets.
        key: its name in the dataset.
    """

    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0, lt=1 << 31)], ...]
    names: Any = None
    info: Any = None
    video_info: Any = None
    key: str = ""

    def __post_init__(self) -> None:
        if self.is_image and (len(self.shape) != 3 or 0 in self.shape):
            raise ValueError(f"the shape of an image is {self.shape}; expected three dimensions")

    @property
    def is_image(self) -> bool:
        """Whether its values are images."""
        return self.dtype in ("video", "image")

    @property
    def is_depth(self) -> bool:
        """Whether it is a depth map."""
        details = [part for part in (self.info, self.video_info) if isinstance(part, dict)]
        return any(part.get("is_depth_map") or part.get("video.is_depth_map") for part in details)

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of an image, with channels first or last: by the names of the dimensions, or by size."""
        shape, names = self.shape, self.names
        if isinstance(names, list) and len(names) == 3 and "height" in names and "width" in names:
            return shape[names.index("height")], shape[names.index("width")]
        return (shape[1], shape[2]) if shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4) else (shape[0], shape[1])

    @property
    def components(self) -> tuple[str, ...]:
        """One name per number: from a list, lists under headings, or a mapping from name to index; else empty."""
        names, size = self.names, math.prod(self.shape)
        if isinstance(names, dict):
            values = list(names.values())
            if values and all(isinstance(value, list) for value in values):
                names = [name for value in values for name in value]
            elif len(values) == size and sorted(v for v in values if type(v) is int) == list(range(size)):
                names = sorted(names, key=lambda name: int(names[name]))
        fits = isinstance(names, list) and len(names) == size and all(isinstance(name, str) and name for name in names)
        return tuple(names) if fits else ()


class EpisodeNote(msgspec.Struct, kw_only=True):
    """What our exporter notes of an episode, because the format has no place for it; see `Episode`."""

    terminated: bool
    truncated: bool
    seed: int | None
    step_s: list[float] | None
    observed: dict[str, list[bool]]
    source: dict[str, str | int | float]


class _Info(msgspec.Struct):
    """The file `meta/info.json`."""

    codebase_version: str
    fps: Annotated[float, Meta(gt=0, lt=1e300)]
    features: dict[str, Feature]
    data_path: str
    video_path: str | None = None
    chunks_size: Annotated[int, Meta(gt=0)] = 1000
    total_episodes: Any = None
    total_frames: Any = None

    @property
    def videos(self) -> list[str]:
        return [key for key, feature in self.features.items() if feature.dtype == "video"]


class _RowV2(msgspec.Struct):
    """An episode in the list of version 2."""

    episode_index: _Whole
    length: _Whole
    tasks: str | list[str] | None = None
    note: str | None = msgspec.field(name=NOTE, default=None)


class _RowV3(_RowV2, kw_only=True):
    """An episode in the list of version 3."""

    start: _Whole = msgspec.field(name="dataset_from_index")
    stop: _Whole = msgspec.field(name="dataset_to_index")
    chunk: _Whole = msgspec.field(name="data/chunk_index")
    file: _Whole = msgspec.field(name="data/file_index")


class _Video(msgspec.Struct):
    """The place of an episode in the videos of a camera, in the list of version 3."""

    chunk_index: _Whole
    file_index: _Whole
    from_timestamp: _Seconds
    to_timestamp: _Seconds


class _Task(msgspec.Struct):
    task_index: _Whole
    task: str


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
        note: of our exporter; None if another tool wrote the episode.
    """

    number: int
    num_rows: int
    tasks: tuple[str, ...]
    data: str
    videos: Mapping[str, VideoPlace]
    note: EpisodeNote | None = None


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
    with converted("the metadata is invalid", fix=FIX, file=INFO_FILE):
        info = msgspec.json.decode(within(root, INFO_FILE).read_bytes(), type=_Info)
    places, lost = _listed(root, info)
    lost += _miscounted(info, places) if not lost else []
    if not places:
        raise lost[0].error() if lost else DataError("no episode is listed", fix=FIX, file=INFO_FILE)
    tasks, signals, is_own = dict[int, str](), dict[str, str](), (root / OWN_FILE).exists()
    try:
        tasks = _tasks(root)
    except DataError as error:
        lost.append(Finding.of(error))
    if is_own:
        with converted("the names of the signals are invalid", fix=FIX, file=OWN_FILE):
            signals = msgspec.json.decode(within(root, OWN_FILE).read_bytes(), type=dict[str, dict[str, str]])[
                "signals"
            ]
    return LeRobotLayout(
        root=root,
        fps=info.fps,
        features={key: msgspec.structs.replace(feature, key=key) for key, feature in info.features.items()},
        episodes=tuple(places),
        lost=tuple(lost),
        tasks=tasks,
        signals=signals,
        is_own=is_own,
    )


def _listed(root: Path, info: _Info) -> tuple[list[EpisodePlace], list[Finding]]:
    """Returns the places of the episodes in the order of their numbers, and an error for each lost entry."""
    if re.fullmatch(r"v2\.\d+", info.codebase_version):
        entries, place_of = _lines(root), _place_v2
    elif re.fullmatch(r"v3\.\d+", info.codebase_version):
        entries, place_of = _rows(root), _place_v3
    else:
        fix = "Convert the dataset with the lerobot package to v2.1 or v3.0."
        raise DataError(f"the version {info.codebase_version!r:.40} is not supported", fix=fix, file=INFO_FILE)
    places: dict[int, EpisodePlace] = {}
    lost: list[Finding] = []
    for file, number, entry in entries:
        try:
            with converted(f"entry {number} is invalid", fix=FIX, file=file):
                place = place_of(info, entry)
                if places.setdefault(place.number, place) is not place:
                    raise ValueError(f"episode_index {place.number} occurs twice; the second one is left out")
        except DataError as error:
            lost.append(Finding.of(error, file=file))
    return [places[number] for number in sorted(places)], lost


def _lines(root: Path) -> Iterator[tuple[str, int, Any]]:
    """Yields each line of the list of version 2, with its file and number."""
    lines = within(root, EPISODES_LINES).read_bytes().splitlines()
    yield from ((EPISODES_LINES, number, line) for number, line in enumerate(lines, 1) if line.strip())


def _rows(root: Path) -> Iterator[tuple[str, int, Any]]:
    """Yields each row of the list of version 3, with its file and number; the error of an unreadable file instead."""
    for path in sorted((root / EPISODES_FOLDER).glob("*/*.parquet")):
        file = path.relative_to(root).as_posix()
        try:
            rows = ParquetRows(within(root, file))
            check_episodes(len(rows), path)
            table = rows.read([name for name in rows.names if not name.startswith("stats/")]).to_pylist()
        except DataError as error:
            table = [error]
        yield from ((file, number, row) for number, row in enumerate(table))


def _place_v2(info: _Info, entry: Any) -> EpisodePlace:
    row = msgspec.json.decode(entry, type=_RowV2)
    fields = {"episode_chunk": row.episode_index // info.chunks_size, "episode_index": row.episode_index}
    videos = {key: VideoPlace(file=_fill(info.video_path, fields | {"video_key": key})) for key in info.videos}
    return _place(row, _fill(info.data_path, fields), videos)


def _place_v3(info: _Info, entry: Any) -> EpisodePlace:
    if isinstance(entry, DataError):
        raise entry
    row, videos = msgspec.convert(entry, _RowV3), {}
    if row.stop - row.start != row.length:
        raise ValueError(f"the length is {row.length}, but its indices span {row.stop - row.start} rows")
    for key in info.videos:
        start = f"videos/{key}/"
        video = msgspec.convert({k.removeprefix(start): v for k, v in entry.items() if k.startswith(start)}, _Video)
        fields = {"video_key": key, "chunk_index": video.chunk_index, "file_index": video.file_index}
        length_s = video.to_timestamp - video.from_timestamp
        file = _fill(info.video_path, fields)
        videos[key] = VideoPlace(file=file, start_s=video.from_timestamp, length_s=length_s)
    return _place(row, _fill(info.data_path, {"chunk_index": row.chunk, "file_index": row.file}), videos)


def _place(row: _RowV2, data: str, videos: Mapping[str, VideoPlace]) -> EpisodePlace:
    note = None if row.note is None else msgspec.json.decode(row.note, type=EpisodeNote)
    tasks = (row.tasks,) if isinstance(row.tasks, str) else tuple(row.tasks or ())
    return EpisodePlace(number=row.episode_index, num_rows=row.length, tasks=tasks, data=data, videos=videos, note=note)


def _fill(template: str | None, values: Mapping[str, Any]) -> str:
    """Fills in the plain fields of a path template; `str.format` is unsafe for untrusted templates."""
    path = _FIELD.sub(lambda match: str(values[match[1]]).zfill(int(match[2] or 0)), template or "{}")
    if "{" in path or "}" in path:
        raise ValueError(f"the path {template!r:.200} has an invalid field")
    return path


def _miscounted(info: _Info, places: Sequence[EpisodePlace]) -> Iterator[Finding]:
    """Yields a finding for each total that differs from the list of episodes."""
    totals = {"total_episodes": len(places), "total_frames": sum(place.num_rows for place in places)}
    for key, listed in totals.items():
        if getattr(info, key) != listed:
            problem = f"{key} is {getattr(info, key)!r:.40}, but the list of episodes has {listed}"
            fix = f"Complete the download; if nothing is missing, set it to {listed}."
            yield Finding(problem=problem, fix=fix, file=INFO_FILE)


def _tasks(root: Path) -> dict[int, str]:
    """Returns task descriptions by `task_index`; empty if the dataset has no list of tasks."""
    entries: list[Any] = []
    with converted("the list of tasks is invalid", fix=FIX, file=root / "meta"):
        if (root / TASKS_FILE).exists():
            rows = ParquetRows(within(root, TASKS_FILE))
            column = "task" if "task" in rows.names else "__index_level_0__"  # pandas' name of an unnamed index
            entries = rows.read(["task_index", column]).rename_columns(["task_index", "task"]).to_pylist()
        elif (root / TASKS_LINES).exists():
            entries = [msgspec.json.decode(line) for line in within(root, TASKS_LINES).read_bytes().splitlines()]
        return {task.task_index: task.task for task in msgspec.convert(entries, list[_Task])}
