"""Small pictures of frames, whatever their size and their number of channels."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image as Pillow

from worldline.errors import InputError
from worldline.plots.canvas import Frames

_WHOLE: Final = 3
"""From this factor on a frame grows by a whole one, so that its pixels can be told apart."""


def colours(frame: Frames) -> Frames:
    """The frame [height, width, C] as [height, width, 3].

    One or two channels are shown as the grey of the first, more as the colours of the first three: of a fourth channel
    nobody says whether it is transparency, depth or the next frame.

    Args:
        frame: uint8, C at least 1.

    Raises:
        InputError: it is no such picture.
    """
    if frame.ndim != 3 or frame.dtype != np.uint8 or not frame.size:
        raise InputError(f"a frame of shape {frame.shape} and {frame.dtype}; give uint8 [height, width, channels].")
    shown = frame[..., :3] if frame.shape[-1] >= 3 else np.repeat(frame[..., :1], 3, axis=-1)
    return np.ascontiguousarray(shown)


def fitted(shape: tuple[int, ...], width: int, height: int, *, enlarge: bool = True) -> tuple[int, int]:
    """Width and height of a frame of this shape, fitted into a box; a very small one grows by a whole factor.

    Args:
        shape: height, width and more of the frame.
        width: of the box, at least 1.
        height: of the box, at least 1.
        enlarge: whether a frame smaller than the box may grow.
    """
    factor = min(width / shape[1], height / shape[0])
    if factor >= 1 and not enlarge:
        factor = 1.0
    elif factor >= _WHOLE:
        factor = float(int(factor))
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def thumbnail(frame: Frames, width: int, height: int, *, enlarge: bool = True) -> Frames:
    """The frame as [height, width, 3] with the size that `fitted` says; the pixels of a very small one stay sharp."""
    picture = Pillow.fromarray(colours(frame))
    size = fitted(frame.shape, width, height, enlarge=enlarge)
    if size == picture.size or size[0] >= _WHOLE * picture.width:
        return np.asarray(picture.resize(size, Pillow.Resampling.NEAREST))
    return np.asarray(picture.resize(size, Pillow.Resampling.LANCZOS))
