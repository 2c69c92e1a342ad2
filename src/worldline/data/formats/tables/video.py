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
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from worldline.data.base import LoggedEpisode, ReadOptions, schema_beside
from worldline.data.checks import Finding
from worldline.data.formats.reading import EpisodeDraft, unread
from worldline.data.formats.tables import matching
from worldline.data.formats.tables.columns import tables_in
from worldline.data.formats.tables.layout import EpisodeRows
from worldline.data.formats.tables.tables import LEROBOT_FILE, Scan, TableLogs, failed, scan_tables
from worldline.data.formats.tables.timestamps import Times
from worldline.errors import DataError
from worldline.schema import Kind, Role, Schema, Signal

CAMERA = "camera"
"""The signal name if there is one camera."""

Recordings = Mapping[str, Mapping[str, Path]]
"""By the recording's name in tables: a video file or a folder of images per camera."""


@dataclass(frozen=True, kw_only=True)
class _RecordingPlan:
    """The assignment of tables and their episodes to recordings.

    Args:
        recordings: to read.
        tables: that may belong to them.
        names: the recording by table and episode label; None if it has no video. Other episodes are ignored.
        num_episodes: number of episodes to read.
    """

    recordings: Recordings
    tables: tuple[Path, ...]
    names: Mapping[tuple[Path, str | None], str | None]
    num_episodes: int


class VideoLogs(TableLogs):
    """A folder of videos (or sub-folders of images) and tables, or a single video and its table.

    Args:
        plan: recordings and their tables.
        scan: the first pass over all tables.
        schema: of the logs; None to infer it.
        reading: the user's options.
    """

    def __init__(self, plan: _RecordingPlan, scan: Scan, schema: Schema | None, reading: ReadOptions) -> None:
        with_rows = [clips for name, clips in plan.recordings.items() if name in plan.names.values()]
        cameras, step_s = _look(with_rows or plan.recordings.values()) if schema is None else ((), None)
        super().__init__(plan.tables, scan, schema, reading, cameras=cameras, step_s=step_s)
        self._plan = plan

    def with_schema(self, schema: Schema) -> None:
        """None: the cameras of another schema are read again."""

    def __len__(self) -> int:
        return self._plan.num_episodes

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether `path` is a video file, or a folder with a video or with sub-folders of images and a table."""
        if path.is_file():
            return path.suffix.lower() in matching.VIDEO_SUFFIXES
        clips = matching.clips_in(path) if not (path / LEROBOT_FILE).is_file() else []
        return any(clip.is_file() for clip in clips) or (bool(clips) and bool(tables_in(path)))

    @classmethod
    def open(cls, path: Path, schema: Schema | None, reading: ReadOptions) -> VideoLogs:
        """Opens the logs; scans all tables, and one frame per camera if no schema is given."""
        folder = path.parent if path.is_file() else path
        clips, tables = matching.clips_in(folder), tables_in(folder)
        if not clips or not tables:
            lacks = "table of actions" if clips else "video or folder of images"
            fix = "Put videos and their tables into one folder."
            raise DataError(f"there is no {lacks} at this path", fix=fix, file=path)
        schema = schema or schema_beside(path)
        scan = scan_tables(tables, reading)
        plan = _plan(clips, tables, scan, only=path if path.is_file() else None)
        plan, unused = (plan, []) if schema is None else _cameras_of(schema, plan)
        scan.survey.reserve(dict.fromkeys(matching.FRAME_NAMES, "the frames"))
        logs = cls(plan, scan, schema, reading)
        logs.unclear = (*logs.unclear, _MATCHING, *unused, *unread(path, {*tables, *clips}, "no videos or tables"))
        return logs

    def read(self) -> Iterator[LoggedEpisode]:
        """Yields the episodes of all tables, then an error for each recording without rows."""
        yield from super().read()
        names = _without_rows(self._plan.recordings, self._plan.names)
        for number, name in enumerate(names, len(self) - len(names)):
            file = next(iter(self._plan.recordings[name].values())).name
            fix = "Add a table with the same name, or a table with a column of episodes that contains this name."
            problem = "no table has the actions of this recording"
            yield failed(Finding(problem=problem, fix=fix, file=file), number)

    def _without_table(self, file: Path, error: DataError, numbers: Iterator[int]) -> Iterator[LoggedEpisode]:
        if (file, None) in self._plan.names:
            yield from super()._without_table(file, error, numbers)

    def _drafts(
        self, file: Path, pieces: Sequence[EpisodeRows], times: Times | None
    ) -> Iterator[tuple[EpisodeRows, EpisodeDraft]]:
        for label, same in groupby(pieces, key=lambda piece: piece.label):
            if (file, label) not in self._plan.names:
                continue
            name = self._plan.names[file, label]
            for piece, rows in _rows_of(list(same), times):
                if name is None:
                    which = f"named {label!r}" if label else "for these rows"
                    problem = f"there is no video {which} (found: {', '.join(self._plan.recordings)})"
                    fix = "Name the video like the table, or like the episode in its column."
                    yield piece, EpisodeDraft(findings=[Finding(problem=problem, fix=fix)])
                else:
                    clips = self._plan.recordings[name]
                    yield piece, matching.build_with_pictures(rows, clips, self._layout, self._reading)


_MATCHING = (
    "Rows are matched to frames by a column `frame` (from 0), else by time, else in order if their numbers are equal. "
    "By time, a row takes the last frame at or before it, at most one and a half frame intervals old. "
    "Dates start at the first frame. A frame that several rows share is marked as observed in the first."
)


def _rows_of(pieces: Sequence[EpisodeRows], times: Times | None) -> Iterator[tuple[EpisodeRows, matching.FrameRows]]:
    """Yields the episodes of one recording, each with its position in it."""
    num_rows, first = sum(len(piece.rows) for piece in pieces), 0
    start_s = float(times.seconds[pieces[0].rows[0]]) if times is not None and num_rows else None
    for piece in pieces:
        places = np.arange(first, first + len(piece.rows))
        is_date = times is not None and times.is_date
        yield piece, matching.FrameRows(piece=piece, places=places, num_rows=num_rows, start_s=start_s, is_date=is_date)
        first += len(piece.rows)


def _plan(clips: Sequence[Path], tables: Sequence[Path], scan: Scan, only: Path | None) -> _RecordingPlan:
    """Assigns tables and their episodes to recordings.

    Args:
        clips: all clips.
        tables: all tables.
        scan: of the tables.
        only: the only video to read; None for all.
    """
    labelled = [(table, label) for table, labels in zip(tables, scan.labels, strict=True) for label in labels]
    recordings = _recordings(clips, {*(table.stem for table in tables), *(label for _, label in labelled if label)})
    alone = len(recordings) == 1 and len(set(labelled)) == 1
    names = {key: next(iter(recordings)) if alone else _name(*key, recordings) for key in labelled}
    if only is not None:
        recordings = {name: cameras for name, cameras in recordings.items() if only in cameras.values()}
        names = {key: name for key, name in names.items() if name in recordings}
    num_episodes = sum(key in names for key in labelled) + len(_without_rows(recordings, names))
    return _RecordingPlan(recordings=recordings, tables=tuple(tables), names=names, num_episodes=num_episodes)


def _without_rows(recordings: Recordings, names: Mapping[tuple[Path, str | None], str | None]) -> list[str]:
    return [name for name in recordings if name not in names.values()]


def _recordings(clips: Sequence[Path], table_names: Iterable[str]) -> dict[str, dict[str, Path]]:
    """Groups clips by recording and camera.

    Args:
        clips: video files and folders.
        table_names: names of recordings in tables.
    """
    table_names = set(table_names)
    stems = [clip.name if clip.is_dir() else clip.stem for clip in clips]
    heads = [stem.rpartition(".")[0] for stem in stems]
    recordings: dict[str, dict[str, Path]] = {}
    for clip, stem, head in zip(clips, stems, heads, strict=True):
        several = stem not in table_names and head and (head in table_names or heads.count(head) > 1)
        name, camera = (head, stem.rpartition(".")[2]) if several else (stem, CAMERA)
        cameras = recordings.setdefault(name, {})
        if camera in cameras:
            problem = f"{cameras[camera].name} and {clip.name} belong to the same recording and camera"
            raise DataError(problem, fix="Remove one, or rename both to name.camera.mp4.", file=clip.parent)
        cameras[camera] = clip
    return recordings


def _name(table: Path, label: str | None, recordings: Recordings) -> str | None:
    """Finds the recording of a table's episode by the table's name, or by the episode's label or number."""
    for name in (table.stem, label):
        if name is not None and name in recordings:
            return name
    if label is None or not label.isdecimal():
        return None
    numbers = {name: re.search(r"(\d+)$", name) for name in recordings}
    same = [name for name, digits in numbers.items() if digits and int(digits[1]) == int(label)]
    return same[0] if len(same) == 1 else None


def _cameras_of(schema: Schema, plan: _RecordingPlan) -> tuple[_RecordingPlan, list[str]]:
    """Keeps the schema's cameras and returns sentences about the others; a single camera takes the schema's name."""
    images = [s.name for s in schema.signals if s.kind is Kind.IMAGE and s.role is Role.OBSERVATION]
    cameras = {camera: None for clips in plan.recordings.values() for camera in clips}
    if len(images) == 1 and list(cameras) == [CAMERA]:
        renamed = {name: dict(zip(images, clips.values(), strict=True)) for name, clips in plan.recordings.items()}
        return replace(plan, recordings=renamed), []
    if not cameras.keys() & set(images):
        problem = f"the schema has no image signal for any camera ({', '.join(cameras)})"
        raise DataError(problem, fix="Add an image signal with the name of a camera to schema.json.")
    unused = [camera for camera in cameras if camera not in images]
    notes = [f"{camera}: left out, because the schema has no image signal of this name." for camera in unused]
    kept = {
        name: {camera: clip for camera, clip in clips.items() if camera in images or name not in plan.names.values()}
        for name, clips in plan.recordings.items()
    }
    return replace(plan, recordings=kept), notes


def _look(recordings: Iterable[Mapping[str, Path]]) -> tuple[tuple[Signal, ...], float | None]:
    """Reads the first frame of each camera from its first readable clip.

    Returns the cameras, and the usual seconds between frames; None if there are only images.

    Raises:
        DataError: a camera has no readable clip.
    """
    cameras: dict[str, Signal] = {}
    step_s: float | None = None
    failures: dict[str, DataError] = {}
    for name, path in ((camera, path) for clips in recordings for camera, path in clips.items()):
        if name in cameras:
            continue
        try:
            clip = matching.Clip(path)
            picture = next(clip.between(0, 0))
        except DataError as error:
            failures.setdefault(name, error)
            continue
        cameras[name] = Signal(name=name, role=Role.OBSERVATION, kind=Kind.IMAGE, shape=picture.shape)
        if step_s is None and clip.times is not None and len(clip) > 1:
            step_s = float(f"{np.median(np.diff(clip.times)):.9g}")
    for name, failure in failures.items():
        if name not in cameras:
            raise failure
    return tuple(cameras.values()), step_s
