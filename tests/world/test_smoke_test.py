from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.world.tampering import tamper_tensors
from tests.world.toy_worlds import TOY

from worldline.catalog.versions import Catalog
from worldline.engines.baselines import Linear
from worldline.episode import History
from worldline.errors import BundleError
from worldline.planning.planners.cem import CrossEntropy
from worldline.world.bundle_io import open_world, save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld
from worldline.world.smoke_test import MAX_WINDOWS, smoke_test, smoke_windows

HORIZON = 8


@pytest.fixture(scope="module")
def tested(world: LocalWorld) -> LocalWorld:
    windows = smoke_windows(world.engine.describe(), TOY.episodes(30, 12, seed=3), horizon=HORIZON, seed=0)
    assert windows is not None
    return replace(world, windows=windows)


@pytest.fixture
def saved(tested: LocalWorld, tmp_path: Path) -> Path:
    save_world(tmp_path / "world", tested)
    return tmp_path / "world"


def test_windows_come_back_and_a_healthy_world_is_published(tested: LocalWorld, saved: Path, tmp_path: Path) -> None:
    opened, windows = open_world(saved), tested.windows
    assert windows is not None
    assert opened.windows is not None
    assert windows.observations["position"].shape == (MAX_WINDOWS, 1 + HORIZON, 2)
    for group, arrays in vars(windows).items():
        assert arrays.keys() == vars(opened.windows)[group].keys()
        for name, value in arrays.items():
            np.testing.assert_array_equal(vars(opened.windows)[group][name], value)
    catalog = Catalog(tmp_path / "catalog")
    assert catalog.publish(saved, "toy").smoke_tested
    save_world(saved, replace(opened, windows=None))
    assert not catalog.publish(saved, "toy").smoke_tested


def wrong_weights(tensors: dict[str, torch.Tensor]) -> None:
    tensors["weights"] = -tensors["weights"]


def exploding_weights(tensors: dict[str, torch.Tensor]) -> None:
    tensors["weights"] = tensors["weights"] * 1e30


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("change", "message"), [
    (wrong_weights, r"'position' is outside its 90% band in 1\d of 16 stored windows"),
    (exploding_weights, "does not answer for its stored windows: .*position"),
])  # fmt: skip
def test_a_world_that_fails_on_its_windows_is_not_published(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    tamper_tensors(saved, "engine.safetensors", change)
    catalog = Catalog(tmp_path / "catalog")
    with pytest.raises(BundleError, match=message):
        catalog.publish(saved, "toy")
    assert catalog.names() == ()


@pytest.mark.parametrize("change", [
    lambda tensors: tensors.pop("observations/position"),
    lambda tensors: tensors.update({"rewards/r": torch.zeros(1)}),
    lambda tensors: tensors["observations/position"][3, 2].fill_(np.nan),
    lambda tensors: tensors.update({k: torch.cat([v, v]) for k, v in tensors.items()}),
])  # fmt: skip
def test_windows_that_do_not_fit_are_refused(saved: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tamper_tensors(saved, "smoke.safetensors", change)
    with pytest.raises(BundleError, match=r"smoke.safetensors.*windows .*do not fit"):
        open_world(saved)


def test_windows_are_bounded_in_size_and_hold_valid_actions_only() -> None:
    card, episodes = Linear.fit(TOY.episodes(9, 20, seed=0), TOY.schema).describe(), TOY.episodes(5, 20, seed=1)
    outside = [replace(one, actions={"push": one.actions["push"] + 9}) for one in episodes]
    assert smoke_windows(card, outside, horizon=4, seed=0) is None
    found = smoke_windows(card, [*outside, *episodes], horizon=4, seed=0)
    assert found is not None
    assert np.abs(found.actions["push"]).max() <= 1
    long = TOY.episodes(2, 30_000, seed=1)
    found = smoke_windows(card, long, horizon=29_000, seed=0)
    assert found is not None
    assert 1 < found.num_worlds < 6
    assert smoke_windows(card, long, horizon=40_000, seed=0) is None


@pytest.mark.parametrize("heavy", [False, True])
def test_healthy_worlds_pass_also_with_few_episodes(heavy: bool) -> None:
    """Differences between episodes, which heavy tails make large, must not fail a world."""
    rng, engine = np.random.default_rng(0), Linear.fit(TOY.episodes(20, 30, seed=0), TOY.schema)
    for seed in range(20):
        episodes = TOY.episodes(4, 20, seed=seed)
        if heavy:
            size = rng.standard_cauchy(4)
            episodes = [
                replace(one, observations={"position": np.multiply(one.observations["position"], s, dtype=np.float32)})
                for one, s in zip(episodes, 1 + np.abs(size), strict=True)
            ]
        calibration = calibrate(engine, episodes, horizon=5, num_windows=8, seed=seed, trust_steps=0, with_causes=False)
        windows = smoke_windows(engine.describe(), episodes, horizon=5, seed=seed)
        assert windows is not None, "a world without windows is not tested"
        assert windows.num_worlds >= 8
        world = LocalWorld(engine, calibration, CrossEntropy(), windows=windows)
        smoke_test(world, Path("world"))  # raises if the world fails


def test_unobserved_values_are_never_outside(tested: LocalWorld) -> None:
    windows = tested.windows
    assert windows is not None
    truth = windows.observations["position"].copy()
    truth[:, 1:] = 1e6
    seen = np.ones(truth.shape[:2], bool)
    lost = History(observations={"position": truth}, actions=windows.actions, observed={"position": seen})
    with pytest.raises(BundleError, match="16 of 16 stored windows"):
        smoke_test(replace(tested, windows=lost), Path("world"))
    seen[:, 1:] = False
    smoke_test(replace(tested, windows=replace(lost, observed={"position": seen})), Path("world"))
