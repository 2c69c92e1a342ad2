from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import random_episode, stored
from tests.report.parsed_page import ParsedPage

from worldline.plots.figure import EpisodeView
from worldline.plots.signal_chart import signal_chart, time_axis
from worldline.report.page import show
from worldline.report.store_figures import SignalFigures, StoreFigures
from worldline.report.store_page import episode_page, index_page, preview
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
        lengths=(50, 100.0, 150),
        signals=(
            SignalFigures(signal=HEIGHT, num_bytes=1212, missing=0.25, max_error=None),
            SignalFigures(signal=EYE, num_bytes=30_300, missing=0.0, max_error=2),
        ),
        num_bytes=32_000,
        notes={"importer": "npz"},
        sources={"file": "a.npz"},
        endings={"terminated": 1, "truncated": 2},
        seeded=3,
    )


def test_the_index_says_what_is_in_the_store(figures: StoreFigures) -> None:
    html = index_page(figures, [], {"episode-0.html": "Episode 0"})
    check(html)
    text = html.replace("\u00a0", " ")
    for said in (
        "2 signals; episodes of 50 to 150 steps, median 100",
        "32 kB",
        "2 min 30 s",
        "25.0 %",
        "2 × 3 × 1",
        "uint8, within 2 grey levels",
        "30.3 kB",
        "One step takes 0.5 s",
        "1 terminated, 2 truncated",
        "a.npz",
        'href="episode-0.html"',
    ):
        assert said in text, said
    assert "Preview" not in html


def test_pictures_fill_a_grid(tmp_path: Path) -> None:
    schema = Schema(signals=(EYE,), step_s=1.0)
    seen = random_episode(schema, 2, observed={"eye": np.array([True, False, True])})
    store = stored(tmp_path / "logs", schema, [seen, random_episode(schema, 1, 1)])
    html = "".join(show(part) for part in preview(store))
    ParsedPage(html)
    assert html.count("<img") == 4
    assert "missing" in html
    assert 'alt="eye, episode 1, 0\u00a0s"' in html
    assert "repeat(3," in html


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
    assert "n.</p>" in html
