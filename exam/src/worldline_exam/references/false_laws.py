"""False laws of two colliding balls, for models that must fail.

All move balls like the lab while they are apart, except `slowed`, which is too slow from the start.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline_exam.labs.collision import MAX_PUSH, STEP_S, Collision
from worldline_exam.labs.driven import Driven
from worldline_exam.references.lab_oracle import Law

Floats = NDArray[np.floating]

MAX_PUSH_OVERLAP: Final = STEP_S**2 * MAX_PUSH
"""Overlap of balls that a push can cause before the predicted time of contact, m."""
_NAMES: Final = ("left_position", "left_velocity", "right_position", "right_velocity")


def undamped(lab: Driven) -> Law:
    """The law of a driven lab without damping."""
    return lambda start, actions: lab.simulate({**start, "damping": np.zeros_like(start["damping"])}, actions)


def unpushed(lab: Driven) -> Law:
    """The law of a driven lab without pushes."""
    return lambda start, actions: lab.simulate(start, {name: np.zeros_like(value) for name, value in actions.items()})


def passing() -> Law:
    """Balls pass through each other."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        state, path = _state(start), []
        for push in _pushes(actions):
            state = _free_step(state, push, np.zeros_like(push))
            path.append(state)
        return _signals(path)

    return law


def sticking(lab: Collision) -> Law:
    """Balls stick at contact and move on with their mean velocity, which conserves momentum but not energy."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        state, path = _state(start), []
        stuck = np.zeros(state.shape[1], bool)
        for push in _pushes(actions):
            until = _time_to_touch(lab, state)
            now = ~stuck & (until < STEP_S)
            free = _free_step(state, np.where(stuck, push / 2, push), np.where(stuck, push / 2, 0.0))
            state = np.where(now, _sticking_step(state, until), free)
            stuck |= now
            path.append(state)
        return _signals(path)

    return law


def slowed(lab: Collision, fastest: float) -> Law:
    """The law of the lab with initial speeds clipped to `fastest`, m/s."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        state = _state(start)
        state[1::2] = np.clip(state[1::2], -fastest, fastest)
        return lab.simulate(_arrays(state), actions)

    return law


def slowed_at_contact(lab: Collision, fastest: float) -> Law:
    """Balls move freely at any speed, but in a contact their speeds are clipped to `fastest`, m/s."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        state, path = _state(start), []
        for push in _pushes(actions):
            until = _time_to_touch(lab, state)
            slower = state.copy()
            slower[1::2] = np.clip(state[1::2], -fastest, fastest)
            # The lab makes whole steps, so a slower ball must start nearer to touch at the same moment.
            slower[::2] += np.where(until < STEP_S, until, 0.0) * (state[1::2] - slower[1::2])
            state = np.where(until < STEP_S, slower, state)
            moved = lab.simulate(_arrays(state), {"push": push[:, None, None]})
            state = _state({name: value[:, 0] for name, value in moved.items()})
            path.append(state)
        return _signals(path)

    return law


def _state(start: Arrays) -> Floats:
    """Position and velocity of the left and the right ball [4, M]."""
    return np.stack([start[name][:, 0].astype(float) for name in _NAMES])


def _arrays(state: Floats) -> dict[str, NDArray[np.float32]]:
    return {name: value[:, None].astype(np.float32) for name, value in zip(_NAMES, state, strict=True)}


def _pushes(actions: Arrays) -> Floats:
    """Pushes of the left ball [T, M], m/s2."""
    return np.asarray(np.clip(actions["push"][..., 0].astype(float), -MAX_PUSH, MAX_PUSH).T)


def _free_step(state: Floats, left: Floats, right: Floats) -> Floats:
    """The state after a step without contact, with pushes `left` and `right` [M]."""
    return np.stack(
        [
            state[0] + STEP_S * state[1] + STEP_S**2 / 2 * left,
            state[1] + STEP_S * left,
            state[2] + STEP_S * state[3] + STEP_S**2 / 2 * right,
            state[3] + STEP_S * right,
        ]
    )


def _sticking_step(state: Floats, until: Floats) -> Floats:
    """The state after a step in which balls touch after `until` [M], s; pushes are ignored in that step."""
    mean = (state[1] + state[3]) / 2
    until = np.minimum(until, STEP_S)
    after = (STEP_S - until) * mean
    return np.stack([state[0] + until * state[1] + after, mean, state[2] + until * state[3] + after, mean])


def _time_to_touch(lab: Collision, state: Floats) -> Floats:
    """Time [M] to contact at the present speed, s; infinite for balls that separate or have touched before."""
    gap, closing = state[2] - state[0] - 2 * lab.radius, state[1] - state[3]
    coming = (gap > -MAX_PUSH_OVERLAP) & (closing > 0)
    return np.where(coming, np.maximum(gap, 0.0) / np.where(coming, closing, 1.0), np.inf)


def _signals(path: list[Floats]) -> dict[str, NDArray[np.float32]]:
    """Signals [M, T, 1] from T states [4, M]."""
    values = np.stack(path, -1).astype(np.float32)
    return {name: value[..., None] for name, value in zip(_NAMES, values, strict=True)}
