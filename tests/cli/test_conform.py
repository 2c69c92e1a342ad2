from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from tests.cli import running
from tests.data.stores import stored
from tests.testing.exact_world import Exact, toy_episodes

import worldline
from worldline.catalog.versions import Catalog
from worldline.planning.planners.cem import CrossEntropy
from worldline.testing.cases import WorldCase
from worldline.testing.clauses import CLAUSES, Clause
from worldline.testing.toys import Integrator
from worldline.world.base import World
from worldline.world.bundle_io import open_world, save_world
from worldline.world.local import LocalWorld


def run(*arguments: object, code: int = 0) -> Result:
    return running.run("conform", *arguments, code=code, env={"COLUMNS": "200"})


class CrashesOnSurprise(Exact):
    """Its plans cost something else, too."""

    def p_values(self, episode):
        raise RuntimeError("the buffer is gone")

    def as_plan(self, *args, **rest):
        found = super().as_plan(*args, **rest)
        return replace(found, cost=found.cost * 0.5)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = stored(tmp_path_factory.mktemp("held-out") / "logs", Exact().schema, toy_episodes())
    return store.path


def open_as(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets `worldline.open` give a world; the list grows with what it was asked for."""
    asked: list[str] = []

    def opened(name: str, *, device: str) -> World:
        assert device == "auto"
        asked.append(name)
        return world

    monkeypatch.setattr(worldline, "open", opened)
    return asked


@pytest.mark.parametrize(("kind", "name"), [("planner", "cem"), ("engine", "linear"), ("model", "jepa")])
def test_a_part_that_conforms(kind: str, name: str) -> None:
    said = run(kind, name).output
    assert "holds" in said
    assert "BROKEN" not in said


def test_it_says_what_is_broken() -> None:
    # It does not search, on purpose.
    assert "[planner." in run("planner", "first_proposal", code=1).output


def test_it_refuses_what_it_cannot_build() -> None:
    assert "check_engine" in run("engine", "language", code=1).stderr


def test_a_world_that_conforms(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, figures = open_as(Exact(), monkeypatch), tmp_path / "figures.json"
    assert "40 episodes of" in run("worlds/toy", logs, "--horizon", "6", "--json", figures).output
    assert asked == ["worlds/toy"]
    found = json.loads(figures.read_text())
    assert (found["kind"], found["name"]) == ("world", "worlds/toy")
    assert [row["clause"] for row in found["clauses"]] == [
        clause.__name__.replace("_", " ") for clause in CLAUSES["world"]
    ]
    assert {row["verdict"] for row in found["clauses"]} == {"holds"}


@pytest.mark.parametrize("name", ["toy@prod", "toy@1"])
def test_a_world_of_the_catalog_is_checked_as_its_bundle_is(
    name: str, learned_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Integrator(noise=0.1, camera=False, wind=False)
    store = stored(tmp_path / "logs", toy.schema, toy.episodes(9, 14, seed=3))
    bare = open_world(learned_bundle)
    engine = replace(bare.engine, notes={"data": store.content_hash()})
    learned = LocalWorld(engine, bare.calibration, CrossEntropy(), num_proposals=0)
    split = {"train": [0, 1, 3, 4, 5, 6, 8], "held_out": [2, 7]}
    save_world(tmp_path / "world", learned, run={"split": split})
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    Catalog().publish(tmp_path / "world", "toy", alias="prod")
    cases: list[WorldCase] = []
    monkeypatch.setitem(CLAUSES, "world", [Clause(cases.append, "nowhere")])
    assert "2 episodes of" in run(name, store.path).output
    (case,) = cases
    assert case.num_calibration == bare.calibration.num_episodes


def test_an_error_does_not_hide_the_other_clauses(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_as(CrashesOnSurprise(), monkeypatch)
    figures = tmp_path / "figures.json"
    shown = run("toy", logs, "--horizon", "6", "--json", figures, code=1)
    rows = {row["clause"]: row for row in json.loads(figures.read_text())["clauses"]}
    assert len(rows) == len(CLAUSES["world"])
    assert rows["surprise parts"]["verdict"] == "broken"
    assert "the world raised RuntimeError: the buffer is gone. Look at" in rows["surprise parts"]["text"]
    assert rows["plan needs actions"]["verdict"] == "holds"
    assert "[world.plan_honest] Plan.cost differs from World.score" in shown.output
    assert "RuntimeError: the buffer is gone" in shown.output
