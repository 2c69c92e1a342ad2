"""Camera frames in videos and folders of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.formats.decoding import decode_picture, empty_pictures, frame_times, frames
from worldline.data.formats.reading import natural
from worldline.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


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

    def load(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Returns the frames with these numbers, [steps, h, w, c]; decodes each once.

        Raises:
            DataError: a frame is damaged, missing or of another size.
        """
        order = np.argsort(numbers, kind="stable")
        wanted, first, last = numbers[order], int(numbers.min()), int(numbers.max())
        pictures: NDArray[np.uint8] | None = None
        frame = first - 1
        for frame, picture in enumerate(self.between(first, last), first):
            pictures = empty_pictures(len(numbers), picture.shape, file=self.path) if pictures is None else pictures
            if picture.shape != pictures.shape[1:]:
                problem = f"frame {frame} has shape {picture.shape}, frame {first} has {pictures.shape[1:]}"
                raise DataError(problem, fix="Resize all frames to one size.", file=self.path)
            start, stop = np.searchsorted(wanted, [frame, frame + 1])
            pictures[order[start:stop]] = picture
        if pictures is None or frame != last:
            problem = f"expected the frames {first} to {last}, but {frame} is the last one that can be read"
            raise DataError(problem, fix="Export the video again.", file=self.path)
        return pictures


def clips_in(folder: Path) -> list[Path]:
    """Returns video files and sub-folders of images in natural order, or the folder itself if it holds the images."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    clips = [path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
    clips += [path for path in inside if path.is_dir() and len(_pictures_in(path)) > 1]
    own = _pictures_in(folder)
    # Numbered names distinguish frames from plots that lie next to tables.
    if not clips and len(own) > 1 and all(file.stem[-1].isdecimal() for file in own):
        return [folder]
    return sorted(clips, key=natural)


def _pictures_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.name[0] != "."]
    return sorted(files, key=natural)
