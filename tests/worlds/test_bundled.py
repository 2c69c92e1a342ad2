from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldline.bundle import read_bundle
from worldline.contracts.episode import Episode, History
from worldline.contracts.schema import Kind, Role, Signal
from worldline.contracts.world import Chance, Goal
from worldline.costs import AtMost
from worldline.engines.learned import Adaptation, LearnedEngine
from worldline.errors import BundleError, InputError, UnknownNameError, UnsupportedError
from worldline.heads.decoder import Decoder, DecoderConfig
from worldline.heads.distance import Distance, DistanceConfig
from worldline.heads.familiarity import Familiarity, FamiliarityConfig
from worldline.heads.inverse import Inverse, InverseConfig
from worldline.heads.landmarks import Landmarks, LandmarksConfig
from worldline.heads.outcome import Reward, RewardConfig, Termination, TerminationConfig
from worldline.heads.readout import Readout, ReadoutConfig
from worldline.models.jepa import Jepa, JepaConfig
from worldline.planners.cem import CrossEntropy
from worldline.planners.guided import Guided
from worldline.planners.icem import ImprovedCrossEntropy
from worldline.testing.toys import Integrator
from worldline.worlds.bundled import open_engine, open_world, save_world
from worldline.worlds.calibration import Calibration, calibrate
from worldline.worlds.local import LocalWorld

TOY = Integrator(noise=0.1, camera=False, wind=False)
SIZE = 8
CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 1))
Change = Callable[[Any], Any]


def a_map() -> Landmarks:
    marks = Landmarks(LandmarksConfig(latent_size=SIZE, num_landmarks=3, reach=2.0))
    marks.latents.copy_(torch.randn(3, SIZE))
    marks.steps[0, 1] = 5.0  # the others stay infinite
    return marks.eval()


def learned_engine() -> LearnedEngine:
    """Small and untrained: what is saved and opened need not be clever."""
    torch.manual_seed(0)
    config = JepaConfig(inputs=("position",), latent_size=SIZE, encoder_width=16, predictor_width=16)
    return LearnedEngine(
        model=Jepa(schema=TOY.schema, config=config).eval().requires_grad_(False),
        schema=TOY.schema,
        inputs=("position",),
        readout=Readout(ReadoutConfig(latent_size=SIZE, signals=TOY.schema.observations, width=16)).eval(),
        familiarity=Familiarity(FamiliarityConfig(latent_size=SIZE)).eval(),
        distance_head=Distance(DistanceConfig(latent_size=SIZE, width=16, size=8)).eval(),
        inverse_head=Inverse(InverseConfig(latent_size=SIZE, low=(-1.0, -1.0), high=(1.0, 1.0), width=16)).eval(),
        landmarks=a_map(),
        reward_head=Reward(RewardConfig(latent_size=SIZE, action_size=2, width=16)).eval(),
        termination_head=Termination(TerminationConfig(latent_size=SIZE, width=16)).eval(),
        decoder=Decoder(DecoderConfig(latent_size=SIZE, images=(CAMERA,), channels=4, width=16)).eval(),
        name="toy",
        notes={"data": "none"},
    )


@pytest.fixture(scope="module")
def learned_calibration() -> Calibration:
    return calibrate(learned_engine(), TOY.episodes(30, 12, seed=1), horizon=6, num_windows=1, seed=0)


@pytest.fixture
def saved(tmp_path: Path, learned_calibration: Calibration) -> Path:
    folder = tmp_path / "world"
    planner = CrossEntropy(num_candidates=8, num_iterations=2)
    save_world(
        folder,
        learned_engine(),
        learned_calibration,
        planner,
        num_proposals=3,
        model="jepa",
        run={"seed": 0},
        report="<html></html>",
    )
    return folder


def tamper(folder: Path, name: str, change: Change) -> None:
    """Changes a JSON file as a clever stranger would: its size and hash in the manifest fit again."""
    content = json.dumps(change(json.loads((folder / name).read_text()))).encode()
    (folder / name).write_bytes(content)
    if name != "manifest.json":
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        tamper(folder, "manifest.json", lambda found: {**found, "files": {**found["files"], name: entry}})


def test_a_world_comes_back_as_it_was(saved: Path, learned_calibration: Calibration) -> None:
    before = LocalWorld(learned_engine(), learned_calibration, CrossEntropy(num_candidates=8, num_iterations=2))
    after = open_world(saved)
    assert isinstance(after, LocalWorld)
    assert after.num_proposals == 3
    assert after.describe() == before.describe()
    episode: Episode = TOY.episodes(1, 12, seed=5)[0]
    now, pushes = episode.history(at=3, length=1), {"push": episode.actions["push"][3:8]}
    goal = Goal(targets={"position": np.array([1.0, -1.0], np.float32)})
    first, second = (world.predict(now, pushes).signals["position"] for world in (before, after))
    for part in ("mean", "low", "high"):
        np.testing.assert_array_equal(vars(first)[part], vars(second)[part])
    assert before.predict(now, pushes).trust == after.predict(now, pushes).trust
    plans = [world.plan(now, goal, horizon=4).actions["push"] for world in (before, after)]
    np.testing.assert_array_equal(*plans)


def test_another_planner_may_take_the_place_of_its_own(saved: Path) -> None:
    own = Guided(num_candidates=5)
    found = [open_world(saved, planner=planner) for planner in (None, "icem", own)]
    planners = [world.planner for world in found if isinstance(world, LocalWorld)]
    assert planners == [CrossEntropy(num_candidates=8, num_iterations=2), ImprovedCrossEntropy(), own]
    with pytest.raises(UnknownNameError, match="'icem'"):
        open_world(saved, planner="icen")


def test_a_world_may_adapt_and_its_bundle_stays_as_it_was(saved: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(saved.rglob("*")) if path.is_file()}
    world = open_world(saved, adaptation=Adaptation(num_steps=6, trust=1e-3))
    assert (open_world(saved).describe().context, world.describe().context) == (1, 7)
    stuck = History(
        observations={"position": np.full((7, 2), 1.5, np.float32)}, actions={"push": np.full((6, 2), 0.5, np.float32)}
    )
    pushes = {"push": np.full((4, 2), 0.5, np.float32)}
    moves = [np.ptp(one.predict(stuck, pushes).signals["position"].mean, 0).max() for one in (open_world(saved), world)]
    assert moves[1] < 0.5 * moves[0]
    told = world.predict(stuck, pushes)
    assert not told.calibrated  # the bands are those of the world as it was learned
    assert told.signals["position"].low is None
    now = History(observations={"position": stuck.observations["position"][-1:]}, actions={"push": np.zeros((0, 2))})
    assert (
        told.trust == open_world(saved).predict(now, pushes).trust
    )  # the present is judged as ever, its steps are not
    with pytest.raises(UnsupportedError, match="calibration"):
        world.surprise(TOY.episodes(1, 12, seed=5)[0])
    rule = Chance(constraint=AtMost(signal="position", bound=1.0), level=0.5)
    with pytest.raises(InputError, match="not calibrated"):
        world.plan(stuck, Goal(targets={"position": np.zeros(2, np.float32)}), horizon=3, constraints=[rule])
    assert before == {path: path.read_bytes() for path in sorted(saved.rglob("*")) if path.is_file()}


def test_every_head_comes_back_with_its_weights(saved: Path) -> None:
    before, after = learned_engine(), open_engine(read_bundle(saved))
    heads = ("distance_head", "inverse_head", "landmarks", "reward_head", "termination_head", "decoder")
    for name in ("readout", "familiarity", *heads):
        old, new = vars(before)[name], vars(after)[name]
        assert new.config == old.config, name
        assert old.state_dict().keys() == new.state_dict().keys(), name
        assert all(torch.equal(value, new.state_dict()[key]) for key, value in old.state_dict().items()), name
        assert not new.training
        assert not any(parameter.requires_grad for parameter in new.parameters())
    assert after.describe().predicts == ("position",)  # a decoder is for eyes only


def test_heads_that_were_not_fitted_stay_away(tmp_path: Path, learned_calibration: Calibration) -> None:
    heads = ("distance_head", "inverse_head", "landmarks", "reward_head", "termination_head", "decoder")
    engine = replace(learned_engine(), **dict.fromkeys(heads))
    save_world(
        tmp_path / "w", engine, learned_calibration, CrossEntropy(), num_proposals=1, model="jepa", run={}, report=None
    )
    opened = open_engine(read_bundle(tmp_path / "w"))
    assert all(vars(opened)[name] is None for name in heads)
    assert "reaches" not in opened.describe().abilities


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("heads/readout.json", lambda config: {**config, "latent_size": SIZE + 1}),
        ("heads/distance.json", lambda config: {**config, "width": 17}),
        ("heads/inverse.json", lambda config: {**config, "low": [-1.0], "high": [1.0]}),
        ("heads/reward.json", lambda config: {**config, "action_size": 3}),
        ("heads/termination.json", lambda config: {**config, "width": 17}),
        ("heads/decoder.json", lambda config: {**config, "channels": 5}),
        ("heads/familiarity.json", lambda config: {**config, "latent_size": SIZE - 1}),
        ("model.json", lambda config: {**config, "predictor_width": 17}),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(saved: Path, name: str, change: Change) -> None:
    tamper(saved, name, change)
    with pytest.raises(BundleError, match="does not fit"):
        open_world(saved)


def test_nothing_is_allocated_for_a_huge_config(saved: Path) -> None:
    # One layer of it would take 400 terabytes, more than any process can address: to try would be a RuntimeError.
    huge = 10**7
    tamper(saved, "model.json", lambda config: {**config, "latent_size": huge, "predictor_width": huge})
    with pytest.raises(BundleError, match="does not fit"):
        open_world(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: {**found, "model": "jepaa"}, "Did you mean 'jepa'"),
        (lambda found: {**found, "model": "os:system"}, "no model is called"),
        (lambda found: {**found, "notes": {"planner": "cen"}}, "Did you mean 'cem'"),
        (lambda found: {**found, "notes": {}}, "no planner is called"),
    ],
)
def test_a_name_that_is_not_registered_is_refused(saved: Path, change: Change, message: str) -> None:
    tamper(saved, "manifest.json", change)
    with pytest.raises(UnknownNameError, match=message):
        open_world(saved)
