"""Metadata of a LeRobot dataset (v2.0, v2.1 or v3.0): its features, and the places of its episodes.

v2.x    meta/episodes.jsonl, meta/tasks.jsonl.
One parquet file per episode, one video per camera and episode.
v3.0    meta/episodes/*/*.parquet, meta/tasks.parquet.
Each file holds many episodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from worldline.data.array_size import MAX_EPISODES, check_entries, check_list
from worldline.data.formats.lerobot.rows import FIX, ParquetRows, within
from worldline.data.formats.reading import converted, duplicate
from worldline.errors import DataError

INFO_FILE = "meta/info.json"
EPISODES_FOLDER = "meta/episodes"
TASKS_FILE = "meta/tasks.parquet"
OWN_FILE = "meta/worldline.json"
"""File of our exporter with the signal of each feature."""
NOTE = "worldline"
"""Column of our exporter in the list of episodes, with a `EpisodeNote` in JSON."""

_FIELD = re.compile(r"\{(\w+)(?::0?(\d)d)?\}")
_Whole = Annotated[int, Meta(ge=0)]


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One column or camera, as declared.

    Args:
        dtype: "video", "image", "string" or a number type.
        shape: of one value.
        names: of its components or dimensions, in several forms.
        info: details of a video.
        video_info: details of a video in older datasets.
    """

    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0, lt=1 << 31)], ...]
    names: Any = None
    info: Any = None
    video_info: Any = None

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
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels, which may be declared channels first: by the names of the dimensions, or size."""
        first, second, third = self.shape
        order = self.names if isinstance(self.names, list) else []
        is_first = order[0] != "height" if "height" in order else first in (1, 3, 4) and third not in (1, 3, 4)
        height, width, channels = (second, third, first) if is_first else (first, second, third)
        return height, width, 3 if self.dtype == "video" else channels

    @property
    def components(self) -> tuple[str, ...]:
        """One name per number: from a list, or lists under headings; else empty."""
        names = self.names
        if isinstance(names, dict) and all(isinstance(value, list) for value in names.values()):
            names = [name for value in names.values() for name in value]
        fits = isinstance(names, list) and len(names) == math.prod(self.shape)
        return tuple(names) if fits and all(isinstance(name, str) and name for name in names) else ()


class EpisodeNote(msgspec.Struct, kw_only=True):
    """What our exporter notes of an episode, because the format has no place for it; see `Episode`."""

    terminated: bool
    truncated: bool
    seed: int | None
    step_s: list[float] | None
    observed: dict[str, list[bool]]
    source: dict[str, str | int | float]


class DatasetInfo(msgspec.Struct):
    """The file `meta/info.json`."""

    codebase_version: str
    fps: Annotated[float, Meta(gt=0, lt=1e300)]
    features: dict[str, Feature]
    data_path: str
    video_path: str | None = None
    chunks_size: Annotated[int, Meta(gt=0)] = 1000
    total_episodes: Any = None


class VideoPlace(NamedTuple):
    """The place of an episode's frames: the file relative to the dataset, the time of the first frame in it [s]."""

    file: str
    start_s: float
    is_shared: bool
    """Whether the file holds other episodes, too."""


class EpisodeEntry(msgspec.Struct):
    """An episode in the list. Version 2 lists no places, because each file holds one episode.

    Args:
        episode_index: its number.
        length: number of rows.
        tasks: task descriptions.
        note: of our exporter; None if another tool wrote the episode.
        chunk: of the parquet file.
        file: of the parquet file.
        data: the parquet file, relative to the dataset.
        videos: by feature.
    """

    episode_index: _Whole
    length: _Whole
    tasks: str | list[str] | None = None
    note: str | None = msgspec.field(name=NOTE, default=None)
    chunk: _Whole = msgspec.field(name="data/chunk_index", default=0)
    file: _Whole = msgspec.field(name="data/file_index", default=0)
    data: str = ""
    videos: dict[str, VideoPlace] = {}


class _Task(msgspec.Struct):
    task_index: _Whole
    task: str


class LeRobotMetadata:
    """The folder `meta` of a dataset.

    Args:
        root: folder of the dataset.

    Raises:
        DataError: a file of the metadata is invalid, or no episode is listed.
        MissingExtraError: the dataset is v3.0 and the package pyarrow is not installed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        with converted("the metadata is invalid", fix=FIX, file=INFO_FILE):
            self.info = msgspec.json.decode(_content(root, INFO_FILE), type=DatasetInfo)
        self.features = self.info.features
        if not re.fullmatch(r"v[23]\.\d+", self.info.codebase_version):
            fix = "Convert the dataset with the lerobot package to v2.1 or v3.0."
            problem = f"the version {self.info.codebase_version!r:.40} is not supported"
            raise DataError(problem, fix=fix, file=INFO_FILE)
        is_old = self.info.codebase_version.startswith("v2")
        with converted("the list of episodes is invalid", fix=FIX, file=root / "meta"):
            entries: Iterable[dict[str, Any]] = (
                _lines(root, "meta/episodes.jsonl", dict[str, Any]) if is_old else _listed(root)
            )
            episodes = [_entry(self.info, entry) for entry in entries]
            if (twice := duplicate(str(entry.episode_index) for entry in episodes)) is not None or not episodes:
                raise ValueError(f"episode_index {twice} occurs twice" if episodes else "no episode is listed")
        self.episodes = sorted(episodes, key=lambda entry: entry.episode_index)
        """In the order of their numbers."""
        with converted("the list of tasks is invalid", fix=FIX, file=root / "meta"):
            self.tasks = {task.task_index: task.task for task in _tasks(root)}
            """Descriptions by `task_index`; empty if the dataset has no list of tasks."""
        self.is_own = (root / OWN_FILE).exists()
        """Whether our exporter wrote the dataset."""
        self._signals: dict[str, str] = {}
        if self.is_own:
            with converted("the names of the signals are invalid", fix=FIX, file=OWN_FILE):
                own = msgspec.json.decode(_content(root, OWN_FILE), type=dict[str, dict[str, str]])
                self._signals = own["signals"]

    def signal(self, key: str) -> str:
        """Returns the signal name of a feature."""
        return self._signals.get(key, key.replace("/", "."))


def _content(root: Path, file: str) -> bytes:
    """Returns the content of a file of metadata."""
    check_list((path := within(root, file)).stat().st_size, path)
    return path.read_bytes()


def _lines(root: Path, file: str, kind: Any) -> Iterator[Any]:
    """Yields the entries of a list with a line of JSON for each."""
    content = _content(root, file)
    check_entries(content.count(b"\n"), "lines", MAX_EPISODES, file=root / file)
    decoder = msgspec.json.Decoder(kind)
    return (decoder.decode(line) for line in BytesIO(content) if line.strip())


def _listed(root: Path) -> list[dict[str, Any]]:
    """Returns the rows of the list of version 3."""
    entries: list[dict[str, Any]] = []
    for path in sorted((root / EPISODES_FOLDER).glob("*/*.parquet")):
        rows = ParquetRows(within(root, path.relative_to(root).as_posix()))
        entries += rows.read_list([name for name in rows.names if not name.startswith("stats/")]).to_pylist()
        check_entries(len(entries), "episodes", MAX_EPISODES, file=path)
    return entries


def _entry(info: DatasetInfo, listed: dict[str, Any]) -> EpisodeEntry:
    """Checks an entry of the list and fills in its places."""
    entry = msgspec.convert(listed, EpisodeEntry)
    if entry.note is not None:
        msgspec.json.decode(entry.note, type=EpisodeNote)
    fields = {"episode_chunk": entry.episode_index // info.chunks_size, "episode_index": entry.episode_index}
    fields |= {"chunk_index": entry.chunk, "file_index": entry.file}
    entry.data = _fill(info.data_path, fields)
    for key in (key for key, feature in info.features.items() if feature.dtype == "video"):
        own = {name: listed.get(f"videos/{key}/{name}", value) for name, value in fields.items()}
        start = listed.get(f"videos/{key}/from_timestamp")
        file = _fill(info.video_path, own | {"video_key": key})
        entry.videos[key] = VideoPlace(file, float(start or 0), start is not None)
    return entry


def _fill(template: str | None, values: Mapping[str, Any]) -> str:
    """Fills in the plain fields of a path template; `str.format` is unsafe for untrusted templates."""
    path = _FIELD.sub(lambda match: str(values[match[1]]).zfill(int(match[2] or 0)), template or "{}")
    if "{" in path or "}" in path:
        raise ValueError(f"the path {template!r:.200} has an invalid field")
    return path


def _tasks(root: Path) -> list[_Task]:
    """Returns the list of tasks."""
    if not (root / TASKS_FILE).exists():
        return [*_lines(root, "meta/tasks.jsonl", _Task)] if (root / "meta/tasks.jsonl").exists() else []
    rows = ParquetRows(within(root, TASKS_FILE))
    column = "task" if "task" in rows.names else "__index_level_0__"  # pandas' name of an unnamed index
    table = rows.read_list(["task_index", column])
    return msgspec.convert(table.rename_columns(["task_index", "task"]).to_pylist(), list[_Task])
