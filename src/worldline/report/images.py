"""Images embedded in a page: stills, strips and animations."""

from __future__ import annotations

import base64
import io
from typing import Any, Final

import numpy as np
from PIL import Image as Pillow

from worldline.plots.thumbnails import Frames
from worldline.report.parts import PageImage

FRAME_MS: Final = 180
LAST_MS: Final = 1400
_GUTTER: Final = 2


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
