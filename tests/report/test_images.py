from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from worldline.report import images
from worldline.report.page import show

FRAMES = np.random.default_rng(0).integers(0, 256, size=(7, 12, 10, 3), dtype=np.uint8)


def test_a_still_is_lossless() -> None:
    with Image.open(io.BytesIO(images.png(FRAMES[0]))) as image:
        np.testing.assert_array_equal(np.asarray(image), FRAMES[0])


def test_an_animation_shows_every_frame_forever() -> None:
    content = images.animation(FRAMES)
    with Image.open(io.BytesIO(content)) as image:
        assert isinstance(image, PngImageFile)
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


def test_pictures_carry_their_description_and_their_bytes() -> None:
    html = str(show(images.picture(b"abc", 'a "dot"', "pixels")))
    source = f"data:image/png;base64,{base64.b64encode(b'abc').decode()}"
    assert html == f'<img class="pixels" src="{source}" alt="a &#34;dot&#34;">'
