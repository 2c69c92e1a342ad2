"""Pictures, each compressed by itself, so that any of them can be read without the others.

The first picture of a store serves as zstd's dictionary for all that follow: what stands still in front of a camera is
then a reference into it. Where pictures may lose something, each value is rounded to a multiple of 2e+1, so that no
pixel is off by more than e; what follows is lossless.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import zstandard
from numpy.typing import NDArray

from worldline.errors import DataError

_LEVEL = 3
_CHECKSUM_BYTES = 64
"""More than zstd's header, block headers and checksum take where nothing can be compressed, per 128 kB."""


class Frames:
    """Compresses and restores the pictures of one signal.

    Args:
        shape: of a picture: height, width, channels.
        dictionary: a picture that the others resemble, as bytes.
        name: of the file, for errors.
    """

    def __init__(self, shape: Sequence[int], dictionary: bytes, name: str) -> None:
        self._num_bytes, self._name = int(np.prod(shape)), name
        self.most_bytes = self._num_bytes + _CHECKSUM_BYTES * (1 + self._num_bytes // 2**17)
        self._dictionary = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        self._local = _Decompressor(self._dictionary)

    def compress(self, pictures: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.uint64]]:
        """All pictures [n, *shape] one after another, and the end of each [n]."""
        compressor = zstandard.ZstdCompressor(level=_LEVEL, dict_data=self._dictionary, write_checksum=True)
        parts = [compressor.compress(picture.tobytes()) for picture in pictures]
        return b"".join(parts), np.cumsum([len(part) for part in parts], dtype=np.uint64)

    def restore(self, data: bytes, out: NDArray[np.generic]) -> None:
        """Fills `out`, a uint8 picture laid out flat, from one compressed picture.

        Raises:
            DataError: the bytes were damaged.
        """
        try:
            if zstandard.frame_content_size(data) != self._num_bytes:
                raise self.damaged()
            out[:] = np.frombuffer(self._local.one.decompress(data), np.uint8)
        except zstandard.ZstdError as error:
            raise self.damaged() from error

    def damaged(self) -> DataError:
        """What to raise where a picture cannot be restored."""
        fix = "It was damaged after it was written: restore the file from a copy, or import the logs again."
        return DataError("a picture cannot be restored", fix=fix, file=self._name)


class _Decompressor(threading.local):
    """A decompressor for each thread, since one serves one thread at a time."""

    def __init__(self, dictionary: zstandard.ZstdCompressionDict) -> None:
        self.one = zstandard.ZstdDecompressor(dict_data=dictionary)


def round_off(pictures: NDArray[np.uint8], max_error: int) -> NDArray[np.uint8]:
    """The pictures with every value at most `max_error` off, so that they compress better."""
    if max_error == 0:
        return pictures
    step = 2 * max_error + 1
    table = np.minimum((np.arange(256) + max_error) // step * step, 255).astype(np.uint8)
    return table[pictures]
