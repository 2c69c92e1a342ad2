"""The examples run on every backing that has what they need, and are told by the others what is lacking."""

from __future__ import annotations

import ast
import itertools
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tests.end_to_end.backings import BACKINGS, BLIND, Workshop, greenhouse_workshop, two_rooms_workshop
from tests.engines.forecast.tiny_chronos import tiny_chronos
from tests.engines.language.chat_server import ChatServer, Values, latest
from tests.served_world import serving_world

import worldline
from worldline.catalog.fallback import FallbackWorld
from worldline.catalog.named import NamedWorld
from worldline.catalog.versions import HOME, Catalog
from worldline.engines.language.endpoint import HOSTS_VARIABLE, Endpoint
from worldline.episode import Arrays
from worldline.errors import UnsupportedError
from worldline.labs.two_rooms import TwoRooms
from worldline.registry import names
from worldline.workflows import training
from worldline.world import fit_calibration

pytestmark = pytest.mark.usefixtures("brief_recalibration")

EXAMPLES = Path(__file__).parents[2] / "examples"
PNG = b"\x89PNG"
Surroundings = tuple[ExitStack, pytest.MonkeyPatch]
CARDS = {"forecast": "fracast"}
"""Names on the cards of worlds that are not those of their engines."""
SLOW = ("learned", "language", "fallback")
"""Backings that take seconds. The rooms are crossed with each; the greenhouse has them in slow tests."""


@pytest.fixture(scope="module")
def example() -> Iterator[Callable[[str], Any]]:
    """Imports an example, as if started in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)

        def get(name: str) -> ModuleType:
            return __import__(name)

        yield get
    for name in ("thermostat", "navigate", "heated_tank", "pictures", "swap"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """Servers and environment variables, among them the place of the catalog, until the tests are over."""
    with ExitStack() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME, str(tmp_path_factory.mktemp("home")))
        yield running, patch


@pytest.fixture(scope="module")
def two_rooms(tmp_path_factory: pytest.TempPathFactory, engine_plugin: Path, surroundings: Surroundings) -> Workshop:
    return two_rooms_workshop(tmp_path_factory.mktemp("two-rooms"), *surroundings)


@pytest.fixture(scope="module")
def plants(tmp_path_factory: pytest.TempPathFactory, engine_plugin: Path, surroundings: Surroundings) -> Workshop:
    pytest.importorskip("lettuce_greenhouse_gym")
    return greenhouse_workshop(tmp_path_factory.mktemp("greenhouse"), *surroundings)


@pytest.mark.parametrize("backing", BACKINGS["two-rooms"])
def test_navigate_arrives_with_every_world_that_heeds_actions(
    two_rooms: Workshop, example: Callable[[str], Any], backing: str
) -> None:
    navigate, name = example("navigate"), two_rooms.name(backing)
    if backing in BLIND:
        with pytest.raises(UnsupportedError, match=f"{CARDS.get(backing, backing)} is not action-conditioned"):
            navigate.main([name])
        return
    result = navigate.main([name])
    assert result.arrived
    assert result.num_steps <= 40
    assert result.path.shape == (result.num_steps + 1, 2)


@pytest.mark.parametrize("backing", [name for name in BACKINGS["two-rooms"] if name not in BLIND])
def test_navigate_leaves_the_way_to_worlds_that_know_how_far_it_is(
    two_rooms: Workshop, example: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, backing: str
) -> None:
    navigate, name = example("navigate"), two_rooms.name(backing)
    monkeypatch.setattr(navigate, "MAX_STEPS", 10)
    abilities = worldline.open(name).describe().abilities
    if "reaches" not in abilities:
        with pytest.raises(UnsupportedError, match="has no distance head"):
            navigate.main([name, "--direct"])
        return
    result = navigate.main([name, "--direct"])
    assert result.num_steps <= 10
    assert result.arrived or backing == "learned"  # a few seconds of training do not tell distances


@pytest.mark.parametrize(
    "backing", [pytest.param(one, marks=pytest.mark.slow if one in SLOW else ()) for one in BACKINGS["greenhouse"]]
)
def test_the_thermostat_is_bettered_by_every_world_that_heeds_actions(
    plants: Workshop, example: Callable[[str], Any], backing: str
) -> None:
    thermostat, name = example("thermostat"), plants.name(backing)
    if backing in BLIND:
        with pytest.raises(UnsupportedError, match=f"{CARDS.get(backing, backing)} is not action-conditioned"):
            thermostat.main([name])
        return
    num_steps = 8 if backing == "language" else 16
    result = thermostat.main([name, "--days", str(num_steps / 48)])
    assert result.planned.excess < 0.7 * result.ruled.excess
    assert result.refusals == result.alarms == 0
    assert result.planned.course.shape == result.ruled.course.shape == (num_steps, 4)


def test_a_version_that_takes_over_in_mid_run_goes_on(
    two_rooms: Workshop, example: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    navigate, name = example("navigate"), two_rooms.name("named")
    world = worldline.open(name)
    assert isinstance(world, NamedWorld)
    versions = []

    def move(number: int) -> None:
        versions.append(world.version)
        if number == 4:
            Catalog().point("two-rooms", "prod", 2)

    during(monkeypatch, move)
    result = navigate.navigate(world, *navigate.draw_task(0, "fixed"), direct=False)
    Catalog().point("two-rooms", "prod", 1)
    assert result.arrived
    assert versions == [1] * 5 + [2] * (result.num_steps - 5)


def test_where_a_server_goes_down_in_mid_run_the_next_world_goes_on(
    two_rooms: Workshop, example: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    navigate = example("navigate")
    with ExitStack() as first:
        url = first.enter_context(serving_world(worldline.open(two_rooms.name("linear"))))
        order = [worldline.open(name) for name in (url, two_rooms.name("nearest"), two_rooms.name("persistence"))]
        world = FallbackWorld(order)
        during(monkeypatch, lambda number: first.close() if number == 4 else None)
        with serving_world(world) as name:
            result = navigate.main([name])
    assert result.arrived
    assert world.tally()["linear"] > 4
    assert world.tally()["nearest"] >= result.num_steps - 4
    assert world.tally()["persistence"] == 0


def during(patch: pytest.MonkeyPatch, then: Callable[[int], None]) -> None:
    """Does something before each step in the rooms; `then` is told its number, from 0."""
    step, count = TwoRooms.step, itertools.count()

    def counted(rooms: TwoRooms, actions: Arrays) -> Any:
        then(next(count))
        return step(rooms, actions)

    patch.setattr(TwoRooms, "step", counted)


def test_without_trust_the_thermostat_takes_over(
    plants: Workshop, example: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    thermostat = example("thermostat")
    monkeypatch.setattr(thermostat, "MIN_TRUST", 1.1)  # more than there can be
    for backing, due in (("linear", 12), ("uncalibrated", 0)):
        result = thermostat.main([plants.name(backing), "--days", "0.25"])
        assert result.refusals == due
        assert np.array_equal(result.planned.course, result.ruled.course) == bool(due)


def test_it_runs_as_a_script(
    two_rooms: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", ["navigate.py", two_rooms.name("linear"), "--plot", str(tmp_path / "it.png")])
    runpy.run_path(str(EXAMPLES / "navigate.py"), run_name="__main__")
    assert "Arrived after" in capsys.readouterr().out
    assert (tmp_path / "it.png").read_bytes().startswith(PNG)


def test_the_thermostat_draws(plants: Workshop, example: Callable[[str], Any], tmp_path: Path) -> None:
    example("thermostat").main([plants.name("linear"), "--days", "0.1", "--plot", str(tmp_path / "it.png")])
    assert (tmp_path / "it.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", ["navigate", "thermostat"])
def test_they_know_nothing_of_what_stands_behind(name: str) -> None:
    code = (EXAMPLES / f"{name}.py").read_text()
    imported = set[str]()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
        elif isinstance(node, ast.Import):
            imported.update(one.name for one in node.names)
    ours = {module for module in imported if module.partition(".")[0] not in sys.stdlib_module_names}
    environment = {"navigate": "worldline.labs.two_rooms", "thermostat": "greenhouse_plant"}[name]
    assert ours <= {"numpy", "pictures", "worldline", "worldline.planning", "worldline.errors", environment}
    assert len(code.splitlines()) < 130


def test_every_engine_is_a_backing(engine_plugin: Path) -> None:
    assert {*names("engine")} <= BACKINGS["greenhouse"].keys() <= BACKINGS["two-rooms"].keys()


def test_the_agent_asks_the_world_before_it_acts(capfd: pytest.CaptureFixture[str]) -> None:
    room = runpy.run_path(str(EXAMPLES / "agent.py"))["main"]([])
    shown = capfd.readouterr().out
    assert room.temperatures[-1] == pytest.approx(20, abs=1.5)
    assert max(room.temperatures) < 22.2
    assert shown.count("trust") == shown.count("agent:") == 4
    assert "full: ends at 22.4 (22.2 to 22.5) degC, exceeds the bound" in shown


def test_the_tank_is_warm_in_time_and_has_a_fallback(
    example: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = example("heated_tank")
    world = worldline.learn(loop.log(1500), tmp_path / "world", recipe="linear")
    planned, ruled = loop.run(world, 48), loop.run(None, 48)
    deficit, of_the_rule = ((one.low - one.water).clip(lower=0).mean() for one in (planned, ruled))
    assert deficit < 0.5 * of_the_rule
    assert planned.fallback.mean() < 0.2
    loop.draw(str(tmp_path / "loop.png"), planned, ruled)
    assert (tmp_path / "loop.png").read_bytes().startswith(PNG)
    monkeypatch.setattr(loop, "MIN_TRUST", 1.0)
    distrusted = loop.run(world, 4)
    assert distrusted.fallback.all()
    assert distrusted.heater.equals(loop.run(None, 4).heater)


@pytest.mark.slow
def test_one_application_over_several_worlds(
    example: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name, value in ((fit_calibration, "SCALE_WINDOWS", 24), (training, "FORECAST_EPISODES", 4)):
        monkeypatch.setattr(module, name, value)  # the calibration of slow engines takes minutes
    monkeypatch.setattr(training, "MIN_WINDOWS", 8)
    monkeypatch.setattr(training, "FORECAST_LENGTHS", (3,))
    swap = example("swap")

    def last(history: Values, actions: Values, exogenous: Values) -> Values:
        return {name: latest(values) for name, values in history.items()}

    with ChatServer(last) as server:
        monkeypatch.setenv(HOSTS_VARIABLE, Endpoint(base_url=server.base_url, model="tiny").origin)
        chronos = tiny_chronos(tmp_path / "chronos")
        options = ["--endpoint", server.base_url, "--model", "tiny", "--chronos", str(chronos)]
        swap.main([*options, "--steps", "1500", "--updates", "30", "--plot", str(tmp_path / "it.png")])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    worlds = ("linear", "ensemble", "fracast", "chronos", "language")
    table = {row[0]: row[1:] for row in rows if row and row[0] in worlds}
    assert tuple(table) == worlds
    assert float(table["linear"][2]) < 0.5 * float(table["language"][2])  # degC after four hours
    assert (tmp_path / "it.png").read_bytes().startswith(PNG)
