from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from worldline.plots.canvas import SCALE
from worldline.plots.contact_sheet import LABELS, MARGIN, Heading, Reel, Sheet, SheetFrame, Sparks, contact_sheet
from worldline.plots.panels import make_panel, time_axis
from worldline.schema import Kind, Role, Signal

RED, BLUE = np.full((8, 8, 3), (250, 0, 0), np.uint8), np.full((8, 8, 3), (0, 0, 250), np.uint8)


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def sheet(*reels: Reel, rows: int = 1) -> Sheet:
    return Sheet(title="logs", subtitle="a few", rows=[Heading(title=f"episode {k}") for k in range(rows)], reels=reels)


def reel(shape: tuple[int, ...], *rows: list[SheetFrame]) -> Reel:
    return Reel(name="camera", shape=shape, rows=rows)


def boxes(image: np.ndarray, colour: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of all pixels of this colour."""
    down, across = np.nonzero((image == colour[0, 0]).all(-1))
    return across.min(), down.min(), across.max() + 1, down.max() + 1


def test_pictures_stand_in_rows_and_columns() -> None:
    rows = [
        [SheetFrame(text="0 s", frame=RED), SheetFrame(text="1 s", frame=BLUE)],
        [SheetFrame(text="0 s", frame=BLUE)],
    ]
    image = pixels(contact_sheet(sheet(reel((8, 8, 3), *rows), rows=2)))
    left, top, right, bottom = boxes(image, RED)
    assert left == (MARGIN + LABELS) * SCALE
    assert right - left == bottom - top == 224
    blue_left, blue_top, _, blue_bottom = boxes(image, BLUE)
    assert (blue_left, blue_top) == (left, top)  # of the second row, and of the first
    assert blue_bottom > bottom + 224
    assert (image[top : top + 224, right + 20 : right + 30] == BLUE[0, 0]).all()


def test_what_was_not_observed_is_no_picture() -> None:
    lost = reel((8, 8, 3), [SheetFrame(text="0 s", frame=None), SheetFrame(text="1 s", frame=RED)])
    image = pixels(contact_sheet(sheet(lost)))
    left, top, _, _ = boxes(image, RED)
    gap = image[top + 5 : top + 40, left - 200 : left - 40].reshape(-1, 3)
    assert (gap == gap[0]).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 4), (3, 400, 3), (700, 11, 1), (480, 640, 3)])
def test_frames_of_any_size_and_channels(shape: tuple[int, ...]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    one = sheet(reel(shape, [SheetFrame(text="0 s", frame=frame)]))
    content = contact_sheet(one)
    assert content == contact_sheet(one)
    assert pixels(content).shape[1] >= 640 * SCALE


def test_several_cameras_stand_below_each_other() -> None:
    moments = [[SheetFrame(text="0 s", frame=RED)]]
    one = pixels(contact_sheet(sheet(reel((8, 8, 3), *moments))))
    two = pixels(contact_sheet(sheet(reel((8, 8, 3), *moments), reel((8, 8, 3), *moments))))
    assert len(two) > len(one) + 224


def test_without_a_camera_signals_are_drawn() -> None:
    signal = Signal(name="height", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    panel = make_panel(signal, np.array([[0.0], [1.0]]), np.ones(2, bool), time_axis(1, None))
    blank = sheet()
    drawn = replace(blank, sparks=Sparks(columns=[[panel]], span=(0.0, 1.0)), note="2 signals left out.")
    assert len(pixels(contact_sheet(drawn))) > len(pixels(contact_sheet(blank)))
    assert contact_sheet(drawn) == contact_sheet(drawn)
