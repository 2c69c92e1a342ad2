from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from tests.world.wrapped import Forwarding

from worldline.engines.baselines import Linear
from worldline.episode import Episode, History
from worldline.errors import InputError, WorldlineError
from worldline.planning.base import Goal
from worldline.planning.calls import PredictCall
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Schema
from worldline.testing.toys import Integrator
from worldline.world.base import Prediction
from worldline.world.calibration import Calibration
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld, WorldBelief
from worldline.world.session import MAX_ALARMS, Alarm, Session, SessionState

TOY = Integrator(noise=0.1, camera=False, wind=False)


@pytest.fixture(scope="module")
def long_calibration(engine: Linear) -> Calibration:
    return calibrate(engine, TOY.episodes(150, 20, seed=1), horizon=4, num_windows=4, seed=0, trust_steps=2)


@pytest.fixture
def quick(engine: Linear, long_calibration: Calibration) -> LocalWorld:
    return LocalWorld(engine, long_calibration, CrossEntropy())


def follow(session: Session, episode: Episode, seen: np.ndarray, steps: Iterable[int] | None = None) -> None:
    """Every step of the episode, of which only some observations [T + 1] are seen."""
    for step in range(episode.num_steps + 1) if steps is None else steps:
        session.observe(
            {"position": episode.observations["position"][step]},
            actions={"push": episode.actions["push"][step - 1]} if step else None,
            observed={"position": bool(seen[step])},
        )


def play(session: Session, episode: Episode) -> np.ndarray:
    """Whether each observation but the first was inside the band that was said for it."""
    inside = []
    for step in range(episode.num_steps + 1):
        now = {"position": episode.observations["position"][step]}
        if step == 0:
            session.observe(now)
            continue
        action = {"push": episode.actions["push"][step - 1]}
        found = session.predict({"push": action["push"][None]}).signals["position"]
        inside.append(((found.low[0] <= now["position"]) & (now["position"] <= found.high[0])).all())
        session.observe(now, actions=action)
    return np.array(inside)


def after(first: Episode, toy: Integrator, num_steps: int) -> Episode:
    """The episode, and then as many steps of another world as asked, from where it ended."""
    rng = np.random.default_rng(7)
    position, push = list(first.observations["position"]), rng.uniform(-1, 1, (num_steps, 2)).astype(np.float32)
    for one in push:
        noise = toy.noise * rng.standard_normal(2)
        position.append((toy.step(position[-1], one, np.zeros(2)) + noise).astype(np.float32))
    return Episode(
        observations={"position": np.stack(position)}, actions={"push": np.concatenate([first.actions["push"], push])}
    )


def test_bands_learn_from_outcomes_when_the_world_gets_louder(quick: LocalWorld) -> None:
    episode = after(TOY.episodes(1, 20, seed=3)[0], replace(TOY, noise=0.3), 180)
    learning, fixed = Session(quick, num_kept=8), Session(quick, num_kept=8, rate=0.0)
    share = play(learning, episode)[-100:].mean()
    assert 0.82 <= share <= 0.97
    assert 2 < learning.widening["position"] < 5
    assert play(fixed, episode)[-100:].mean() < 0.6
    assert not fixed.widening


def test_trajectories_are_held_against_their_joint_bands(quick: LocalWorld) -> None:
    session = Session(quick, num_kept=12, horizon=4)
    episode = TOY.episodes(1, 80, seed=4)[0]
    play(session, episode)
    # Right from the start, so that there is little to learn.
    assert 0.7 < session.widening["position"] < 1.4


def test_a_change_of_law_raises_an_alarm_and_ordinary_times_do_not(quick: LocalWorld) -> None:
    calm = Session(quick, num_kept=8, patience=1000.0)
    play(calm, TOY.episodes(1, 150, seed=5)[0])
    assert len(calm.alarms) <= 1
    changed = Session(quick, num_kept=8, patience=1000.0)
    play(changed, after(TOY.episodes(1, 40, seed=5)[0], replace(TOY, decay=0.5), 60))
    late = [alarm for alarm in changed.alarms if alarm.step > 40]
    assert late
    assert late[0].step <= 80
    assert 35 <= late[0].since < late[0].step


@pytest.mark.parametrize("change", [{"decay": 0.5}, {"noise": 0.3}])
def test_what_was_not_seen_is_evidence_of_nothing(quick: LocalWorld, change: dict[str, float]) -> None:
    """Every third pair of observations is seen, so that one outcome in six is foretold from what was there."""

    def alarmed(toy: Integrator, seed: int) -> bool:
        session = Session(quick, num_kept=8, patience=1000.0)
        follow(session, toy.episodes(1, 120, seed=seed)[0], np.arange(121) % 6 < 2)
        return bool(session.alarms)

    assert sum(alarmed(TOY, seed) for seed in range(4)) <= 1
    assert all(alarmed(replace(TOY, **change), seed) for seed in range(4))


def test_a_step_on_which_the_world_fails_is_not_taken_in(quick: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    session, episode = Session(quick, num_kept=8), TOY.episodes(1, 12, seed=6)[0]
    play(session, episode)
    before, widening = session.history, session.widening
    here, push = {"position": np.zeros(2, np.float32)}, {"push": np.zeros(2, np.float32)}
    next_step = session.predict({"push": push["push"][None]}).signals["position"].mean

    def fails(world: LocalWorld, call: PredictCall, belief: WorldBelief) -> Prediction:
        raise WorldlineError("out of luck")

    with monkeypatch.context() as once:
        once.setattr(LocalWorld, "_predict", fails)
        with pytest.raises(WorldlineError, match="out of luck"):
            session.observe(here, actions=push)
    assert session.widening == widening
    np.testing.assert_array_equal(session.history.observations["position"], before.observations["position"])
    again = session.predict({"push": push["push"][None]}).signals["position"].mean
    np.testing.assert_array_equal(again, next_step)
    session.observe(here, actions=push)
    assert session.widening != widening


@pytest.mark.parametrize("gaps", [False, True])
def test_a_world_in_this_process_is_followed_by_one_update_per_step(
    gaps: bool, quick: LocalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers are those of any other world, which gets the whole history."""
    episode = TOY.episodes(1, 30, seed=6)[0]
    observed = np.arange(31) % 7 != 3 if gaps else np.ones(31, bool)
    local, other = Session(quick, num_kept=64), Session(Forwarding(quick), num_kept=64)
    encoded, observe = list[int](), Linear.observe

    def counted(self: Linear, belief: object, steps: History, *, seed: int) -> object:
        encoded.append(steps.observations["position"].shape[1])
        return observe(self, belief, steps, seed=seed)

    follow(other, episode, observed)
    monkeypatch.setattr(Linear, "observe", counted)
    follow(local, episode, observed)
    assert encoded == [1] * 31
    encoded.clear()
    plan, goal = {"push": np.full((3, 2), 0.5, np.float32)}, Goal(targets={"position": np.zeros(2)})
    ours, planned = local.predict(plan), local.plan(goal, horizon=2)
    assert encoded == []
    theirs = other.predict(plan)
    for name in ("mean", "low", "high"):
        found, expected = (getattr(one.signals["position"], name) for one in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert ours.trust == pytest.approx(theirs.trust)
    np.testing.assert_allclose(planned.actions["push"], other.plan(goal, horizon=2).actions["push"], atol=1e-4)
    assert local.widening == pytest.approx(other.widening)


def test_a_session_sees_what_was_kept_and_nothing_else(quick: LocalWorld) -> None:
    session, episode = Session(quick, num_kept=5), TOY.episodes(1, 12, seed=6)[0]
    play(session, episode)
    np.testing.assert_array_equal(session.history.observations["position"], episode.observations["position"][-5:])
    np.testing.assert_array_equal(session.history.actions["push"], episode.actions["push"][-4:])


def test_after_a_swap_the_other_world_goes_on_from_the_same_history(quick: LocalWorld, engine: Linear) -> None:
    session, episode = Session(quick, num_kept=8), TOY.episodes(1, 30, seed=6)[0]
    play(session, episode)
    other = LocalWorld(replace(engine, weights=engine.weights * np.float32(0.5)), quick.calibration, CrossEntropy())
    session.use(other)
    push = {"push": np.ones((3, 2), np.float32)}
    found, due = session.predict(push), other.predict(session.history, push)
    np.testing.assert_array_equal(found.signals["position"].mean, due.signals["position"].mean)
    np.testing.assert_array_equal(found.signals["position"].high, due.signals["position"].high)


def test_a_world_of_other_units_cannot_take_its_place(quick: LocalWorld, engine: Linear) -> None:
    feet = [replace(s, unit="ft") if s.name == "position" else s for s in TOY.schema.signals]
    other = LocalWorld(replace(engine, schema=Schema(signals=tuple(feet))), None, CrossEntropy())
    with pytest.raises(InputError, match="'position'"):
        Session(quick).use(other)


def test_a_step_that_does_not_fit_is_not_taken_in(quick: LocalWorld) -> None:
    session = Session(quick, num_kept=8)
    with pytest.raises(InputError, match="nothing was observed yet"):
        session.predict({"push": np.zeros((1, 2))})
    here, push = {"position": np.zeros(2, np.float32)}, {"push": np.zeros(2, np.float32)}
    with pytest.raises(InputError, match="nothing before it"):
        session.observe(here, actions=push)
    session.observe(here)
    for wrong, actions in (
        ({"position": np.zeros(3)}, push),
        ({"position": np.full(2, np.nan)}, push),
        ({"place": np.zeros(2)}, push),
        (here, {}),
    ):
        with pytest.raises(InputError):
            session.observe(wrong, actions=actions)
        assert len(session.history.observations["position"]) == 1
    session.observe({"position": np.full(2, np.nan, np.float32)}, actions=push, observed={"position": False})
    assert session.history.observed["position"].tolist() == [True, False]


def test_an_uncalibrated_world_is_passed_on_as_it_is(engine: Linear) -> None:
    session = Session(LocalWorld(engine, None, CrossEntropy()))
    here, push = {"position": np.zeros(2, np.float32)}, {"push": np.zeros(2, np.float32)}
    session.observe(here)
    session.observe(here, actions=push)
    found = session.predict({"push": np.zeros((2, 2), np.float32)})
    assert not found.calibrated
    assert found.signals["position"].low is None
    assert not session.alarms
    assert not session.widening


@pytest.mark.parametrize("at", [0, 1, 30])
@pytest.mark.parametrize("settings", [{}, {"num_kept": 8, "level": 0.5, "rate": 0.2, "patience": 20.0, "horizon": 3}])
def test_a_resumed_session_continues_as_before(quick: LocalWorld, settings: dict[str, Any], at: int) -> None:
    episode = after(TOY.episodes(1, 20, seed=3)[0], replace(TOY, decay=0.5), 30)
    seen, steps = np.arange(51) % 7 != 3, range(51)
    one, other = Session(quick, **settings), Session(quick, **settings)
    follow(one, episode, seen, steps[:at])
    rest = asdict(one.state)
    del rest["episode"]
    rest = json.loads(json.dumps(rest))
    alarms = tuple(Alarm(**alarm) for alarm in rest.pop("alarms"))
    other.resume(SessionState(episode=one.state.episode, alarms=alarms, **rest))
    for session in (one, other):
        follow(session, episode, seen, steps[at:])
    assert other.widening == pytest.approx(one.widening, rel=1e-6)
    assert other.widening["position"] != 1
    assert other.state.evidence == pytest.approx(one.state.evidence, rel=1e-3)
    assert (other.alarms, other.state.since) == (one.alarms, one.state.since)
    assert one.alarms
    plan, goal = {"push": np.full((3, 2), 0.5, np.float32)}, Goal(targets={"position": np.zeros(2)})
    ours, theirs = other.predict(plan).signals["position"], one.predict(plan).signals["position"]
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-5)
    np.testing.assert_allclose(ours.high, theirs.high, rtol=1e-5)
    ours, theirs = other.plan(goal, horizon=2), one.plan(goal, horizon=2)
    np.testing.assert_allclose(ours.actions["push"], theirs.actions["push"], atol=1e-5)


def test_bands_and_alarms_stay_finite_whatever_happens(quick: LocalWorld) -> None:
    # With a logged range the bands would widen with the observations, and hold them.
    calibration = replace(quick.calibration, logged_range={})
    session = Session(replace(quick, calibration=calibration), num_kept=8, rate=1e300, patience=2.0)
    rng = np.random.default_rng(0)
    for step in range(110):
        push = {"push": np.zeros(2, np.float32)} if step else None
        session.observe({"position": rng.normal(0, 1e6, 2)}, actions=push)
    assert (session.widening, len(session.alarms)) == ({"position": 1e6}, MAX_ALARMS)
    assert session.alarms[-1].step == 109
