"""Whether one world can take the place of another without the application noticing."""

from __future__ import annotations

from collections.abc import Collection

from worldline.engines.base import Card
from worldline.schema import Role, Schema

_SAME = ("kind", "shape", "unit", "num_values", "components", "entity", "period")
_SAME_OF_ACTIONS = (*_SAME, "low", "high")
"""Bounds too: narrower ones would refuse what the application sends, wider ones plan what its actuator cannot do."""

_NEEDED = ("reaches",)
"""Abilities without which a verb that worked is refused."""


def differences(before: Card, after: Card) -> tuple[str, ...]:
    """What an application written against `before` would notice of `after`, in words; empty where nothing.

    It may predict more signals. It takes no observation that was not taken, acts through the same signals with the same
    bounds, and speaks in the same units and at the same rate.

    Args:
        before: the world that answers now.
        after: the one to take its place.
    """
    spoken = {*before.inputs, *before.predicts} & {*after.inputs, *after.predicts}
    found = list(clashes(before.schema, after.schema, spoken))
    found += [f"{name!r} is no longer predicted" for name in before.predicts if name not in after.predicts]
    found += [
        f"{name!r} has to be observed, and was not asked for" for name in after.inputs if name not in before.inputs
    ]
    if before.action_conditioned and not after.action_conditioned:
        found.append("it no longer heeds actions, so it cannot plan")
    found += [
        f"the ability {name!r} is gone" for name in _NEEDED if name in before.abilities and name not in after.abilities
    ]
    return tuple(found)


def clashes(before: Schema, after: Schema, observations: Collection[str]) -> tuple[str, ...]:
    """Where two schemas differ in the time of a step, in actions and exogenous signals, or in what is observed.

    Args:
        before: of the world that answers now.
        after: of the other.
        observations: the names that matter; those that only one of them has do not.
    """
    found = []
    if None not in (before.step_s, after.step_s) and before.step_s != after.step_s:
        found.append(f"a step takes {after.step_s} s, not {before.step_s} s")
    for role in (Role.ACTION, Role.EXOGENOUS):
        old, new = ({signal.name for signal in schema.of(role)} for schema in (before, after))
        found += [f"the {role} signal {name!r} is gone" for name in sorted(old - new)]
        found += [f"the {role} signal {name!r} is new, and nobody gives it" for name in sorted(new - old)]
    for signal in after.signals:
        known = [one for one in before.of(signal.role) if one.name == signal.name]
        if not known or signal.role is Role.REWARD:
            continue
        if signal.role is Role.OBSERVATION and signal.name not in observations:
            continue
        fields = _SAME_OF_ACTIONS if signal.role is Role.ACTION else _SAME
        was, now = vars(known[0]), vars(signal)
        found += [
            f"{field} of {signal.name!r} is {now[field]}, not {was[field]}"
            for field in fields
            if now[field] != was[field]
        ]
    return tuple(found)
