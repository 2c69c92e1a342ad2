from __future__ import annotations

import numpy as np
import pytest

from worldline.data.roles import Behaviour, behaviour_of, guess_role, may_be_actuator, role_of_input, words_of
from worldline.schema import Role

O, A, E, R = Role.OBSERVATION, Role.ACTION, Role.EXOGENOUS, Role.REWARD  # noqa: E741
HELD = Behaviour(num_steps=500, num_changes=50, memory=0.02)
SMOOTH = Behaviour(num_steps=500, num_changes=490, memory=0.99)
SLOW = Behaviour(num_steps=500, num_changes=50, memory=0.95)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("motor_temperature", ("motor", "temperature")),
        ("Tank Temp. (inlet)", ("tank", "temp", "inlet")),
        ("MotorSpeed2", ("motor", "speed")),
        ("next.valve-1", ("next", "valve")),
        ("CO2", ("co2",)),
        ("Q1", ("q",)),
        ("Ölstand", ("ölstand",)),
    ],
)
def test_words_of_a_name(name, words):
    assert words_of(name) == words


@pytest.mark.parametrize(
    ("name", "unit", "role"),
    [
        ("motor_temperature", None, O),
        ("valve_position_feedback", None, O),
        ("removed_heat", None, O),
        ("heater", "%", A),
        ("heater", "degC", O),
        ("Q1", None, A),
        ("throttle", None, A),
        ("duty", None, A),
        ("ActuatorCmd", None, A),
        ("temperature_setpoint", "degC", A),
        ("motive_force", None, O),
        ("removable", None, O),
        ("outside_temperature", "degC", E),
        ("return_temperature", None, O),
        ("return", None, R),
        ("episode_reward", None, R),
        ("render_time", None, None),
        ("distance_to_target", None, None),
        ("goal_state", None, None),
        ("Row No.", None, None),
        ("remark", None, None),
        ("state", None, O),
    ],
)
def test_roles_follow_from_whole_words_and_units(name, unit, role):
    guess = guess_role(name, unit)
    assert guess.role is role
    assert guess.reason


@pytest.mark.parametrize(
    ("name", "behaviour", "role", "is_sure"),
    [
        ("valve_position", HELD, A, True),
        ("valve_position", SMOOTH, O, False),
        ("Q1", HELD, A, True),
        ("inflow", HELD, A, False),
        ("inflow", SLOW, O, False),
        ("inflow", SMOOTH, O, True),
        ("motor_temperature", HELD, O, True),
        ("heater", SMOOTH, A, True),
    ],
)
def test_values_decide_where_words_do_not(name, behaviour, role, is_sure):
    guess = guess_role(name, None, behaviour)
    assert (guess.role, guess.sure) == (role, is_sure)


def test_behaviour_tells_steps_from_smooth_signals():
    draw = np.random.default_rng(0)
    stepped = np.repeat(draw.uniform(size=100), 10)
    held = behaviour_of([stepped[:500], stepped[500:]])
    assert (held.num_steps, held.num_changes, str(held)) == (998, 98, "holds for about 10 rows")
    assert (held.is_held, held.is_independent) == (True, True)
    smooth = behaviour_of([np.sin(np.arange(500) / 20)])
    assert (smooth.is_held, smooth.is_independent, str(smooth)) == (False, False, "changes in 100 % of the rows")
    assert behaviour_of([draw.normal(size=500)]).is_independent
    never = behaviour_of([np.full(9, 2.0)])
    assert (never.is_held, str(never)) == (False, "never changes")
    assert behaviour_of([]).num_steps == 0


def test_what_may_be_an_actuator():
    assert [may_be_actuator(name) for name in ("inflow", "heater", "tank_level", "weather")] == [
        True,
        True,
        False,
        False,
    ]


def test_arrays_of_inputs_are_actions_unless_a_word_says_otherwise():
    assert role_of_input("move") == (A, "")
    assert role_of_input("outdoor_air")[0] is E
    assert role_of_input("reward") == (R, "")
    role, doubt = role_of_input("thrust")
    assert (role, "if it is not chosen" in doubt) == (A, True)
