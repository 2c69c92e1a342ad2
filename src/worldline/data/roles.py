"""Guesses of the role of a logged column from its name, its unit and its values, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.schema import Role, Signal


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LOGGER: Final = _words("render rendering fps walltime wallclock uuid guid unnamed checksum")
_COUNTERS: Final = _words("step steps timestep index idx row rows id iteration no nr")
_TEXTS: Final = _words("note notes remark remarks comment comments message description")
_GOALS: Final = _words("goal goals")
_DIFFERENCES: Final = _words("distance error deviation residual progress remaining")
_TARGETS: Final = _words("target targets setpoint reference goal")
_REWARDS: Final = _words("reward rewards")
_FEEDBACK: Final = _words(
    "feedback fb measured measurement sensor actual reading observed observation estimated estimate pv status state "
    "alarm fault running counter consumption energy"
)
_COMMANDS: Final = _words(
    "action actions act control controls command commands commanded cmd setpoint setpoints manipulated mv throttle "
    "duty dutycycle pwm move steering steer pedal actuator actuators"
)
_SURROUNDINGS: Final = _words(
    "exogenous weather outdoor outdoors outside ambient disturbance disturbances forecast wind irradiance rain tariff "
    "price"
)
_MEASURED: Final = _words(
    "temperature temperatures temp temps level pressure humidity concentration moisture ph co2 mass weight vibration "
    "velocity acceleration altitude heading"
)
_DEVICES: Final = (
    _words("heater heaters heating cooler cooling valve valves pump pumps motor motors fan fans blower damper burner")
    | _words("compressor chiller boiler furnace brake rudder thruster gripper shutter lamp vent mixer agitator")
    | _words("stirrer relay switch inverter")
)
_QUANTITIES: Final = _words("position speed rpm flow power current voltage torque opening angle frequency load output")
_LETTERS: Final = _words("a u q")
"""Names of inputs in textbooks, if the name has no other word: u, a1, Q2."""

_MEASURED_UNITS: Final = _words(
    "c °c degc celsius k kelvin f °f degf bar mbar pa kpa mpa hpa psi ppm g/m3 kg/m3 g/l mg/l mol/l m/s m/s2 ph"
)
_QUANTITY_UNITS: Final = _words("a ma v mv rpm 1/min hz nm n·m n*m kwh wh j m mm cm rad deg °")

MIN_CHANGES: Final = 20
"""Smallest number of changes from which the dependence of a column on its own past follows."""
HELD_SHARE: Final = 0.5
"""Smallest share of steps that repeat the value of a held column."""
_SIGNIFICANCE: Final = 3.0
"""A correlation below this number of standard errors counts as none."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How a column changes from row to row.

    Args:
        num_steps: pairs of successive known values.
        num_changes: pairs that differ.
        memory: correlation of the value after a change with the value before it; 1 for a smooth signal.
    """

    num_steps: int
    num_changes: int
    memory: float

    @property
    def is_held(self) -> bool:
        """Whether it holds its value in most steps, and changes at least twice."""
        return self.num_changes >= 2 and self.num_steps - self.num_changes >= HELD_SHARE * self.num_steps

    @property
    def is_independent(self) -> bool:
        """Whether new values do not depend on the column's own past."""
        return self.num_changes >= MIN_CHANGES and abs(self.memory) < _SIGNIFICANCE / sqrt(self.num_changes)

    def __str__(self) -> str:
        if not self.num_changes:
            return "never changes"
        if self.is_held:
            return f"holds for about {self.num_steps / self.num_changes:.0f} rows"
        return f"changes in {round(100 * self.num_changes / max(self.num_steps, 1))} % of the rows"


@dataclass(frozen=True, kw_only=True)
class RoleGuess:
    """A guess of a role.

    Args:
        role: None if the column should be left out.
        reason: a clause without a subject, such as "the word 'heater' names an actuator".
        sure: whether a user need not confirm it.
    """

    role: Role | None
    reason: str
    sure: bool = True


@dataclass(frozen=True, kw_only=True)
class ColumnGuess:
    """What was inferred of one column or array of the logs.

    Args:
        name: of the column.
        guess: its role.
        signal: with the guessed role; None if no signal can hold the column.
        low: smallest logged value per component; empty if unknown.
        high: largest logged value per component; empty if unknown.
        behaviour: how it changes; None if unknown.
        is_signal: whether the inferred schema holds it. The other columns are times, episodes or facts, or left out.
    """

    name: str
    guess: RoleGuess
    signal: Signal | None = None
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    behaviour: Behaviour | None = None
    is_signal: bool = True


def behaviour_of(episodes: Sequence[NDArray[np.float64]]) -> Behaviour:
    """Returns how a column changes.

    Args:
        episodes: [rows] known values of each episode.
    """
    before = np.concatenate([values[:-1] for values in episodes] or [np.zeros(0)])
    after = np.concatenate([values[1:] for values in episodes] or [np.zeros(0)])
    finite = np.isfinite(before) & np.isfinite(after)
    before, after = before[finite], after[finite]
    moved = before != after
    old, new = before[moved], after[moved]
    scale = max(float(np.abs(new).max(initial=0.0)), float(np.abs(old).max(initial=0.0))) or 1.0
    old, new = old / scale, new / scale  # squares of large values would overflow
    varies = len(old) > 1 and old.std() > 0 and new.std() > 0
    memory = float(np.corrcoef(old, new)[0, 1]) if varies else 1.0
    return Behaviour(num_steps=len(before), num_changes=int(moved.sum()), memory=memory)


def words_of(name: str) -> tuple[str, ...]:
    """Returns the words of a name in lower case, split at signs, digits and changes to upper case."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("CO2", "co2").replace("pH", "ph"))
    return tuple(word for word in re.split(r"(?<!co)[\W\d_]+", parted.lower()) if word)


def role_of_name(name: str, unit: str | None = None) -> RoleGuess | None:
    """Returns the role that follows from the words of a name and its unit; None if none follows.

    Words for feedback come before words for commands, and these before quantities, because `valve_command_feedback` is
    measured, and `temperature_setpoint` is chosen.

    Args:
        name: of the column.
        unit: None if unknown.
    """
    words, short = words_of(name), (unit or "").strip().lower()
    known = set(words)

    def word_in(group: frozenset[str]) -> str:
        return next((word for word in words if word in group), "")

    if word := word_in(_LOGGER):
        return RoleGuess(role=None, reason=f"the word '{word}' names a value of the logger")
    if word := word_in(_TEXTS):
        return RoleGuess(role=None, reason=f"the word '{word}' names a text for people")
    if words and words[-1] in _COUNTERS and (len(words) == 1 or known <= _COUNTERS | {"episode", "frame", "ep"}):
        return RoleGuess(role=None, reason=f"the word '{words[-1]}' names a counter")
    if word := word_in(_GOALS):
        return RoleGuess(role=None, reason=f"the word '{word}' names the task, not the state")
    if (word := word_in(_DIFFERENCES)) and known & _TARGETS:
        return RoleGuess(role=None, reason=f"the word '{word}' names a value derived from a target")
    if (word := word_in(_REWARDS)) or words in (("return",), ("returns",)):
        return RoleGuess(role=Role.REWARD, reason=f"the word '{word or words[0]}' names a reward")
    if word := word_in(_FEEDBACK):
        return RoleGuess(role=Role.OBSERVATION, reason=f"the word '{word}' names a measurement")
    if word := word_in(_COMMANDS):
        return RoleGuess(role=Role.ACTION, reason=f"the word '{word}' names a command")
    if word := word_in(_SURROUNDINGS):
        return RoleGuess(role=Role.EXOGENOUS, reason=f"the word '{word}' names the surroundings")
    if word := word_in(_MEASURED):
        return RoleGuess(role=Role.OBSERVATION, reason=f"the word '{word}' names a measured quantity")
    if short in _MEASURED_UNITS:
        return RoleGuess(role=Role.OBSERVATION, reason=f"the unit {unit} is of a measured quantity")
    if word := word_in(_DEVICES):
        quantity = word_in(_QUANTITIES) or (unit if short in _QUANTITY_UNITS else "")
        reason = f"the word '{word}' names an actuator"
        return RoleGuess(role=Role.ACTION, reason=reason, sure=not quantity)
    if len(words) == 1 and words[0] in _LETTERS:
        return RoleGuess(role=Role.ACTION, reason=f"'{name}' is a usual name of an input", sure=False)
    return None


def guess_role(name: str, unit: str | None = None, behaviour: Behaviour | None = None) -> RoleGuess:
    """Returns the role of a column with one row per observation.

    Args:
        name: of the column.
        unit: None if unknown.
        behaviour: of the values; None if unknown.
    """
    named = role_of_name(name, unit)
    if behaviour is None or (named is not None and named.sure):
        return named or RoleGuess(role=Role.OBSERVATION, reason="no word names an actuator")
    varies, words = behaviour.is_held or behaviour.is_independent, _clause(behaviour)
    if named is not None and varies:
        return RoleGuess(role=Role.ACTION, reason=f"{named.reason}, and it {words}")
    if named is not None:
        is_smooth = behaviour.num_changes >= MIN_CHANGES and _is_quantity(name, unit)
        reason = f"{named.reason}, but its values follow from its past"
        return RoleGuess(role=Role.OBSERVATION, reason=reason, sure=False) if is_smooth else named
    if behaviour.is_held:
        role = Role.ACTION if behaviour.is_independent else Role.OBSERVATION
        return RoleGuess(role=role, reason=f"it {words}, as an actuator does", sure=False)
    reason = "no word names an actuator" + (f", but it {words}" if varies else "")
    return RoleGuess(role=Role.OBSERVATION, reason=reason, sure=not varies)


def _is_quantity(name: str, unit: str | None) -> bool:
    """Whether the name or the unit tells a quantity that is measured or set, such as the speed of a pump."""
    return bool(set(words_of(name)) & _QUANTITIES) or (unit or "").strip().lower() in _QUANTITY_UNITS


def may_be_actuator(name: str, unit: str | None = None) -> bool:
    """Whether neither the name nor the unit tells a measurement."""
    named = role_of_name(name, unit)
    return named is None or named.role is Role.ACTION


def role_of_input(name: str) -> tuple[Role, str]:
    """The role of an array of T rows, and a sentence that states the assumption, or ""."""
    named = role_of_name(name)
    if named is not None and named.role is Role.EXOGENOUS:
        return Role.EXOGENOUS, "assumed to be exogenous (known but not chosen) because of its name."
    if named is not None and named.role in (Role.REWARD, Role.ACTION):
        return named.role, ""
    return Role.ACTION, "assumed to be an action; if it is not chosen, give it the role exogenous."


def _clause(behaviour: Behaviour) -> str:
    if behaviour.is_held and behaviour.is_independent:
        return f"{behaviour} and steps to values that do not depend on its past"
    return str(behaviour) if behaviour.is_held else "takes values that do not depend on its past"
