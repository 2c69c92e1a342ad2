from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from worldline.data.windows import forecast_windows
from worldline.engines.base import EngineBelief, Samples
from worldline.engines.baselines import Linear
from worldline.episode import Episode, Future, History
from worldline.planning.planners.cem import CrossEntropy
from worldline.stats import tails
from worldline.testing.toys import Integrator
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.ood import LENGTHS, step_errors, step_errors_at

TOY = Integrator(noise=0.2, camera=False, wind=False)
NOW = 40
PUSH = {"push": np.zeros((1, 2), np.float32)}


@pytest.fixture(scope="module")
def world() -> LocalWorld:
    engine = Linear.fit(TOY.episodes(100, 50, seed=0), TOY.schema, context=1)
    calibration = calibrate(engine, TOY.episodes(80, 60, seed=1), horizon=8, num_windows=4, seed=0)
    return LocalWorld(engine, calibration, CrossEntropy())


def history(episodes: Sequence[Episode], length: int) -> History:
    """The last `length` observations up to `NOW` of each episode."""
    return forecast_windows(
        [(one, NOW) for one in episodes], length=length, horizon=1, schema=TOY.schema, targets=()
    ).history


def trust(world: LocalWorld, episodes: Sequence[Episode], length: int) -> np.ndarray:
    pushes = {"push": np.zeros((len(episodes), 1, 2), np.float32)}
    return np.asarray(world.predict(history(episodes, length), pushes).trust)


def gappy(episodes: Sequence[Episode], share: float) -> list[Episode]:
    """The episodes with about such a share of their observations missing, but for that at `NOW`."""
    rng, gappy = np.random.default_rng(0), list[Episode]()
    for one in episodes:
        seen = rng.random(one.num_steps + 1) >= share
        seen[NOW] = True
        gappy.append(replace(one, observed={"position": seen}))
    return gappy


def flagged(world: LocalWorld, toy: Integrator, length: int) -> float:
    return float((trust(world, toy.episodes(200, 60, seed=3), length) <= 0.05).mean())


@pytest.mark.parametrize("length", [1, 2, 6, 17, 33])
def test_trust_is_a_p_value_whatever_the_length_of_the_history(world: LocalWorld, length: int) -> None:
    assert world.calibration is not None
    found = trust(world, TOY.episodes(400, 60, seed=2), length)
    for share in (0.05, 0.2, 0.5):
        chance = tails(int((found <= share).sum()), len(found), share, world.calibration.num_episodes)
        assert min(chance.low, chance.high) > 1e-4


@pytest.mark.parametrize("change", [{"decay": 0.7}, {"noise": 0.4}])
def test_a_changed_law_is_flagged_though_all_is_in_range(world: LocalWorld, change: dict[str, float]) -> None:
    shifted = replace(TOY, **change)
    ordinary = np.abs(np.concatenate([e.observations["position"] for e in TOY.episodes(80, 60, seed=1)])).max(0)
    inside = [e for e in shifted.episodes(200, 60, seed=3) if (np.abs(e.observations["position"]) <= ordinary).all()]
    assert len(inside) > 150
    assert (trust(world, inside, 33) <= 0.05).mean() >= 0.9
    assert flagged(world, shifted, 1) < 0.3  # the present alone tells next to nothing
    lengths = [flagged(world, shifted, length) for length in (3, 9, 33)]
    assert lengths == sorted(lengths)


def test_what_is_missing_is_not_strange(world: LocalWorld) -> None:
    assert world.calibration is not None
    found = trust(world, gappy(TOY.episodes(300, 60, seed=6), 0.5), 33)
    chance = tails(int((found <= 0.05).sum()), len(found), 0.05, world.calibration.num_episodes)
    assert chance.high > 1e-4


def test_a_history_is_judged_from_its_last_gap_on(world: LocalWorld) -> None:
    """Worlds of a batch have their gaps in different places; each is judged as if it began behind its own."""
    odd = replace(TOY, decay=0.7).episodes(4, 60, seed=3)
    past, lengths = history(odd, 33), (33, 17, 6, 1)
    seen = np.arange(33) >= 33 - np.array(lengths)[:, None]
    pushes = {"push": np.zeros((4, 1, 2), np.float32)}
    found = np.asarray(world.predict(replace(past, observed={"position": seen}), pushes).trust)
    due = [trust(world, [one], length)[0] for one, length in zip(odd, lengths, strict=True)]
    np.testing.assert_array_equal(found, due)
    assert found[0] <= 0.05


def test_calibration_data_with_gaps_are_compared_with_as_a_whole() -> None:
    engine = Linear.fit(TOY.episodes(60, 50, seed=0), TOY.schema, context=1)
    logs = gappy(TOY.episodes(60, 60, seed=1), 0.3)
    calibration = calibrate(engine, logs, horizon=8, num_windows=4, seed=0)
    assert not calibration.complete
    again = LocalWorld(engine, Calibration.from_arrays(calibration.to_arrays()), CrossEntropy())
    found = trust(again, gappy(TOY.episodes(150, 60, seed=6), 0.3), 33)
    assert tails(int((found <= 0.05).sum()), len(found), 0.05, calibration.num_episodes).high > 1e-4
    changed = trust(again, gappy(replace(TOY, decay=0.7).episodes(50, 60, seed=3), 0.3), 33)
    assert (changed <= 0.05).mean() >= 0.5


def test_short_episodes_leave_the_present_alone() -> None:
    engine = Linear.fit(TOY.episodes(60, 50, seed=0), TOY.schema, context=3)
    calibration = calibrate(engine, TOY.episodes(40, 4, seed=1), horizon=1, num_windows=1, seed=0)
    assert calibration.ood.lengths == LENGTHS[:2]
    calibration = calibrate(engine, TOY.episodes(40, 60, seed=1), horizon=1, num_windows=1, seed=0, trust_steps=0)
    assert calibration.ood.lengths == (0,)
    found = LocalWorld(engine, calibration, CrossEntropy()).predict(
        History(observations={"position": np.zeros((20, 2))}, actions={"push": np.ones((19, 2))}), PUSH
    )
    assert float(found.trust) > 0.2  # nobody looked at the steps, which are impossible


@pytest.mark.parametrize("camera", [False, True])
def test_places_are_watched_as_the_histories_that_end_there(camera: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are watched at a time, each step of an episode is predicted once."""
    toy = Integrator(noise=0.2, camera=camera, wind=False)
    engine = Linear.fit(toy.episodes(60, 50, seed=0), toy.schema, context=3)
    episodes = [*toy.episodes(4, 60, seed=2), *toy.episodes(1, 40, seed=3)]
    places = [(episodes[which], at) for which, at in [(3, 20), (0, 19), (3, 22), (3, 20), (4, 39), (0, 11)]]
    predicted, imagine = [], Linear.imagine

    def counted(self: Linear, belief: EngineBelief, future: Future, **rest: Any) -> Samples:
        predicted.append(len(future.actions["push"]))
        return imagine(self, belief, future, **rest)

    pasts = [episode.history(at, 3 + 8) for episode, at in places]
    expected, _ = step_errors(engine, History.stack(pasts), 8, seed=0)
    monkeypatch.setattr(Linear, "imagine", counted)
    monkeypatch.setattr("worldline.world.ood.MAX_PICTURES" if camera else "worldline.world.ood.MAX_STEPS", 60)
    for name, value in vars(step_errors_at(engine, places, 8, seed=0)).items():
        np.testing.assert_allclose(value, vars(expected)[name], atol=1e-5)
    assert sum(predicted) == 2 * 58 + 38


def test_what_a_world_knows_nothing_of_changes_nothing() -> None:
    engine = Linear.fit(TOY.episodes(60, 50, seed=0), TOY.schema, context=1)
    plain = TOY.episodes(16, 40, seed=1)
    extra = {"extra": np.zeros((41, 1), np.float32)}
    more = [
        replace(one, observations={**one.observations, **extra}, observed={**one.observed, "extra": np.zeros(41, bool)})
        for one in plain
    ]
    first, second = (calibrate(engine, of, horizon=1, num_windows=2, seed=0).to_arrays() for of in (plain, more))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
