"""The environments of benchmarks replay an episode from its seed, and their recipes take the logs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from worldline.workflows.record import record

TASKS = {
    "gym_pusht": ("push_t_task", "PushT", "Pusher", "push_t", ("camera", "agent_position")),
    "dm_control": ("reacher_task", "Reacher", "Flail", "reacher", ("angles", "velocity")),
}
"""By package: module, environment, policy, recipe, and inputs of the recipe."""


@pytest.mark.parametrize("package", TASKS)
def test_an_episode_replays_from_its_seed(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    name, environment, policy, recipe, inputs = TASKS[package]
    task = import_module(name)
    env = getattr(task, environment)()
    make = getattr(task, policy)
    store = record(
        env,
        tmp_path / "store",
        policy=make(),
        num_episodes=4,
        max_steps=40,
        seed=5,
        schema=env.schema,
    )
    logged = store.episode(2)
    seen = [env.reset(seed=store.entry(2).seed)[0]]
    for step in range(logged.num_steps):
        seen.append(env.step({signal: values[step] for signal, values in logged.actions.items()})[0])
    for signal, values in logged.observations.items():
        np.testing.assert_allclose(np.stack([one[signal] for one in seen]), values, atol=1e-4)
        assert np.ptp(values, axis=0).any()
    made = getattr(task, recipe)(store)
    assert made.model_config.inputs == inputs
    assert made.heads.goals
    env.close()
