"""Guesses of the role of a logged column from its name, its unit and its values, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.data.role_names import RoleGuess, named_role
from worldline.schema import Kind, Role, Signal

GIVEN: Final = "given by you"
"""Reason of a role that the user named."""
_UNKNOWN: Final = "its name does not tell its role"

MIN_CHANGES: Final = 20
"""Smallest number of changes from which the dependence of a column on its own past follows."""
HELD_SHARE: Final = 0.5
"""Smallest share of steps that repeat the value of a held column."""
MIN_INFLUENCE: Final = 0.02
"""Smallest share of a column's changes from which an influence of other columns follows."""
STRONG_INFLUENCE: Final = 0.3
"""Share of an actuator's changes from which its column is rather a measurement."""
LIMITED_SHARE: Final = 0.005
"""Smallest share of values at its limits of a column that is limited."""
_SIGNIFICANCE: Final = 3.0
"""A correlation below this number of standard errors counts as none."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How a column changes from row to row.

    Args:
        num_steps: pairs of successive known values.
        num_changes: pairs that differ.
        memory: correlation of the value after a change with the value before it; 1 for a smooth signal.
        limited: share of values that equal the lowest or the highest one, if this is far more than of the next values.
        driven: share of its changes, as far as its own past does not explain them, that the past of other columns
            explains; None if unknown.
        drives: the largest share that it explains of another column's changes in this sense; None if unknown.
    """

    num_steps: int
    num_changes: int
    memory: float
    limited: float = 0.0
    driven: float | None = None
    drives: float | None = None

    @property
    def is_held(self) -> bool:
        """Whether it holds its value in most steps, and changes at least twice."""
        return self.num_changes >= 2 and self.num_steps - self.num_changes >= HELD_SHARE * self.num_steps

    @property
    def is_independent(self) -> bool:
        """Whether new values do not depend on the column's own past."""
        return self.num_changes >= MIN_CHANGES and abs(self.memory) < _SIGNIFICANCE / sqrt(self.num_changes)

    @property
    def varies_freely(self) -> bool:
        """Whether it holds its value, or takes values that do not depend on its own past."""
        return self.is_held or self.is_independent

    @property
    def is_like_actuator(self) -> bool:
        """Whether it holds values that nothing predicts, or stays at its limits."""
        is_stepped = self.is_held and (self.is_independent or self.is_free)
        return is_stepped or self.limited >= LIMITED_SHARE

    @property
    def is_driven(self) -> bool:
        """Whether other columns change it."""
        return self.driven is not None and self.driven >= MIN_INFLUENCE

    @property
    def is_free(self) -> bool:
        """Whether no other column changes it, as far as a linear law tells."""
        return self.driven is not None and self.driven < MIN_INFLUENCE

    def __str__(self) -> str:
        if not self.num_changes:
            return "never changes"
        if self.is_held:
            return f"holds for about {self.num_steps / self.num_changes:.0f} rows"
        return f"changes in {round(100 * self.num_changes / max(self.num_steps, 1))} % of the rows"


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


def uncertain(columns: Iterable[ColumnGuess]) -> tuple[ColumnGuess, ...]:
    """Returns the columns whose role a user should confirm, likely actions first; none if the user named an action."""
    signals = [column for column in columns if column.signal is not None]
    if any(column.guess.reason == GIVEN and column.guess.role is Role.ACTION for column in signals):
        return ()
    return tuple(sorted((column for column in signals if not column.guess.sure), key=_unlikeliness))


def likely_actions(columns: Iterable[ColumnGuess]) -> tuple[ColumnGuess, ...]:
    """Returns the columns that may be actions, the likeliest first."""
    signals = (column for column in columns if column.signal is not None and column.signal.kind is not Kind.IMAGE)
    return tuple(sorted((column for column in signals if column.guess.role is not None), key=_unlikeliness))


def _unlikeliness(column: ColumnGuess) -> tuple[bool, ...]:
    """A key that sorts likely actions first."""
    guess = column.guess
    behaviour = column.behaviour or Behaviour(num_steps=0, num_changes=0, memory=1.0)
    known = (guess.role is not Role.ACTION, guess.sure, guess.role is not Role.OBSERVATION)
    return (*known, not behaviour.is_like_actuator, not behaviour.varies_freely, not behaviour.is_free)


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
    limited = _limited(np.concatenate([*episodes, np.zeros(0)]))
    return Behaviour(num_steps=len(before), num_changes=int(moved.sum()), memory=memory, limited=limited)


def _limited(values: NDArray[np.float64]) -> float:
    """The share of values at the lowest or the highest one; 0 if rounding explains it."""
    levels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    if len(levels) < MIN_CHANGES:
        return 0.0
    ends = ((counts[0], counts[1:6]), (counts[-1], counts[-6:-1]))
    return float(sum(end for end, near in ends if end > 5 * near.max()) / counts.sum())


def guess_role(name: str, unit: str | None = None, behaviour: Behaviour | None = None) -> RoleGuess:
    """Returns the role of a column with one row per observation.

    Args:
        name: of the column.
        unit: None if unknown.
        behaviour: of the values; None if unknown.
    """
    named = named_role(name, unit)
    if behaviour is None:
        return RoleGuess(role=Role.OBSERVATION, reason="no word names an actuator") if named is None else named.guess
    if named is None:
        return _guess_of_values(behaviour)
    guess, joint = named.guess, f"{named.guess.reason}, and it {_clause(behaviour)}"
    if named.is_final:
        return guess
    if not guess.sure and guess.role is Role.ACTION and behaviour.varies_freely and not behaviour.is_driven:
        return replace(guess, reason=joint, sure=True)
    if not guess.sure and guess.role is Role.OBSERVATION and behaviour.is_like_actuator:
        return replace(guess, role=Role.ACTION, reason=joint)
    if behaviour.driven is None:
        return guess
    role, sure = named.driven if behaviour.is_driven else named.free
    if not sure and behaviour.is_driven and behaviour.driven < STRONG_INFLUENCE:
        role = guess.role or role  # a controller reacts to other columns, too
    if (role, sure) == (guess.role, guess.sure):
        return guess
    found = "other columns predict it" if behaviour.is_driven else "no other column predicts it"
    return RoleGuess(role=role, reason=f"{guess.reason}, {'and' if sure else 'but'} {found}", sure=sure)


def _guess_of_values(behaviour: Behaviour) -> RoleGuess:
    """The uncertain guess of a column whose name says nothing."""
    role, reason = Role.OBSERVATION, _UNKNOWN
    if behaviour.is_like_actuator:
        role, reason = Role.ACTION, f"it {_clause(behaviour)}, as an actuator does"
    elif behaviour.is_driven:
        reason = f"{_UNKNOWN}, and other columns predict it"
    elif behaviour.is_free and (behaviour.drives or 0.0) >= MIN_INFLUENCE:
        role, reason = Role.EXOGENOUS, "it predicts other columns, and no other column predicts it"
    elif behaviour.varies_freely:
        reason = f"{_UNKNOWN}, but it {_clause(behaviour)}"
    return RoleGuess(role=role, reason=reason, sure=False)


def _clause(behaviour: Behaviour) -> str:
    if behaviour.is_held and behaviour.is_independent:
        return f"{behaviour} and steps to values that do not depend on its past"
    if behaviour.is_held:
        return str(behaviour)
    return "takes values that do not depend on its past" if behaviour.is_independent else "stays at its limits"
