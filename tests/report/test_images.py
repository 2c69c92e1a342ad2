from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from worldline.audit.report_evidence import Film
from worldline.errors import InputError
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


def test_frames_that_repeat_are_no_trouble() -> None:
    with Image.open(io.BytesIO(images.animation(np.repeat(FRAMES[:1], 3, axis=0)))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), FRAMES[0])
    with Image.open(io.BytesIO(images.animation(FRAMES[:1]))) as image:
        assert image.size == (10, 12)


def test_a_grid_shows_all_films_their_goals_and_how_they_ended() -> None:
    white, black = np.full_like(FRAMES[0], 255), np.zeros_like(FRAMES[0])
    films = [
        Film(frames=FRAMES, goal=None, reached=False),
        Film(frames=FRAMES[:2], goal=white, reached=True),
        Film(frames=np.stack([black] * len(FRAMES)), goal=white, reached=True),
    ]
    shown = []
    with Image.open(io.BytesIO(images.film_grid(films, 2))) as image:
        assert isinstance(image, PngImageFile)
        for number in range(image.n_frames):
            image.seek(number)
            shown.append(np.asarray(image.convert("RGB")).astype(int))
    first, last = shown[0], shown[-1]
    assert len(shown) == len(FRAMES)
    assert first.shape == (2 * (12 + 6) + 2, 2 * (10 + 6) + 2, 3)
    np.testing.assert_array_equal(last[3:15, 3:13], FRAMES[-1])  # as it is: there was no picture to reach
    np.testing.assert_array_equal(first[3:15, 21:31], np.rint(0.7 * FRAMES[0].astype(np.float32) + 0.3 * 255))
    np.testing.assert_array_equal(last[3:15, 21:31], np.rint(0.7 * FRAMES[1].astype(np.float32) + 0.3 * 255))
    assert (last[23:35, 3:13] == round(0.3 * 255)).all()
    missed, reached, going = last[0, 0], last[0, 18], first[0, 0]
    assert missed[0] > missed[1]
    assert reached[1] > reached[0]
    assert len(set(going.tolist())) == 1
    np.testing.assert_array_equal(shown[1][0, 18], reached)  # it ended while the others went on
    np.testing.assert_array_equal(shown[1][0, 0], going)


def test_films_of_several_sizes_or_none_make_no_grid() -> None:
    small = Film(frames=FRAMES[:, :4], goal=None, reached=True)
    for films in ([], [small, Film(frames=FRAMES, goal=None, reached=True)]):
        with pytest.raises(InputError, match="of one size"):
            images.film_grid(films, 2)


def test_a_strip_begins_and_ends_with_the_ends() -> None:
    with Image.open(io.BytesIO(images.strip(FRAMES, 3))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (12, 3 * 10 + 2 * 2, 4)
    np.testing.assert_array_equal(pixels[:, :10, :3], FRAMES[0])
    np.testing.assert_array_equal(pixels[:, -10:, :3], FRAMES[-1])
    assert (pixels[:, 10:12, 3] == 0).all()


def test_a_strip_of_few_frames_shows_them_all() -> None:
    with Image.open(io.BytesIO(images.strip(FRAMES[:2], 6))) as image:
        assert image.size == (22, 12)


@pytest.mark.parametrize("image", [FRAMES[0, :, :, :2], FRAMES, np.empty((0, 3, 3), np.uint8)])
def test_only_colour_bytes_are_pictures(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8"):
        images.png(image)


def test_pictures_carry_their_description_and_their_bytes() -> None:
    html = str(show(images.picture(b"abc", 'a "dot"', "pixels")))
    source = f"data:image/png;base64,{base64.b64encode(b'abc').decode()}"
    assert html == f'<img class="pixels" src="{source}" alt="a &#34;dot&#34;">'


def test_paths_are_drawn_in_pixels_of_the_frame() -> None:
    real, imagined = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 2.0], [5.0, 6.0]])
    html = str(show(images.overlay(FRAMES[0], real, imagined, "two paths")))
    assert 'viewBox="0 0 10 12"' in html
    assert '<path class="real-path" d="M1.00 2.00L3.00 4.00"/>' in html
    assert '<path class="imagined-path" d="M1.00 2.00L5.00 6.00"/>' in html
    assert 'cx="5.00" cy="6.00"' in html
    assert 'role="img" aria-label="two paths"' in html
