"""Summarises p-values of steps as a `Surprise`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worldline.schema import Schema
from worldline.world.base import Moment, Surprise
from worldline.world.error_scores import StepPValues

MAX_MOMENTS: Final = 10
"""Largest number of reported moments."""

LARGEST_P_VALUE: Final = 0.1
"""Largest p-value of a reported moment."""


def surprise_of(schema: Schema, p_values: StepPValues, known: Mapping[str, NDArray[np.bool_]]) -> Surprise:
    """The surprise of an episode of T steps.

    Args:
        schema: schema of the world.
        p_values: p-values [T].
        known: per predicted signal [T], whether the outcome was observed.
    """
    # An outcome that was not observed is no surprise: its p-value is 1.
    signals = {name: np.where(known[name], value, 1.0) for name, value in p_values.signals.items()}
    any_known = np.logical_or.reduce([known[name] for name in signals])
    entities = {}
    for entity, value in p_values.entities.items():
        seen = np.logical_or.reduce([known[name] for name in signals if schema[name].entity == entity])
        entities[entity] = np.where(seen, value, 1.0)
    steps = np.where(any_known, p_values.steps, 1.0)
    order = np.argsort(steps, kind="stable")[:MAX_MOMENTS]
    return Surprise(
        p_values=signals,
        entities=entities,
        steps=steps,
        moments=tuple(
            Moment(
                step=int(step),
                signals=tuple(sorted(signals, key=lambda name: float(signals[name][step]))),
                p_value=float(steps[step]),
            )
            for step in order
            if steps[step] <= LARGEST_P_VALUE
        ),
        schema=schema,
    )
