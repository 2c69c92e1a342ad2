from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from worldline.audit.diagnostics import Diagnostics, diagnose
from worldline.config import from_json, to_json
from worldline.data.windows import evenly_spaced_windows
from worldline.episode import Episode
from worldline.errors import InputError
from worldline.world.base import World

Worlds = Mapping[str, Callable[..., World]]


def measure(
    world: World,
    episodes: Sequence[Episode],
    comparisons: Mapping[str, World] | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> Diagnostics:
    return diagnose(
        world,
        evenly_spaced_windows(episodes, length=2, horizon=6, per_episode=3),
        num_given=len(episodes),
        comparisons=comparisons or {},
        horizons=(1, 6),
        level=level,
        seed=seed,
    )


def test_an_error_that_grows_linearly_is_measured_exactly(episodes: list[Episode], worlds: Worlds) -> None:
    (error,) = measure(worlds["linear_error"](), episodes).errors
    expected = [0.1 * step for step in range(1, 7)]
    assert error.rmse.value == pytest.approx(expected)
    assert error.rmse.low == pytest.approx(expected)
    assert error.rmse.high == pytest.approx(expected)
    assert (error.world, error.signal) == ("", "place")


def test_the_interval_is_over_episodes(episodes: list[Episode], worlds: Worlds) -> None:
    (error,) = measure(worlds["error_by_episode"](), episodes).errors
    at = error.rmse.at(3)
    assert at.value == pytest.approx(np.sqrt(np.mean(np.arange(10.0) ** 2)))
    assert at.low < at.value - 0.5
    assert at.high > at.value + 0.5


def test_skill_is_the_share_of_error_saved(episodes: list[Episode], worlds: Worlds) -> None:
    found = measure(worlds["exact"](), episodes, {"off": worlds["linear_error"](), "same": worlds["exact"]()})
    (skill,) = found.skills
    assert skill.against == "off"
    assert skill.skill.value == pytest.approx([1.0] * 6)
    assert [error.world for error in found.errors] == ["", "off", "same"]
    turned = measure(worlds["linear_error"](), episodes, {"off": worlds["linear_error"]()})
    assert turned.skills[0].skill.at(6).value == 0
    assert turned.skills[0].skill.at(6).high == 0


def test_an_action_blind_world_has_no_gap(episodes: list[Episode], worlds: Worlds) -> None:
    gaps = measure(worlds["still"](), episodes).gaps
    assert {(gap.change, gap.signal) for gap in gaps} == {
        (change, signal) for change in ("zeroed", "shuffled") for signal in (None, "place")
    }
    for gap in gaps:
        assert (gap.increase.value, gap.increase.low, gap.increase.high) == (0, 0, 0)


def test_a_world_that_uses_its_actions_errs_with_other_ones(episodes: list[Episode], worlds: Worlds) -> None:
    """A right effect of wrong pushes is an error of the differences between the pushes of two episodes."""
    gaps = measure(worlds["linear_error"](), episodes).gaps
    assert next(gap for gap in gaps if gap.change == "shuffled" and gap.signal == "place").increase.low > 1


def test_zeroed_actions_stay_inside_their_bounds(episodes: list[Episode], worlds: Worlds) -> None:
    """With true actions the error is 0.1 k; with zeros it is that minus the pushes that were taken away."""
    found = measure(worlds["linear_error"](), episodes)
    gap = next(gap for gap in found.gaps if gap.change == "zeroed" and gap.signal == "place")
    steps, before, after = np.arange(1, 7)[:, None], [], []
    for episode in episodes:
        for at in (1, 4, 6):
            pushed = np.cumsum(episode.actions["push"][at : at + 6].astype(float), axis=0)
            before.append(np.broadcast_to((0.1 * steps) ** 2, (6, 2)))
            after.append((0.1 * steps - pushed) ** 2)
    assert gap.increase.value == pytest.approx(np.sqrt(np.mean(after) / np.mean(before)) - 1)


def test_no_gap_is_claimed_where_there_is_no_error_to_grow(episodes: list[Episode], worlds: Worlds) -> None:
    assert measure(worlds["exact"](), episodes).gaps == ()


def test_coverage_is_counted_exactly(episodes: list[Episode], worlds: Worlds) -> None:
    """Episode e is off by e everywhere, and the band reaches 10 x level to each side."""
    low, high = (
        measure(worlds["error_by_episode"](lambda level: 10 * level), episodes, level=level).bands[0]
        for level in (0.5, 0.9)
    )
    assert (low.coverage.successes, low.coverage.trials) == (18, 30)
    assert (high.coverage.successes, high.coverage.trials) == (30, 30)
    assert low.coverage.high - low.coverage.low > 0.4
    assert low.width == pytest.approx([10.0] * 6)
    assert low.horizon == high.horizon == 5


def test_an_uncalibrated_world_has_no_bands(episodes: list[Episode], worlds: Worlds) -> None:
    assert measure(worlds["exact"](), episodes).bands == ()


def test_what_was_not_observed_does_not_count(episodes: list[Episode], worlds: Worlds) -> None:
    """Step 5 of every episode is missing, and holds NaN."""

    def spoiled(episode: Episode) -> Episode:
        place = episode.observations["place"].copy()
        place[5] = np.nan
        known = np.arange(13) != 5
        return replace(
            episode,
            observations={**episode.observations, "place": place},
            observed={"place": known, "number": known | True},
        )

    found = diagnose(
        worlds["linear_error"](lambda level: 10 * level),
        evenly_spaced_windows([spoiled(episode) for episode in episodes], length=1, horizon=8, per_episode=1),
        comparisons={"off": worlds["still"]()},
        horizons=(8,),
        seed=0,
    )
    assert np.isnan(found.errors[0].rmse.value[4])
    assert found.errors[0].rmse.value[5:] == pytest.approx([0.6, 0.7, 0.8])
    assert all(band.coverage.value == 1 for band in found.bands)
    assert all(np.isfinite(gap.increase.value) for gap in found.gaps)
    assert len(found.skills) == 1


def test_short_episodes_are_counted(episodes: list[Episode], worlds: Worlds) -> None:
    short = Episode(
        observations={name: values[:4] for name, values in episodes[0].observations.items()},
        actions={name: values[:3] for name, values in episodes[0].actions.items()},
    )
    found = measure(worlds["exact"](), [*episodes, short])
    assert (found.num_episodes, found.num_short, found.num_windows) == (10, 1, 30)


def test_equal_seeds_give_equal_figures_that_survive_json(episodes: list[Episode], worlds: Worlds) -> None:
    world = worlds["error_by_episode"](lambda level: 10 * level)
    found = measure(world, episodes, {"off": worlds["still"]()})
    assert found == measure(world, episodes, {"off": worlds["still"]()})
    assert found != measure(world, episodes, {"off": worlds["still"]()}, seed=1)
    assert from_json(Diagnostics, to_json(found), where="a test") == found


def test_refusals(episodes: list[Episode], worlds: Worlds) -> None:
    world = worlds["exact"]()
    strip = [replace(episode, observations={"number": episode.observations["number"]}) for episode in episodes]
    with pytest.raises(InputError, match="no vector signal"):
        measure(world, strip)
