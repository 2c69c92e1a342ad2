from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.stores import stored

import worldline
from worldline.data.splits import split_store
from worldline.data.store import Store
from worldline.errors import ConfigError, UnknownNameError, WorldlineError
from worldline.recipes.recipe import Recipe
from worldline.testing.toys import Integrator
from worldline.workflows.record import record

TUNE = Path(__file__).parents[2] / "examples" / "tune.py"
SHORT = {
    "recipe": "vectors", "training.num_updates": 20, "training.num_checks": 1, "training.min_rank": 1.0,
    "training.min_deviation": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("trial") / "store")


def toy_store(folder: Path, *, scaled: Mapping[int, float] | None = None) -> Store:
    """Logs of a noisy toy, with the positions of some episodes scaled."""
    toy, scaled = Integrator(camera=False, noise=0.3), scaled or {}
    episodes = [
        replace(
            episode,
            observations={
                "position": episode.observations["position"].astype(np.float32) * np.float32(scaled.get(number, 1))
            },
        )
        for number, episode in enumerate(toy.episodes(24, 12, seed=0))
    ]
    return stored(folder, toy.schema, episodes)


def test_a_loop_over_settings_finds_the_better_one(logs: Store) -> None:
    config = {"logs": logs.path, **SHORT}
    scores = {updates: worldline.trial({**config, "training.num_updates": updates}) for updates in (1, 80)}
    assert 0 < scores[80] < 0.8 * scores[1]
    assert worldline.trial({**config, "training.num_updates": 1}) == scores[1]
    assert worldline.trial({**config, "training.num_updates": 1, "seed": 1}) != scores[1]


@pytest.mark.parametrize("config", [SHORT, {"recipe": "linear"}], ids=["trained", "closed form"])
def test_held_out_episodes_do_not_affect_the_score(logs: Store, tmp_path: Path, config: dict[str, Any]) -> None:
    split = split_store(logs)
    others = toy_store(tmp_path / "held-out", scaled=dict.fromkeys(split.held_out, 3.0))
    assert worldline.trial({"logs": others.path, **config}) == worldline.trial({"logs": logs.path, **config})
    others = toy_store(tmp_path / "validation", scaled=dict.fromkeys(split.validation, 3.0))
    assert worldline.trial({"logs": others.path, **config}) != worldline.trial({"logs": logs.path, **config})


def test_noise_is_the_lowest_error(logs: Store) -> None:
    """One step ahead, a linear model misses by the noise: 0.3 of a deviation of about 1.8."""
    score = worldline.trial({"logs": logs.path, "recipe": "linear", "horizon": 1})
    deviation = logs.read("position", 0, 0, 13).std(0).mean()
    assert 0.1 < score < 2 * 0.3 / deviation


def test_without_vectors_images_are_compared(tmp_path: Path, tiny: Callable[[Store], Recipe]) -> None:
    rooms = record("two-rooms", tmp_path / "store", num_episodes=24, max_steps=30, seed=0)
    assert 0.1 < worldline.trial({"logs": rooms.path, "recipe": tiny}) < 2


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"logs": None}, ConfigError, "logs is missing in the configuration, which has logs, recipe"),
        ({"seed": "1"}, ConfigError, "seed is '1'. Expected int"),
        ({"budget": True}, ConfigError, "budget is True. Expected str or int or float"),
        ({"learning_rate": 0.1}, UnknownNameError, "no setting is called 'learning_rate'"),
        ({"training.learning_rate": -1.0}, ConfigError, "learning_rate is -1.0"),
        ({"training.learning_rate": -1.0, "recipe": None}, ConfigError, "learning_rate is -1.0"),
        ({"recipe": "none"}, UnknownNameError, "no recipe is called 'none'"),
    ],
)
def test_a_wrong_configuration_is_refused(
    logs: Store, changes: dict[str, Any], kind: type[WorldlineError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        worldline.trial({"logs": logs.path, **SHORT, **changes})


@pytest.mark.parametrize("library", ["optuna", pytest.param("ray", marks=pytest.mark.slow)])
def test_the_example_searches(
    logs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], library: str
) -> None:
    module = pytest.importorskip(library, reason="no dependency of the tests")
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray Tune writes there
    try:
        best = runpy.run_path(str(TUNE))["main"]([str(logs.path), "--library", library, "--trials=2", "--updates=4"])
    finally:
        if library == "ray":
            module.shutdown()
    assert best["model.width"] in (64, 128, 256)
    assert f"--set training.learning_rate={best['training.learning_rate']}" in capsys.readouterr().out
