"""Every family learns, answers and plans on a device that is not the CPU; see `simulated_device`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tests.brief import brief
from tests.data.stores import stored
from tests.explicit_devices import TOOLKIT, explicit_devices
from tests.golden.answers import BUNDLES, CASES, read_answers
from tests.golden.make import SPECS, Spec, logs, small
from tests.golden.test_golden import NAMES, answers_of, differences
from tests.simulated_device import simulated_device

from worldline.config import replace_at
from worldline.data.splits import split_store
from worldline.data.store import Store, open_store
from worldline.data.windows import WindowBatch, Windows
from worldline.device import CPU, device_of
from worldline.engines.learned import LearnedEngine
from worldline.models.jepa import Jepa, JepaConfig
from worldline.planning.base import Goal
from worldline.recipes.recipe import Recipe
from worldline.registry import names
from worldline.testing.toys import Integrator
from worldline.training.loop import Run
from worldline.training.updates import TrainingConfig
from worldline.workflows.evaluation import drawn_imagination
from worldline.workflows.training import learn_world
from worldline.world.base import PlanStatus
from worldline.world.bundle_io import open_engine, open_world, save_world


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The simulated device, as if it had been chosen; tensors that are created without a device raise."""
    with (
        simulated_device() as device,
        patch("worldline.world.bundle_io.choose_device", lambda name: device),
        explicit_devices(),
    ):
        yield device


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("torch.zeros(2)", "zeros is called without a device"),
        ("torch.tensor([number for number in range(2)])", "tensor is called without a device"),
        ("torch.from_numpy(np.zeros(2))", "from_numpy is called"),
        ("torch.ones(2, device='cpu') + torch.ones(2, device=device)", "expected all tensors on one device"),
        ("torch.ones(2, device=device).numpy()", "not supported"),
        ("torch.ones(2, device=device).double()", "no double precision"),
    ],
)
def test_a_device_error_of_the_toolkit_raises(code: str, error: str, device: torch.device) -> None:
    names_of_code = {"torch": torch, "np": np, "device": device}
    # The check applies to files of the toolkit, so the code is compiled with the name of such a file.
    compiled = compile(f"def called(): return {code}", TOOLKIT / "module.py", "exec")
    exec(compiled, names_of_code)  # noqa: S102 (the code is one of the literals above)
    with pytest.raises((AssertionError, RuntimeError, TypeError), match=error):
        names_of_code["called"]()


def test_the_device_computes(device: torch.device) -> None:
    numbers = torch.arange(4, device=device)
    assert numbers.device == device
    assert (numbers[[0, 2]] * 2).tolist() == [0, 4]
    numbers[1:] = 7
    assert numbers.add_(1).cpu().numpy().tolist() == [1, 8, 8, 8]


SLOW = {"features", "jepa", "jepa-gru", "jepa-memory", "jepa-transformer", "lewm", "linear-model", "token"}
"""Families that take seconds; the others have heads, images, skipped frames and drawn samples."""


def each(names: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in names]


@pytest.mark.parametrize("name", each(NAMES))
def test_a_bundle_answers_as_on_the_cpu(name: str, device: torch.device) -> None:
    assert differences(answers_of(BUNDLES / name, name), read_answers(CASES / f"{name}.answers.npz")) == []


def toy_logs(spec: Spec, folder: Path) -> Store:
    """The last nine steps of twelve episodes; some end in a terminal state."""
    schema, episodes = logs(spec, 12, seed=0)
    return stored(folder, schema, (episode.last(10) for episode in episodes))


def small_steps(recipe: Recipe) -> Recipe:
    """The recipe with two updates of the model, unless it has none, and of each head."""
    found = brief(recipe, batch_size=8)
    heads = replace(found.heads, dynamics_updates=found.training.num_updates)
    return replace(found, heads=heads, horizon=2, num_windows=1, split=split_store)


@pytest.mark.parametrize("name", each(sorted(SPECS.keys() - {"jepa-both"})))  # its parts are in others
def test_a_family_is_learned(name: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, heads, calibration and the measures of the report; the bundle then opens on the CPU."""
    monkeypatch.setattr("worldline.training.loop.RECALIBRATION_BATCHES", 1)
    monkeypatch.setattr("worldline.training.loop.RECALIBRATION_BATCH_SIZE", 8)
    spec, weights = SPECS[name], None
    if spec.family == "features":
        from tests.models.encoder_folders import dinov2  # skips where its libraries are not installed

        weights = tmp_path / "encoder"
        dinov2().save_pretrained(weights)
    store = toy_logs(spec, tmp_path / "logs")
    learned = learn_world(store, small_steps(small(spec, weights)(store)), folder=tmp_path / "run", device=device)
    engine = learned.engine
    assert {value.device for value in engine.model.state_dict().values()} == {device}
    assert bool(drawn_imagination(store, learned)) == ("decoder" in engine.heads)
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
    assert plan.status in (PlanStatus.SEARCHED, PlanStatus.OUT_OF_TIME), plan.reason
    assert np.isfinite(plan.cost)


def toy_run(folder: Path, device: torch.device) -> Run:
    """A training of a tiny model, always with the same weights and logs."""
    toy = Integrator(camera=False, wind=False)
    path = folder / "store"
    store = open_store(path) if path.exists() else stored(path, toy.schema, toy.episodes(12, 12, seed=0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"encoder.width": 16, "predictor.width": 16, "regularizer.num_slices": 8}
        config = replace_at(JepaConfig(inputs=("position",), latent_size=8), sizes)
        model = Jepa(schema=toy.schema, config=config)
    training = TrainingConfig(num_updates=6, batch_size=8, num_checks=6, min_rank=1.0, min_deviation=0.0)
    return Run(model.to(device), store, split_store(store), ("position",), training, folder / "run")


def assert_checkpoint_moves(folder: Path, device: torch.device) -> None:
    """A run goes on from the CPU to `device` and back, each time with the weights and draws of its checkpoint."""
    before = toy_run(folder, CPU)
    before.advance()
    for there in (device, CPU):
        run = toy_run(folder, there)
        run.load()
        assert device_of(run.model).type == there.type
        for part in ("model", "updates.optimizer", "updates.generator", "updates.batches"):
            kept, found = (plain(attrgetter(part)(one)) for one in (before, run))
            assert found == kept, part
        run.advance()
        assert np.isfinite(run.curves[-1]["validation_prediction"])
        before = run


def plain(state: object) -> object:
    """The state as plain values."""
    if isinstance(state, torch.Tensor):
        return state.tolist()
    if isinstance(state, Mapping):
        return {name: plain(value) for name, value in state.items()}
    if isinstance(state, torch.Generator):
        return state.get_state().tolist()
    if isinstance(state, np.random.Generator):
        return state.bit_generator.state
    if isinstance(state, torch.optim.Optimizer):
        return plain(state.state_dict()["state"])  # its settings depend on the device
    if isinstance(state, torch.nn.Module):
        return plain(state.state_dict())
    return state


def test_a_checkpoint_moves_between_devices(device: torch.device, tmp_path: Path) -> None:
    assert_checkpoint_moves(tmp_path, device)


def test_windows_are_read_ahead_of_their_update(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each device trains on the same windows; beyond the CPU, those of the next update are read in advance."""
    reads, starts = dict[str, list[list[list[int]]]](), list[list[list[int]]]()
    read = Windows.read

    def counted(self: Windows, places: np.ndarray, **rest: Any) -> WindowBatch:
        starts.append(places.tolist())
        return read(self, places, **rest)

    monkeypatch.setattr(Windows, "read", counted)
    for where in (CPU, device):
        updates = toy_run(tmp_path, where).updates
        starts.clear()
        for step in range(3):
            updates.gradient(0)
            updates.apply(step)
        reads[where.type] = starts.copy()
    assert reads[device.type][:3] == reads["cpu"]
    assert (len(reads["cpu"]), len(reads[device.type])) == (3, 4)
