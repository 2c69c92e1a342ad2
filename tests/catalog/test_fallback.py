from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.world.wrapped import Forwarding

from worldline.catalog.fallback import FallbackWorld
from worldline.engines.base import CallCost, Card
from worldline.engines.baselines import Persistence
from worldline.episode import Episode, History
from worldline.errors import ConfigError, InputError, UnavailableError, UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.calls import Call
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Signal
from worldline.testing import check_world
from worldline.testing.toys import Integrator
from worldline.world.base import Abduction, PlanStatus, World
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld

TOY = Integrator(noise=0.1, camera=False, wind=False)
PUSH = {"push": np.array([[0.5, 0.0], [-0.5, 1.0], [0.0, 0.0]], np.float32)}
GOAL = Goal(targets={"position": np.array([0.5, 0.0], np.float32)})
SEARCH = CrossEntropy(num_candidates=16, num_iterations=2)
LOGS = TOY.episodes(132, 12, seed=1)


@pytest.fixture(scope="session")
def still() -> LocalWorld:
    """Everything stays where it is; calibrated."""
    engine = Persistence.fit(TOY.episodes(10, 20, seed=0), TOY.schema)
    return LocalWorld(engine, calibrate(engine, LOGS, horizon=8, num_windows=1, seed=0), SEARCH)


class Odd(Forwarding):
    """Answers as another world does, with another card, or fails at everything."""

    def __init__(self, world: World, card: Card | None = None, error: Exception | None = None) -> None:
        super().__init__(world)
        self.card, self.error = card or world.describe(), error

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def describe(self) -> Card:
        return self.card


def test_conforms(world: LocalWorld, still: LocalWorld, fresh: list[Episode]) -> None:
    both = FallbackWorld([world, still])
    check_world(both, fresh[:60], GOAL, num_calibration=world.calibration.num_episodes)
    assert both.tally()["persistence"] == 0


def test_what_if_is_asked_first_of_those_who_infer(world: LocalWorld, still: LocalWorld, fresh: list[Episode]) -> None:
    both = FallbackWorld([still, world])
    found, due = (one.what_if(fresh[0], 3, PUSH) for one in (both, world))
    assert found.abduction is due.abduction is Abduction.FULL
    np.testing.assert_array_equal(found.signals["position"], due.signals["position"])
    assert both.tally() == {"persistence": 0, "linear": 1}


@pytest.mark.slow
def test_conforms_where_the_first_is_gone(world: LocalWorld, still: LocalWorld, fresh: list[Episode]) -> None:
    gone = Odd(still, error=UnavailableError("nobody is there."))
    check_world(FallbackWorld([gone, world]), fresh[:60], GOAL, num_calibration=world.calibration.num_episodes)


def test_the_first_answers(world: LocalWorld, still: LocalWorld, history: History, fresh: list[Episode]) -> None:
    both = FallbackWorld([world, still])
    found, due = (one.predict(history, PUSH).signals["position"].mean for one in (both, world))
    np.testing.assert_array_equal(found, due)
    assert both.plan(history, GOAL, horizon=3).cost == world.plan(history, GOAL, horizon=3).cost
    both.surprise(fresh[0])
    assert both.tally() == {"linear": 3, "persistence": 0}


@pytest.mark.parametrize("error", [UnavailableError("nobody is there."), UnsupportedError("it lacks that.")])
def test_the_next_answers_where_the_first_cannot(
    world: LocalWorld, still: LocalWorld, history: History, fresh: list[Episode], error: Exception
) -> None:
    both = FallbackWorld([Odd(world, error=error), still])
    plans = {"push": PUSH["push"][None]}
    np.testing.assert_array_equal(
        both.predict(history, PUSH).signals["position"].mean, still.predict(history, PUSH).signals["position"].mean
    )
    assert both.score(history, plans, GOAL).cost == still.score(history, plans, GOAL).cost
    with pytest.raises(UnsupportedError, match="persistence is not action-conditioned"):
        both.plan(history, GOAL, horizon=2)
    np.testing.assert_array_equal(
        both.what_if(fresh[0], 3, PUSH).signals["position"], still.what_if(fresh[0], 3, PUSH).signals["position"]
    )
    np.testing.assert_array_equal(both.surprise(fresh[0]).steps, still.surprise(fresh[0]).steps)
    assert both.tally() == {"linear": 0, "persistence": 4}


def test_where_all_fail_every_reason_is_told(world: LocalWorld, still: LocalWorld, history: History) -> None:
    gone, unable = UnavailableError("no answer from example:80."), UnsupportedError("it lacks a head.")
    away = UnavailableError("no answer from example:81.")
    for first, second, due in (
        (gone, unable, UnsupportedError),
        (unable, gone, UnsupportedError),
        (gone, away, UnavailableError),
    ):
        both = FallbackWorld([Odd(world, error=first), Odd(still, error=second)])
        with pytest.raises(due, match=r"linear: .*; persistence: .*") as caught:
            both.predict(history, PUSH)
        assert caught.value.__cause__ is first
        assert all(str(error).rstrip(".") in str(caught.value) for error in (first, second))
        assert both.tally() == {"linear": 0, "persistence": 0}


@pytest.mark.parametrize("error", [InputError("your mistake."), RuntimeError("a defect")])
def test_mistakes_are_not_hidden(world: LocalWorld, still: LocalWorld, history: History, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        FallbackWorld([Odd(world, error=error), still]).predict(history, PUSH)


def test_a_strange_history_goes_to_the_next(world: LocalWorld, still: LocalWorld, history: History) -> None:
    far = replace(history, observations={"position": np.full((2, 2), 50.0, np.float32)})
    assert world.predict(far, PUSH).trust == pytest.approx(0.01)
    silent = Odd(still)
    silent.world = LocalWorld(still.engine, None, SEARCH)  # it never tells its trust
    both = FallbackWorld([world, still], min_trust=0.05)
    with pytest.raises(UnsupportedError, match=r"linear: its trust in the history is 0.01, but min_trust is 0.05; per"):
        both.predict(far, PUSH)
    with pytest.raises(UnsupportedError, match="persistence: it is not calibrated"):
        FallbackWorld([world, silent], min_trust=0.05).predict(far, PUSH)
    plan = both.plan(far, GOAL, horizon=2)
    assert plan.status is PlanStatus.REFUSED
    assert "linear: " in plan.reason
    assert "persistence: " in plan.reason
    assert both.predict(history, PUSH).trust == world.predict(history, PUSH).trust
    assert both.tally() == {"linear": 1, "persistence": 0}


@pytest.mark.parametrize(("own", "asked"), [(0.05, 0.0), (0.0, 0.05), (0.02, 0.05)])
def test_a_refused_plan_is_left_to_the_next(world: LocalWorld, history: History, own: float, asked: float) -> None:
    far = [replace(one, observations={"position": one.observations["position"] * 60}) for one in LOGS]
    wide = LocalWorld(world.engine, calibrate(world.engine, far, horizon=8, num_windows=1, seed=0), SEARCH)
    far = replace(history, observations={"position": np.full((2, 2), 50.0, np.float32)})
    both = FallbackWorld([world, wide], min_trust=own)
    found, due = (one.plan(far, GOAL, horizon=2, min_trust=asked) for one in (both, wide))
    assert (found.status, found.cost, found.trust) == (due.status, due.cost, due.trust)
    assert both.tally() == {"linear (1)": 0, "linear (2)": 1}
    none = both.plan(far, GOAL, horizon=2, min_trust=1.0)
    assert (none.status, none.trust) == (PlanStatus.REFUSED, world.predict(far, PUSH).trust)
    assert "linear (1): " in none.reason
    assert "linear (2): " in none.reason
    assert both.tally() == {"linear (1)": 0, "linear (2)": 1}


class Believing(Odd):
    """Trusts anything."""

    def answer(self, call: Call) -> Any:
        found = super().answer(call)
        return replace(found, trust=1.0 if isinstance(found.trust, float) else np.ones_like(found.trust))


def test_a_batch_is_answered_by_the_first_that_trusts_all_of_it(world: LocalWorld, still: LocalWorld) -> None:
    both = FallbackWorld([world, Believing(still)], min_trust=0.05)
    position = np.array([[[0.0, 0.1]], [[50.0, 50.0]], [[0.1, 0.0]]], np.float32)
    pushes = {"push": np.repeat(PUSH["push"][None], 3, 0)}
    for rows, due in (([0, 1, 2], still), ([0, 2], world)):
        batch = History(observations={"position": position[rows]}, actions={"push": np.zeros((len(rows), 0, 2))})
        actions = {"push": pushes["push"][rows]}
        found = both.predict(batch, actions).signals["position"].mean
        np.testing.assert_array_equal(found, due.predict(batch, actions).signals["position"].mean)
    assert both.tally() == {"linear": 1, "persistence": 1}


def test_the_card_says_what_all_can_and_who_is_asked(world: LocalWorld) -> None:
    card = world.describe()
    dear = replace(card, call=CallCost(latency_s=0.5, price=0.02, currency="USD"), abilities=("reaches",), context=3)
    found = FallbackWorld([Odd(world, dear), world]).describe()
    assert (found.engine, found.schema, found.predicts, found.context) == ("fallback", card.schema, ("position",), 3)
    assert (found.call, found.abilities) == (dear.call, ("abducts", "reaches"))
    assert found.notes == {"order": "linear (1), linear (2)", "who reaches": "linear (1)", "who abducts": "linear (2)"}
    limits = ({"max_batch": 5, "bytes_per_candidate": 100}, {"max_batch": 6, "bytes_per_candidate": 200})
    both = FallbackWorld([Odd(world, replace(card, **limit)) for limit in limits]).describe()
    assert (both.max_batch, both.bytes_per_candidate) == (5, 200)


def seen_and_unseen() -> tuple[LocalWorld, LocalWorld]:
    """Two worlds of one toy: the first knows and predicts a camera, the second has never heard of it."""
    toy, blind = Integrator(noise=0.1, wind=False), TOY
    first = Persistence.fit(toy.episodes(10, 20, seed=0), toy.schema)
    second = Persistence.fit(blind.episodes(10, 20, seed=0), blind.schema)
    return LocalWorld(first, None, SEARCH), LocalWorld(second, None, SEARCH)


def test_an_answer_holds_the_same_signals_whoever_gives_it() -> None:
    first, second = seen_and_unseen()
    episode = Integrator(noise=0.1, wind=False).episodes(1, 12, seed=3)[0]
    history = replace(episode.history(3, 1), observed={"camera": np.ones(1, bool)})
    for worlds in ([first, second], [Odd(first, error=UnsupportedError("no.")), second]):
        both = FallbackWorld(worlds)
        assert both.describe().inputs == ("position", "camera")
        assert set(both.predict(history, PUSH).signals) == {"position"}
        found = both.what_if(episode, 3, PUSH)
        assert set(found.signals) == set(found.factual) == {"position"}
    picture = Goal(targets={"camera": episode.observations["camera"][0]})
    with pytest.raises(UnsupportedError, match="'camera' needs a distance head"):
        FallbackWorld([first, second]).plan(history, picture, horizon=2)
    with pytest.raises(InputError, match="no signal is called 'cam'"):
        FallbackWorld([first, second]).plan(history, Goal(targets={"cam": np.zeros(1, np.float32)}), horizon=2)


def other_signal(card: Card, name: str, change: Callable[[Signal], Signal]) -> Card:
    signals = tuple(change(signal) if signal.name == name else signal for signal in card.schema.signals)
    return replace(card, schema=replace(card.schema, signals=signals))


def test_worlds_that_do_not_speak_the_same_are_refused(world: LocalWorld, still: LocalWorld) -> None:
    card = still.describe()
    wrong: list[tuple[Card, str]] = [
        (replace(card, predicts=()), "no signal is predicted by all"),
        (replace(card, schema=replace(card.schema, step_s=0.2)), "a step takes 0.2 s, not 0.1 s"),
        (
            other_signal(card, "position", lambda place: replace(place, unit="ft")),
            "'persistence' cannot replace 'linear': unit of 'position' is ft, not m",
        ),
    ]
    for odd, message in wrong:
        with pytest.raises(ConfigError, match=message):
            FallbackWorld([world, Odd(still, odd)])
    with pytest.raises(ConfigError, match="takes 'camera', which"):
        FallbackWorld(list(seen_and_unseen()[::-1]))
    with pytest.raises(ConfigError, match="0 worlds"):
        FallbackWorld([])
    with pytest.raises(ConfigError, match=r"min_trust 1\.5"):
        FallbackWorld([world], min_trust=1.5)
