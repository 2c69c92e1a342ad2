"""How-to pages: their links lead somewhere, and what `choose-a-family.md` prints runs, with recipes made small."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tests.brief import brief
from tests.surface import pages
from tests.surface.rooms import heated_room
from typer.testing import CliRunner

import worldline
from worldline.cli.main import app
from worldline.config import replace_at
from worldline.data.store import Store
from worldline.models.rssm import RssmConfig
from worldline.recipes import families, pixels, vectors
from worldline.recipes.recipe import Recipe
from worldline.registry import BUILTIN, load, names

pytestmark = pytest.mark.usefixtures("brief_recalibration")

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto"
PAGE = HOWTO / "choose-a-family.md"
PLANNING = HOWTO / "plan.md"
CONTROL = HOWTO / "control.md"
TRUST = HOWTO / "trust.md"
UNDERSTANDING = HOWTO / "understand.md"
REFERENCE = ROOT / "tests" / "models" / "references" / "lewm" / "small"
K = 3
"""Steps of a block in the reference of LeWM that is committed; the page has 5, as published."""


def options(text: str) -> set[str]:
    """The options that a text names, whole."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def short(make: Callable[[Store], Recipe]) -> Callable[[Store], Recipe]:
    """The recipe with next to no updates."""

    def recipe(store: Store) -> Recipe:
        known = brief(make(store), batch_size=16, num_validation=8, min_rank=0.5, min_deviation=0.0)
        sizes = {"encoder.channels": 8, "encoder.width": 32, "predictor.width": 32}
        config, heads = replace_at(known.model_config, sizes), replace(known.heads, width=32, batch_size=32)
        return replace(known, model_config=config, heads=heads, num_windows=2, horizon=min(known.horizon, 4))

    return recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page is read: a store, an encoder of transformers, a checkpoint of LeWM."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("reader")
    worldline.record("two-rooms", path / "large", num_episodes=16, max_steps=15, seed=0)
    worldline.data.import_logs(path / "large", path / "store", size=(32, 32))
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(path / "dinov2-small")
    (path / "lewm").mkdir()
    about = json.loads(REFERENCE.with_suffix(".json").read_text())
    (path / "lewm" / "config.json").write_text(json.dumps(about["config"]))
    tensors = load_file(REFERENCE.with_suffix(".safetensors"))
    weights = {name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")}
    save_file(weights, path / "lewm" / "weights.safetensors")
    return path


def test_every_page_is_listed() -> None:
    listed = re.findall(r"^\| \[[^]]*\]\(([^)]*)\)", (HOWTO / "README.md").read_text(), re.MULTILINE)
    assert set(listed) == {page.name for page in HOWTO.glob("*.md")} - {"README.md"}


def test_the_page_knows_every_family_and_names_no_option_that_is_not_there() -> None:
    text = PAGE.read_text()
    table = text.split("## Eight families")[1].split("\n\n")[1]
    assert set(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) == set(names("model"))
    offered = CliRunner().invoke(app, ["learn", "--help"], env={"COLUMNS": "200"}).output
    missing = set(re.findall(r"`(--[a-z][a-z-]*)", text)) - options(offered)
    assert not missing


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_runs_from_top_to_bottom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for module in (vectors, pixels):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, name, short(getattr(module, name)))
    little = {"hidden_size": 16, "num_groups": 4, "num_classes": 4, "channels": 8, "image_width": 32}
    monkeypatch.setattr(families, "RssmConfig", partial(RssmConfig, **little))
    known: dict[str, Any] = {}
    text = PAGE.read_text().replace("k = 5", f"k = {K}").replace("num_updates=3000", "num_updates=3")
    text = text.replace("--device cuda:1", "--device cpu")
    parts = re.findall(r"^```python\n(.*?)^```|^    worldline ([^\n]*)$", text, re.MULTILINE | re.DOTALL)
    assert [line.split()[0] for _, line in parts if line] == ["learn"] * 7
    for code, line in parts:
        if line:
            shown = CliRunner().invoke(app, shlex.split(line))
            assert shown.exit_code == 0, (line, shown.output, shown.exception)
        else:
            pages.run(code, PAGE, known)
    assert "position" in known["world"].describe().predicts
    assert (folder / "world" / "report.html").exists()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page on planning is read: a world of a heated room, 12 degrees outside."""
    path = tmp_path_factory.mktemp("room")
    heated_room(path / "store", 140, 24)

    def recipe(store: Store) -> Recipe:
        known = vectors.vectors(store)
        return replace(known, training=replace(known.training, num_updates=150, num_checks=1, batch_size=64))

    worldline.learn(path / "store", path / "world", recipe=recipe)
    return path


def test_the_page_on_planning_runs_and_does_what_it_says(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    known: dict[str, Any] = {}
    plans = []
    for code in pages.blocks(PLANNING):
        plans.append(pages.run(code, PLANNING, known)["plan"])
    world, now = known["world"], known["now"]
    warmer = world.predict(now, plans[0].actions, level=0.8).signals["temperature"].mean[:, 0]
    assert warmer[5:] == pytest.approx(np.full(7, 20.0), abs=0.7)
    tracked = world.predict(now, plans[2].actions, level=0.8).signals["temperature"].mean[:, 0]
    assert tracked[5] > tracked[10] + 1.5
    assert known["sure"].violation.max() <= 0
    assert known["temperature"] == pytest.approx(20.0, abs=0.7)  # of the loop
    assert known["careful"].status.value in ("searched", "infeasible")
    safe = world.predict(now, known["sure"].actions, level=0.8).signals["temperature"]
    assert safe.high.max() <= 22.0 + 1e-4
    assert world.score(now, {"power": np.zeros((1, 12, 1))}, known["goal"]).cost.item() > 0
    assert world.plan(now, known["goal"], horizon=12).status.value == "searched"


def test_the_page_on_control_keeps_a_room_at_its_goal(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    known = pages.run(
        "\n".join(pages.blocks(CONTROL)).replace("period_s=0.2, margin_s=0.05", "period_s=0.06, margin_s=0.02"), CONTROL
    )
    assert known["room"]["temperature"].item() == pytest.approx(20.0, abs=0.7)
    assert known["number"] == 30


def test_the_page_on_trust_runs_and_does_what_it_says(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(room)
    known = pages.run("\n".join(pages.blocks(TRUST)), TRUST)
    assert known["temperature"].horizon == 8
    assert known["found"].trust > 0.1
    assert [moment.step for moment in known["surprise"].moments][:1] == [2]
    assert known["session"].alarms == ()
    weak = {"power": np.full((23, 1), 2.0)}  # as if the heater gave a quarter of what it is told
    past = worldline.History(observations={"temperature": np.full((24, 1), 17.0)}, actions=weak)
    doubted = known["world"].predict(past, {"power": np.zeros((1, 1))}, level=0.8).trust
    assert doubted < 0.2  # 14 episodes to calibrate on cannot tell more


def test_the_page_on_planning_names_every_planner() -> None:
    table = PLANNING.read_text().split("## Choose a planner")[1]
    assert set(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) == set(names("planner"))


def test_the_page_on_understanding_has_a_test_that_holds(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text("\n".join(pages.blocks(UNDERSTANDING)))
    known = runpy.run_path(str(tmp_path / "page.py"))
    test, found = known["test"], known["found"]
    assert found.flaws == ()
    assert found.oracle.cells[0].score.low > 0.99
    late = {"ball_position": np.roll(found.references.oracle["ball_position"], 1, axis=1)}
    assert test.grade(found.scenes, late, found.references).cells[0].score.low < 0.9
    assert test.figure(found.scenes, late, found.references).panels


def test_the_page_on_understanding_names_every_test_and_no_option_that_is_not_there() -> None:
    text = UNDERSTANDING.read_text()
    listed = re.findall(r"^\| \*\*([A-Z]\d)\*\*", text, re.MULTILINE)
    assert sorted(listed) == names("test")
    helps = [CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output for name in ("exam", "compare")]
    offered = "".join(helps)
    missing = options(text) - options(offered)
    assert not missing


def test_the_page_on_understanding_names_every_lab_with_the_tests_that_ask_it() -> None:
    table = UNDERSTANDING.read_text().split("## The labs")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|.*\| (.*?) \|$", table, re.MULTILINE)
    asked = {name: codes for labs, codes in rows for name in re.findall(r"`([a-z-]+)`", labs)}
    assert set(asked) == set(names("lab"))
    for code in names("test"):
        labs = {type(one.make_lab()) for one in load("test", code)().datasets()}
        for name in names("lab"):
            assert (code in asked[name]) or load("lab", name) not in labs, (code, name)


def test_every_kind_of_part_is_in_the_table_of_contributions() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for kind in BUILTIN:
        assert f"| `{kind}` | `worldline.{kind}s` |" in page, kind
