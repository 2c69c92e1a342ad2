from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldline.errors import UnreadableError
from worldline.schema import Schema
from worldline.workflows.twin_sources import EnvironmentTwins, GreenhouseTwins, twin_source


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


@pytest.mark.slow
def test_the_greenhouse_does_the_same_again_from_a_seed_and_another_from_other_controls() -> None:
    pytest.importorskip("lettuce_greenhouse_gym")
    source, rng = GreenhouseTwins(), np.random.default_rng(0)
    controls = {
        one.name: rng.uniform(one.low, one.high, (6, *one.shape)).astype(one.dtype) for one in source.schema.actions
    }
    first, again, other = (source.run(4, {name: share * v for name, v in controls.items()}) for share in (1, 1, 0))
    for name, value in first.observations.items():
        np.testing.assert_array_equal(again.observations[name], value)
        np.testing.assert_array_equal(other.observations[name][0], value[0])
    assert any((other.observations[name][-1] != value[-1]).any() for name, value in first.observations.items())
