"""Thumbnails of frames of any size and number of channels."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from worldline.errors import InputError

Frames = NDArray[np.uint8]

_MIN_INTEGER_FACTOR: Final = 3
"""Scale factor from which frames are scaled by integers, so that their pixels stay sharp."""


def colours(frame: Frames) -> Frames:
    """The frame [height, width, C] as [height, width, 3].

    One or two channels are drawn as the grey of the first, more as the colours of the first three. The meaning of a
    fourth channel is unknown; it may be transparency, depth or the next frame.

    Args:
        frame: uint8, C at least 1.

    Raises:
        InputError: the frame has another shape or type.
    """
    if frame.ndim != 3 or frame.dtype != np.uint8 or not frame.size:
        raise InputError(
            f"expected a uint8 frame [height, width, channels], got shape {frame.shape} and {frame.dtype}."
        )
    shown = frame[..., :3] if frame.shape[-1] >= 3 else np.repeat(frame[..., :1], 3, axis=-1)
    return np.ascontiguousarray(shown)


def fitted(shape: tuple[int, ...], width: int, height: int, *, enlarge: bool = True) -> tuple[int, int]:
    """Width and height of a frame fitted into a box; small frames are scaled by an integer factor.

    Args:
        shape: shape of the frame, starting with height and width.
        width: width of the box, at least 1.
        height: height of the box, at least 1.
        enlarge: whether frames smaller than the box are enlarged.
    """
    factor = min(width / shape[1], height / shape[0])
    if factor >= 1 and not enlarge:
        factor = 1.0
    elif factor >= _MIN_INTEGER_FACTOR:
        factor = float(int(factor))
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def thumbnail(frame: Frames, width: int, height: int, *, enlarge: bool = True) -> Frames:
    """The frame as [height, width, 3] with the size from `fitted`; pixels of small frames stay sharp."""
    picture = Pillow.fromarray(colours(frame))
    size = fitted(frame.shape, width, height, enlarge=enlarge)
    if size == picture.size or size[0] >= _MIN_INTEGER_FACTOR * picture.width:
        return np.asarray(picture.resize(size, Pillow.Resampling.NEAREST))
    return np.asarray(picture.resize(size, Pillow.Resampling.LANCZOS))
