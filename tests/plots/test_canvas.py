from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
from PIL import Image

from worldline.plots.canvas import SCALE, drawing, palette, plot, shorten


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def ink(name: str) -> list[int]:
    return [int(palette()[name][k : k + 2], 16) for k in (1, 3, 5)]


def test_the_colours_are_those_of_the_report_on_paper() -> None:
    assert palette()["paper"] == "#fcfbf8"
    assert {"ink", "soft", "grid", "world", "real", "unclear", "other0", "other5"} <= palette().keys()


def test_a_picture_keeps_its_pixels_and_its_place() -> None:
    image = np.random.default_rng(0).integers(0, 256, (14, 10, 3)).astype(np.uint8)
    with drawing(40, 30) as canvas:
        canvas.picture(5, 7, image)
        found = pixels(canvas.png())
    assert found.shape == (30 * SCALE, 40 * SCALE, 3)
    np.testing.assert_array_equal(found[7 * SCALE : 7 * SCALE + 14, 5 * SCALE : 5 * SCALE + 10], image)
    assert found[0, 0].tolist() == ink("paper")


def test_gaps_stay_empty_and_lone_points_are_dots() -> None:
    with drawing(100, 20) as canvas:
        axes = canvas.axes(0, 0, 100, 20, (0, 4), (-1, 1))
        plot(axes, np.arange(5.0), np.array([0, 0, np.nan, 0, np.nan]), color="world", width=2.0)
        row = pixels(canvas.png())[20]
    world = (row == ink("world")).all(-1)
    assert world[: 25 * SCALE - 2].all()
    assert not world[30 * SCALE : 70 * SCALE].any()
    assert world[75 * SCALE]


def test_the_same_drawing_is_the_same_bytes_whatever_the_users_settings() -> None:
    def draw() -> bytes:
        with drawing(80, 30) as canvas:
            canvas.text(4, 20, "x_$1$ 日本\n°C")
            canvas.line([(0, 0), (80, 30)], color="world")
            canvas.box(2, 2, 10, 10, fill="panel", edge="rule")
            return canvas.png()

    first = draw()
    with mpl.rc_context({"font.size": 30, "text.antialiased": False, "figure.facecolor": "red", "lines.linewidth": 9}):
        assert draw() == first
        assert mpl.rcParams["font.size"] == 30


def test_long_text_keeps_both_ends() -> None:
    assert shorten("short", 10) == "short"
    assert shorten("abcdefghijklmnop", 10) == "abcdef…nop"
    assert len(shorten("x" * 99, 10)) == 10
