"""Laws of two balls that are false: who goes by one of them has not found out what a contact does at any speed.

All move balls as the lab does while these are apart, but for `slowed`, which is too slow from the start.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.episode import Arrays
from worldline_exam.labs.collision import MAX_PUSH, STEP_S, Collision
from worldline_exam.references.lab_oracle import Law

Floats = NDArray[np.floating]

PUSHED_IN: Final = STEP_S**2 * MAX_PUSH
"""m that balls may be in each other where a push brought them there sooner than their speed had it."""
_NAMES: Final = ("left_position", "left_velocity", "right_position", "right_velocity")


def passing() -> Law:
    """Balls pass through each other."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        state, path = _state(start), []
        for push in _pushes(actions):
            state = _flown(state, push, np.zeros_like(push))
            path.append(state)
        return _signals(path)

    return law


def sticking(lab: Collision) -> Law:
    """Balls that touch stay together and go on with the mean of their velocities: momentum is kept, energy is not."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        state, path = _state(start), []
        stuck = np.zeros(state.shape[1], bool)
        for push in _pushes(actions):
            until = _time_to_touch(lab, state)
            now = ~stuck & (until < STEP_S)
            free = _flown(state, np.where(stuck, push / 2, push), np.where(stuck, push / 2, 0.0))
            state = np.where(now, _stuck(state, until), free)
            stuck |= now
            path.append(state)
        return _signals(path)

    return law


def slowed(lab: Collision, fastest: float) -> Law:
    """The law of the lab for balls that are at most `fastest`, m/s: what is faster is taken for as fast as that."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        state = _state(start)
        state[1::2] = np.clip(state[1::2], -fastest, fastest)
        return lab.simulate(_arrays(state), actions)

    return law


def slowed_at_contact(lab: Collision, fastest: float) -> Law:
    """Balls move freely at any speed, but in a contact they do what balls of at most `fastest`, m/s, would do."""

    def law(start: Arrays, actions: Arrays) -> Arrays:
        state, path = _state(start), []
        for push in _pushes(actions):
            until = _time_to_touch(lab, state)
            slower = state.copy()
            slower[1::2] = np.clip(state[1::2], -fastest, fastest)
            # The lab makes whole steps: who slows down within one has to set out nearer, to touch at the same moment.
            slower[::2] += np.where(until < STEP_S, until, 0.0) * (state[1::2] - slower[1::2])
            state = np.where(until < STEP_S, slower, state)
            moved = lab.simulate(_arrays(state), {"push": push[:, None, None]})
            state = _state({name: value[:, 0] for name, value in moved.items()})
            path.append(state)
        return _signals(path)

    return law


def _state(start: Arrays) -> Floats:
    """Places and velocities [4, M], of the left ball and of the right one."""
    return np.stack([start[name][:, 0].astype(float) for name in _NAMES])


def _arrays(state: Floats) -> dict[str, NDArray[np.float32]]:
    return {name: value[:, None].astype(np.float32) for name, value in zip(_NAMES, state, strict=True)}


def _pushes(actions: Arrays) -> Floats:
    """Per step what the left ball is pushed with [T, M], m/s2."""
    return np.asarray(np.clip(actions["push"][..., 0].astype(float), -MAX_PUSH, MAX_PUSH).T)


def _flown(state: Floats, left: Floats, right: Floats) -> Floats:
    """The state after a step without a contact, pushed with `left` and `right` [M]."""
    return np.stack(
        [
            state[0] + STEP_S * state[1] + STEP_S**2 / 2 * left,
            state[1] + STEP_S * left,
            state[2] + STEP_S * state[3] + STEP_S**2 / 2 * right,
            state[3] + STEP_S * right,
        ]
    )


def _stuck(state: Floats, until: Floats) -> Floats:
    """The state after the step in which balls touch after `until` [M], s; no push is felt meanwhile."""
    mean = (state[1] + state[3]) / 2
    until = np.minimum(until, STEP_S)
    after = (STEP_S - until) * mean
    return np.stack([state[0] + until * state[1] + after, mean, state[2] + until * state[3] + after, mean])


def _time_to_touch(lab: Collision, state: Floats) -> Floats:
    """In how many s [M] balls touch, at the speed they have; infinite for those that part, or have touched before."""
    gap, closing = state[2] - state[0] - 2 * lab.radius, state[1] - state[3]
    coming = (gap > -PUSHED_IN) & (closing > 0)
    return np.where(coming, np.maximum(gap, 0.0) / np.where(coming, closing, 1.0), np.inf)


def _signals(path: list[Floats]) -> dict[str, NDArray[np.float32]]:
    """Signals [M, T, 1] of states [4, M], T of them."""
    found = np.stack(path, -1).astype(np.float32)
    return {name: value[..., None] for name, value in zip(_NAMES, found, strict=True)}
