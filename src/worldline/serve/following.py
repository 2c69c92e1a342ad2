"""How the service follows the running world of one client, step by step, also over steps without an observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays, History
from worldline.errors import InputError
from worldline.schema import Schema, Signal
from worldline.world.base import World
from worldline.world.session import Alarm, Session
from worldline.world.validation import check_group, check_history

MAX_GAP: Final = 100
"""Steps without an observation after which the history starts anew."""
NUM_KEPT: Final = 128
"""Observations that a session keeps, unless the world needs more."""


@final
@dataclass(frozen=True, kw_only=True)
class FollowedStep:
    """An observation of a running world.

    Args:
        step: its number.
        observations: per signal [*shape].
        observed: per signal, whether the value was observed; True if left out.
        actions: per signal [G, *shape], the actions since the observation before. The last one is repeated.
        exogenous: per signal [*shape], the last exogenous inputs; empty if unknown or if there are none.
    """

    step: int
    observations: Arrays
    observed: Mapping[str, bool]
    actions: Arrays
    exogenous: Arrays


@final
class Follower:
    """Follows one running world with a `Session`. Its methods run in a worker thread, one at a time.

    Args:
        tests_later: as in `Session`.

    Attributes:
        session: None before the first observation.
    """

    def __init__(self, *, tests_later: bool = False) -> None:
        self.session: Session | None = None
        self._tests_later = tests_later
        self._first, self._last, self._alarmed = 0, 0, -1

    def observe(self, world: World, step: FollowedStep) -> Session:
        """Adds an observation. Steps without one, since the last, are added as not observed.

        A step that was added already is left out. A new version of the world that takes other signals is not used.

        Raises:
            InputError: as in `Session.observe`. The step is then not added.
        """
        session = self.session
        if session is not None and step.step <= self._last:
            return session
        if session is None or step.step - self._last > MAX_GAP:
            # Clients get no bands, so adapting them would cost a prediction per step for nothing.
            num_kept = max(NUM_KEPT, world.describe().context + 2)
            session = Session(world, num_kept=num_kept, rate=0, tests_later=self._tests_later)
            session.observe(step.observations, observed=step.observed)
            self.session, self._first, self._alarmed = session, step.step, -1
        else:
            if world is not session.world:
                with suppress(InputError):
                    session.use(world)
            last = {name: value[-1] for name, value in session.history.observations.items()}
            exogenous, hidden = step.exogenous or None, dict.fromkeys(last, False)
            num_hidden = step.step - self._last - 1
            for number in range(num_hidden):
                session.observe(last, actions=_row(step.actions, number), exogenous=exogenous, observed=hidden)
                self._last += 1
            actions = _row(step.actions, num_hidden)
            session.observe(step.observations, actions=actions, exogenous=exogenous, observed=step.observed)
        self._last = step.step
        return session

    def new_alarms(self) -> list[Alarm]:
        """The alarms since the last call, in the client's numbers of steps."""
        # A session keeps the last alarms only, so they are not counted.
        alarms = [] if self.session is None else [alarm for alarm in self.session.alarms if alarm.step > self._alarmed]
        self._alarmed = alarms[-1].step if alarms else self._alarmed
        return [Alarm(step=alarm.step + self._first, since=alarm.since + self._first) for alarm in alarms]


def check_step(schema: Schema, step: FollowedStep) -> None:
    """Checks the arrays of a step without a call of the world.

    Raises:
        InputError: a signal is unknown, or has the wrong shape, dtype or values.
    """
    observed = {name: np.array([value]) for name, value in step.observed.items()}
    check_history(schema, History(observations=_lifted(step.observations), observed=observed))
    length = len(next(iter(step.actions.values()), ()))
    check_group(schema.actions, step.actions, (length,), "action")
    if step.exogenous:
        check_group(schema.exogenous, _lifted(step.exogenous), (1,), "exogenous input")


def forecast(signals: Sequence[Signal], horizon: int, future: Arrays | None, last: Arrays) -> Arrays | None:
    """The exogenous inputs of a plan, per signal [T, *shape]: `future`, or else the last ones repeated.

    Args:
        signals: the exogenous signals of the schema.
        horizon: T.
        future: per signal at least T steps; None for none.
        last: per signal [*shape]; empty if unknown.

    Raises:
        InputError: neither is known.
    """
    if not signals:
        return None
    if future is not None:
        return {name: value[:horizon] for name, value in future.items()}
    if not last:
        names = ", ".join(signal.name for signal in signals)
        raise InputError(f"the exogenous inputs {names} are unknown. Send their last values or a forecast.")
    return {name: np.repeat(np.asarray(value)[None], horizon, 0) for name, value in last.items()}


def shifted(actions: Arrays, steps: int, horizon: int) -> Arrays | None:
    """The last plan as a proposal [1, T, *shape] for the next one, `steps` later; its last action is repeated.

    Args:
        actions: per signal [T, *shape].
        steps: at least 0.
        horizon: T.
    """
    if steps >= horizon:
        return None
    index = np.minimum(np.arange(horizon) + steps, horizon - 1)
    return {name: value[index][None] for name, value in actions.items()}


def _lifted(arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    return {name: np.asarray(value)[None] for name, value in arrays.items()}


def _row(arrays: Arrays, number: int) -> dict[str, NDArray[np.generic]]:
    """Row `number`, or the last one if there are fewer."""
    return {name: value[min(number, len(value) - 1)] for name, value in arrays.items()}
