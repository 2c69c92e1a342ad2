from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldline.data.role_names import RoleGuess, may_be_actuator, role_of_input, words_of
from worldline.data.roles import (
    GIVEN,
    Behaviour,
    ColumnGuess,
    behaviour_of,
    guess_role,
    likely_actions,
    uncertain,
)
from worldline.schema import Kind, Role, Signal

OBSERVATION, ACTION, EXOGENOUS, REWARD = Role.OBSERVATION, Role.ACTION, Role.EXOGENOUS, Role.REWARD
HELD = Behaviour(num_steps=500, num_changes=50, memory=0.02)
SMOOTH = Behaviour(num_steps=500, num_changes=490, memory=0.99)
SLOW = Behaviour(num_steps=500, num_changes=50, memory=0.95)
FREE = replace(SMOOTH, driven=0.0, drives=0.0)
DISTURBING = replace(FREE, drives=0.5)
DRIVEN = replace(SMOOTH, driven=0.5, drives=0.0)
LIMITED = replace(SMOOTH, limited=0.02)


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
        ("Säurepumpe Stellgrad", None, ACTION),
        ("Kuehlwasserventil", None, ACTION),
        ("Reaktortemperatur", None, OBSERVATION),
        ("Außentemperatur", None, EXOGENOUS),
        ("válvula de vapor", None, ACTION),
        ("temperatura_agua", None, OBSERVATION),
        ("consigne_température", "degC", ACTION),
        ("Débit mesuré", None, OBSERVATION),
        ("FIC101.OP", None, ACTION),
        ("FIC101.PV", None, OBSERVATION),
        ("TI_204", None, OBSERVATION),
        ("12-FCV", None, ACTION),
        ("tank_level_m", None, OBSERVATION),
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
        ("valve_position", SMOOTH, ACTION, False),
        ("Q1", HELD, ACTION, True),
        ("inflow", HELD, ACTION, False),
        ("inflow", SLOW, OBSERVATION, False),
        ("inflow", SMOOTH, OBSERVATION, False),
        ("X17", SMOOTH, OBSERVATION, False),
        ("X17", HELD, ACTION, False),
        ("X17", LIMITED, ACTION, False),
        ("X17", DISTURBING, EXOGENOUS, False),
        ("pump_speed", FREE, ACTION, True),
        ("pump_speed", DRIVEN, ACTION, False),
        ("motor_speed", DRIVEN, OBSERVATION, False),
        ("tank_level", DRIVEN, OBSERVATION, True),
        ("tank_level", FREE, OBSERVATION, False),
        ("feed_concentration", FREE, EXOGENOUS, True),
        ("feed_concentration", DRIVEN, OBSERVATION, False),
        ("outside_temperature", DRIVEN, EXOGENOUS, False),
        ("pump_valv", FREE, ACTION, True),
        ("tank_leve", DRIVEN, OBSERVATION, False),
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
    assert behaviour_of([np.clip(draw.normal(size=500).cumsum(), -5, 5)]).is_like_actuator
    assert behaviour_of([np.round(np.sin(np.arange(500) / 20), 1)]).limited == 0
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


def test_uncertain_roles_name_likely_actions_first_and_end_when_an_action_is_named():
    signals = {
        name: Signal(name=name, role=OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="?") for name in ("x", "h", "pump")
    }
    columns = [
        ColumnGuess(name=name, guess=guess_role(name, None, behaviour), signal=signals[name], behaviour=behaviour)
        for name, behaviour in (("x", DRIVEN), ("h", SLOW), ("pump", HELD))
    ]
    assert [column.name for column in uncertain(columns)] == ["h", "x"]
    assert [column.name for column in likely_actions(columns)] == ["pump", "h", "x"]
    named = replace(columns[0], guess=RoleGuess(role=ACTION, reason=GIVEN))
    assert uncertain([named, *columns[1:]]) == ()
