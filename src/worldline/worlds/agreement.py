"""Whether one world can take the place of another without the application noticing."""

from __future__ import annotations

from worldline.contracts.engine import Card
from worldline.contracts.schema import Role, Signal

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
    found = []
    steps = before.schema.step_s, after.schema.step_s
    if None not in steps and steps[0] != steps[1]:
        found.append(f"a step takes {steps[1]} s, not {steps[0]} s")
    for role in (Role.ACTION, Role.EXOGENOUS):
        old, new = ({signal.name for signal in card.schema.of(role)} for card in (before, after))
        found += [f"the {role} signal {name!r} is gone" for name in sorted(old - new)]
        found += [f"the {role} signal {name!r} is new, and nobody gives it" for name in sorted(new - old)]
    found += [f"{name!r} is no longer predicted" for name in before.predicts if name not in after.predicts]
    found += [
        f"{name!r} has to be observed, and was not asked for" for name in after.inputs if name not in before.inputs
    ]
    found += [
        f"the ability {name!r} is gone" for name in _NEEDED if name in before.abilities and name not in after.abilities
    ]
    for signal in after.schema.signals:
        found += _changes(before, after, signal)
    return tuple(found)


def _changes(before: Card, after: Card, signal: Signal) -> list[str]:
    """What changed in a signal that both speak."""
    spoken = (*before.inputs, *before.predicts) if signal.role is Role.OBSERVATION else None
    known = [one for one in before.schema.of(signal.role) if one.name == signal.name]
    if not known or signal.role is Role.REWARD or (spoken is not None and signal.name not in spoken):
        return []
    if signal.role is Role.OBSERVATION and signal.name not in (*after.inputs, *after.predicts):
        return []
    fields = _SAME_OF_ACTIONS if signal.role is Role.ACTION else _SAME
    old, new = vars(known[0]), vars(signal)
    return [
        f"{field} of {signal.name!r} is {new[field]}, not {old[field]}" for field in fields if new[field] != old[field]
    ]
