"""Compression of single images, so that each can be read without the others.

The first image of a store is the LZ4 dictionary of all others, so a static background costs few bytes. LZ4 looks back
64 kB. A larger image is therefore cut into bands, and each band uses the same band of the first image as dictionary. An
image that hardly shrinks is stored uncompressed.

Lossy compression rounds each value to a multiple of 2e+1, so no pixel is off by more than e. The rest is lossless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import lz4.block
import numpy as np
from numpy.typing import NDArray

from worldline.errors import DataError

_LEVEL = 4
"""Level of LZ4-HC. Level 9 saves 10 % of the bytes for three times the time, and is read no faster."""

_LZ4_WINDOW_BYTES = 2**16 - 1
_MAX_FAST_RATIO = 0.98
"""Compressed share above which the fast mode shows that an image is noise; the slow mode is then skipped."""
_MAX_STORED_RATIO = 0.9
"""Compressed share above which an image is stored uncompressed: the saving is not worth the decompression."""


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
