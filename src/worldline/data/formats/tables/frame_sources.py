"""Sources of camera frames: video files, and folders of images in natural order of their names."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.formats.decoding import frame_times, frames, frames_between
from worldline.data.formats.pictures import decode_picture
from worldline.data.formats.reading import natural

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


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
            found = frames(self.path)
        else:  # a margin of half a frame interval at both ends
            edges = np.concatenate([[0.0], (self.times[1:] + self.times[:-1]) / 2, [np.inf]])
            found = frames_between(self.path, float(edges[first]), float(edges[last + 1]))
        for _, picture in found:
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
    found = [path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    found += [path for path in inside if path.is_dir() and len(_pictures_in(path)) > 1]
    own = _pictures_in(folder)
    # Numbered names distinguish frames from plots that lie next to tables.
    if not found and len(own) > 1 and all(_number(file) is not None for file in own):
        return [folder]
    return sorted(found, key=natural)


def has_pictures(folder: Path) -> bool:
    """Whether a folder contains videos or folders of images; looks only at names."""
    return bool(clips_in(folder))


def fits_memory(num_frames: int, shape: Sequence[int]) -> bool:
    """Whether the frames take less than half of the machine's memory.

    Args:
        num_frames: of one episode.
        shape: of one frame.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return num_frames * int(np.prod(shape)) < memory / 2


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
