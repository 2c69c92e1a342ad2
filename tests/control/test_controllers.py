"""Controllers do what their settings say, for many plants at once, and their mistakes are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control.conftest import Line
from typer.testing import CliRunner

from worldline.cli.main import app
from worldline.control.controller import ReplanningController, Situation
from worldline.control.controllers import (
    Controller,
    ControllerActor,
    ControlRule,
    FunctionController,
    PidController,
    PidLoop,
    RuleController,
    ScheduleController,
    ScheduledStep,
    ValueRange,
    load_controller,
)
from worldline.data.store import open_store
from worldline.engines.baselines import Linear
from worldline.episode import Episode, History
from worldline.errors import ConfigError, InputError, UnknownNameError
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.record import record
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld

ROOM = Schema(
    signals=(
        Signal(name="air", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="degC", components=("in", "out")),
        Signal(name="heading", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0),
        Signal(name="heater", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="kW", low=(0.0,), high=(3.0,)),
        Signal(name="fan", role=Role.ACTION, kind=Kind.DISCRETE, shape=(), num_values=3),
    ),
    step_s=10.0,
)


def run(controller: Controller, *rows: Any, heading: float = 0.0, goals: Any = None) -> dict[str, list[Any]]:
    """Per action its values over steps; a row has the temperature inside, of one or of several plants."""
    loop = ReplanningController(ControllerActor(controller, ROOM), ROOM, context=1, replan_every=1, seed=0)
    taken: dict[str, list[Any]] = {"heater": [], "fan": []}
    loop.reset(goals or {})
    for row in rows:
        air = np.stack([np.atleast_1d(row), np.zeros(np.size(row))], 1)
        actions = loop.act({"air": air, "heading": np.full((len(air), 1), heading)})
        for name, value in actions.items():
            taken[name].append(np.squeeze(value).tolist())
    return taken


def test_a_pid_loop_computes_its_three_parts() -> None:
    loop = PidLoop(reads="air.in", acts="heater", set_point=20, gain=0.5, integral_s=100, derivative_s=5, bias=1)
    # Errors 1 and 3; the integral grows by 10 / 100 of the error; the value falls by 0.2 per second.
    taken = run(PidController([loop], ROOM), 19.0, 17.0)
    assert taken["heater"] == pytest.approx([1 + 0.5 * (1 + 0.1), 3.0])
    taken = run(PidController([loop], ROOM), 19.0, 18.9)
    assert taken["heater"][1] == pytest.approx(1 + 0.5 * (1.1 + 0.1 + 0.11 + 5 * 0.01))
    assert taken["fan"] == [0, 0]


def test_the_integral_waits_at_a_bound_and_a_reset_forgets_it() -> None:
    controller = PidController([PidLoop(reads="air.0", acts="heater", set_point=20, gain=1, integral_s=10)], ROOM)
    assert run(controller, *[0.0] * 50, 20.0)["heater"] == [3.0] * 50 + [0.0]  # it would be 3 with a full integral
    assert run(controller, 19.5, 20.0)["heater"] == pytest.approx([1.0, 0.5])
    assert run(controller, 20.0)["heater"] == [0.0]


def test_an_angle_is_corrected_the_short_way_and_the_goal_of_the_run_is_the_set_point() -> None:
    controller = PidController([PidLoop(reads="heading", acts="heater", gain=0.1)], ROOM)
    assert run(controller, 0.0, heading=350.0, goals={"heading": np.array([[10.0]])})["heater"] == pytest.approx([2.0])


def test_a_loop_without_a_set_point_needs_a_goal() -> None:
    with pytest.raises(InputError, match="'pid' at step 0: the run has no goal for 'heading'"):
        run(PidController([PidLoop(reads="heading", acts="heater", gain=1)], ROOM), 0.0)


def test_bounds_that_float32_cannot_hold_are_kept() -> None:
    narrow = replace(ROOM, signals=(*ROOM.observations, replace(ROOM["heater"], low=(-0.1,), high=(0.1,))))
    pid = PidController([PidLoop(reads="heading", acts="heater", set_point=9, gain=-100)], narrow)
    rules = RuleController([ControlRule(when={}, set={"heater": 0.1})], narrow)
    for controller, expected in ((pid, -0.1), (rules, 0.1)):
        loop = ReplanningController(ControllerActor(controller, narrow), narrow, context=1, replan_every=1, seed=0)
        (heat,) = loop.act({"air": np.zeros((1, 2)), "heading": np.zeros((1, 1))}).values()
        assert heat.item() == pytest.approx(expected)


def test_a_missing_value_counts_as_unchanged() -> None:
    controller = PidController([PidLoop(reads="air.in", acts="heater", set_point=20, gain=1)], ROOM)
    seen = [True, False]
    for number, expected in enumerate([1.0, 1.0]):
        history = History(
            observations={"air": np.array([[[19.0 - 5 * number, 0.0]]]), "heading": np.zeros((1, 1, 1))},
            observed={"air": np.array([[seen[number]]])},
        )
        assert controller.act(Situation(history=history, goals={}))["heater"].item() == expected


def test_rules_have_an_order_and_keep_what_they_do_not_set() -> None:
    controller = RuleController(
        [
            ControlRule(when={"air.in": ValueRange(above=30)}, set={"heater": 0, "fan": 2}),
            ControlRule(when={"air.in": ValueRange(below=20)}, set={"heater": 3}),
            ControlRule(when={"air.in": ValueRange(above=22)}, set={"heater": 0}),
        ],
        ROOM,
        {"fan": 1},
    )
    taken = run(controller, [21, 19], [19, 21], [21, 23], [31, 21])
    assert taken == {"heater": [[0, 3], [3, 3], [3, 0], [0, 0]], "fan": [[1, 1], [1, 1], [1, 1], [2, 1]]}
    assert controller.card.settings[0] == "air.in is above 30: heater = 0, fan = 2"


def test_a_schedule_follows_the_time_and_begins_again() -> None:
    steps = [ScheduledStep(at_s=10, set={"heater": 2}), ScheduledStep(at_s=20, set={"heater": 1, "fan": 1})]
    assert ScheduleController(steps, ROOM).card.settings[0] == "at 10 s: heater = 2"
    untimed = ScheduleController(steps, replace(ROOM, step_s=None))
    assert untimed.card.settings[1] == "at 20 steps: heater = 1, fan = 1"
    assert run(ScheduleController(steps, ROOM), *[0] * 4) == {"heater": [0, 2, 1, 1], "fan": [0, 0, 1, 1]}
    repeated = run(ScheduleController(steps, ROOM, period_s=30), *[0] * 5)
    assert repeated == {"heater": [0, 2, 1, 1, 2], "fan": [0, 0, 1, 1, 1]}


NUMBERS = st.floats(-1e3, 1e3)
LOOPS = st.builds(
    PidLoop,
    reads=st.sampled_from(["air.in", "air.out", "heading"]),
    acts=st.just("heater"),
    set_point=NUMBERS,
    gain=NUMBERS,
    integral_s=st.none() | st.floats(0.1, 1e3),
    derivative_s=st.floats(0, 1e3),
    bias=NUMBERS,
)


@given(LOOPS, st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6))
def test_plants_side_by_side_get_the_actions_of_each_alone_inside_the_bounds(loop: PidLoop, rows: list[Any]) -> None:
    controller = PidController([loop], ROOM)
    both = np.array(run(controller, *rows)["heater"])
    for plant in range(2):
        alone = run(controller, *[row[plant] for row in rows])["heater"]
        np.testing.assert_allclose(both[:, plant], alone)
    assert ((both >= 0) & (both <= 3)).all()


@pytest.mark.parametrize(("answer", "message"), [
    (lambda now: 1 / 0, "controller 'act' at step 1 failed: ZeroDivisionError"),
    (lambda now: {"heater": np.array([[np.nan]]), "fan": np.array([0])}, "at step 1: action 'heater' is nan"),
    (lambda now: {"heater": np.array([[4.0]]), "fan": np.array([0])}, "action 'heater' is .*outside its bounds"),
    (lambda now: {"heater": np.array([[1.0]])}, "at step 1: action 'fan' is missing"),
    (lambda now: None, "at step 1: action"),
])  # fmt: skip
def test_a_mistake_of_a_function_is_named_with_its_step(answer: Any, message: str) -> None:
    def act(now: Situation) -> Any:
        return answer(now) if now.step else {"heater": np.array([[1.0]]), "fan": np.array([0])}

    with pytest.raises(InputError, match=message):
        run(FunctionController(act), 20.0, 20.0)


@pytest.mark.parametrize(("text", "message"), [
    ("kind = 'pid'\nloops = []", "needs one loop"),
    ("kind = 'pid'\nloops = [{reads = 'air', acts = 'heater', gain = 1}]", "no observation 'air'.*air.0, air.in"),
    ("kind = 'pid'\nloops = [{reads = 'air.in', acts = 'fan', gain = 1}]", "'fan' is discrete"),
    ("kind = 'pid'\nloops = [{reads = 'air.in', acts = 'heater', gain = 1, integral_s = -1}]", "integral_s -1.0"),
    ("kind = 'pid'\nloops = [{reads = 'air.in', acts = 'heater', gain = 1, integral_s = 0}]", "integral_s 0.0"),
    (
        "kind = 'pid'\nloops = [{reads = 'air.0', acts = 'heater', gain = 1},"
        " {reads = 'air.1', acts = 'heater.0', gain = 1}]",
        "one loop for each action",
    ),
    ("kind = 'pid'\nloops = [{reads = 'air.in', acts = 'heater'}]", "missing required field `gain`"),
    ("kind = 'rules'\nrules = []", "no rules"),
    ("kind = 'rules'\nrules = [{when = {}, set = {heater = 9}}]", "9.0 is no value of action 'heater'"),
    ("kind = 'rules'\nrules = [{when = {}, set = {fan = 0.5}}]", "0.5 is no value of action 'fan'"),
    ("kind = 'schedule'\nsteps = [{at_s = 5, set = {}}, {at_s = 1, set = {}}]", "must rise"),
    ("kind = 'fuzzy'", "Invalid value 'fuzzy'"),
    ("kind = ", "no TOML file"),
])  # fmt: skip
def test_a_file_with_a_mistake_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_controller(tmp_path / "c.toml", ROOM)
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        load_controller(tmp_path / "none.toml", ROOM)
    with pytest.raises(UnknownNameError, match="nothing"):
        load_controller("tests.control.conftest:nothing", ROOM)
    with pytest.raises(InputError, match="Name a Controller"):
        load_controller("tests.control.conftest:SCHEMA", ROOM)


def test_a_controller_drives_an_environment_to_its_set_point(tmp_path: Path) -> None:
    file = tmp_path / "pid.toml"
    file.write_text("kind = 'pid'\nloops = [{reads = 'place', acts = 'push', set_point = 2, gain = 1}]")
    store = record(Line(), tmp_path / "logs", policy=str(file), num_episodes=3, max_steps=12, seed=0)
    places = np.stack([store.episode(number).observations["place"][:, 0] for number in range(3)])
    assert np.ptp(places[:, 0]) > 0.5
    np.testing.assert_allclose(places[:, -3:], 2.0, atol=1e-5)
    assert store.card.notes["policy"] == str(file)


def test_run_stores_the_episodes_and_prints_the_return(tmp_path: Path) -> None:
    file, out = tmp_path / "bang.toml", tmp_path / "logs"
    file.write_text("kind = 'rules'\nrules = [{when = {'observation.2' = {above = 0}}, set = {action = 1}}]")
    command = ["run", str(file), "--in", "Pendulum-v1", "--out", str(out), "--num-episodes", "3", "--max-steps", "20"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    store = open_store(out)
    returns = [store.episode(number).rewards["reward"].sum() for number in range(3)]
    assert f"Return {np.mean(returns):.4g}, 90 % interval of the mean" in " ".join(result.output.split())
    assert "observation.2 is above 0: action = 1" in result.output
    assert store.card.notes["policy"] == "controller rules"


def test_a_planner_on_a_world_is_a_controller(tmp_path: Path) -> None:
    level = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), precision="float64")
    valve = Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,))
    load = Signal(name="load", role=Role.EXOGENOUS, kind=Kind.VECTOR, shape=(1,), precision="float64")
    schema, draw = Schema(signals=(level, valve, load)), np.random.default_rng(0)
    episodes = list[Episode]()
    for _ in range(6):
        (valves, loads), levels = draw.uniform(-1, 1, (2, 40)).astype(np.float32), [0.0]
        for value, extra in zip(valves, loads, strict=True):
            levels.append(0.8 * levels[-1] + float(value) + float(extra))
        columns = {"level": np.array(levels), "valve": valves, "load": loads.astype(float)}
        columns = {name: value[:, None] for name, value in columns.items()}
        parts = ({name: columns[name]} for name in ("level", "valve", "load"))
        episodes.append(Episode(**dict(zip(("observations", "actions", "exogenous"), parts, strict=True))))
    world = LocalWorld(Linear.fit(episodes, schema, context=1), None, CrossEntropy())
    save_world(tmp_path / "world", world)
    (tmp_path / "goal.toml").write_text("[targets]\nlevel = 0.0\n[tolerance]\nlevel = 0.1\n")
    text = f'kind = "plan"\nworld = "{tmp_path / "world"}"\nhorizon = 4\ngoal = "goal.toml"\n'
    (tmp_path / "plan.toml").write_text(text)
    planner = load_controller(tmp_path / "plan.toml", schema)
    assert planner.card.settings == ("plans 4 steps of linear", "level within 0.1")
    loop = ReplanningController(ControllerActor(planner, schema), schema, context=2, replan_every=1, seed=0)
    loop.reset({"level": np.array([[1.5], [-0.5]])})
    now, before = np.zeros((2, 1)), np.zeros((2, 1))
    for step in range(7):
        extra = np.full((2, 1), 0.4 if step == 6 else 0.0)
        acts = loop.act({"level": now}, exogenous={"load": before}, forecast={"load": extra[:, None]})
        now, before = 0.8 * now + acts["valve"] + extra, extra
    np.testing.assert_allclose(now, [[1.5], [-0.5]], atol=0.05)  # the load of the last step was known
    for _ in range(2):
        now = 0.8 * now + loop.act({"level": now}, exogenous={"load": before})["valve"] + before
    np.testing.assert_allclose(now, [[1.5], [-0.5]], atol=0.05)  # without a forecast, it stays
