"""Importer of videos or folders of images, with tables of actions.

    run_01.mp4, run_01.csv                   one episode; its signal is camera
    run_01.front.mp4, run_01.side.mp4        two cameras, front and side
    run_01/0000.png, run_01/0001.png, ...    images in natural order
    log.csv with a column episode            one table; episode = run_01, ...

A row takes the frame number in its column `frame` (from 0). Without that column it takes the last frame at or before
its time. Without times, rows and frames are matched in order if their numbers are equal. Rows without a frame are
masked as not observed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from worldline.data.base import LoggedEpisode, ReadOptions, schema_beside
from worldline.data.checks import Finding
from worldline.data.formats.reading import EpisodeDraft, unread
from worldline.data.formats.tables.columns import read_table, tables_in
from worldline.data.formats.tables.matching import FRAME_NAMES, Recording, build_with_pictures
from worldline.data.formats.tables.pictures import VIDEO_SUFFIXES, Clip, clips_in
from worldline.data.formats.tables.survey import EpisodeRows, Survey, scan_tables
from worldline.data.formats.tables.tables import LEROBOT_FILE, TableLogs, failed
from worldline.data.formats.tables.timestamps import Times
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

CAMERA = "camera"
"""The signal name if there is one camera."""

Recordings = dict[str, dict[str, Path]]
"""By the recording's name in tables: a video file or a folder of images per camera."""

_MATCHING = (
    "Rows are matched to frames by a column `frame` (from 0), else by time, else in order if their numbers are equal. "
    "By time, a row takes the last frame at or before it, at most one and a half frame intervals old. "
    "Dates start at the first frame. A frame that several rows share is marked as observed in the first."
)


class VideoLogs(TableLogs):
    """A folder of videos (or sub-folders of images) and tables, or a single video and its table.

    Args:
        recordings: to read.
        names: the recording by table and episode label; None if it has no video. Other episodes are ignored.
        survey: of the tables.
        schema: of the logs; None to infer it.
        reading: the user's options.
    """

    def __init__(
        self,
        recordings: Recordings,
        names: Mapping[tuple[Path, str | None], str | None],
        survey: Survey,
        schema: Schema | None,
        reading: ReadOptions,
    ) -> None:
        used, unused = names.values(), list[str]()
        if schema is None:
            with_rows = [clips for name, clips in recordings.items() if name in used]
            cameras, step_s = _look(with_rows or recordings.values())
        else:
            cameras, step_s = (), None
            recordings, unused = _cameras_of(schema, recordings, [name for name in recordings if name in used])
        super().__init__(survey, schema, reading, cameras=cameras, step_s=step_s)
        self.unclear = (*self.unclear, _MATCHING, *unused)
        self._recordings, self._names = recordings, names
        self._without_rows = [name for name in recordings if name not in used]

    def with_schema(self, schema: Schema) -> None:
        """None: the cameras of another schema are read again."""

    def __len__(self) -> int:
        labels = ((file, label) for file, labels in self._survey.labels.items() for label in labels)
        return sum(key in self._names for key in labels) + len(self._without_rows)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a video file, or a folder with a video or with sub-folders of images and a table."""
        if path.is_file():
            return path.suffix.lower() in VIDEO_SUFFIXES
        clips = clips_in(path) if not (path / LEROBOT_FILE).is_file() else []
        return any(clip.is_file() for clip in clips) or (bool(clips) and bool(tables_in(path)))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> VideoLogs:
        """Opens the logs; scans all tables, and one frame per camera if no schema is given."""
        folder = path.parent if path.is_file() else path
        clips, tables = clips_in(folder), tables_in(folder)
        if not clips or not tables:
            lacks = "table of actions" if clips else "video or folder of images"
            fix = "Put videos and their tables into one folder."
            raise DataError(f"there is no {lacks} at this path", fix=fix, file=path)
        survey = scan_tables(tables, reading, read_table)
        survey.reserved |= dict.fromkeys(FRAME_NAMES, "the frames")
        keys = [(table, label) for table, labels in survey.labels.items() for label in labels]
        recordings = _recordings(clips, {*(table.stem for table in tables), *(label for _, label in keys if label)})
        names = {key: _name(*key, recordings) for key in keys}
        if len(recordings) == 1 and len(names) == 1:
            names = dict.fromkeys(keys, next(iter(recordings)))
        if path.is_file():
            recordings = {name: cameras for name, cameras in recordings.items() if path in cameras.values()}
            names = {key: name for key, name in names.items() if name in recordings}
        logs = cls(recordings, names, survey, schema or schema_beside(path), reading)
        logs.unclear = (*logs.unclear, *unread(path, {*tables, *clips}, "no videos or tables"))
        return logs

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields the episodes of all tables, then an error for each recording without rows."""
        yield from super().read()
        for number, name in enumerate(self._without_rows, len(self) - len(self._without_rows)):
            file = next(iter(self._recordings[name].values())).name
            fix = "Add a table with the same name, or a table with a column of episodes that contains this name."
            problem = "no table has the actions of this recording"
            yield failed(Finding(problem=problem, fix=fix, file=file), number)

    def _without_table(self, file: Path, error: DataError, numbers: Iterator[int]) -> Iterator[LoggedEpisode]:
        if (file, None) in self._names:
            yield from super()._without_table(file, error, numbers)

    def _drafts(
        self, file: Path, pieces: Sequence[EpisodeRows], times: Times | None
    ) -> Iterator[tuple[EpisodeRows, EpisodeDraft]]:
        for label, same in groupby(pieces, key=lambda piece: piece.label):
            parts, name = list(same), self._names.get((file, label))
            if name is None:
                which = f"named {label!r}" if label else "for these rows"
                problem = f"there is no video {which} (found: {', '.join(self._recordings)})"
                fix = "Name the video like the table, or like the episode in its column."
                missing = EpisodeDraft(findings=[Finding(problem=problem, fix=fix)])
                yield from ((piece, missing) for piece in parts if (file, label) in self._names)
                continue
            rows = np.unique(np.concatenate([piece.rows for piece in parts]))
            start_s = float(times.seconds[rows[0]]) if times is not None and len(rows) else 0.0
            is_date = times is not None and times.is_date
            recording = Recording(cameras=self._recordings[name], rows=rows, start_s=start_s, is_date=is_date)
            for piece in parts:
                yield piece, build_with_pictures(piece, recording, self._layout, self._reading)


def _recordings(clips: Sequence[Path], table_names: Iterable[str]) -> Recordings:
    """Groups clips by recording and camera.

    Args:
        clips: video files and folders.
        table_names: names of recordings in tables.
    """
    stems = [clip.name if clip.is_dir() else clip.stem for clip in clips]
    heads, table_names = [stem.rpartition(".")[0] for stem in stems], set(table_names)
    recordings: Recordings = {}
    for clip, stem, head in zip(clips, stems, heads, strict=True):
        several = stem not in table_names and head and (head in table_names or heads.count(head) > 1)
        name, camera = (head, stem.rpartition(".")[2]) if several else (stem, CAMERA)
        if (other := recordings.setdefault(name, {}).setdefault(camera, clip)) != clip:
            problem = f"{other.name} and {clip.name} belong to the same recording and camera"
            raise DataError(problem, fix="Remove one, or rename both to name.camera.mp4.", file=clip.parent)
    return recordings


def _name(table: Path, label: str | None, recordings: Recordings) -> str | None:
    """Finds the recording of a table's episode by the table's name, or by the episode's label or number."""
    for name in (table.stem, label):
        if name is not None and name in recordings:
            return name
    numbers = {name: re.search(r"\d+$", name) for name in recordings}
    is_number = label is not None and label.isdecimal()
    same = [name for name, digits in numbers.items() if is_number and digits and int(digits[0]) == int(label or 0)]
    return same[0] if len(same) == 1 else None


def _cameras_of(schema: Schema, recordings: Recordings, with_rows: Sequence[str]) -> tuple[Recordings, list[str]]:
    """Keeps the schema's cameras and returns sentences about the others; a single camera takes the schema's name."""
    images = [s.name for s in schema.signals if s.kind is Kind.IMAGE and s.role is Role.OBSERVATION]
    cameras = list(dict.fromkeys(camera for clips in recordings.values() for camera in clips))
    if len(images) == 1 and cameras == [CAMERA]:
        return {name: {images[0]: clips[CAMERA]} for name, clips in recordings.items()}, []
    if not {*cameras} & {*images}:
        problem = f"the schema has no image signal for any camera ({', '.join(cameras)})"
        raise DataError(problem, fix="Add an image signal with the name of a camera to schema.json.")
    unused = [camera for camera in cameras if camera not in images]
    kept = {
        name: {camera: clip for camera, clip in clips.items() if camera in images or name not in with_rows}
        for name, clips in recordings.items()
    }
    return kept, [f"{camera}: left out, because the schema has no image signal of this name." for camera in unused]


def _look(recordings: Iterable[Mapping[str, Path]]) -> tuple[tuple[Signal, ...], float | None]:
    """Reads the first frame of each camera from its first readable clip.

    Returns the cameras, and the usual seconds between frames; None if there are only images.

    Raises:
        DataError: a camera has no readable clip.
    """
    cameras, failures = dict[str, Signal](), dict[str, DataError]()
    step_s: float | None = None
    for name, path in ((camera, path) for clips in recordings for camera, path in clips.items()):
        if name in cameras:
            continue
        try:
            clip = Clip(path)
            picture = next(clip.between(0, 0))
        except DataError as error:
            failures.setdefault(name, error)
            continue
        cameras[name] = Signal(name=name, role=Role.OBSERVATION, kind=Kind.IMAGE, shape=picture.shape)
        if step_s is None and clip.times is not None and len(clip) > 1:
            step_s = float(f"{np.median(np.diff(clip.times)):.9g}")
    if missing := [failure for name, failure in failures.items() if name not in cameras]:
        raise missing[0]
    return tuple(cameras.values()), step_s
