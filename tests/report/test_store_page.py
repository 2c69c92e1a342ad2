from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.report.parsed_page import ParsedPage

from worldline.plots.figure import EpisodeView
from worldline.plots.signal_chart import signal_chart, time_axis
from worldline.report.store_figures import KeyFigures, SignalFigures, StoreFigures
from worldline.report.store_page import Reel, SampleImages, episode_page, index_page
from worldline.schema import Kind, Role, Schema, Signal

HEIGHT = Signal(name="height<b>", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
EYE = Signal(name="eye", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(2, 3, 1))


def check(html: str) -> None:
    ParsedPage(html)
    assert "<b>&" not in html
    assert "height<b>" not in html


@pytest.fixture
def figures() -> StoreFigures:
    return StoreFigures(
        name="logs",
        schema=Schema(signals=(HEIGHT, EYE), step_s=0.5),
        num_episodes=3,
        num_steps=300,
        time_s=150.0,
        shortest=50,
        median=100.0,
        longest=150,
        signals=(
            SignalFigures(signal=HEIGHT, num_rows=303, num_bytes=1212, missing=0.25, max_error=None),
            SignalFigures(signal=EYE, num_rows=303, num_bytes=30_300, missing=0.0, max_error=2),
        ),
        other_bytes=488,
        layout=2,
        notes={"importer": "npz"},
        keys=(KeyFigures(name="file", num_episodes=3, num_values=1, examples=("a.npz",)),),
        terminated=1,
        truncated=2,
        both=0,
        neither=0,
        seeded=3,
    )


def test_the_index_says_what_is_in_the_store(figures: StoreFigures) -> None:
    html = index_page(figures, None, {"episode-0.html": "Episode 0"})
    check(html)
    text = html.replace("\u00a0", " ")
    for said in (
        "2 signals; episodes of 50 to 150 steps, median 100",
        "32 kB",
        "2 min 30 s",
        "25.0 %",
        "2 × 3 × 1",
        "within 2 grey levels",
        "100 B",
        "One step takes 0.5 s",
        "1 terminated, 2 truncated",
        "a.npz",
        'href="episode-0.html"',
        "layout 2",
    ):
        assert said in text, said
    assert "Preview" not in html


def test_an_empty_store_has_a_page(figures: StoreFigures) -> None:
    empty = replace(figures, num_episodes=0, num_steps=0, time_s=None, shortest=0, median=0.0, longest=0)
    signals = tuple(replace(one, num_rows=0, num_bytes=0) for one in figures.signals)
    html = index_page(replace(empty, signals=signals), None, {})
    check(html)
    assert "not known" in html
    assert "per step" not in html


def test_pictures_fill_a_grid(figures: StoreFigures) -> None:
    frame = np.zeros((2, 3, 1), np.uint8)
    rows = [[("0 s", frame), ("1 s", None)], [("0 s", frame)]]
    reel = Reel(name="eye", shape=(2, 3, 1), rows=rows)
    samples = SampleImages(episodes=[("episode 0", "1 s", ""), ("episode 9", "0 s", "")], reels=[reel], note="more")
    html = index_page(figures, samples, {})
    check(html)
    assert html.count("<img") == 2
    assert "missing" in html
    assert 'alt="eye, episode 9, 0 s"' in html
    assert "repeat(2," in html
    assert "more</p>" in html


def test_an_episode_has_a_page() -> None:
    panel = signal_chart(HEIGHT, np.array([[0.5], [1.5]]), np.ones(2, bool), time_axis(1, None))
    view = EpisodeView(
        title="Episode 7",
        subtitle="short",
        axis=time_axis(1, None),
        moments=(),
        strips=(),
        charts=(panel,),
        notes=("n.",),
    )
    html = episode_page("logs", view, [("file", "<a>")], {"index.html": "logs"})
    check(html)
    assert "<title>Episode 7, logs</title>" in html
    assert "&lt;a&gt;" in html
    assert ">1</td>" in html  # the mean
    assert "n.</p>" in html
