"""Figures of runs: costs, violations, settling times and use of actions have known values in small runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldline.control.imagination import Runs
from worldline.control.run_goal import RunGoal, load_goal, run_figures
from worldline.episode import Episode
from worldline.errors import ConfigError
from worldline.planning.costs import AtMost, Change, Price
from worldline.schema import Kind, Role, Schema, Signal

LEVEL = Signal(name="level", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m")
ANGLE = Signal(name="angle", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="deg", period=360.0)
VALVE = Signal(name="valve", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(3.0,))
SCHEMA = Schema(signals=(LEVEL, ANGLE, VALVE))


def runs(levels: list[float], valves: list[float], goals: list[float] | None = None, angle: float = 0.0) -> Runs:
    """One run, after the action 0."""
    steps = len(valves)
    return Runs(
        lengths=np.array([steps]),
        observations={
            "level": np.array(levels, np.float32).reshape(1, -1, 1),
            "angle": np.full((1, steps + 1, 1), angle, np.float32),
        },
        actions={"valve": np.array(valves, np.float32).reshape(1, -1, 1)},
        exogenous={},
        goals={} if goals is None else {"level": np.array(goals, np.float32).reshape(1, -1, 1)},
        before={"valve": np.zeros((1, 1), np.float32)},
    )


def test_costs_add_up() -> None:
    goal = RunGoal(
        targets={"level": 2.0},
        tolerance={"level": 0.5},
        costs=(Price(signal="valve", price=10.0), Change(signal="valve", tolerance=2.0)),
    )
    figures = run_figures(runs([9.0, 2.5, 3.0], [1.0, 2.0], [2.0, 2.0]), goal, SCHEMA)
    np.testing.assert_allclose(figures.step_cost, [[1 + 10 + 0.25, 4 + 20 + 0.25]])
    np.testing.assert_allclose(figures.cost, [(11.25 + 24.25) / 2])


def test_an_error_of_an_angle_goes_the_short_way() -> None:
    goal = RunGoal(targets={"angle": 350.0}, tolerance={"angle": 10.0})
    run = runs([0.0, 0.0], [0.0], angle=10.0)
    figures = run_figures(Runs(**{**vars(run), "goals": {"angle": np.full((1, 1, 1), 350, np.float32)}}), goal, SCHEMA)
    np.testing.assert_allclose(figures.cost, [4.0], rtol=1e-5)


def test_a_constraint_is_counted_at_each_step() -> None:
    goal = RunGoal(costs=(Price(signal="valve", price=1.0),), constraints=(AtMost(signal="level", bound=2.0),))
    figures = run_figures(runs([9.0, 1.0, 3.0, 2.0, 2.5], [0.0] * 4), goal, SCHEMA)
    np.testing.assert_array_equal(figures.violated, [[[False, True, False, True]]])
    np.testing.assert_allclose(figures.violations, [[0.5]])
    assert np.isnan(figures.settling).all()


def test_settling_begins_anew_after_each_change_of_the_target() -> None:
    goal = RunGoal(targets={"level": "wanted"}, tolerance={"level": 0.5})
    levels = [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0]
    figures = run_figures(runs(levels, [0.0] * 6, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]), goal, SCHEMA)
    np.testing.assert_allclose(figures.settling, [1.0])  # 1 step each
    never = run_figures(runs([0.0] * 5, [0.0] * 4, [1.0] * 4), goal, SCHEMA)
    np.testing.assert_allclose(never.settling, [4.0])


def test_use_is_the_mean_change_in_shares_of_the_range() -> None:
    goal = RunGoal(costs=(Price(signal="valve", price=1.0),))
    figures = run_figures(runs([0.0] * 3, [2.0, 1.0]), goal, SCHEMA)
    np.testing.assert_allclose(figures.use, [(2 + 1) / 4 / 2])


def test_targets_come_from_the_log_or_are_numbers() -> None:
    episode = Episode(
        observations={"level": np.zeros((3, 1), np.float32)},
        actions={"valve": np.zeros((2, 1), np.float32)},
        exogenous={"wanted": np.array([[1.0], [2.0]], np.float32), "wide": np.zeros((2, 2), np.float32)},
    )
    tolerance = {"level": 1.0}
    named = RunGoal(targets={"level": "wanted"}, tolerance=tolerance).logged_targets(episode, SCHEMA)
    np.testing.assert_array_equal(named["level"], [[1.0], [2.0]])
    fixed = RunGoal(targets={"level": 3.0}, tolerance=tolerance).logged_targets(episode, SCHEMA)
    np.testing.assert_array_equal(fixed["level"], [[3.0], [3.0]])
    for wrong in ("wide", "missing"):
        with pytest.raises(ConfigError, match=f"the target of 'level' is '{wrong}', which is no logged signal"):
            RunGoal(targets={"level": wrong}, tolerance=tolerance).logged_targets(episode, SCHEMA)
    with pytest.raises(ConfigError, match="target 'valve' is no observed vector"):
        RunGoal(targets={"valve": 1.0}, tolerance={"valve": 1.0}).logged_targets(episode, SCHEMA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither targets nor costs"),
        ("[targets]\nlevel = 1.0", "the target of 'level' has no tolerance above 0"),
        ("[targets]\nlevel = true\n[tolerance]\nlevel = 1", "targets.level is True: Expected"),
        ("[tolerance]\nlevel = 'x'", "tolerance.level is 'x': Expected"),
        ("prize = 1", "unknown field `prize`"),
        ("reward = 1", "reward is 1: Expected `bool`"),
        ("costs = [{ rule = 'Print' }]", "Invalid value 'Print'"),
        ("costs = [{ rule = 'Price', signal = 'valve' }]", "missing required field `price`"),
        ("costs = 3", "costs"),
        ("[", "is no TOML file"),
        ("[targets]\nlevel = nan\n[tolerance]\nlevel = 1", "targets.level is nan"),
        ("constraints = [{ rule = 'AtMost', signal = 'level', bound = nan }]", r"constraints\[0\].bound is nan"),
    ],
)
def test_a_wrong_goal_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "goal.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_goal(tmp_path / "goal.toml")


def test_a_goal_is_read(tmp_path: Path) -> None:
    (tmp_path / "goal.toml").write_text(
        'constraints = [{ rule = "AtMost", signal = "level", bound = 3 }]\n'
        'costs = [{ rule = "Price", signal = "valve", price = 0.5 }]\n'
        '[targets]\nlevel = "wanted"\n[tolerance]\nlevel = 0.1\n'
    )
    goal = load_goal(tmp_path / "goal.toml")
    assert (goal.targets, goal.tolerance) == ({"level": "wanted"}, {"level": 0.1})
    assert goal.constraints == (AtMost(signal="level", bound=3.0),)
    (price,) = goal.costs
    assert isinstance(price, Price)
    assert (price.signal, price.price) == ("valve", 0.5)
    with pytest.raises(ConfigError, match="Name a TOML or JSON file"):
        load_goal(tmp_path / "missing.toml")
