"""Every family learns, answers and plans on a device that is not the CPU; see `simulated_device`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tests.explicit_devices import ExplicitDevices
from tests.golden.answers import BUNDLES, CASES, ask, float32, read_answers
from tests.golden.make import SPECS, logs, small
from tests.golden.test_golden import NAMES, differences
from tests.simulated_device import simulated_device

from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.engines.learned import LearnedEngine
from worldline.planning.base import Goal
from worldline.recipes.recipe import Recipe
from worldline.registry import names
from worldline.workflows.report_data import drawn_imagination, readout_quality
from worldline.workflows.training import learn_world
from worldline.world.base import PlanStatus
from worldline.world.bundle_io import open_engine, open_world, save_world


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The simulated device, as if it had been chosen; tensors that are created without a device raise."""
    with (
        simulated_device() as device,
        patch("worldline.world.bundle_io.choose_device", lambda name: device),
        ExplicitDevices(),
    ):
        yield device


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_answers_as_on_the_cpu(name: str, device: torch.device) -> None:
    with np.load(CASES / f"{name}.inputs.npz", allow_pickle=False) as arrays:
        inputs = {key: arrays[key] for key in arrays.files}
    with float32():
        found = ask(open_world(BUNDLES / name), inputs)
    assert differences(found, read_answers(CASES / f"{name}.answers.npz")) == []


def brief(recipe: Recipe) -> Recipe:
    """The recipe with two updates of the model and of each head."""
    updates = {name: min(2, count) for name, count in vars(recipe.heads).items() if name.endswith("_updates")}
    return replace(
        recipe,
        training=replace(recipe.training, num_updates=2, num_checks=1, batch_size=8, accumulate=2),
        heads=replace(recipe.heads, **{**updates, "dynamics_updates": 2}),
        horizon=2,
        num_windows=1,
        split=split_store,
    )


@pytest.mark.parametrize("name", sorted(SPECS.keys() - {"jepa-both"}))  # its parts are in others
def test_a_family_is_learned(
    name: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, heads, calibration and the measures of the report; the bundle then opens on the CPU."""
    monkeypatch.setattr("worldline.training.loop.RECALIBRATION_BATCHES", 1)
    monkeypatch.setattr("worldline.training.loop.RECALIBRATION_BATCH_SIZE", 8)
    spec, weights = SPECS[name], None
    if spec.family == "features":
        from tests.models.encoder_folders import dinov2  # skips where its libraries are not installed

        weights = tmp_path / "encoder"
        dinov2().save_pretrained(weights)
    schema, episodes = logs(spec, 16, seed=0)
    store = Store.create(tmp_path / "logs", schema)
    for episode in episodes:
        store.append(episode)
    learned = learn_world(store, brief(small(spec, weights)(store)), folder=tmp_path / "run", device=device)
    engine = learned.engine
    assert {value.device for value in engine.model.state_dict().values()} == {device}
    assert np.isfinite(readout_quality(store, learned).rows[0].rmse)
    assert bool(drawn_imagination(store, learned)) == (engine.decoder is not None)
    opened = open_engine(save_world(tmp_path / "world", learned.world))
    assert isinstance(opened, LearnedEngine)
    for part, value in opened.model.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, engine.model.state_dict()[part].cpu())


@pytest.mark.parametrize("name", names("planner"))
def test_a_planner_searches(name: str, device: torch.device) -> None:
    spec = SPECS["jepa"]
    _, (episode,) = logs(spec, 1, seed=7)
    goal = Goal(targets={"position": episode.observations["position"][8]}, tolerance={"position": 0.1})
    world = open_world(BUNDLES / "jepa", planner=name)
    proposals = {"push": episode.actions["push"][None, 5:8]}
    plan = world.plan(episode.history(5, 3), goal, horizon=3, proposals=proposals)
    assert plan.status in (PlanStatus.CONVERGED, PlanStatus.BUDGET_EXHAUSTED), plan.reason
    assert np.isfinite(plan.cost)
