from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.testing.exact_world import Exact, toy_episodes
from typer.testing import CliRunner

import worldline
from worldline.cli.main import app
from worldline.contracts.world import World
from worldline.data.store import Store
from worldline.testing.worlds import CLAUSES

RUN = CliRunner(env={"COLUMNS": "200"})


class CrashesOnSurprise(Exact):
    def p_values(self, episode):
        raise RuntimeError("the buffer is gone")


class OnlyPlans(Exact):
    """Whose costs are not those of its plans."""

    def as_plan(self, *args, **rest):
        found = super().as_plan(*args, **rest)
        return type(found)(**{**vars(found), "cost": found.cost * 0.5})


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store.create(tmp_path_factory.mktemp("held-out") / "logs", Exact().schema)
    for episode in toy_episodes():
        store.append(episode)
    return store.path


def open_as(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets `worldline.open` give a world; the list grows with what it was asked for."""
    asked: list[str] = []

    def opened(name: str) -> World:
        asked.append(name)
        return world

    monkeypatch.setattr(worldline, "open", opened)
    return asked


@pytest.mark.parametrize(("kind", "name"), [("planner", "cem"), ("engine", "linear"), ("model", "jepa")])
def test_a_part_that_conforms(kind: str, name: str) -> None:
    shown = RUN.invoke(app, ["conform", kind, name])
    assert shown.exit_code == 0, shown.output
    assert "holds" in shown.output
    assert "BROKEN" not in shown.output


def test_it_says_what_is_broken() -> None:
    # It does not search, on purpose.
    shown = RUN.invoke(app, ["conform", "planner", "first_proposal"])
    assert shown.exit_code == 1
    assert "[planner." in shown.output


def test_it_refuses_what_it_cannot_build() -> None:
    shown = RUN.invoke(app, ["conform", "engine", "simulator"])
    assert shown.exit_code == 1
    assert "check_engine" in shown.stderr


@pytest.mark.parametrize("first", [[], ["world"]])
def test_a_world_that_conforms(first: list[str], logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, figures = open_as(Exact(), monkeypatch), tmp_path / "figures.json"
    shown = RUN.invoke(app, ["conform", *first, "toy@prod", str(logs), "--horizon", "6", "--json", str(figures)])
    assert shown.exit_code == 0, shown.output
    assert asked == ["toy@prod"]
    assert "40 episodes of" in shown.output
    found = json.loads(figures.read_text())
    assert (found["kind"], found["name"]) == ("world", "toy@prod")
    assert [row["clause"] for row in found["clauses"]] == [clause.__name__.replace("_", " ") for clause in CLAUSES]
    assert {row["verdict"] for row in found["clauses"]} == {"holds"}


def test_a_breach_of_a_world_is_shown_with_where_to_look(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_as(OnlyPlans(), monkeypatch)
    shown = RUN.invoke(app, ["conform", "toy", str(logs), "--episodes", "12", "--horizon", "6"])
    assert shown.exit_code == 1
    assert "12 episodes of" in shown.output
    assert "[world.plan_cost] cost is not what score says of the actions" in shown.output
    assert "ERROR" not in shown.output


def test_an_error_does_not_hide_the_other_clauses(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_as(CrashesOnSurprise(), monkeypatch)
    figures = tmp_path / "figures.json"
    shown = RUN.invoke(app, ["conform", "toy", str(logs), "--horizon", "6", "--json", str(figures)])
    assert shown.exit_code == 1
    rows = {row["clause"]: row for row in json.loads(figures.read_text())["clauses"]}
    assert len(rows) == len(CLAUSES)
    assert rows["surprise parts"]["verdict"] == "error"
    assert rows["surprise parts"]["text"] == "[surprise parts] RuntimeError: the buffer is gone"
    assert rows["plan honest"]["verdict"] == "holds"
    assert "[surprise parts] RuntimeError: the buffer is gone" in shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["world"], "world alone is a kind"),
        (["planner"], "planner alone is a kind"),
        (["planner", "cem", "logs"], "a planner is checked on a toy world, and logs was given too"),
        (["toy", "logs", "more"], "more is one argument too many"),
        (["toy"], "toy is checked on logs"),
        (["world", "toy"], "worldline conform toy LOGS"),
        (["planner", "cme"], "Did you mean 'cem'"),
    ],
)
def test_mistakes_are_errors_that_say_so(arguments: list[str], said: str) -> None:
    shown = RUN.invoke(app, ["conform", *arguments])
    assert shown.exit_code == 1
    assert said in shown.stderr
