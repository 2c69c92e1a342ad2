from __future__ import annotations

import numpy as np

from worldline.workflows.twin_sources import EnvironmentTwins


def test_an_episode_ends_where_the_environment_ends() -> None:
    """A pole that is pushed one way falls, and nothing that comes after is an observation."""
    source = EnvironmentTwins(name="CartPole-v1")
    names = [one.name for one in source.schema.actions]
    found = source.run(0, {name: np.ones(50, np.int64) for name in names})
    angle = found.observations["observation"][:, 2]
    assert found.num_steps < 20
    assert abs(angle[-1]) > 0.2095 >= np.abs(angle[:-1]).max()
    assert all(len(value) == found.num_steps for value in found.actions.values())
