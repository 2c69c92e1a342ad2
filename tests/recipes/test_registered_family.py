"""A family of another package: the model of CONTRIBUTING.md is installed as a user would, and learned by its name."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.data.stores import stored
from tests.installed import installed
from typer.testing import CliRunner

import worldline
from worldline.cli.main import app
from worldline.data.store import Store
from worldline.errors import UnsupportedError
from worldline.recipes.families import resized, with_family
from worldline.recipes.vectors import vectors
from worldline.registry import load, register
from worldline.testing.toys import Integrator

PLUGIN = Path(__file__).parents[1] / "model_plugin"
PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
TOY = Integrator(camera=False)
SHORT = ["training.num_updates=20", "training.num_checks=2", "num_windows=2"]


@pytest.fixture(scope="module")
def drift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The family, which an installed package registers."""
    with installed(PLUGIN, tmp_path_factory.mktemp("plugin"), "worldline_drift"):
        yield load("model", "drift")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return stored(tmp_path_factory.mktemp("logs") / "store", TOY.schema, TOY.episodes(24, 20, seed=0))


def test_the_page_shows_the_model_and_its_check_passes(drift: Any, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    model, check = (next(block for block in blocks if word in block) for word in ("class Drift(", "check_model"))
    assert model == (PLUGIN / "src" / "worldline_drift" / "__init__.py").read_text()
    script = tmp_path / "check_of_the_page.py"
    script.write_text(check.replace("worldline.models.drift", "worldline_drift"))
    runpy.run_path(str(script))["test_drift"]()


def test_an_installed_family_is_learned_by_its_name(drift: Any, logs: Store, tmp_path: Path) -> None:
    settings = [word for setting in ("model.width=32", *SHORT) for word in ("--set", setting)]
    out = tmp_path / "world"
    shown = CliRunner().invoke(app, ["learn", str(logs.path), "--out", str(out), "--model", "drift", *settings])
    assert shown.exit_code == 0, shown.output
    run = json.loads((out / "run.json").read_text())
    assert (run["family"], run["model"]["width"]) == ("drift", 32)
    episode = logs.episode(0)
    world = worldline.open(out)
    ahead = {"push": episode.actions["push"][3:8]}
    forecast = world.predict(episode.history(3, 1), ahead, exogenous={"wind": episode.exogenous["wind"][3:8]})
    assert forecast.signals["position"].low is not None


def test_a_family_is_registered_in_a_script(
    drift: Any, logs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldline.registry._REGISTERED", {})

    Mine = type("Mine", (drift,), {})  # another class, which no package registers
    with pytest.raises(worldline.errors.UnknownNameError, match="no model is called 'mine'"):
        worldline.learn(logs, tmp_path / "world", model="mine")
    register("model", "mine", Mine)
    short = {"training.num_updates": 20, "training.num_checks": 2, "num_windows": 2}
    world = worldline.learn(logs, tmp_path / "world", model="mine", set=short)
    assert type(world.engine.model) is Mine
    assert type(worldline.open(tmp_path / "world").engine.model) is Mine


def test_its_size_follows_a_budget_and_its_configuration_has_defaults(
    drift: Any, logs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_family(vectors(logs), logs, "drift")
    assert resized(recipe, 2.0).model_config.width == 128

    @dataclass(frozen=True, kw_only=True)
    class Incomplete:
        inputs: tuple[str, ...]
        depth: int

    monkeypatch.setattr(drift, "Config", Incomplete)
    with pytest.raises(UnsupportedError, match="the family 'drift' has no default for depth"):
        with_family(vectors(logs), logs, "drift")
