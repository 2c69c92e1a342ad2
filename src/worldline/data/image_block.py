"""The images of one signal on disk: compressed one by one, with a table of end offsets.

The first image of a store is the LZ4 dictionary of all others, so a static background costs few bytes. LZ4 looks back
64 kB. A larger image is therefore cut into bands, and each band uses the same band of the first image as dictionary. An
image that hardly shrinks is stored uncompressed.

Lossy compression rounds each value to a multiple of 2e+1, so no pixel is off by more than e. The rest is lossless.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import lz4.block
import numpy as np
from numpy.typing import NDArray

from worldline.data.fsync import OpenFiles, read_exactly, read_pieces
from worldline.errors import DataError

_LEVEL = 4
"""Level of LZ4-HC. Level 9 saves 10 % of the bytes for three times the time, and is read no faster."""

_LZ4_WINDOW_BYTES = 2**16 - 1
_MAX_FAST_RATIO = 0.98
"""Compressed share above which the fast mode shows that an image is noise; the slow mode is then skipped."""
_MAX_STORED_RATIO = 0.9
"""Compressed share above which an image is stored uncompressed: the saving is not worth the decompression."""
_FRAMES, _ENDS, _DICTIONARY = ".lz4", ".ends", ".dictionary"
_MAX_SPAN_BYTES = 2**15
"""Up to this size a window is read in one piece, skipped images included: one read is cheaper than several."""


class ImageCodec:
    """Compresses and restores the images of one signal.

    Args:
        shape: of an image: height, width, channels.
        dictionary: an image that the others resemble, as bytes.
        name: of the file, for errors.
    """

    def __init__(self, shape: Sequence[int], dictionary: bytes, name: str) -> None:
        self.num_bytes, self._name = math.prod(shape), name
        num_bands = -(-self.num_bytes // _LZ4_WINDOW_BYTES)
        size = -(-self.num_bytes // num_bands)
        self._bands = [slice(at, min(at + size, self.num_bytes)) for at in range(0, self.num_bytes, size)]
        self._sizes = [band.stop - band.start for band in self._bands]
        self._dictionaries = [dictionary[band] for band in self._bands]

    def compress(self, pictures: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.uint64]]:
        """The compressed images [n, *shape] in one piece, and the end offset of each [n]."""
        parts = [self._compress(picture.tobytes()) for picture in pictures]
        return b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.uint64)

    def _compress(self, picture: bytes) -> bytes:
        """The lengths of all bands but the last, followed by the bands; or the uncompressed image."""
        if sum(map(len, self._pack(picture, "fast", 0))) >= _MAX_FAST_RATIO * self.num_bytes:
            return picture  # noise: the slow mode would take a hundred times as long
        bands = self._pack(picture, "high_compression", _LEVEL)
        packed = np.array([len(band) for band in bands[:-1]], "<u4").tobytes() + b"".join(bands)
        return packed if len(packed) < _MAX_STORED_RATIO * self.num_bytes else picture

    def _pack(self, picture: bytes, mode: str, level: int) -> list[bytes]:
        settings = {"mode": mode, "compression": level, "store_size": False}
        pairs = zip(self._bands, self._dictionaries, strict=True)
        return [lz4.block.compress(picture[band], dict=dictionary, **settings) for band, dictionary in pairs]

    def restore(self, data: bytes, out: NDArray[np.generic]) -> None:
        """Fills `out`, a flat uint8 image, from the bytes of one compressed image.

        Raises:
            DataError: the bytes are damaged. Only `Store.verify` detects all damage.
        """
        if len(data) == self.num_bytes:
            out[:] = np.frombuffer(data, np.uint8)
            return
        try:
            if len(self._bands) == 1:
                out[:] = self._unpack(data, 0)
                return
            begin = 4 * (len(self._bands) - 1)
            ends = begin + np.cumsum(np.frombuffer(data, "<u4", len(self._bands) - 1))
            for number, end in enumerate([*ends.tolist(), len(data)]):
                out[self._bands[number]] = self._unpack(data[begin:end], number)
                begin = end
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise self.damaged() from error

    def _unpack(self, band: bytes, number: int) -> NDArray[np.uint8]:
        """A band; a damaged one may have a wrong length, so that it cannot be assigned."""
        size, dictionary = self._sizes[number], self._dictionaries[number]
        return np.frombuffer(lz4.block.decompress(band, uncompressed_size=size, dict=dictionary), np.uint8)

    def damaged(self) -> DataError:
        """The error for an image that cannot be restored."""
        fix = "The file is damaged: restore it from a copy, or import the logs again."
        return DataError("an image cannot be restored", fix=fix, file=self._name)


def round_off(pictures: NDArray[np.uint8], max_error: int) -> NDArray[np.uint8]:
    """The images with values rounded by at most `max_error`, so that they compress better."""
    if max_error == 0:
        return pictures
    step = 2 * max_error + 1
    table = np.minimum((np.arange(256) + max_error) // step * step, 255).astype(np.uint8)
    return table[pictures]


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
