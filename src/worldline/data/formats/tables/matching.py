"""Camera frames of videos and folders of images, and their matching to rows of a table.

Missing frames are reported and masked, never replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import ReadOptions
from worldline.data.checks import Finding
from worldline.data.formats.decoding import decode_picture, empty_pictures, frame_times, frames
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

MAX_FRAME_AGE = 1.5
"""Maximum age of a row's frame, in frame intervals; an older frame means that the next one was dropped."""

Frames = NDArray[np.int64]
"""[rows or steps] index of the frame in its clip, -1 for none."""


class Clip:
    """The frames of one camera; only times and names are read at first.

    Args:
        path: a video file or a folder of images.

    Raises:
        DataError: the file cannot be read.
        MissingExtraError: the package av is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: Sequence[Path] = _pictures_in(path) if path.is_dir() else ()
        self.times: NDArray[np.float64] | None = None if path.is_dir() else frame_times(path)
        """[frames] seconds from the first frame; None if unknown."""

    def __len__(self) -> int:
        return len(self.files) if self.times is None else len(self.times)

    def between(self, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        """Yields the frames from `first` to `last`, both included, [h, w, c].

        Raises:
            DataError: a frame is damaged.
        """
        if self.times is None:
            yield from (decode_picture(file) for file in self.files[first : last + 1])
        else:  # a margin of half a frame interval at both ends
            edges = np.concatenate([[0.0], (self.times[1:] + self.times[:-1]) / 2, [np.inf]])
            part = frames(self.path, float(edges[first]), float(edges[last + 1]))
            yield from (picture for _, picture in part)


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
    if not clips and len(own) > 1 and all(file.stem[-1].isdecimal() for file in own):
        return [folder]
    return sorted(clips, key=natural)


def has_pictures(folder: Path) -> bool:
    """Whether a folder contains videos or folders of images; looks only at names."""
    return bool(clips_in(folder))


def _pictures_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.name[0] != "."]
    return sorted(files, key=natural)


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
        opened = {name: Clip(path) for name, path in clips.items()}
        by_row = {name: _by_row(rows, clip) for name, clip in opened.items()}
        piece = rows.piece
        if piece.times is None:
            known = (_times_of(clip, by_row[name]) for name, clip in opened.items())
            piece = replace(piece, times=next((times for times in known if times is not None), None))
        draft = build(piece, layout, reading)
        for name, clip in opened.items() if not (draft.failed or draft.is_left_out) else ():
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
    if rows.num_rows == len(column.values) and every.min() == 1 and every.max() == len(clip):
        problem = f"the column {column.name} counts the {len(clip)} frames from 1"
        raise DataError(problem, fix=fix, file=clip.path)
    return np.where(missing | (cells >= len(clip)), -1, np.where(missing, 0, cells)).astype(np.int64)


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
    """Adds warnings for rows without frames, and frames before the first or after the last row."""
    if lost := np.flatnonzero(by_step < 0).tolist():
        problem = f"{len(lost)} of {len(by_step)} rows have no frame in {clip.path.name}, the first is row {lost[0]}"
        fix = "They are marked as not observed. If the video should have these frames, export it again."
        draft.warn(problem, fix, signal=name, step=lost[0])
    used = by_step[by_step >= 0]
    before, after = int(used.min()), len(clip) - 1 - int(used.max())
    if (before or after) and len(rows.piece.rows) == rows.num_rows:
        problem = f"{before} frames before the first row and {after} after the last row are left out"
        draft.warn(problem, "If they matter, log rows for the whole video.", signal=name)


def _load(clip: Clip, use: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Reads the frames with these indices, [steps, h, w, c]; decodes each once."""
    order = np.argsort(use, kind="stable")
    wanted, first, last = use[order], int(use.min()), int(use.max())
    pictures: NDArray[np.uint8] | None = None
    frame = first - 1
    for frame, picture in enumerate(clip.between(first, last), first):
        pictures = empty_pictures(len(use), picture.shape, file=clip.path) if pictures is None else pictures
        if picture.shape != pictures.shape[1:]:
            problem = f"frame {frame} has shape {picture.shape}, frame {first} has {pictures.shape[1:]}"
            raise DataError(problem, fix="Resize all frames to one size.", file=clip.path)
        start, stop = np.searchsorted(wanted, [frame, frame + 1])
        pictures[order[start:stop]] = picture
    if pictures is None or frame != last:
        problem = f"expected the frames {first} to {last}, but {frame} is the last one that can be read"
        raise DataError(problem, fix="Export the video again.", file=clip.path)
    return pictures
