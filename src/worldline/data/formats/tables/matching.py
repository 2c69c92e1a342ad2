"""Matching of camera frames to rows of a table. Missing frames are reported and masked, never replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.base import ReadOptions
from worldline.data.checks import Finding
from worldline.data.formats.reading import EpisodeDraft, filled
from worldline.data.formats.tables.episode_arrays import build
from worldline.data.formats.tables.layout import TableLayout
from worldline.data.formats.tables.pictures import Clip
from worldline.data.formats.tables.resampling import SLACK, resample
from worldline.data.formats.tables.survey import EpisodeRows
from worldline.errors import DataError

FRAME_NAMES = ("frame", "frame_index", "frame_idx", "frame_id", "frame_number")
"""A column with one of these names holds the frame number of each row, from 0."""
MAX_FRAME_AGE = 1.5
"""Maximum age of a row's frame, in frame intervals; an older frame means that the next one was dropped."""

Frames = NDArray[np.int64]
"""[rows or steps] number of the frame in its clip, -1 for none."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The cameras of a recording, and its rows in a table.

    Args:
        cameras: a video file or a folder of images per image signal.
        rows: of all its episodes, rising.
        start_s: time of the first row; 0 if rows have no times.
        is_date: whether times are dates, which videos do not have.
    """

    cameras: Mapping[str, Path]
    rows: NDArray[np.intp]
    start_s: float
    is_date: bool

    @cached_property
    def clips(self) -> dict[str, Clip]:
        """The opened cameras."""
        return {name: Clip(path) for name, path in self.cameras.items()}


def build_with_pictures(
    piece: EpisodeRows, recording: Recording, layout: TableLayout, reading: ReadOptions
) -> EpisodeDraft:
    """Builds the arrays of an episode, including its cameras.

    Args:
        piece: the rows of the episode.
        recording: that it is a part of.
        layout: of the logs.
        reading: the user's options.
    """
    try:
        by_row = {name: _by_row(piece, recording, clip) for name, clip in recording.clips.items()}
        if piece.times is None:
            known = (_times_of(clip, by_row[name]) for name, clip in recording.clips.items())
            piece = replace(piece, times=next((times for times in known if times is not None), None))
        draft = build(piece, layout, reading)
        for name, clip in recording.clips.items() if not (draft.failed or draft.is_left_out) else ():
            if (frames := by_row[name]) is None:
                frames = _by_time(draft, clip, recording, name)
            elif draft.times is not None and reading.rate_hz is not None:
                frames = _at_times(piece, frames, draft.times)
            _add(draft, name, frames, clip, is_whole=len(piece.rows) == len(recording.rows))
    except DataError as error:
        problem = f"{error.file}: {error.problem}" if error.file else error.problem
        return EpisodeDraft(findings=[Finding(problem=problem, fix=error.fix)])
    return draft


def _by_row(piece: EpisodeRows, recording: Recording, clip: Clip) -> Frames | None:
    """Returns the frame of each row by the column of frames or by order; None if times decide."""
    columns, num_rows = piece.table.columns, len(recording.rows)
    column = next((columns[name] for name in FRAME_NAMES if name in columns and columns[name].is_number), None)
    if column is None:
        if piece.times is not None and clip.times is not None:
            return None
        if num_rows == len(clip):
            return np.searchsorted(recording.rows, piece.rows)
        problem = f"{num_rows} rows and {len(clip)} frames cannot be matched without times or a column of frames"
        fix = "Add a column `frame` that counts from 0, or a column of times."
        raise DataError(problem, fix=fix, file=clip.path)
    cells, missing = column.values[piece.rows].astype(np.float64), column.missing[piece.rows]
    wrong = np.flatnonzero(~missing & ~((cells >= 0) & (cells == np.round(cells)) & (cells < 2**62)))
    fix = f"Let the column {column.name} count frames from 0."
    if len(wrong):
        problem = f"row {piece.rows[wrong[0]]} of the table names frame {cells[wrong[0]]:g}"
        raise DataError(problem, fix=fix, file=clip.path)
    every = column.values[~column.missing]
    if num_rows == len(column.values) and every.min() == 1 and every.max() == len(clip):
        problem = f"the column {column.name} counts the {len(clip)} frames from 1"
        raise DataError(problem, fix=fix, file=clip.path)
    return np.where(missing | (cells >= len(clip)), -1, cells).astype(np.int64)


def _times_of(clip: Clip, frames: Frames | None) -> NDArray[np.float64] | None:
    """Returns the times of the rows' frames, for rows without times; None unless all are known and rise."""
    if clip.times is None or frames is None or (frames < 0).any() or (np.diff(frames) <= 0).any():
        return None
    return clip.times[frames]


def _at_times(piece: EpisodeRows, by_row: Frames, times: NDArray[np.float64]) -> Frames:
    """Returns the frame of each step of a resampled episode."""
    known = by_row >= 0
    if piece.times is None or not known.any():
        return np.full(len(times), -1)
    held, _ = resample(piece.times, by_row, known, times, "hold")
    return np.where(times >= piece.times[np.argmax(known)] - 1e-9, held, -1).astype(np.int64)


def _by_time(draft: EpisodeDraft, clip: Clip, recording: Recording, name: str) -> Frames:
    """Returns the last frame at or before each time, -1 if it is older than `MAX_FRAME_AGE`."""
    assert draft.times is not None
    assert clip.times is not None
    start_s, length = recording.start_s, float(clip.times[-1])
    if not recording.is_date and start_s > length:
        problem = f"the rows start at {start_s} s, after the end of the video ({length:.3f} s)"
        fix = "If they did not start together, count both times from the same moment."
        draft.warn(f"{problem}; assumed that both start together", fix, signal=name)
    times = draft.times - (start_s if recording.is_date or start_s > length else 0.0)
    interval = float(np.median(np.diff(clip.times))) if len(clip) > 1 else 0.0
    frames = np.searchsorted(clip.times, times + SLACK * interval, side="right") - 1
    age = times - clip.times[np.maximum(frames, 0)]
    return np.where((frames >= 0) & (age <= (MAX_FRAME_AGE + SLACK) * interval), frames, -1).astype(np.int64)


def _add(draft: EpisodeDraft, name: str, frames: Frames, clip: Clip, *, is_whole: bool) -> None:
    """Adds the frames of one camera, with warnings about missing frames, and unused ones of a whole recording."""
    known = frames >= 0
    if not known.any():
        problem = f"no row matches any of the {len(clip)} frames of {clip.path.name}"
        fix = "Make the times or frame numbers of the table agree with the video."
        draft.findings.append(Finding(problem=problem, fix=fix, signal=name))
        return
    if lost := np.flatnonzero(~known).tolist():
        problem = f"{len(lost)} of {len(frames)} rows have no frame in {clip.path.name}, the first is row {lost[0]}"
        fix = "They are marked as not observed. If the video should have these frames, export it again."
        draft.warn(problem, fix, signal=name, step=lost[0])
    before, after = int(frames[known].min()), len(clip) - 1 - int(frames.max())
    if (before or after) and is_whole:
        problem = f"{before} frames before the first row and {after} after the last row are left out"
        draft.warn(problem, "If they matter, log rows for the whole video.", signal=name)
    use = filled(frames, known).astype(np.int64)
    fresh = known & (np.diff(use, prepend=-1) != 0)
    fresh[np.argmax(known)] = True
    draft.put(name, clip.load(use), fresh)
