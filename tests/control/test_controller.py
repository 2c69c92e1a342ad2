from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from worldline.control.controller import (
    MAX_ROUNDS,
    Actor,
    RandomActor,
    ReplanningController,
    Situation,
    WorldActor,
    no_move,
)
from worldline.engines.baselines import Linear
from worldline.episode import Arrays, History
from worldline.errors import ConfigError, InputError, UnsupportedError
from worldline.planning.costs import AtMost, Price
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.world.base import PlanStatus
from worldline.world.local import LocalWorld


def history(num_worlds: int, length: int = 1) -> History:
    return History(
        observations={"place": np.zeros((num_worlds, length, 1), np.float32)},
        actions={"push": np.zeros((num_worlds, length - 1, 1), np.float32)},
    )


def situation(num_worlds: int, *places: float, remaining: Arrays | None = None) -> Situation:
    return Situation(history=history(num_worlds), goals=goals(*places), remaining=remaining)


def goals(*places: float) -> Arrays:
    return {"place": np.array(places, np.float32)[:, None]}


class Script(Actor):
    """Answers 10 * call + step for each world, and keeps what it was given."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.asked: list[Situation] = []
        self.seeds: list[int] = []

    def act(self, now: Situation, *, num_steps: int, seed: int) -> Any:
        self.asked.append(now)
        self.seeds.append(seed)
        steps = 10.0 * len(self.asked) + np.arange(self.length, dtype=np.float32)
        return {"push": np.broadcast_to(steps[:, None], (len(now.goals["place"]), self.length, 1))}


def drive(controller: ReplanningController, num_steps: int, num_worlds: int = 1) -> list[float]:
    """The pushes for the first world; the place it sees is the number of the step."""
    pushes = []
    for step in range(num_steps):
        action = controller.act({"place": np.full((num_worlds, 1), step, np.float32)})
        assert action["push"].shape == (num_worlds, 1)
        pushes.append(float(action["push"][0, 0]))
    return pushes


def test_takes_some_steps_of_each_answer_and_hands_back_the_rest(schema: Schema) -> None:
    actor = Script(5)
    controller = ReplanningController(actor, schema, context=1, replan_every=2, seed=0)
    controller.reset(goals(3.0))
    assert drive(controller, 5) == [10, 11, 20, 21, 30]
    assert [each.num_worlds for each in controller.rounds] == [1, 1, 1]
    left = [now.remaining and now.remaining["push"][0, :, 0].tolist() for now in actor.asked]
    assert left == [None, [12, 13, 14], [22, 23, 24]]
    short = Script(2)
    controller = ReplanningController(short, schema, context=1, replan_every=2, seed=0)
    controller.reset(goals(3.0))
    drive(controller, 4)
    assert [now.remaining for now in short.asked] == [None, None], "nothing is left where every step is taken"


def test_shows_the_last_observations_and_the_actions_between_them(schema: Schema) -> None:
    actor = Script(1)
    controller = ReplanningController(actor, schema, context=3, replan_every=1, seed=0)
    controller.reset(goals(3.0))
    drive(controller, 5)
    seen = [now.history.observations["place"][0, :, 0].tolist() for now in actor.asked]
    taken = [now.history.actions["push"][0, :, 0].tolist() for now in actor.asked]
    assert seen == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert taken == [[], [10], [10, 20], [20, 30], [30, 40]]


def test_begins_with_the_past_that_it_is_given(schema: Schema) -> None:
    actor = Script(1)
    controller = ReplanningController(actor, schema, context=3, replan_every=1, seed=0)
    past = History(observations={"place": np.array([[[-2.0], [-1.0]]])}, actions={"push": np.array([[[7.0], [8.0]]])})
    controller.reset(goals(3.0), past)
    drive(controller, 2)
    assert actor.asked[0].history.observations["place"][0, :, 0].tolist() == [-2, -1, 0]
    assert actor.asked[0].history.actions["push"][0, :, 0].tolist() == [7, 8]
    assert actor.asked[1].history.actions["push"][0, :, 0].tolist() == [8, 10]


def test_goes_on_with_some_of_the_worlds(schema: Schema) -> None:
    actor = Script(4)
    controller = ReplanningController(actor, schema, context=2, replan_every=2, seed=0)
    controller.reset(goals(0.0, 1.0, 2.0))
    controller.act({"place": np.array([[0.0], [1.0], [2.0]])})
    controller.keep(np.array([2, 1]))
    for _ in range(2):
        controller.act({"place": np.array([[2.0], [1.0]])})
    shown, wanted, remaining = actor.asked[-1].history, actor.asked[-1].goals, actor.asked[-1].remaining
    assert shown.observations["place"][:, :, 0].tolist() == [[2, 2], [1, 1]]
    assert wanted["place"][:, 0].tolist() == [2, 1]
    assert remaining["push"].shape == (2, 2, 1)


def test_a_reset_forgets_and_repeats(schema: Schema) -> None:
    actor = Script(3)
    controller = ReplanningController(actor, schema, context=4, replan_every=2, seed=5)
    for _ in range(2):
        controller.reset(goals(3.0))
        drive(controller, 3)
    seeds = actor.seeds
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]
    assert actor.asked[2].history.observations["place"].shape == (1, 1, 1)
    assert actor.asked[2].remaining is None


def test_where_actions_take_effect_late_the_actor_knows_what_is_on_its_way(schema: Schema) -> None:
    actor = Script(5)
    controller = ReplanningController(actor, schema, context=4, replan_every=1, delay=2, seed=0)
    controller.reset(goals(3.0))
    assert drive(controller, 4) == [10, 20, 30, 40]
    pending = [now.pending and now.pending["push"][0, :, 0].tolist() for now in actor.asked]
    assert pending == [[0, 0], [0, 10], [10, 20], [20, 30]]
    assert actor.asked[3].history.actions["push"][0, :, 0].tolist() == [0, 0, 10]  # each where it took effect
    controller.reset(goals(3.0))
    drive(controller, 1)
    sent = actor.asked[-1].pending
    assert sent["push"][0, :, 0].tolist() == [0, 0]


def test_what_acts_from_outside_is_part_of_the_history_and_of_the_forecast() -> None:
    wind = Signal(name="wind", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,))
    place = Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    push = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,))
    actor = Script(1)
    controller = ReplanningController(actor, Schema(signals=(place, push, wind)), context=3, replan_every=1, seed=0)
    controller.reset(goals(1.0))
    ahead = {"wind": np.array([[[7.0], [8.0]]])}
    controller.act({"place": np.zeros((1, 1))}, forecast=ahead)
    assert actor.asked[0].history.exogenous["wind"].shape == (1, 0, 1)
    assert actor.asked[0].forecast is ahead
    with pytest.raises(InputError, match="'wind' is missing"):
        controller.act({"place": np.zeros((1, 1))})
    for gust in (1.0, 2.0, 3.0):
        controller.act({"place": np.zeros((1, 1))}, exogenous={"wind": np.array([[gust]])})
    assert actor.asked[-1].history.exogenous["wind"][0, :, 0].tolist() == [2, 3]
    assert actor.asked[-1].history.observations["place"].shape == (1, 3, 1)
    controller.reset(goals(1.0))
    controller.act({"place": np.zeros((1, 1))})
    assert actor.asked[-1].history.exogenous["wind"].shape == (1, 0, 1)


def test_costs_that_change_over_time_are_those_of_the_step(line_world: Any) -> None:
    world = line_world()
    actor = WorldActor(world=world, horizon=2, costs=lambda step: [Price(signal="push", price=float(step))])
    controller = ReplanningController(actor, world.describe().schema, context=1, replan_every=2, seed=0)
    controller.reset(goals(9.0))
    for _ in range(5):
        controller.act({"place": np.zeros((1, 1), np.float32)})
    assert [goal.costs[0].price for goal, _ in world.asked] == [0.0, 2.0, 4.0]


def test_a_world_is_given_as_much_of_the_forecast_as_its_plan_needs() -> None:
    toy = Integrator(camera=False)
    world = LocalWorld(Linear.fit(toy.episodes(30, 20, seed=0), toy.schema, context=1), None, CrossEntropy())
    actor = WorldActor(world=world, horizon=3, tolerance={"position": 1.0})
    past = History(
        observations={"position": np.zeros((1, 1, 2), np.float32)},
        actions={"push": np.zeros((1, 0, 2), np.float32)},
        exogenous={"wind": np.zeros((1, 0, 2), np.float32)},
    )
    wind = np.full((1, 9, 2), 0.5, np.float32)
    now = Situation(history=past, goals={"position": np.zeros((1, 2), np.float32)}, forecast={"wind": wind})
    with pytest.raises(InputError, match="exogenous 'wind' is missing"):
        actor.act(replace(now, history=replace(past, exogenous={}), forecast=None), num_steps=1, seed=0)
    against = actor.act(now, num_steps=1, seed=0)["push"]
    assert against[0, 0] == pytest.approx([-0.5, -0.5], abs=0.3)
    late = replace(now, pending={"push": np.zeros((1, 2, 2), np.float32)})
    assert actor.act(late, num_steps=1, seed=0)["push"].shape == (1, 3, 2)
    with pytest.raises(InputError, match="forecast of 'wind' has 4 steps, but a plan needs 5"):
        actor.act(replace(late, forecast={"wind": wind[:, :4]}), num_steps=1, seed=0)


def test_what_is_on_its_way_stays_with_its_world(schema: Schema) -> None:
    class Apart(Actor):
        def __init__(self) -> None:
            self.pending: list[Arrays | None] = []

        def act(self, now: Situation, *, num_steps: int, seed: int) -> Any:
            self.pending.append(now.pending)
            return {"push": now.goals["place"][:, None]}

    actor = Apart()
    controller = ReplanningController(actor, schema, context=1, replan_every=1, delay=1, seed=0)
    controller.reset(goals(1.0, 2.0, 3.0))
    controller.act({"place": np.zeros((3, 1), np.float32)})
    controller.keep(np.array([2, 0]))
    controller.act({"place": np.zeros((2, 1), np.float32)})
    sent = actor.pending[-1]
    assert sent["push"][:, 0, 0].tolist() == [3.0, 1.0]


class Slow(Script):
    """The n-th answer takes `times[n]` seconds of the clock that it is itself."""

    def __init__(self, length: int, *times: float) -> None:
        super().__init__(length)
        self.times, self.now_s = times, 0.0

    def __call__(self) -> float:
        return self.now_s

    def act(self, now: Situation, *, num_steps: int, seed: int) -> Any:
        self.now_s += self.times[len(self.asked)]
        return super().act(now, num_steps=num_steps, seed=seed)


def test_what_is_left_of_the_answer_before_stands_in_for_one_that_comes_too_late(schema: Schema) -> None:
    actor = Slow(3, 9.0, 1.0, 9.0, 9.0, 9.0)
    controller = ReplanningController(actor, schema, context=9, replan_every=1, seed=0, clock=actor)
    controller.reset(goals(3.0))
    taken, fresh = list[float](), list[bool]()
    for _ in range(5):
        action = controller.act({"place": np.zeros((1, 1), np.float32)}, budget_s=0.5, deadline_s=1.0)
        taken.append(float(action["push"][0, 0]))
        fresh.append(controller.fresh)
    # At first there is none before it; 20 to 22 are then used up, and the fifth has to be waited for.
    assert taken == [10, 20, 21, 22, 50]
    assert fresh == [True, True, False, False, True]
    assert [each.late for each in controller.rounds] == [False, False, True, True, False]
    assert [each.elapsed_s for each in controller.rounds] == [9, 1, 9, 9, 9]
    assert actor.asked[-1].history.actions["push"][0, :, 0].tolist() == [10, 20, 21, 22]  # those that were taken
    left = [now.remaining and now.remaining["push"][0, :, 0].tolist() for now in actor.asked]
    assert left == [None, [11, 12], [21, 22], [22], None]
    assert {now.budget_s for now in actor.asked} == {0.5}


def test_an_answer_that_is_taken_in_turn_is_fresh_once(schema: Schema) -> None:
    actor = Slow(4, 1.0, 9.0, 9.0)
    controller = ReplanningController(actor, schema, context=1, replan_every=3, seed=0, clock=actor)
    controller.reset(goals(3.0))
    taken, fresh = list[float](), list[bool]()
    for _ in range(6):
        action = controller.act({"place": np.zeros((1, 1), np.float32)}, deadline_s=1.0)
        taken.append(float(action["push"][0, 0]))
        fresh.append(controller.fresh)
    assert taken == [10, 11, 12, 20, 21, 22]  # of the first one step is left, and three are needed
    assert fresh == [True, False, False, True, False, False]


@pytest.mark.parametrize(
    ("own", "asked", "due"), [(None, None, None), (None, 2.0, 2.0), (1.0, None, 1.0), (3.0, 2.0, 2.0), (1.0, 2.0, 1.0)]
)
def test_a_world_plans_within_both_budgets(line_world: Any, own: Any, asked: Any, due: Any) -> None:
    world = line_world()
    now = replace(situation(1, 9.0), budget_s=asked)
    WorldActor(world=world, horizon=1, budget_s=own).act(now, num_steps=1, seed=0)
    assert world.budgets == [due]


def test_a_controller_remembers_so_many_rounds_and_no_more(schema: Schema) -> None:
    controller = ReplanningController(Script(1), schema, context=1, replan_every=1, seed=0)
    controller.reset(goals(3.0))
    assert controller.rounds.maxlen == MAX_ROUNDS
    drive(controller, 3)
    first = controller.rounds
    controller.reset(goals(3.0))
    assert (len(first), len(controller.rounds)) == (3, 0)


@pytest.mark.parametrize("wrong", [{"context": 0}, {"replan_every": 0}, {"delay": -1}])
def test_controller_refuses_what_makes_no_sense(schema: Schema, wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        ReplanningController(Script(1), schema, **({"context": 1, "replan_every": 1, "seed": 0} | wrong))


def test_a_world_proposes_what_is_left_prolonged_by_its_last_step(line_world: Any) -> None:
    world, left = line_world(), {"push": np.array([[[1.0], [2.0]]])}
    actor = WorldActor(world=world, horizon=4)
    actor.act(situation(1, 9.0, remaining=left), num_steps=2, seed=3)
    actor.act(situation(1, 9.0), num_steps=2, seed=4)
    WorldActor(world=world, horizon=4, warm_start=False).act(situation(1, 9.0, remaining=left), num_steps=2, seed=5)
    assert world.proposals[0]["push"].tolist() == [[[[1], [2], [2], [2]]]]  # [W, P, T, 1]
    assert (world.proposals[1:], world.seeds) == ([None, None], [3, 4, 5])


def test_a_world_starts_from_what_is_left_and_from_what_is_proposed_besides(line_world: Any) -> None:
    world, left = line_world(), {"push": np.array([[[1.0]], [[2.0]]])}
    logged = np.array([[[[5.0], [6.0]], [[7.0], [8.0]]]] * 2)  # [W, P, T, 1]
    seen = list[Situation]()

    def propose(now: Situation) -> Arrays:
        seen.append(now)
        return {"push": logged}

    actor = WorldActor(world=world, horizon=2, propose=propose)
    now = situation(2, 9.0, remaining=left)
    actor.act(now, num_steps=1, seed=0)
    actor.act(situation(2, 9.0), num_steps=1, seed=0)
    assert seen[0] is now
    assert world.proposals[0]["push"][0].tolist() == [[[1], [1]], [[5], [6]], [[7], [8]]]
    assert world.proposals[0]["push"][1].tolist() == [[[2], [2]], [[5], [6]], [[7], [8]]]
    assert world.proposals[1]["push"].tolist() == logged.tolist()


def test_a_world_is_shown_its_own_signals_only(line_world: Any) -> None:
    world = line_world()
    shown = History(
        observations={"place": np.zeros((1, 1, 1)), "camera": np.zeros((1, 1, 8, 8, 3))},
        actions={"push": np.zeros((1, 0, 1)), "lamp": np.zeros((1, 0))},
    )
    WorldActor(world=world, horizon=1).act(Situation(history=shown, goals=goals(9.0)), num_steps=1, seed=0)
    assert world.histories[0].observations.keys() == {"place"}
    assert world.histories[0].actions.keys() == {"push"}


def test_a_world_is_told_what_counts_beside_the_goal(line_world: Any) -> None:
    rule, price, world = AtMost(signal="place", bound=1.0), Price(signal="push", price=1.0), line_world()
    actor = WorldActor(world=world, horizon=2, constraints=[rule], costs=[price], tolerance={"place": 0.5})
    actor.act(situation(1, 3.0), num_steps=1, seed=0)
    ((goal, constraints),) = world.asked
    assert world.pending == [None]
    assert list(constraints) == [rule]
    assert (list(goal.costs), goal.tolerance) == ([price], {"place": 0.5})
    assert (goal.in_steps, goal.reward) == (False, False)
    WorldActor(world=world, horizon=2, in_steps=True, reward=True).act(situation(1, 3.0), num_steps=1, seed=0)
    assert (world.asked[-1][0].in_steps, world.asked[-1][0].reward) == (True, True)


def test_a_world_that_refuses_says_why(line_world: Any) -> None:
    actor = WorldActor(world=line_world(status=PlanStatus.REFUSED), horizon=1)
    with pytest.raises(UnsupportedError, match="it was asked to refuse"):
        actor.act(situation(1, 9.0), num_steps=1, seed=0)


def test_a_plan_must_hold_the_steps_that_are_taken(line_world: Any) -> None:
    with pytest.raises(InputError, match="num_steps is 3, but a plan has 2 steps"):
        WorldActor(world=line_world(), horizon=2).act(situation(1, 9.0), num_steps=3, seed=0)


MIXED = Schema(
    signals=(
        Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)),
        Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(2,), low=(1.0, -4.0), high=(3.0, 4.0)),
        Signal(name="gear", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3),
    )
)


def test_random_actions_fill_the_bounds() -> None:
    actor = RandomActor(schema=MIXED)
    first, again, other = (actor.act(situation(500, 0.0), num_steps=2, seed=seed) for seed in (0, 0, 1))
    assert (first["valve"].shape, first["valve"].dtype) == ((500, 2, 2), np.float32)
    assert first["valve"].min((0, 1)) == pytest.approx([1.0, -4.0], abs=0.05)
    assert first["valve"].max((0, 1)) == pytest.approx([3.0, 4.0], abs=0.05)
    assert first["gear"].dtype == np.int64
    assert np.bincount(first["gear"].ravel()) == pytest.approx([333] * 3, abs=60)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["valve"], other["valve"])


def test_random_actions_need_bounds() -> None:
    free = Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(0.0,))
    with pytest.raises(ConfigError, match="'push' has no finite bounds"):
        RandomActor(schema=Schema(signals=(free,)))


@pytest.mark.parametrize(("told", "least", "most"), [(2, 0.0, 0.15), (0, 0.3, 9.0)])
def test_who_knows_of_a_delay_holds_the_goal(told: int, least: float, most: float) -> None:
    """A toy whose pushes take effect two steps late, under a world that was learned where they did not."""
    toy = Integrator(camera=False, wind=False)
    world = LocalWorld(Linear.fit(toy.episodes(30, 20, seed=0), toy.schema, context=1), None, CrossEntropy())
    actor = WorldActor(world=world, horizon=4, tolerance={"position": 1.0})
    controller = ReplanningController(actor, toy.schema, context=1, replan_every=1, delay=told, seed=0)
    goal, place, none = np.array([[1.0, -0.5]], np.float32), np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)
    controller.reset({"position": goal})
    on_the_way, apart = [none, none], []
    for _ in range(25):
        on_the_way.append(controller.act({"position": place})["push"])
        place = toy.step(place, on_the_way.pop(0), none).astype(np.float32)
        apart.append(np.abs(place - goal).max())
    assert least < max(apart[10:]) < most


def test_not_moving_is_the_allowed_action_nearest_to_zero() -> None:
    actions = no_move(MIXED, 3, 2)
    assert (actions["valve"] == [1.0, 0.0]).all()
    assert (actions["valve"].shape, actions["valve"].dtype) == ((3, 2, 2), np.float32)
    assert (actions["gear"] == 0).all()
    assert actions["gear"].dtype == np.int64
