from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import random_episode, stored

from worldline.data.store import Store
from worldline.data.store_plot import view_episode
from worldline.errors import InputError, UnknownNameError
from worldline.plots.episode_view import MAX_PANELS
from worldline.report.page import show as html_of
from worldline.report.store_figures import measure
from worldline.report.store_page import preview
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.show import show


def signal(name: str, role: Role, kind: Kind = Kind.VECTOR, shape: tuple[int, ...] = (1,), **more: object) -> Signal:
    return Signal(name=name, role=role, kind=kind, shape=shape, **more)  # type: ignore[arg-type]


EYE = signal("eye", Role.OBSERVATION, Kind.IMAGE, (5, 7, 3))
DEPTH = signal("depth", Role.OBSERVATION, Kind.IMAGE, (9, 4, 1))
PLACE = signal("place", Role.OBSERVATION, shape=(2,), unit="m")
GEAR = signal("gear", Role.OBSERVATION, Kind.DISCRETE, (), num_values=3)
PUSH = signal("push", Role.ACTION, unit="N", low=(-1.0,), high=(1.0,))
KEY = signal("key", Role.ACTION, Kind.DISCRETE, (), num_values=2)
WIND = signal("wind", Role.EXOGENOUS, unit="m/s")
PRIZE = signal("prize", Role.REWARD)
EVERYTHING = (EYE, DEPTH, PLACE, GEAR, PUSH, KEY, WIND, PRIZE)


def store_of(path: Path, signals: tuple[Signal, ...], *lengths: int, step_s: float | None = None) -> Store:
    store = Store.create(path, Schema(signals=signals, step_s=step_s))
    for number, steps in enumerate(lengths):
        store.append(random_episode(store.schema, steps, number), {"file": f"{number // 2}.npz", "episode": number})
    return store


def test_figures(tmp_path: Path) -> None:
    schema = Schema(signals=(EYE, PLACE, PUSH), step_s=0.5)
    store = Store.create(tmp_path / "logs", schema, max_error={"eye": 3}, notes={"importer": "none"})
    seen = np.array([True, False, False, True, True])
    store.append(random_episode(schema, 4, terminated=True, truncated=False, observed={"place": seen}), {"file": "a"})
    store.append(random_episode(schema, 2, 1, seed=7), {"file": "b"})
    store.append(random_episode(schema, 6, 2, step_s=np.full(6, 2.0, np.float32)), {"file": "b", "task": "none"})
    found = measure(store)
    assert (found.name, found.num_episodes, found.num_steps, found.time_s) == ("logs", 3, 12, 15.0)
    assert found.lengths == (2, 4, 6)
    assert (found.endings, found.seeded) == ({"terminated": 1, "truncated": 2}, 1)
    eye, place, push = found.signals
    assert (eye.max_error, place.max_error) == (3, None)
    assert (eye.missing, place.missing, push.missing) == (0.0, pytest.approx(2 / 15), None)
    assert (place.num_bytes, push.num_bytes) == (store.num_bytes()["place"], 48)
    assert found.num_bytes == sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file())
    assert found.sources == {"file": "a, b", "task": "none"}
    assert found.notes == {"importer": "none"}


def test_the_pages_are_written_and_the_same_again(tmp_path: Path) -> None:
    store = store_of(tmp_path / "logs", EVERYTHING, *range(3, 23), step_s=0.1)
    _, files = show(store, tmp_path / "out" / "show", episode=3)
    assert [path.name for path in files] == ["index.html", "episode-3.html"]
    index, page = (path.read_text() for path in files)
    assert [path.read_text() for path in show(store, tmp_path / "again", episode=3)[1]] == [index, page]
    assert 'href="episode-3.html"' in index
    assert all(f'alt="eye, episode {k}, ' in index for k in (0, 19))
    assert page.count("<figure") == 8
    assert "4.npz" not in page
    assert "1.npz" in page


@pytest.mark.parametrize(
    ("signals", "steps"),
    [((PLACE, PUSH), 5), ((EYE, KEY), 1), ((PLACE,), 1), ((KEY,), 3), ((EYE, DEPTH), 40), (EVERYTHING, 1)],
)
def test_few_signals_and_few_steps(tmp_path: Path, signals: tuple[Signal, ...], steps: int) -> None:
    if not any(one.role is Role.OBSERVATION for one in signals):
        signals = (*signals, GEAR)
    _, files = show(store_of(tmp_path / "logs", signals, steps), tmp_path / "show")
    assert len(files) == 2


def test_an_empty_store_has_figures_and_nothing_to_see(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "logs", Schema(signals=EVERYTHING))
    figures, files = show(store, tmp_path / "show")
    assert [path.name for path in files] == ["index.html"]
    assert figures.num_steps == 0
    with pytest.raises(InputError, match="no episode 0"):
        show(store, tmp_path / "show", episode=0)


def test_of_many_signals_the_first_are_drawn_and_the_rest_counted(tmp_path: Path) -> None:
    many = tuple(signal(f"s{k}", Role.OBSERVATION) for k in range(110))
    store = store_of(tmp_path / "logs", (*many, PUSH), 4)
    view = view_episode(store, 0)
    assert len(view.charts) == MAX_PANELS
    assert [panel.title.split(" [")[0] for panel in view.charts][-2:] == ["s10", "push"]
    assert "99\u00a0signals of 111 left out" in view.notes[-1]
    chosen = view_episode(store, 0, [store.schema["s109"]])
    assert [panel.title.split(" [")[0] for panel in chosen.charts] == ["s109"]


def test_cameras_show_the_same_moments_and_their_gaps(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "logs", Schema(signals=(EYE, DEPTH)))
    seen = np.arange(100) % 100 != 0  # all but the first
    one = random_episode(store.schema, 99, observed={"eye": seen})
    store.append(one)
    view = view_episode(store, 0)
    assert [len(strip.frames) for strip in view.strips] == [len(view.moments)] * 2
    for strip in view.strips:
        for moment, frame in zip(view.moments, strip.frames, strict=True):
            np.testing.assert_array_equal(frame, one.observations[strip.name][moment])
    eye, depth = map(html_of, preview(store))
    assert (eye.count("<img"), eye.count(">missing<")) == (7, 1)
    assert depth.count("<img") == 8
    assert "step\u00a099" in depth


def test_a_few_episodes_are_spread_over_the_store(tmp_path: Path) -> None:
    (sheet,) = preview(store_of(tmp_path / "logs", (EYE,), *[1] * 50))
    assert html_of(sheet).count("<b>episode ") == 8
    assert all(f"<b>episode {number}</b>" in html_of(sheet) for number in (0, 49))


def test_times_of_an_episodes_own(tmp_path: Path) -> None:
    schema = Schema(signals=(PLACE,))
    uneven = random_episode(schema, 3, step_s=np.array([1, 2, 3], np.float32))
    store = stored(tmp_path / "logs", schema, [uneven, random_episode(schema, 3)])
    assert view_episode(store, 0).axis.times.tolist() == [0, 1, 3, 6]
    assert view_episode(store, 1).axis.unit == ""
    assert measure(store).time_s is None


def test_a_wide_signal_is_not_held_in_memory(tmp_path: Path) -> None:
    wide = signal("lidar", Role.OBSERVATION, shape=(1000,))
    store = store_of(tmp_path / "logs", (wide,), 20_000)
    tracemalloc.start()
    view = view_episode(store, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(view.charts[0].lines) == 8
    assert peak < 40e6  # the signal takes 80 MB


def test_what_cannot_be_shown_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    store = store_of(tmp_path / "logs", (PLACE,), 2)
    with pytest.raises(InputError, match="no episode 1"):
        show(store, tmp_path / "show", episode=1)
    with pytest.raises(UnknownNameError, match="place"):
        show(store, tmp_path / "show", signals=["plaice"])
    assert not (tmp_path / "show").exists()
    with pytest.raises(InputError, match="is a store"):
        show(store, tmp_path / "logs")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        show(store, tmp_path / "file")
