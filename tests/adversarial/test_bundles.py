"""Bundles whose settings are too large, or whose parts come from different worlds."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.world.tampering import refresh, tamper
from tests.world.tiny import CALM, _jepa, _rssm

from worldline.config import replace_at
from worldline.engines.learned import LearnedEngine
from worldline.errors import BundleError
from worldline.models.jepa import Jepa
from worldline.models.layers.predictors import GruPredictorConfig, TransformerPredictorConfig
from worldline.planning.planners.cem import CrossEntropy
from worldline.world.bundle_io import open_world, save_world
from worldline.world.bundle_limits import limited_network
from worldline.world.local import LocalWorld

PLANNER = CrossEntropy(num_candidates=8, num_elites=4, num_iterations=2)
HUGE = 10**9


def engine_of(family: str) -> LearnedEngine:
    if family == "rssm":
        return _rssm(CALM.schema, ("position",))
    engine = _jepa(CALM.schema, ("position",))
    predictors = {
        "gru": GruPredictorConfig(width=16, memory_size=6),
        "transformer": TransformerPredictorConfig(width=16, depth=1, num_heads=2),
    }
    if family not in predictors:
        return engine
    assert isinstance(engine.model, Jepa)
    config = replace(engine.model.config, predictor=predictors[family])
    return replace(engine, model=Jepa(schema=CALM.schema, config=config))


def saved(folder: Path, family: str = "jepa") -> Path:
    save_world(folder, LocalWorld(engine_of(family), None, PLANNER))
    return folder


@pytest.mark.parametrize(
    ("family", "file", "setting", "value"),
    [
        ("transformer", "model.json", "predictor.depth", HUGE),
        ("transformer", "model.json", "predictor.depth", 100_000),
        ("transformer", "model.json", "predictor.width", HUGE),
        ("gru", "model.json", "predictor.memory_size", HUGE),
        ("gru", "model.json", "predictor.context", HUGE),
        ("jepa", "model.json", "predictor.width", 2**62),
        ("jepa", "model.json", "latent_size", 100_000),
        ("rssm", "model.json", "num_samples", HUGE),
        ("rssm", "model.json", "num_classes", 100_000),
        ("jepa", "heads/distance.json", "width", HUGE),
        ("jepa", "planner.json", "num_iterations", HUGE),
        ("jepa", "planner.json", "num_candidates", HUGE),
        ("jepa", "planner.json", "num_iterations", 100_000),
        ("jepa", "planner.json", "num_gradient_steps", HUGE),
        ("jepa", "card.json", "num_proposals", HUGE),
    ],
)
def test_settings_that_are_too_large_are_refused(
    tmp_path: Path, family: str, file: str, setting: str, value: int
) -> None:
    """Without the limits some of these build layers or plan for hours; the test would not end."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        *parents, last = setting.split(".")
        inner = config
        for parent in parents:
            inner = inner[parent]
        assert last in inner
        inner[last] = value
        return config

    folder = saved(tmp_path / "world", family)
    open_world(folder)
    tamper(folder, file, change)
    with pytest.raises(BundleError, match=rf"{file}.*"):
        open_world(folder)


def test_networks_of_other_threads_are_not_counted(tmp_path: Path) -> None:
    built = list[torch.nn.Module]()

    def build() -> None:
        built.append(torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(400))))

    with limited_network(1, tmp_path):
        other = threading.Thread(target=build)
        other.start()
        other.join()
    with pytest.raises(BundleError, match="more layers than the 1 stored tensors"), limited_network(1, tmp_path):
        build()
    build()
    assert len(built) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "heads/readout.safetensors", "schema.json", "planner.json"])
def test_parts_of_two_bundles_are_not_mixed(tmp_path: Path, name: str) -> None:
    """The manifest fits the foreign file, which also fits its neighbours in shape."""
    ours, other = saved(tmp_path / "ours"), tmp_path / "other"
    engine = engine_of("jepa")
    schema = replace_at(engine.schema, {}, where="schema")
    signals = tuple(replace(one, unit="km") if one.name == "position" else one for one in schema.signals)
    world = LocalWorld(replace(engine, schema=replace(schema, signals=signals)), None, replace(PLANNER, num_elites=3))
    save_world(other, world)
    shutil.copy(other / name, ours / name)
    refresh(ours, name, with_card=False)
    with pytest.raises(BundleError, match=f"{name} is not the file that card.json was written with"):
        open_world(ours)


def test_shortened_inputs_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "world")
    tamper(folder, "card.json", lambda card: {**card, "inputs": []})
    with pytest.raises(BundleError, match="the model takes position"):
        open_world(folder)
