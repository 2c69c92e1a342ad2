from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from worldline.plots.canvas import SCALE, palette
from worldline.plots.episode_plot import EpisodeView, Strip, episode_plot, num_frames
from worldline.plots.panels import SignalPanel, make_panel, time_axis
from worldline.schema import Kind, Role, Signal

LEFT, RIGHT = 84 * SCALE, (1120 - 136) * SCALE
AXIS = time_axis(4, 0.5)


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def panel(values: list[float], observed: list[bool] | None = None, role: Role = Role.OBSERVATION) -> SignalPanel:
    signal = Signal(name="height", role=role, kind=Kind.VECTOR, shape=(1,), unit="m")
    mask = np.ones(len(values), bool) if observed is None else np.array(observed)
    return make_panel(signal, np.array(values)[:, None], mask, AXIS)


def view(*panels: SignalPanel, strips: tuple[Strip, ...] = (), moments: tuple[int, ...] = ()) -> EpisodeView:
    return EpisodeView(
        title="Episode 3",
        subtitle="4 steps",
        axis=AXIS,
        moments=moments,
        strips=strips,
        panels=panels,
        notes=("a note",),
    )


def curve_columns(image: np.ndarray) -> np.ndarray:
    """Per column of pixels, whether the curve's colour is in it."""
    ink = [int(palette()["world"][k : k + 2], 16) for k in (1, 3, 5)]
    return (abs(image - ink).sum(-1) < 6).any(0)


def test_a_curve_spans_the_axis() -> None:
    columns = np.flatnonzero(curve_columns(pixels(episode_plot(view(panel([0, 1, 0, 1, 0]))))))
    assert abs(columns.min() - LEFT) <= 2
    assert abs(columns.max() - RIGHT) <= 2


def test_what_is_missing_is_a_gap() -> None:
    image = pixels(episode_plot(view(panel([0, 0, 0, 0, 0], [True, True, False, True, True]))))
    columns = curve_columns(image)
    quarter = (RIGHT - LEFT) // 4
    assert columns[LEFT + 4 : LEFT + quarter - 4].all()
    assert not columns[LEFT + quarter + 6 : LEFT + 3 * quarter - 6].any()
    assert columns[LEFT + 3 * quarter + 4 : RIGHT - 4].all()


def test_frames_stand_above_their_times() -> None:
    red = np.full((8, 8, 3), (250, 0, 0), np.uint8)
    strip = Strip(name="eye", shape=(8, 8, 3), frames=[None, red, None])
    image = pixels(episode_plot(view(panel([0, 0, 0, 0, 0]), strips=(strip,), moments=(0, 2, 4))))
    across = np.flatnonzero((image == [250, 0, 0]).all(-1).any(0))
    assert abs((across.min() + across.max()) / 2 - (LEFT + RIGHT) / 2) <= 2


def test_wide_frames_are_fewer_and_all_cameras_show_the_same_moments() -> None:
    assert num_frames([(8, 8, 3)]) > num_frames([(9, 16, 3)]) >= 5
    assert num_frames([(8, 8, 3), (9, 16, 3)]) == num_frames([(9, 16, 3)])
    assert num_frames([(1, 5000, 3)]) == 6


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 4), (3, 400, 3), (700, 11, 1)])
def test_any_frame_can_be_drawn_and_always_the_same(shape: tuple[int, ...]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    one = view(strips=(Strip(name="eye", shape=shape, frames=[frame]),), moments=(0,))
    assert episode_plot(one) == episode_plot(one)


def test_every_role_gets_its_room() -> None:
    few = view(panel([0, 1, 0, 1, 0]))
    more = replace(few, panels=[*few.panels, panel([0, 1, 0, 1], role=Role.ACTION)])
    assert len(pixels(episode_plot(more))) > len(pixels(episode_plot(few)))


def test_a_long_episode_is_drawn_with_its_spikes() -> None:
    long = time_axis(5000, None)
    values = np.zeros((5001, 1))
    values[2500] = 100
    signal = Signal(name="height", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    spiky = replace(view(make_panel(signal, values, np.ones(5001, bool), long)), axis=long)
    flat = replace(view(make_panel(signal, values * 0 + 1, np.ones(5001, bool), long)), axis=long)
    assert episode_plot(spiky) != episode_plot(flat)


def test_a_name_may_hold_anything() -> None:
    name = "x_$frac{1}$ 日本\n<b>" + "y" * 200
    odd = Signal(name=name, role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=2)
    assert episode_plot(view(make_panel(odd, np.array([0, 1, 1, 0]), np.ones(4, bool), AXIS)))
