"""Checks whether one world can replace another without a change in the application."""

from __future__ import annotations

from collections.abc import Collection

from worldline.engines.base import Card
from worldline.formatting import plural
from worldline.schema import Role, Schema
from worldline.world.calibration import DEFAULT_LEVEL

_SAME = ("kind", "shape", "unit", "num_values", "components", "entity", "period")
_SAME_OF_ACTIONS = (*_SAME, "low", "high")
"""Bounds count too. Narrower ones refuse what the application sends; wider ones give plans beyond its actuator."""


def differences(before: Card, after: Card) -> tuple[str, ...]:
    """The differences that an application written for `before` would notice with `after`; empty if compatible.

    `after` may predict more signals. It must not need more observations, or allow fewer worlds or candidates in a call.
    Its bands must have as many steps, and the level 0.9 if those of `before` have it. Its actions need the same bounds.
    All shared signals need the same units and step time.

    Args:
        before: card of the current world.
        after: card of the replacement.
    """
    shared = {*before.inputs, *before.predicts} & {*after.inputs, *after.predicts}
    messages = list(clashes(before.schema, after.schema, shared))
    messages += [f"{name!r} is no longer predicted" for name in before.predicts if name not in after.predicts]
    messages += [f"{name!r} is a new required observation" for name in after.inputs if name not in before.inputs]
    if before.action_conditioned and not after.action_conditioned:
        messages.append("it is no longer action-conditioned, so it cannot plan")
    if after.band_horizon < before.band_horizon:
        messages.append(f"bands reach {plural(after.band_horizon, 'step')}, not {before.band_horizon}")
    if before.band_horizon and after.band_level < (wanted := min(before.band_level, DEFAULT_LEVEL)):
        messages.append(f"bands have levels up to {after.band_level:.3g}, not {wanted:.3g}; it needs more episodes")
    for name in ("max_batch", "max_candidates"):
        old, new = vars(before)[name], vars(after)[name]
        if new < old:
            messages.append(f"{name} is {new}, not {old}")
    if "reaches" in before.abilities and "reaches" not in after.abilities:
        messages.append("it has no distance to goals (ability 'reaches'); `worldline learn --goals` fits it")
    return tuple(messages)


def clashes(before: Schema, after: Schema, observations: Collection[str]) -> tuple[str, ...]:
    """The differences between two schemas in step time, actions, exogenous signals or shared observations.

    Args:
        before: schema of the current world.
        after: schema of the other world.
        observations: names to compare. Names that only one schema has are skipped.
    """
    messages = []
    if None not in (before.step_s, after.step_s) and before.step_s != after.step_s:
        messages.append(f"a step takes {after.step_s} s, not {before.step_s} s")
    for role in (Role.ACTION, Role.EXOGENOUS):
        old, new = ({signal.name for signal in schema.of(role)} for schema in (before, after))
        messages += [f"the {role} signal {name!r} is missing" for name in sorted(old - new)]
        messages += [
            f"the {role} signal {name!r} is required by the new version but not provided by the application"
            for name in sorted(new - old)
        ]
    for signal in after.signals:
        known = [other for other in before.of(signal.role) if other.name == signal.name]
        if not known or signal.role is Role.REWARD:
            continue
        if signal.role is Role.OBSERVATION and signal.name not in observations:
            continue
        keys, name = _SAME_OF_ACTIONS if signal.role is Role.ACTION else _SAME, signal.name
        was, now = vars(known[0]), vars(signal)
        messages += [f"{key} of {name!r} is {now[key]}, not {was[key]}" for key in keys if now[key] != was[key]]
    return tuple(messages)
