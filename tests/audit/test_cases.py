from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from worldline.audit import cases as module
from worldline.audit.cases import cut, forecasts
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.world.base import World


def test_windows_hold_what_followed(episodes: list[Episode]) -> None:
    cases = cut(episodes, context=3, horizon=4, per_episode=2)
    assert len(cases.episode) == 20
    for w, (e, at) in enumerate((e, at) for e in range(10) for at in (2, 8)):
        assert cases.episode[w] == e
        np.testing.assert_array_equal(cases.history.observations["place"][w, -1], episodes[e].observations["place"][at])
        np.testing.assert_array_equal(cases.truth["place"][w], episodes[e].observations["place"][at + 1 : at + 5])
        np.testing.assert_array_equal(cases.actions["push"][w], episodes[e].actions["push"][at : at + 4])
    assert cases.known["place"].all()


def test_more_windows_than_starts_are_fewer_windows(episodes: list[Episode]) -> None:
    assert len(cut(episodes, context=2, horizon=10, per_episode=50).episode) == 10 * 2


def test_short_episodes_are_left_out_and_two_are_needed(episodes: list[Episode]) -> None:
    assert len(cut(episodes, context=1, horizon=12, per_episode=9).episode) == 10
    with pytest.raises(InputError, match=r"two episodes of 14 observations, got 0 of 10"):
        cut(episodes, context=2, horizon=12, per_episode=1)
    with pytest.raises(InputError, match="at least 1"):
        cut(episodes, context=0, horizon=3, per_episode=1)


@pytest.mark.parametrize("first", ["a gap", "no gap"])
def test_episodes_with_and_without_gaps_mix_in_any_order(episodes: list[Episode], first: str) -> None:
    """A store gives a mask only to an episode that has a gap."""
    mask = np.arange(episodes[0].num_steps + 1) < 2
    some = [replace(episodes[0], observed={"place": mask}), episodes[1]]
    cases = cut(some if first == "a gap" else some[::-1], context=3, horizon=4, per_episode=1)
    gap = cases.episode == (0 if first == "a gap" else 1)
    assert not cases.known["place"][gap].any()
    assert cases.known["place"][~gap].all()
    np.testing.assert_array_equal(cases.history.observed["place"][gap], [[True, True, False]])
    assert cases.history.observed["place"][~gap].all()


def test_batches_change_nothing(
    episodes: list[Episode], worlds: Mapping[str, Callable[..., World]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, world = cut(episodes, context=2, horizon=5, per_episode=3), worlds["error_by_episode"](lambda level: level)
    whole = forecasts(world, cases, cases.actions, level=0.9)["place"]
    monkeypatch.setattr(module, "BATCH", 7)
    parts = forecasts(world, cases, cases.actions, level=0.9)["place"]
    for name in ("mean", "low", "high", "horizon"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert whole.mean.shape == (30, 5, 2)


def test_no_band_where_the_world_has_none(episodes: list[Episode], worlds: Mapping[str, Callable[..., World]]) -> None:
    cases = cut(episodes, context=2, horizon=5, per_episode=3)
    assert forecasts(worlds["exact"](), cases, cases.actions, level=0.9)["place"].low is None
