"""Images embedded in a page: stills, strips, animations, and paths over a frame."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from PIL import Image as Pillow

from worldline.audit.report_evidence import Film
from worldline.errors import InputError
from worldline.plots.thumbnails import Frames
from worldline.report.parts import Overlay, PageImage
from worldline.stats import Floats

FRAME_MS: Final = 180
LAST_MS: Final = 1400
_GUTTER: Final = 2
_BORDER: Final = 3
_GOAL_SHARE: Final = 0.3
_GOING, _REACHED, _MISSED = ((214, 214, 214), (46, 140, 87), (200, 60, 50))


def png(image: Frames) -> bytes:
    """The image [height, width, 3] as PNG."""
    return _encoded(Pillow.fromarray(_checked(image, 3)), optimize=True)


def animation(frames: Frames) -> bytes:
    """The frames [F, height, width, 3] as a looping animated PNG with a pause on the last frame."""
    stills = [Pillow.fromarray(frame) for frame in _checked(frames, 4)]
    if len(stills) == 1:
        return png(frames[0])
    times = [FRAME_MS] * (len(stills) - 1) + [LAST_MS]
    return _encoded(stills[0], save_all=True, append_images=stills[1:], duration=times, loop=0)


def film_grid(films: Sequence[Film], columns: int) -> bytes:
    """All films in a grid as an animated PNG, each blended with its goal image if it has one.

    At the end of a film its border turns green if the goal was reached, else red.

    Args:
        films: at least one, all of the same size.
        columns: films per row, at least 1.

    Raises:
        InputError: there is no film, their sizes differ, or `columns` is below 1.
    """
    sizes = {frames.shape[-3:] for film in films for frames in (film.frames, film.goal) if frames is not None}
    if len(sizes) != 1 or columns < 1:
        raise InputError(
            f"expected films of one size in at least one column, got {len(films)} films of sizes {sorted(sizes)} in "
            f"{columns} columns."
        )
    height, width, _ = next(iter(sizes))
    rows, longest = -(-len(films) // columns), max(len(film.frames) for film in films)
    tall, wide = height + 2 * _BORDER, width + 2 * _BORDER
    size = rows * (tall + _GUTTER) - _GUTTER, columns * (wide + _GUTTER) - _GUTTER
    canvas = np.full((longest, *size, 3), 255, np.uint8)
    for number, film in enumerate(films):
        top, left = number // columns * (tall + _GUTTER), number % columns * (wide + _GUTTER)
        tile = canvas[:, top : top + tall, left : left + wide]
        tile[:] = _GOING
        tile[len(film.frames) - 1 :] = _REACHED if film.reached else _MISSED
        seen = film.frames[np.minimum(np.arange(longest), len(film.frames) - 1)]
        if film.goal is not None:
            seen = np.rint((1 - _GOAL_SHARE) * seen.astype(np.float32) + _GOAL_SHARE * film.goal)
        tile[:, _BORDER:-_BORDER, _BORDER:-_BORDER] = seen
    return animation(canvas)


def strip(frames: Frames, count: int) -> bytes:
    """Up to `count` evenly spread frames side by side as PNG, including the first and the last."""
    frames = _checked(frames, 4)
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int))]
    opaque = np.concatenate([chosen, np.full_like(chosen[..., :1], 255)], -1)
    spaced = np.pad(opaque, ((0, 0), (0, 0), (0, _GUTTER), (0, 0)))  # transparent gutters
    return _encoded(Pillow.fromarray(np.concatenate(spaced, 1)[:, :-_GUTTER]), optimize=True)


def _encoded(image: Pillow.Image, **options: Any) -> bytes:
    """The image as PNG, with options of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def data_uri(content: bytes) -> str:
    """PNG bytes as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def picture(content: bytes, alt: str, style: str) -> PageImage:
    """An image of class `style` with the alternative text `alt`."""
    return PageImage(data_uri(content), alt, style)


def overlay(frame: Frames, real: Floats, imagined: Floats, alt: str) -> Overlay:
    """Two paths [T+1, 2] in pixels (x right, y down) over a frame: the true one solid, the predicted one dotted."""
    paths = [
        (style, "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in path))
        for style, path in (("halo", real), ("real-path", real), ("imagined-path", imagined))
    ]
    height, width = frame.shape[:2]
    end = float(imagined[-1, 0]), float(imagined[-1, 1])
    return Overlay(src=data_uri(png(frame)), alt=alt, size=(width, height), paths=paths, end=end)


def _checked(image: Frames, dimensions: int) -> Frames:
    """The contiguous image or images, checked to be uint8 RGB."""
    if image.ndim != dimensions or image.shape[-1] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"expected a uint8 image with 3 channels, got shape {image.shape} and {image.dtype}.")
    return np.ascontiguousarray(image)
