"""Scaling of images by area averaging."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldline.data.checks import with_values
from worldline.episode import Episode
from worldline.schema import Kind, Schema

Array = NDArray[np.generic]


def scaled_schema(schema: Schema, size: tuple[int, int]) -> Schema:
    """The schema with every image signal in `size` (height, width)."""
    signals = (
        replace(signal, shape=(*size, signal.shape[2])) if signal.kind is Kind.IMAGE else signal
        for signal in schema.signals
    )
    return replace(schema, signals=tuple(signals))


def scale(episode: Episode, schema: Schema) -> Episode:
    """The episode with its images scaled to the sizes in `schema`; other signals are unchanged."""
    shapes = {signal.name: signal.shape for signal in schema.signals if signal.kind is Kind.IMAGE}
    return with_values(episode, lambda name, values: _scale(values, shapes[name]) if name in shapes else values)


def _scale(pictures: Array, shape: tuple[int, ...]) -> Array:
    """Images [rows, height, width, channels] in another size; other arrays, and images that fit, are unchanged."""
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or 0 in pictures.shape or pictures.shape[1:] == shape:
        return pictures
    scaled = np.empty((len(pictures), *shape[:2], pictures.shape[3]), np.uint8)
    for picture, out in zip(pictures.astype(np.uint8, copy=False), scaled, strict=True):
        for channel in range(out.shape[2]):  # one by one, because Pillow has no images of two or five channels
            plane = Image.fromarray(np.ascontiguousarray(picture[:, :, channel]))
            out[:, :, channel] = np.asarray(plane.resize((shape[1], shape[0]), Image.Resampling.BOX))
    return scaled
