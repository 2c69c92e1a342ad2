from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from worldline.control.controller import RandomActor, WorldActor
from worldline.control.controllers import ControllerActor, ScheduleController, ScheduledStep
from worldline.control.goal_reaching import GoalReaching, StartGoalPair, draw_pairs, evaluate
from worldline.data.store import Store
from worldline.episode import Arrays
from worldline.errors import DataError, InputError, UnknownNameError
from worldline.schema import Schema


def reached(observation: Arrays, goal: Arrays) -> bool:
    return bool(abs(observation["place"] - goal["place"])[0] < 0.5)


@pytest.fixture
def pairs(store: Store) -> tuple[StartGoalPair, ...]:
    return draw_pairs(
        store, range(12), offset=5, num_pairs=20, reached=reached,
        group=lambda start, goal: "right" if goal["place"][0] > start["place"][0] else "left",
        groups=("left", "right"), context=3, seed=0,
    )  # fmt: skip


def run(actor: Any, make_environment: Callable[[], Any], pairs: Any, **changes: Any) -> GoalReaching:
    given: dict[str, Any] = {
        "reached": reached, "goal_signals": ("place",), "context": 1, "replan_every": 2, "track": ("place",),
        "seed": 0,
    }  # fmt: skip
    return evaluate(actor, make_environment, pairs, **(given | changes))


def no_move(schema: Schema) -> ControllerActor:
    """Always takes the action next to 0."""
    return ControllerActor(ScheduleController([ScheduledStep(at_s=0.0, set={})], schema), schema)


def test_a_perfect_world_reaches_every_goal_by_the_shortest_way(pairs: Any, line: Any, line_world: Any) -> None:
    result = run(WorldActor(world=line_world(), horizon=4), line, pairs)
    assert (result.success.successes, result.success.trials, result.success.high) == (20, 20, 1.0)
    assert {label: rate.value for label, rate in result.groups.items()} == {"left": 1.0, "right": 1.0}
    assert all(rate.trials == 10 for rate in result.groups.values())
    for pair, attempt in zip(pairs, result.attempts, strict=True):
        away = abs(pair.goal["place"] - pair.start["place"])[0]
        assert attempt.num_steps == np.ceil(away - 0.5)  # as near as half a metre, at one metre a step
        assert attempt.path["place"].shape == (attempt.num_steps + 1, 1)
        assert attempt.path["place"][0] == pytest.approx(pair.start["place"])
        assert reached({"place": attempt.path["place"][-1]}, pair.goal)


def test_a_world_with_the_wrong_sign_fails_and_uses_up_the_budget(pairs: Any, line: Any, line_world: Any) -> None:
    result = run(WorldActor(world=line_world(sign=-1.0), horizon=4), line, pairs)
    assert (result.success.value, {attempt.num_steps for attempt in result.attempts}) == (0, {10})


def test_not_moving_reaches_nothing_and_random_less_than_a_world(pairs: Any, line: Any, schema: Schema) -> None:
    assert run(no_move(schema), line, pairs, replan_every=1).success.value == 0
    first, again, other = (run(RandomActor(schema=schema), line, pairs, seed=seed) for seed in (0, 0, 1))
    assert first.success.value < 0.6
    for one, two in zip(first.attempts, again.attempts, strict=True):
        assert np.array_equal(one.path["place"], two.path["place"])
    assert not np.array_equal(first.attempts[0].path["place"][1], other.attempts[0].path["place"][1])


def test_plans_for_all_unfinished_pairs_at_once(pairs: Any, line: Any, line_world: Any) -> None:
    world = line_world()
    result = run(WorldActor(world=world, horizon=4), line, pairs)
    left = [sum(a.num_steps > 2 * number for a in result.attempts) for number in range(len(result.rounds))]
    assert [each.num_worlds for each in result.rounds] == left
    assert [len(history.observations["place"]) for history in world.histories] == left
    assert result.plan_s > 0


def test_each_pair_goes_as_it_would_alone(pairs: Any, line: Any, line_world: Any) -> None:
    together = run(WorldActor(world=line_world(), horizon=4), line, pairs)
    for pair, attempt in zip(pairs, together.attempts, strict=True):
        alone = run(WorldActor(world=line_world(), horizon=4), line, [pair]).attempts[0]
        assert np.array_equal(alone.path["place"], attempt.path["place"])


def test_the_past_of_the_start_is_shown(store: Store, pairs: Any, line: Any, line_world: Any) -> None:
    world = line_world()
    run(WorldActor(world=world, horizon=4), line, pairs, context=3)
    for row, pair in enumerate(pairs):
        due = store.episode(pair.episode).history(pair.at, 3)
        assert world.histories[0].observations["place"][row] == pytest.approx(due.observations["place"], abs=1e-5)
        assert np.array_equal(world.histories[0].actions["push"][row], due.actions["push"])


def test_an_environment_that_does_not_replay_is_found_out(pairs: Any, line: Any, line_world: Any) -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(DataError, match=r"episode \d+, signal 'place', step \d+: .*has another value") as caught:
        run(WorldActor(world=line_world(), horizon=4), lambda: line(lambda: generator.normal(0, 0.01)), pairs)
    assert caught.value.step == pairs[0].at


def test_a_signal_that_is_not_shown_is_found_out(pairs: Any, line: Any, line_world: Any) -> None:
    odd = [replace(pair, start={**pair.start, "heat": np.zeros(1)}) for pair in pairs]
    with pytest.raises(DataError, match=r"'heat'.*no such signal"):
        run(WorldActor(world=line_world(), horizon=4), line, odd)


def test_an_attempt_ends_with_its_environment(pairs: Any, line: Any, schema: Schema) -> None:
    one = pairs[0]
    result = run(no_move(schema), lambda: line(ends_after=one.at + 3), [one], replan_every=1)
    assert result.attempts[0].num_steps == 3
    assert not result.attempts[0].success


def test_reports_progress_and_closes_every_environment(pairs: Any, line: Any, line_world: Any) -> None:
    made: list[Any] = []
    seen: list[tuple[int, int]] = []

    def make() -> Any:
        made.append(line())
        return made[-1]

    run(WorldActor(world=line_world(), horizon=4), make, pairs, progress=lambda now: seen.append((now.step, now.total)))
    assert (seen, seen[-1]) == (sorted(seen), (20, 20))
    assert len(made) == 20
    assert all(environment.closed for environment in made)


def test_refuses_what_makes_no_sense(pairs: Any, line: Any, schema: Schema) -> None:
    actor = no_move(schema)
    with pytest.raises(InputError, match="pairs is empty"):
        run(actor, line, [])
    with pytest.raises(InputError, match="Draw pairs with this context"):
        run(actor, line, pairs, context=40)
    with pytest.raises(InputError, match="goal_signals is empty"):
        run(actor, line, pairs, goal_signals=())
    with pytest.raises(UnknownNameError, match="'place'"):
        run(actor, line, pairs, goal_signals=("plase",))
    with pytest.raises(UnknownNameError, match="'place'"):
        run(actor, line, pairs, track=("plase",))
