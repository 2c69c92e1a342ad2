from __future__ import annotations

import numpy as np
import pytest

from worldline.data.roles import Behaviour, behaviour_of, guess_role, may_be_actuator, role_of_input, words_of
from worldline.schema import Role

OBSERVATION, ACTION, EXOGENOUS, REWARD = Role.OBSERVATION, Role.ACTION, Role.EXOGENOUS, Role.REWARD
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
        ("motor_temperature", None, OBSERVATION),
        ("valve_position_feedback", None, OBSERVATION),
        ("removed_heat", None, OBSERVATION),
        ("heater", "%", ACTION),
        ("heater", "degC", OBSERVATION),
        ("Q1", None, ACTION),
        ("throttle", None, ACTION),
        ("duty", None, ACTION),
        ("ActuatorCmd", None, ACTION),
        ("temperature_setpoint", "degC", ACTION),
        ("motive_force", None, OBSERVATION),
        ("removable", None, OBSERVATION),
        ("outside_temperature", "degC", EXOGENOUS),
        ("return_temperature", None, OBSERVATION),
        ("return", None, REWARD),
        ("episode_reward", None, REWARD),
        ("render_time", None, None),
        ("distance_to_target", None, None),
        ("goal_state", None, None),
        ("Row No.", None, None),
        ("remark", None, None),
        ("state", None, OBSERVATION),
    ],
)
def test_roles_follow_from_whole_words_and_units(name, unit, role):
    guess = guess_role(name, unit)
    assert guess.role is role
    assert guess.reason


@pytest.mark.parametrize(
    ("name", "behaviour", "role", "is_sure"),
    [
        ("valve_position", HELD, ACTION, True),
        ("valve_position", SMOOTH, OBSERVATION, False),
        ("Q1", HELD, ACTION, True),
        ("inflow", HELD, ACTION, False),
        ("inflow", SLOW, OBSERVATION, False),
        ("inflow", SMOOTH, OBSERVATION, True),
        ("motor_temperature", HELD, OBSERVATION, True),
        ("heater", SMOOTH, ACTION, True),
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
    assert role_of_input("move") == (ACTION, "")
    assert role_of_input("outdoor_air")[0] is EXOGENOUS
    assert role_of_input("reward") == (REWARD, "")
    role, doubt = role_of_input("thrust")
    assert (role, "if it is not chosen" in doubt) == (ACTION, True)
