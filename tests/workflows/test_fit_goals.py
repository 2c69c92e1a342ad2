from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import stored
from typer.testing import CliRunner

import worldline
from worldline.bundle import MANIFEST, read_manifest
from worldline.cli.main import app
from worldline.engines.baselines import Persistence
from worldline.engines.learned import LearnedEngine
from worldline.errors import BundleError, ConfigError, InputError, UnsupportedError
from worldline.planning.planners.cem import CrossEntropy
from worldline.testing.toys import Integrator
from worldline.workflows.choosing import make_recipe
from worldline.workflows.fit_goals import fit_goals
from worldline.workflows.learn import learn
from worldline.workflows.learn_options import Options
from worldline.world.bundle_io import open_world, save_world
from worldline.world.local import LocalWorld

pytestmark = pytest.mark.usefixtures("brief_recalibration")

TOY = Integrator(camera=False, wind=False)
EPISODES = TOY.episodes(24, 12, seed=0)
SMALL: dict[str, object] = {
    "training.num_updates": 60,
    "training.num_checks": 1,
    "training.batch_size": 32,
    "heads.distance_updates": 150,
    "heads.inverse_updates": 2,
    "heads.width": 32,
    "heads.batch_size": 64,
    "model.encoder.width": 16,
    "model.predictor.width": 32,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a world of vectors without goal heads. Its store is next to it."""
    path = tmp_path_factory.mktemp("plain") / "world"
    learn(list(EPISODES), path, recipe="vectors", set=SMALL, device="cpu")
    return path


@pytest.fixture
def world(plain: Path, tmp_path: Path) -> Path:
    """A copy."""
    shutil.copytree(plain, tmp_path / "world")
    shutil.copytree(plain.with_name("world.store"), tmp_path / "world.store")
    return tmp_path / "world"


def goal(at: int, *, in_steps: bool) -> worldline.Goal:
    return worldline.Goal(targets={"position": EPISODES[0].observations["position"][at]}, in_steps=in_steps)


def test_without_goal_heads_a_goal_on_vectors_is_a_cost_and_steps_are_refused(plain: Path) -> None:
    opened = worldline.open(plain, device="cpu")
    assert "reaches" not in opened.describe().abilities
    now = EPISODES[0].history(2, 1)
    assert opened.plan(now, goal(8, in_steps=False), horizon=3).actions["push"].shape == (3, 2)
    with pytest.raises(UnsupportedError, match=r"`worldline goals WORLD` or worldline\.fit_goals.*: position\."):
        opened.plan(now, goal(8, in_steps=True), horizon=3)
    assert isinstance(opened, LocalWorld)
    assert isinstance(opened.engine, LearnedEngine)
    windy = replace(opened.engine, schema=Integrator(camera=False).schema)
    with pytest.raises(UnsupportedError, match=r"It cannot have one: 'wind' is exogenous\. Set a goal"):
        windy.encode_goal(None, goal(8, in_steps=True).targets)


def test_goal_heads_are_added_and_nothing_else_changes(world: Path) -> None:
    before = read_manifest(world).files
    shown = CliRunner().invoke(app, ["goals", str(world), "--device", "cpu", "--threads", "1"])
    assert shown.exit_code == 0, shown.output
    assert f"Next:   worldline audit {world} {world}.store" in shown.stdout
    after = read_manifest(world).files
    assert {name for name in after if after[name] != before.get(name)} == {
        *(f"heads/{head}.{suffix}" for head in ("distance", "inverse") for suffix in ("json", "safetensors")),
        "card.json",  # it names the hash of each part
        "run.json",
        "run.toml",
    }
    run = json.loads((world / "run.json").read_text())
    assert run["heads"]["goals"]
    assert run["times_s"]["goal heads"] > 0
    heads = Options(config=world / "run.toml").resolved().set["heads"]
    assert isinstance(heads, dict)
    assert heads["goals"]
    written = (world / MANIFEST).read_bytes()
    assert "reaches" in fit_goals(world, device="cpu").describe().abilities
    assert (world / MANIFEST).read_bytes() == written  # it has them, so it stays


def test_added_heads_measure_steps(world: Path, plain: Path) -> None:
    found = fit_goals(world, plain.with_name("world.store"), device="cpu")
    now, push = EPISODES[0].history(0, 1), {"push": EPISODES[0].actions["push"][None, :1]}
    steps = [float(found.score(now, push, goal(at, in_steps=True)).cost[0]) for at in (1, 4, 9)]
    assert steps == sorted(steps)
    assert steps[0] < 1
    assert found.plan(now, goal(8, in_steps=True), horizon=3).actions["push"].shape == (3, 2)
    again = worldline.open(world, device="cpu").score(now, push, goal(9, in_steps=True)).cost
    np.testing.assert_allclose(again, steps[2], rtol=1e-5)


def test_other_logs_are_refused(world: Path, tmp_path: Path) -> None:
    other = stored(tmp_path / "other", TOY.schema, EPISODES[:5])
    with pytest.raises(InputError, match=r"other is not the store that .*world was learned from"):
        fit_goals(world, other.path)
    shutil.rmtree(tmp_path / "world.store")
    with pytest.raises(InputError, match=r"world\.store is no store\. Give .*: worldline goals .*world STORE"):
        fit_goals(world)


def test_worlds_that_cannot_have_goal_heads_are_refused(world: Path, tmp_path: Path) -> None:
    save_world(tmp_path / "bare", open_world(world, device="cpu"))
    with pytest.raises(BundleError, match="does not name its training episodes"):
        fit_goals(tmp_path / "bare", tmp_path / "world.store")
    save_world(tmp_path / "still", LocalWorld(Persistence.fit(EPISODES, TOY.schema), None, CrossEntropy()))
    with pytest.raises(UnsupportedError, match=r"'persistence'\. Only learned worlds get goal heads"):
        fit_goals(tmp_path / "still")


@pytest.mark.parametrize(
    ("camera", "goals", "fitted"), [(False, None, False), (False, True, True), (True, None, True), (True, False, False)]
)
def test_goal_heads_are_fitted_with_images_or_on_request(
    tmp_path: Path, camera: bool, goals: bool | None, fitted: bool
) -> None:
    toy = Integrator(camera=camera, wind=False)
    store = stored(tmp_path / "store", toy.schema, toy.episodes(4, 6, seed=0))
    assert make_recipe(store, Options(goals=goals).resolved()).heads.goals == fitted


def test_logs_that_goal_heads_do_not_support_are_refused_before_training(tmp_path: Path) -> None:
    windy = Integrator(camera=False, wind=True)
    store = stored(tmp_path / "store", windy.schema, windy.episodes(8, 6, seed=0))
    with pytest.raises(ConfigError, match=r"'wind' is exogenous\. Add low and high .*--no-goals"):
        learn(store.path, tmp_path / "world", goals=True)
    assert not (tmp_path / "world.partial").exists()
