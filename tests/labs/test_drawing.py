"""Pictures of labs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.labs.drawing import BLUE, PAPER, RED, SIZE, Picture


def test_a_disc_is_where_it_was_put_and_as_large_as_it_is() -> None:
    picture = Picture(-1.0, 1.0)
    picture.disc(0.5, 0.25, 0.2, RED)
    ink = (picture.pixels().astype(float) - PAPER)[..., 1] / (RED[1] - PAPER[1])
    y, x = np.mgrid[:SIZE, :SIZE]
    unit = 2 / SIZE
    assert abs((ink * x).sum() / ink.sum() * unit + unit / 2 - 1 - 0.5) < 0.005
    assert abs(1 - unit / 2 - (ink * y).sum() / ink.sum() * unit - 0.25) < 0.005
    assert abs(ink.sum() * unit**2 / (np.pi * 0.2**2) - 1) < 0.02


def test_less_than_a_pixel_of_motion_shows() -> None:
    first, second = Picture(-1.0, 1.0), Picture(-1.0, 1.0)
    first.disc(0.0, 0.0, 0.2, RED)
    second.disc(0.005, 0.0, 0.2, RED)
    assert (first.pixels() != second.pixels()).any()


def test_a_box_turned_by_a_right_angle_has_its_sides_swapped() -> None:
    turned, swapped = Picture(-1.0, 1.0), Picture(-1.0, 1.0)
    turned.box(0.1, 0.0, 0.5, 0.2, BLUE, angle=np.pi / 2)
    swapped.box(0.1, 0.0, 0.2, 0.5, BLUE)
    assert np.abs(turned.pixels().astype(int) - swapped.pixels()).max() <= 1


@given(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_a_line_of_no_length_is_a_disc(x: float, y: float) -> None:
    line, disc = Picture(-1.0, 1.0), Picture(-1.0, 1.0)
    line.line(x, y, x, y, 0.2, BLUE)
    disc.disc(x, y, 0.1, BLUE)
    assert (line.pixels() == disc.pixels()).all()


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.floats(0.01, 3.0), st.floats(-4.0, 4.0))
def test_a_drawing_equals_that_of_the_whole_picture(x: float, y: float, size: float, angle: float) -> None:
    """Only a part around a shape is looked at; it has to be large enough."""
    part, whole = Picture(-1.0, 1.0), Picture(-1.0, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole, "_around", lambda *_: (slice(0, SIZE), slice(0, SIZE)))
        for one in (part, whole):
            one.disc(x, y, size, RED)
            one.box(x, y, size, 0.3, BLUE, angle)
            one.line(x, y, y, size, 0.2, RED)
    np.testing.assert_array_equal(part.pixels(), whole.pixels())
