"""Pictures, each compressed by itself, so that any of them can be read without the others.

The first picture of a store serves as LZ4's dictionary for all that follow, so that what stands still in front of a
camera costs next to nothing. LZ4 looks back 64 kB: a larger picture is cut into bands, and each band has the same band
of the first picture as its dictionary. A picture that hardly shrinks is kept as it is.

Where pictures may lose something, each value is rounded to a multiple of 2e+1, so that no pixel is off by more than e;
what follows is lossless.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import lz4.block
import numpy as np
from numpy.typing import NDArray

from worldline.errors import DataError

_LEVEL = 4
"""Of LZ4-HC: level 9 saves a tenth of the bytes for three times the time, and is read no faster."""

_REACH = 2**16 - 1
_HOPELESS = 0.98
"""Share of its bytes that the fastest compression leaves of a picture of noise."""
_WORTH = 0.9
"""Share of its bytes above which a picture is not worth unpacking."""


class ImageCodec:
    """Compresses and restores the pictures of one signal.

    Args:
        shape: of a picture: height, width, channels.
        dictionary: a picture that the others resemble, as bytes.
        name: of the file, for errors.
    """

    def __init__(self, shape: Sequence[int], dictionary: bytes, name: str) -> None:
        self.num_bytes, self._name = math.prod(shape), name
        num_bands = -(-self.num_bytes // _REACH)
        size = -(-self.num_bytes // num_bands)
        self._bands = [slice(at, min(at + size, self.num_bytes)) for at in range(0, self.num_bytes, size)]
        self._sizes = [band.stop - band.start for band in self._bands]
        self._dictionaries = [dictionary[band] for band in self._bands]

    def compress(self, pictures: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.uint64]]:
        """All pictures [n, *shape] one after another, and the end of each [n]."""
        parts = [self._compress(picture.tobytes()) for picture in pictures]
        return b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.uint64)

    def _compress(self, picture: bytes) -> bytes:
        """The lengths of all bands but the last, and the bands; or the picture itself."""
        if sum(map(len, self._pack(picture, "fast", 0))) >= _HOPELESS * self.num_bytes:
            return picture  # noise: to look closely would take a hundred times as long
        bands = self._pack(picture, "high_compression", _LEVEL)
        packed = np.array([len(band) for band in bands[:-1]], "<u4").tobytes() + b"".join(bands)
        return packed if len(packed) < _WORTH * self.num_bytes else picture

    def _pack(self, picture: bytes, mode: str, level: int) -> list[bytes]:
        settings = {"mode": mode, "compression": level, "store_size": False}
        pairs = zip(self._bands, self._dictionaries, strict=True)
        return [lz4.block.compress(picture[band], dict=dictionary, **settings) for band, dictionary in pairs]

    def restore(self, data: bytes, out: NDArray[np.generic]) -> None:
        """Fills `out`, a uint8 picture laid out flat, from what `_compress` gave.

        Raises:
            DataError: the bytes were damaged. Not every damage shows: `Store.verify` tells.
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
        """A band; of another length, which fits nowhere, if it was damaged."""
        size, dictionary = self._sizes[number], self._dictionaries[number]
        return np.frombuffer(lz4.block.decompress(band, uncompressed_size=size, dict=dictionary), np.uint8)

    def damaged(self) -> DataError:
        """What to raise where a picture cannot be restored."""
        fix = "It was damaged after it was written: restore the file from a copy, or import the logs again."
        return DataError("a picture cannot be restored", fix=fix, file=self._name)


def round_off(pictures: NDArray[np.uint8], max_error: int) -> NDArray[np.uint8]:
    """The pictures with every value at most `max_error` off, so that they compress better."""
    if max_error == 0:
        return pictures
    step = 2 * max_error + 1
    table = np.minimum((np.arange(256) + max_error) // step * step, 255).astype(np.uint8)
    return table[pictures]
