from dataclasses import replace

import numpy as np
import pytest

from worldline.data.roles import Behaviour, behaviour_of, guess_role
from worldline.schema import Role

OBSERVATION, ACTION, EXOGENOUS, REWARD = Role.OBSERVATION, Role.ACTION, Role.EXOGENOUS, Role.REWARD
HELD = Behaviour(num_steps=500, num_changes=50, memory=0.02)
SMOOTH = Behaviour(num_steps=500, num_changes=490, memory=0.99)
SLOW = Behaviour(num_steps=500, num_changes=50, memory=0.95)
FREE = replace(SMOOTH, driven=0.0, drives=0.0)
DISTURBING = replace(FREE, drives=0.5)
DRIVEN = replace(SMOOTH, driven=0.5, drives=0.0)
LIMITED = replace(SMOOTH, limited=0.02)


@pytest.mark.parametrize(("name", "unit", "role"), [
    ("motor_temperature", None, OBSERVATION),
    ("heater", "%", ACTION),
    ("heater", "degC", OBSERVATION),
    ("Q1", None, ACTION),
    ("ActuatorCmd", None, ACTION),
    ("temperature_setpoint", "degC", ACTION),
    ("outside_temperature", "degC", EXOGENOUS),
    ("return", None, REWARD),
    ("distance_to_target", None, None),
    ("Row No.", None, None),
    ("Säurepumpe Stellgrad", None, ACTION),
    ("Außentemperatur", None, EXOGENOUS),
    ("válvula de vapor", None, ACTION),
    ("consigne_température", "degC", ACTION),
    ("FIC101.OP", None, ACTION),
    ("FIC101.PV", None, OBSERVATION),
])  # fmt: skip
def test_roles_follow_from_whole_words_and_units(name, unit, role):
    guess = guess_role(name, unit)
    assert guess.role is role
    assert guess.reason


@pytest.mark.parametrize(("name", "behaviour", "role", "is_sure"), [
    ("valve_position", HELD, ACTION, True),
    ("valve_position", SMOOTH, ACTION, False),
    ("inflow", HELD, ACTION, False),
    ("inflow", SLOW, OBSERVATION, False),
    ("X17", SMOOTH, OBSERVATION, False),
    ("X17", LIMITED, ACTION, False),
    ("X17", DISTURBING, EXOGENOUS, False),
    ("pump_speed", FREE, ACTION, True),
    ("motor_speed", DRIVEN, OBSERVATION, False),
    ("tank_level", DRIVEN, OBSERVATION, True),
    ("feed_concentration", FREE, EXOGENOUS, True),
    ("pump_valv", FREE, ACTION, True),
    ("tank_leve", DRIVEN, OBSERVATION, False),
    ("motor_temperature", HELD, OBSERVATION, True),
])  # fmt: skip
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
    assert behaviour_of([np.clip(draw.normal(size=500).cumsum(), -5, 5)]).is_like_actuator
    assert behaviour_of([np.round(np.sin(np.arange(500) / 20), 1)]).limited == 0
    never = behaviour_of([np.full(9, 2.0)])
    assert (never.is_held, str(never)) == (False, "never changes")
    assert behaviour_of([]).num_steps == 0
