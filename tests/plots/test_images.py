from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worldline.errors import InputError
from worldline.plots import images
from worldline.plots.images import colours, fitted, thumbnail


def frame(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 9])
def test_one_or_two_channels_are_grey_and_of_more_the_first_three_are_colours(channels: int) -> None:
    image = frame(4, 5, channels)
    np.testing.assert_array_equal(colours(image), image[..., :3] if channels > 2 else image[..., :1].repeat(3, -1))


def test_a_small_frame_grows_by_a_whole_factor_with_sharp_pixels() -> None:
    image = frame(4, 5, 3)
    small = thumbnail(image, 33, 33)
    assert small.shape == (24, 30, 3)
    np.testing.assert_array_equal(small, image.repeat(6, 0).repeat(6, 1))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 200), st.integers(1, 200))
def test_every_frame_fits_into_its_box(height: int, width: int, box_width: int, box_height: int) -> None:
    across, down = fitted((height, width, 3), box_width, box_height)
    assert 1 <= across <= box_width
    assert 1 <= down <= box_height


@pytest.mark.parametrize("image", [np.zeros((3, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_anything_else_is_no_frame(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="channels"):
        colours(image)


FRAMES = np.random.default_rng(0).integers(0, 256, size=(7, 12, 10, 3), dtype=np.uint8)


def test_an_animation_shows_every_frame_forever() -> None:
    content = images.animation(FRAMES)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 7
        assert image.info["loop"] == 0
        for k, frame in enumerate(FRAMES):
            image.seek(k)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)
    assert content == images.animation(FRAMES)


def test_a_strip_begins_and_ends_with_the_ends() -> None:
    with Image.open(io.BytesIO(images.strip(FRAMES, 3))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (12, 3 * 10 + 2 * 2, 4)
    np.testing.assert_array_equal(pixels[:, :10, :3], FRAMES[0])
    np.testing.assert_array_equal(pixels[:, -10:, :3], FRAMES[-1])
    assert (pixels[:, 10:12, 3] == 0).all()
