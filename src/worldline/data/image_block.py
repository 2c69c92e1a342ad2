"""The images of one signal on disk: compressed one by one, with a table of end offsets."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldline.data.fsync import OpenFiles, read_exactly, read_pieces
from worldline.data.image_codec import ImageCodec
from worldline.errors import DataError

_FRAMES, _ENDS, _DICTIONARY = ".lz4", ".ends", ".dictionary"
_MAX_SPAN_BYTES = 2**15
"""Up to this size a window is read in one piece, skipped images included: one read is cheaper than several."""


class PictureBlock:
    """Reads the images of one signal, and computes how its files change when images are added.

    Args:
        folder: of the blocks.
        signal: name of the signal.
        shape: of an image: height, width, channels.
    """

    def __init__(self, folder: Path, signal: str, shape: Sequence[int]) -> None:
        self._folder, self._signal, self._shape = folder, signal, shape
        self._files, self._frames = OpenFiles(folder), list[ImageCodec]()

    def empty(self) -> dict[Path, bytes]:
        """The files of a block without images."""
        return {self._path(_FRAMES): b"", self._path(_ENDS): bytes(8)}

    def read(self, rows: NDArray[np.int64], out: NDArray[np.generic], stride: int) -> None:
        """Fills `out` [B, n, *shape] with every `stride`-th image, starting at each of the `rows` [B].

        Raises:
            DataError: an image is damaged.
        """
        ends = np.empty((len(out), (out.shape[1] - 1) * stride + 2), np.int64)
        read_pieces(self._files[f"{self._signal}{_ENDS}"], ends, 8 * rows)
        frames, descriptor = self._codec(), self._files[f"{self._signal}{_FRAMES}"]
        lengths = np.diff(ends, axis=1)
        if not ((lengths > 0) & (lengths <= frames.num_bytes)).all() or (ends < 0).any():
            raise frames.damaged()
        pictures = iter(out.reshape(-1, frames.num_bytes))
        for window in ends.tolist():
            first = window[0]
            num_bytes = window[-1] - first
            span = os.pread(descriptor, num_bytes, first) if num_bytes <= _MAX_SPAN_BYTES else None
            for begin, stop in zip(window[:-1:stride], window[1::stride], strict=True):
                data = span[begin - first : stop - first] if span else os.pread(descriptor, stop - begin, begin)
                frames.restore(data, next(pictures))

    def new_ends(self, pictures: NDArray[np.uint8], rows: int) -> dict[Path, tuple[int, bytes]]:
        """The changes of files that add `pictures` [n, *shape] after `rows` existing ones, for `write_durably`."""
        begin = self._end(rows)
        first = b"" if rows else pictures[0].tobytes()
        codec = self._codec() if rows else ImageCodec(self._shape, first, f"{self._signal}{_FRAMES}")
        data, ends = codec.compress(pictures)
        changed = {
            self._path(_FRAMES): (begin, data),
            self._path(_ENDS): (8 * (rows + 1), (ends + np.uint64(begin)).tobytes()),
        }
        return changed if rows else changed | {self._path(_DICTIONARY): (0, first)}

    def lengths(self, rows: int) -> dict[Path, int]:
        """Bytes of each file that `rows` images take up; without the frames if the table of ends is too short."""
        table = self._path(_ENDS)
        lengths = {table: 8 * (rows + 1)}
        if table.exists() and table.stat().st_size >= lengths[table]:
            lengths[self._path(_FRAMES)] = self._end(rows)
        return lengths | ({self._path(_DICTIONARY): math.prod(self._shape)} if rows else {})

    def _path(self, ending: str) -> Path:
        return self._folder / f"{self._signal}{ending}"

    def _end(self, rows: int) -> int:
        end = np.empty(1, np.int64)
        read_exactly(self._files[f"{self._signal}{_ENDS}"], end, 8 * rows)
        if end[0] < 0:
            fix = "The file is damaged: restore it from a copy, or import the logs again."
            raise DataError(f"row {rows} cannot be read", fix=fix, file=self._path(_ENDS))
        return int(end[0])

    def _codec(self) -> ImageCodec:
        """The codec; the block must hold an image."""
        if not self._frames:
            file = self._path(_DICTIONARY)
            if file.stat().st_size != math.prod(self._shape):
                raise DataError("the file has the wrong size", fix="Restore it from a copy.", file=file)
            self._frames.append(ImageCodec(self._shape, file.read_bytes(), f"{self._signal}{_FRAMES}"))
        return self._frames[0]
