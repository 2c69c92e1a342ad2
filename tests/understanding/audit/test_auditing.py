"""What an audit could not measure, it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.understanding.audit.carts import carts
from tests.understanding.audit.test_page import material
from tests.understanding.audit.test_twins import MarkedCart

from worldline.contracts.episode import Episode
from worldline.understanding.audit.auditing import measure
from worldline.understanding.exam.bank import as_world


def marked(number: int, episode: Episode) -> Episode:
    """Beside a mark that lies still and is read seldom, and in half of the episodes."""
    seen = (np.arange(episode.num_steps + 1) % 12 == 0) & (number % 2 == 0)
    mark = np.full((episode.num_steps + 1, 1), number, np.float32)
    return replace(episode, observations={**episode.observations, "mark": mark}, observed={"mark": seen})


def test_a_signal_without_a_placebo_is_named() -> None:
    episodes = [marked(number, one) for number, one in enumerate(carts(0, 40))]
    found = measure(as_world(MarkedCart()), material(episodes), banded=False, source=None, seed=0)
    assert {one.signal for one in found.placebo} == {"place"}
    assert "drives both the actions and mark was not checked" in found.unchecked[0]
