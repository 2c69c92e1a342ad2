"""Moving pictures wherever they lie: a video file, or a folder of pictures in the order of their names."""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldline.data.formats.decoding import MAX_PIXELS, frame_times, frames, frames_between
from worldline.data.formats.natural_order import natural
from worldline.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")

_FORMATS = ("PNG", "JPEG", "BMP")
_CHANNELS = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""What a picture becomes; other modes, such as those of 16 bits, would lose something."""
_DAMAGED = (OSError, ValueError, SyntaxError, TypeError, IndexError, OverflowError, MemoryError, EOFError)


class Clip(ABC):
    """The frames of one camera.

    Args:
        path: a file or folder.
        times: [frames] seconds from the first frame; None where nothing tells.
        slots: [frames] the number by which a table calls each frame, rising from 0 on; where one is left out, a frame
            was dropped.
    """

    def __init__(self, path: Path, times: NDArray[np.float64] | None, slots: NDArray[np.int64]) -> None:
        self.path, self.times, self.slots = path, times, slots

    def __len__(self) -> int:
        return len(self.slots)

    @abstractmethod
    def between(self, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        """The frames from `first` to `last`, both included, [h, w, c].

        Raises:
            DataError: one of them is damaged.
        """


class _VideoFrames(Clip):
    """A video file."""

    def between(self, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        assert self.times is not None
        if first == 0 and last == len(self) - 1:
            found = frames(self.path)
        else:  # half a frame's time on either side
            edges = np.concatenate([[0.0], (self.times[1:] + self.times[:-1]) / 2, [np.inf]])
            found = frames_between(self.path, float(edges[first]), float(edges[last + 1]))
        for _, picture in found:
            yield picture


class _Folder(Clip):
    """A folder of pictures.

    Args:
        path: of the folder.
        files: in it, in order.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        super().__init__(path, None, _slots(files))
        self._files = tuple(files)

    def between(self, first: int, last: int) -> Iterator[NDArray[np.uint8]]:
        for file in self._files[first : last + 1]:
            yield read_picture(file)


def open_clip(path: Path) -> Clip:
    """The frames in a video file or in a folder of pictures; reads times and names only.

    Raises:
        DataError: the file cannot be read.
        MissingExtraError: the package av is not installed.
    """
    if path.is_dir():
        return _Folder(path, _pictures_in(path))
    times = frame_times(path)
    return _VideoFrames(path, times, np.arange(len(times)))


def clips_in(folder: Path) -> list[Path]:
    """The video files in a folder and its sub-folders of pictures, in natural order; the folder itself if it has some.

    Args:
        folder: that exists.
    """
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    found = [path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    found += [path for path in inside if path.is_dir() and len(_pictures_in(path)) > 1]
    own = _pictures_in(folder)
    if not found and len(own) > 1 and all(_number(file) is not None for file in own):  # not some plots beside tables
        return [folder]
    return sorted(found, key=natural)


def has_pictures(folder: Path) -> bool:
    """Whether there are moving pictures in a folder; looks at names only."""
    return bool(clips_in(folder))


def read_picture(file: Path) -> NDArray[np.uint8]:
    """A picture [h, w, c] with 1, 3 or 4 channels.

    Raises:
        DataError: it cannot be read, or has more than 8 bits a channel.
    """
    fix = "Save it again as an 8-bit PNG."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=_FORMATS) as picture:
                picture.verify()  # decoding a PNG stops at its last pixel and does not look at the checksums
            with Image.open(file, formats=_FORMATS) as picture:
                if picture.mode not in _CHANNELS:
                    raise DataError(f"a picture of mode {picture.mode} has no 8-bit channels", fix=fix, file=file)
                if picture.width * picture.height > MAX_PIXELS:
                    problem = f"it claims {picture.width} by {picture.height} pixels"
                    raise DataError(problem, fix=fix, file=file)
                transparent = picture.mode == "P" and "transparency" in picture.info
                values = np.asarray(picture.convert("RGBA" if transparent else _CHANNELS[picture.mode]), np.uint8)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, struct.error, zlib.error, *_DAMAGED) as error:
        if isinstance(error, DataError):
            raise
        problem = f"the picture cannot be read ({type(error).__name__}: {error})".replace("\n", " ")
        raise DataError(problem, fix=fix, file=file) from error
    return values.reshape(*values.shape[:2], -1)


def room_for(num_frames: int, shape: Sequence[int]) -> bool:
    """Whether so many frames take less than half of the machine's memory.

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
    """The number at the end of a name."""
    digits = re.search(r"(\d+)$", file.stem)
    return int(digits[1]) if digits and len(digits[1]) < 10 else None


def _slots(files: Sequence[Path]) -> NDArray[np.int64]:
    """The number of each frame: its place, or where names leave out numbers that of its name, counted from 0."""
    place = np.arange(len(files))
    numbers = [_number(file) for file in files]
    known = np.array([number for number in numbers if number is not None], np.int64)
    if len(known) < len(files) or (np.diff(known) <= 0).any() or (np.diff(known) == 1).all():
        return place
    return known - min(int(known[0]), 1)
