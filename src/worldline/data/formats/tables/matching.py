"""Camera frames of videos and folders of images, and their matching to rows of a table.

Missing frames are reported and masked, never replaced.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import ReadOptions
from worldline.data.checks import Finding
from worldline.data.formats.decoding import decode_picture, empty_pictures, frame_times, frames, frames_between
from worldline.data.formats.reading import EpisodeDraft, filled, natural
from worldline.data.formats.tables.columns import Column
from worldline.data.formats.tables.episode_arrays import build
from worldline.data.formats.tables.layout import EpisodeRows, TableLayout
from worldline.data.formats.tables.timestamps import SLACK, resample
from worldline.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
FRAME_NAMES = ("frame", "frame_index", "frame_idx", "frame_id", "frame_number")
"""A column with one of these names holds the frame number of each row, from 0."""

MIN_FRAMES = 10
STEADY = 0.1
"""Share of the usual interval by which frames of a steady video may be early or late."""
MAX_FRAME_AGE = 1.5
"""Maximum age of a row's frame, in frame intervals; an older frame means that the next one was dropped."""

Frames = NDArray[np.int64]
"""[rows or steps] index of the frame in its clip, -1 for none."""


class Clip(ABC):
    """The frames of one camera.

    Args:
        path: a file or folder.
        times: [frames] seconds from the first frame; None if unknown.
        slots: [frames] number by which a table refers to each frame, rising from 0; a gap is a dropped frame.
    """

    def __init__(self, path: Path, times: NDArray[np.float64] | None, slots: NDArray[np.int64]) -> None:
        self.path, self.times, self.slots = path, times, slots

    def __len__(self) -> int:
        return len(self.slots)

    @abstractmethod
    def between(self, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        """Yields the frames from `first` to `last`, both included, [h, w, c].

        Raises:
            DataError: a frame is damaged.
        """


class _VideoFrames(Clip):
    """A video file."""

    def between(self, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        assert self.times is not None
        if first == 0 and last == len(self) - 1:
            pictures = frames(self.path)
        else:  # a margin of half a frame interval at both ends
            edges = np.concatenate([[0.0], (self.times[1:] + self.times[:-1]) / 2, [np.inf]])
            pictures = frames_between(self.path, float(edges[first]), float(edges[last + 1]))
        for _, picture in pictures:
            yield picture


class _Folder(Clip):
    """A folder of images.

    Args:
        path: the folder.
        files: its images, in order.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        super().__init__(path, None, _slots(files))
        self._files = tuple(files)

    def between(self, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        for file in self._files[first : last + 1]:
            yield decode_picture(file)


def open_clip(path: Path) -> Clip:
    """Opens a video file or a folder of images; reads only times and names.

    Raises:
        DataError: the file cannot be read.
        MissingExtraError: the package av is not installed.
    """
    if path.is_dir():
        return _Folder(path, _pictures_in(path))
    times = frame_times(path)
    return _VideoFrames(path, times, np.arange(len(times)))


def clips_in(folder: Path) -> list[Path]:
    """Returns video files and sub-folders of images in natural order, or the folder itself if it holds the images.

    Args:
        folder: an existing folder.
    """
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    clips = [path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    clips += [path for path in inside if path.is_dir() and len(_pictures_in(path)) > 1]
    own = _pictures_in(folder)
    # Numbered names distinguish frames from plots that lie next to tables.
    if not clips and len(own) > 1 and all(_number(file) is not None for file in own):
        return [folder]
    return sorted(clips, key=natural)


def has_pictures(folder: Path) -> bool:
    """Whether a folder contains videos or folders of images; looks only at names."""
    return bool(clips_in(folder))


def _pictures_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.name[0] != "."]
    return sorted(files, key=natural)


def _number(file: Path) -> int | None:
    """Returns the number at the end of the name."""
    digits = re.search(r"(\d+)$", file.stem)
    return int(digits[1]) if digits and len(digits[1]) < 10 else None


def _slots(files: Sequence[Path]) -> NDArray[np.int64]:
    """Returns the number of each frame: its position, or the number in its name if the names have gaps."""
    place = np.arange(len(files))
    numbers = [_number(file) for file in files]
    known = np.array([number for number in numbers if number is not None], np.int64)
    if len(known) < len(files) or (np.diff(known) <= 0).any() or (np.diff(known) == 1).all():
        return place
    return known - min(int(known[0]), 1)


@dataclass(frozen=True, kw_only=True)
class FrameRows:
    """The rows of an episode, and their position in the recording.

    Args:
        piece: the rows.
        places: [rows] position of each row among all rows of the recording.
        num_rows: number of rows of the recording.
        start_s: time of the recording's first row; None if rows have no times.
        is_date: whether times are dates, which videos do not have.
    """

    piece: EpisodeRows
    places: NDArray[np.int64]
    num_rows: int
    start_s: float | None
    is_date: bool


def build_with_pictures(
    rows: FrameRows, clips: Mapping[str, Path], layout: TableLayout, reading: ReadOptions
) -> EpisodeDraft:
    """Builds the arrays of an episode, including its cameras.

    Args:
        rows: of the episode.
        clips: a video file or a folder of images per image signal.
        layout: of the logs.
        reading: the user's options.
    """
    try:
        opened = {name: open_clip(path) for name, path in clips.items()}
        by_row = {name: _by_row(rows, clip) for name, clip in opened.items()}
        piece = rows.piece
        if piece.times is None:
            candidates = (
                _times_of(clip, frames) for clip, frames in zip(opened.values(), by_row.values(), strict=True)
            )
            piece = replace(piece, times=next((times for times in candidates if times is not None), None))
        draft = build(piece, layout, reading)
        for name, clip in opened.items() if not draft.failed else ():
            _add(draft, name, _by_step(piece, by_row[name], draft.times, reading), clip, rows)
    except DataError as error:
        problem = f"{error.file}: {error.problem}" if error.file else error.problem
        return EpisodeDraft(findings=[Finding(problem=problem, fix=error.fix)])
    return draft


def _by_row(rows: FrameRows, clip: Clip) -> Frames | None:
    """Returns the frame of each row by the column of frames or by order; None if times decide."""
    columns = rows.piece.table.columns
    column = next((columns[name] for name in FRAME_NAMES if name in columns and columns[name].is_number), None)
    if column is not None:
        return _numbered(column, rows, clip)
    if rows.piece.times is not None and clip.times is not None:
        return None
    if rows.num_rows == len(clip):
        return rows.places
    if rows.num_rows == clip.slots[-1] + 1:
        return _at(clip, rows.places)
    problem = f"{rows.num_rows} rows and {len(clip)} frames cannot be matched without times or a column of frames"
    raise DataError(problem, fix="Add a column `frame` that counts from 0, or a column of times.", file=clip.path)


def _numbered(column: Column, rows: FrameRows, clip: Clip) -> Frames:
    """Returns the frames by a column of frame numbers."""
    cells, missing = column.values[rows.piece.rows].astype(np.float64), column.missing[rows.piece.rows]
    wrong = np.flatnonzero(~missing & ~((cells >= 0) & (cells == np.round(cells)) & (cells < 2**62)))
    fix = f"Let the column {column.name} count frames from 0."
    if len(wrong):
        problem = f"row {rows.piece.rows[wrong[0]]} of the table names frame {cells[wrong[0]]:g}"
        raise DataError(problem, fix=fix, file=clip.path)
    every = column.values[~column.missing].astype(np.float64)
    if rows.num_rows == len(column.values) and every.min() == 1 and every.max() == len(clip) == clip.slots[-1] + 1:
        problem = f"the column {column.name} counts the {len(clip)} frames from 1"
        raise DataError(problem, fix=fix, file=clip.path)
    return np.where(missing, -1, _at(clip, np.where(missing, 0, cells).astype(np.int64)))


def _at(clip: Clip, slots: NDArray[np.int64]) -> Frames:
    """Returns the frames with these numbers, -1 for dropped ones."""
    frames = np.minimum(np.searchsorted(clip.slots, slots), len(clip) - 1)
    return np.where(clip.slots[frames] == slots, frames, -1)


def _times_of(clip: Clip, frames: Frames | None) -> NDArray[np.float64] | None:
    """Returns the times of the rows' frames, for rows without times; None unless all are known and rise."""
    if clip.times is None or frames is None or (frames < 0).any() or (np.diff(frames) <= 0).any():
        return None
    return clip.times[frames]


def _by_step(
    piece: EpisodeRows, by_row: Frames | None, times: NDArray[np.float64] | None, reading: ReadOptions
) -> Frames | None:
    """Returns the frame of each step; None if times decide."""
    if by_row is None or reading.rate_hz is None or piece.times is None or times is None:
        return by_row
    if not (by_row >= 0).any():
        return np.full(len(times), -1)
    on_grid, _ = resample(piece.times, by_row, by_row >= 0, times, "hold")
    reached = times >= piece.times[np.argmax(by_row >= 0)] - 1e-9
    return np.where(reached, on_grid, -1).astype(np.int64)


def _add(draft: EpisodeDraft, name: str, by_step: Frames | None, clip: Clip, rows: FrameRows) -> None:
    """Adds the frames of one camera."""
    if by_step is None:
        by_step = _by_time(draft, clip, rows, name)
    known = by_step >= 0
    if not known.any():
        problem = f"no row matches any of the {len(clip)} frames of {clip.path.name}"
        fix = "Make the times or frame numbers of the table agree with the video."
        draft.findings.append(Finding(problem=problem, fix=fix, signal=name))
        return
    _warn_of_missing(draft, by_step, clip, rows, name)
    use = filled(by_step, known).astype(np.int64)
    fresh = known & np.concatenate([[True], np.diff(use) != 0])
    fresh[np.argmax(known)] = True
    draft.put(name, _load(clip, use), fresh)


def _by_time(draft: EpisodeDraft, clip: Clip, rows: FrameRows, name: str) -> Frames:
    """Returns the last frame at or before each time, -1 if it is older than `MAX_FRAME_AGE`."""
    assert draft.times is not None
    assert clip.times is not None
    assert rows.start_s is not None
    times, length = draft.times, float(clip.times[-1])
    if rows.is_date:
        times = times - rows.start_s
    elif rows.start_s > length:
        times = times - rows.start_s
        problem = f"the rows start at {rows.start_s} s, after the end of the video ({length:.3f} s)"
        problem += "; assumed that both start together"
        fix = "If they did not start together, count both times from the same moment."
        draft.warn(problem, fix, signal=name)
    interval = float(np.median(np.diff(clip.times))) if len(clip) > 1 else 0.0
    frames = np.searchsorted(clip.times, times + SLACK * interval, side="right") - 1
    age = times - clip.times[np.maximum(frames, 0)]
    return np.where((frames >= 0) & (age <= (MAX_FRAME_AGE + SLACK) * interval), frames, -1).astype(np.int64)


def _warn_of_missing(draft: EpisodeDraft, by_step: Frames, clip: Clip, rows: FrameRows, name: str) -> None:
    """Adds warnings for rows without frames, dropped frames, and frames before the first or after the last row."""
    if lost := np.flatnonzero(by_step < 0).tolist():
        problem = f"{len(lost)} of {len(by_step)} rows have no frame in {clip.path.name}, the first is row {lost[0]}"
        fix = "They are marked as not observed. If the video should have these frames, export it again."
        draft.warn(problem, fix, signal=name, step=lost[0])
    if problem := _gaps(clip):
        fix = "Rows without a frame are marked as not observed. If the video should have them, export it again."
        draft.warn(problem, fix, signal=name)
    used = by_step[by_step >= 0]
    before, after = int(used.min()), len(clip) - 1 - int(used.max())
    if (before or after) and len(rows.piece.rows) == rows.num_rows:
        problem = f"{before} frames before the first row and {after} after the last row are left out"
        draft.warn(problem, "If they matter, log rows for the whole video.", signal=name)


def _gaps(clip: Clip) -> str:
    """Returns a problem if frames of an otherwise steady video were dropped, else an empty text."""
    if clip.times is None or len(clip) < MIN_FRAMES:
        return ""
    gaps = np.diff(clip.times)
    beats = gaps / np.median(gaps)
    dropped = np.round(beats).astype(np.int64) - 1
    if (np.abs(beats - np.round(beats)) >= STEADY).any() or not dropped.any() or (dropped == 0).mean() <= 0.5:
        return ""
    first = int(np.flatnonzero(dropped)[0])
    rate, at = 1 / float(np.median(gaps)), float(clip.times[first])
    return (
        f"{clip.path.name} lacks {dropped.sum()} frames at an otherwise steady {rate:.3g} frames per second; "
        f"the first gap is after frame {first} at {at:.3f} s"
    )


def _load(clip: Clip, use: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Reads the frames with these indices, [steps, h, w, c]; decodes each once."""
    order = np.argsort(use, kind="stable")
    wanted, first, last = use[order], int(use.min()), int(use.max())
    pictures: NDArray[np.uint8] | None = None
    frame = first - 1
    for frame, picture in enumerate(clip.between(first, last), first):
        if pictures is None:
            pictures = empty_pictures(len(use), picture.shape, file=clip.path)
        if frame > last:
            problem = f"more frames can be read than the {len(clip)} that the file lists"
            raise DataError(problem, fix="Export the video again.", file=clip.path)
        if picture.shape != pictures.shape[1:]:
            problem = f"frame {frame} has shape {picture.shape}, frame {first} has {pictures.shape[1:]}"
            raise DataError(problem, fix="Resize all frames to one size.", file=clip.path)
        start, stop = np.searchsorted(wanted, [frame, frame + 1])
        pictures[order[start:stop]] = picture
    if pictures is None or frame != last:
        problem = f"frame {frame + 1} cannot be read, though the file lists {len(clip)} frames"
        raise DataError(problem, fix="Export the video again.", file=clip.path)
    return pictures
