"""The section of pictures: a column for each moment, real over imagined, errors beneath."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from worldline.audit.report_evidence import Decoded, DecodedWindow
from worldline.report.decoded_block import decoded_block
from worldline.report.report import Report


@pytest.fixture
def found(report: Report) -> Decoded:
    return next(one for one in report.sections if isinstance(one, Decoded))


def pictures(html: str) -> list[tuple[str, np.ndarray]]:
    """What is said of each picture, and its pixels."""
    parts = re.findall(r'<img class="\w+" src="data:image/png;base64,([^"]+)" alt="([^"]+)">', html)
    return [(alt, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))) for data, alt in parts]


def rows(html: str) -> list[list[str]]:
    """The text of every cell of the first table, row by row."""
    table = html[: html.index("<details>")]
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table)
    ]


def test_real_frames_stand_over_what_was_imagined(found: Decoded) -> None:
    shown = pictures(decoded_block(found))
    ahead = ["now", *(f"{step} steps ahead" for step in found.steps)]
    window = found.windows[0]
    assert [said for said, _ in shown] == 2 * [f"{name}, {when}" for name in ("true", "predicted") for when in ahead]
    for (_, pixels), frame in zip(shown, [*window.real, *window.drawn], strict=False):
        np.testing.assert_array_equal(pixels, frame)  # not one pixel is changed


def test_each_error_stands_in_the_column_of_its_step(found: Decoded) -> None:
    curve = replace(found.imagined, value=(4.0, 5.0, 6.0, 7.5))
    table = rows(decoded_block(replace(found, imagined=curve)))
    assert table[0] == ["steps ahead", "now", "2", "4", "6", "8"]
    assert table[-3:] == [
        ["predicted", "", "4", "5", "6", "7.50"],
        ["persistence", "", "12.5", "12.5", "12.5", "12.5"],
        ["decoder alone", "", "3", "3", "3", "3"],
    ]
    assert "grey levels" in table[-4][0]
    assert "40\u00a0windows of 10\u00a0episodes" in table[-4][0]


def test_it_says_what_the_decoder_is_for_and_folds_the_intervals(found: Decoded) -> None:
    html = decoded_block(found)
    assert "The decoder serves visualisation only" in html
    assert "planning does not use it" in html
    assert "12.5 (11.2 to 13.8)" in html[html.index("<details>") :]


def test_time_is_told_in_hours_where_steps_are_long(found: Decoded) -> None:
    assert rows(decoded_block(replace(found, step_s=3600.0)))[0] == ["hours ahead", "now", "2", "4", "6", "8"]


def test_large_frames_are_shrunk_and_grey_ones_shown(found: Decoded) -> None:
    frames = np.full((5, 300, 600, 1), 99, np.uint8)
    html = decoded_block(replace(found, windows=(DecodedWindow(real=frames, drawn=frames),)))
    shown = [pixels for _, pixels in pictures(html)]
    assert {pixels.shape for pixels in shown} == {(128, 256, 3)}
    assert all((pixels == 99).all() for pixels in shown)
    assert 'class="smooth"' in html


def test_without_a_window_to_show_the_errors_remain(found: Decoded) -> None:
    table = rows(decoded_block(replace(found, windows=())))
    assert len(table) == 5
