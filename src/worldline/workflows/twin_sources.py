"""Environments with exact replay from a seed, for the twins of the audit."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import final

import numpy as np

from worldline.audit.twins import TwinSource
from worldline.episode import Arrays, Episode
from worldline.errors import UnsupportedError
from worldline.labs.spaces import SpaceLayout, schema_of
from worldline.schema import Role, Schema
from worldline.workflows.held_out import check_signals
from worldline.workflows.record import make


def twin_source(name: str, required: Schema) -> EnvironmentTwins:
    """The environment of this name.

    Args:
        name: of a lab or a Gymnasium environment.
        required: the signals of the world.

    Raises:
        UnknownNameError: there is no such environment.
        UnreadableError: it lacks a signal of the world, or has it in another shape or unit.
        UnsupportedError: the world takes exogenous signals that the environment does not have.
    """
    source = EnvironmentTwins(name=name)
    available = {signal.name for signal in source.schema.signals}
    known = [signal for signal in required.exogenous if signal.name in available]
    check_signals(
        source.schema,
        (*required.actions, *required.observations, *known),
        f"the environment {name}",
        "Give the environment of the logs, or audit without --env.",
    )
    lacking = [signal.name for signal in required.exogenous if signal.name not in available]
    if lacking:
        raise UnsupportedError(
            f"the environment {name} lacks the exogenous signals {', '.join(lacking)}. Audit without --env."
        )
    return source


@final
@dataclass(frozen=True, kw_only=True)
class EnvironmentTwins(TwinSource):
    """A lab or Gymnasium environment, replayed from its reset seed.

    Args:
        name: of it.
    """

    name: str

    @property
    def schema(self) -> Schema:
        """The signals of its spaces."""
        with closing(make(self.name)) as environment:
            return schema_of(environment)

    def run(self, seed: int, actions: Arrays) -> Episode:
        """Runs the environment from the seed."""
        with closing(make(self.name)) as environment:
            shows = SpaceLayout(environment.observation_space, Role.OBSERVATION)
            takes = SpaceLayout(environment.action_space, Role.ACTION)
            seen = [shows.read(environment.reset(seed=seed)[0])]
            for step in range(len(next(iter(actions.values())))):
                inputs = {name: np.asarray(value[step]) for name, value in actions.items()}
                raw, _, over, _, _ = environment.step(takes.write(inputs))
                seen.append(shows.read(raw))
                if over:
                    break
        return Episode(
            observations={name: np.stack([logged[name] for logged in seen]) for name in seen[0]},
            actions={name: value[: len(seen) - 1] for name, value in actions.items()},
        )
