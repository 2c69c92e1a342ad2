"""Decoding of PNG, JPEG, WebP and BMP images, with checks."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldline.data.formats.reading import UNREADABLE, converted
from worldline.errors import DataError

MAX_PIXELS = 1 << 26
"""A header that claims more pixels (8192 by 8192) counts as damaged."""
PICTURE_FIX = "Save it again as an 8-bit PNG."

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_CHANNELS = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}
"""Target mode per PIL mode; other modes, such as 16-bit ones, would lose precision."""


def decode_picture(source: Path | bytes) -> NDArray[np.uint8]:
    """Returns an image [h, w, c] with 1, 3 or 4 channels.

    Args:
        source: an image file, or its content.

    Raises:
        DataError: it cannot be read, is too large, or has more than 8 bits per channel.
    """
    file = source if isinstance(source, Path) else None
    errors = (*UNREADABLE, Image.DecompressionBombError)
    with converted("the image cannot be read", fix=PICTURE_FIX, file=file, errors=errors), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
        with Image.open(_stream(source), formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                problem = f"the header claims {picture.width} by {picture.height} pixels"
                raise DataError(problem, fix=PICTURE_FIX, file=file)
            if picture.mode not in _CHANNELS:
                problem = f"the image mode {picture.mode} has no 8-bit channels"
                raise DataError(problem, fix=PICTURE_FIX, file=file)
            picture.verify()  # decoding a PNG does not check the checksums
        with Image.open(_stream(source), formats=_FORMATS) as picture:
            transparent = picture.mode == "P" and "transparency" in picture.info
            values = np.array(picture.convert("RGBA" if transparent else _CHANNELS[picture.mode]), np.uint8)
    return values.reshape(*values.shape[:2], -1)


def encode_picture(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes an image as PNG; `decode_picture` returns it bit for bit.

    Args:
        pixels: [h, w, channels], 1, 3 or 4 channels.
    """
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(out, "PNG", compress_level=3)
    return out.getvalue()


def _stream(source: Path | bytes) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source)
