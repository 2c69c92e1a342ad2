from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldline.errors import UnreadableError
from worldline.schema import Schema
from worldline.workflows.twin_sources import EnvironmentTwins, twin_source


def test_an_episode_ends_where_the_environment_ends() -> None:
    """A pole that is pushed one way falls, and nothing that comes after is an observation."""
    source = EnvironmentTwins(name="CartPole-v1")
    names = [one.name for one in source.schema.actions]
    found = source.run(0, {name: np.ones(50, np.int64) for name in names})
    angle = found.observations["observation"][:, 2]
    assert found.num_steps < 20
    assert abs(angle[-1]) > 0.2095 >= np.abs(angle[:-1]).max()
    assert all(len(value) == found.num_steps for value in found.actions.values())


def in_unit(unit: str) -> Schema:
    """The signals of the lab wind, its boat's position in this unit."""
    schema = EnvironmentTwins(name="wind").schema
    signals = (replace(one, unit=unit) if one.name == "boat_position" else one for one in schema.signals)
    return replace(schema, signals=tuple(signals))


def test_an_environment_in_other_units_is_unreadable() -> None:
    with pytest.raises(
        UnreadableError, match="'boat_position' is in m in the environment wind, but the world takes cm"
    ):
        twin_source("wind", in_unit("cm"))
    for unit in ("m", "?"):
        assert twin_source("wind", in_unit(unit)) == EnvironmentTwins(name="wind")
