"""Images of pages and figures: thumbnails of frames of any size, strips and animations."""

from __future__ import annotations

import base64
import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from worldline.errors import InputError
from worldline.plots.parts import PageImage

Frames = NDArray[np.uint8]

FRAME_MS: Final = 180
LAST_MS: Final = 1400
_GUTTER: Final = 2
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


def png(image: Frames) -> bytes:
    """The image [height, width, 3] as PNG."""
    return _encoded(Pillow.fromarray(image), optimize=True)


def animation(frames: Frames) -> bytes:
    """The frames [F, height, width, 3] as a looping animated PNG with a pause on the last frame."""
    stills = [Pillow.fromarray(frame) for frame in frames]
    if len(stills) == 1:
        return png(frames[0])
    times = [FRAME_MS] * (len(stills) - 1) + [LAST_MS]
    return _encoded(stills[0], save_all=True, append_images=stills[1:], duration=times, loop=0)


def strip(frames: Frames, count: int) -> bytes:
    """Up to `count` evenly spread frames side by side as PNG, including the first and the last."""
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))]
    opaque = np.concatenate([chosen, np.full_like(chosen[..., :1], 255)], -1)
    spaced = np.pad(opaque, ((0, 0), (0, 0), (0, _GUTTER), (0, 0)))  # transparent gutters
    return _encoded(Pillow.fromarray(np.concatenate(spaced, 1)[:, :-_GUTTER]), optimize=True)


def _encoded(image: Pillow.Image, **options: Any) -> bytes:
    """The image as PNG, with options of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def picture(content: bytes, alt: str, style: str) -> PageImage:
    """A PNG image of class `style` with the alternative text `alt`."""
    return PageImage(f"data:image/png;base64,{base64.b64encode(content).decode()}", alt, style)
