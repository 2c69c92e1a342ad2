from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

import worldline
from worldline.engines.learned import Adaptation
from worldline.errors import BundleError, InputError, UnsupportedError
from worldline.planners.icem import ImprovedCrossEntropy
from worldline.worlds.bundled import save_world
from worldline.worlds.local import LocalWorld
from worldline.worlds.opening import open_target


@pytest.fixture
def asked(world: LocalWorld, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the catalogue and the client were asked for; both stand aside and give `world`."""
    calls: list[tuple[object, ...]] = []

    def open_named(target: str, *, planner: object = None, adaptation: object = None) -> LocalWorld:
        calls.append((target, planner, adaptation))
        return world

    def connect(url: str) -> LocalWorld:
        calls.append((url,))
        return world

    catalogue, remote = ModuleType("worldline.worlds.catalogue"), ModuleType("worldline.worlds.remote")
    vars(catalogue)["open_named"], vars(remote)["RemoteWorld"] = open_named, connect
    for module in (catalogue, remote):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_open_is_this(world: LocalWorld) -> None:
    assert worldline.open is open_target


@pytest.mark.parametrize("named", [str, Path])
def test_a_path_is_a_bundle(tmp_path: Path, world: LocalWorld, named: type) -> None:
    save_world(tmp_path / "w", world)
    opened = open_target(named(tmp_path / "w"), planner="icem")
    assert isinstance(opened, LocalWorld)
    assert opened.planner == ImprovedCrossEntropy()
    assert opened.describe() == world.describe()


def test_a_bundle_whose_writer_was_killed_between_two_renames_is_opened(tmp_path: Path, world: LocalWorld) -> None:
    save_world(tmp_path / "w@1", world)
    (tmp_path / "w@1").rename(tmp_path / ".w@1.previous")
    assert open_target(str(tmp_path / "w@1")).describe() == world.describe()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "HTTPS://example/w@prod"])
def test_a_url_is_a_served_world(url: str, world: LocalWorld, asked: list[tuple[object, ...]]) -> None:
    assert open_target(url) is world
    assert asked == [(url,)]
    with pytest.raises(InputError, match="planner and adaptation cannot be given to"):
        open_target(url, planner="cem", adaptation=Adaptation())
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["greenhouse@prod", "greenhouse@3"])
def test_a_name_is_in_the_catalogue(
    name: str,
    tmp_path: Path,
    world: LocalWorld,
    asked: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    how = Adaptation()
    assert open_target(name, planner="cem", adaptation=how) is world
    assert asked == [(name, "cem", how)]
    save_world(tmp_path / name, world)  # a folder of that name goes first
    assert open_target(name) is not world
    assert len(asked) == 1
    with pytest.raises(UnsupportedError, match="only a learned world adapts"):
        open_target(name, adaptation=how)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("greenhouse", "'greenhouse' does not exist"),
        (Path("greenhouse@prod"), "'greenhouse@prod' does not exist"),
        ("worlds/greenhouse@prod", "'worlds/greenhouse@prod' does not exist"),
        ("ftp://somewhere", "'ftp://somewhere' does not exist"),
        ("notes@2", "'notes@2' exists, but is no bundle"),
        (".", "'.' exists, but is no bundle"),
    ],
)
def test_anything_else_is_told_the_three_forms(
    target: str | Path,
    problem: str,
    tmp_path: Path,
    asked: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes@2").write_text("a file")
    with pytest.raises(BundleError, match=rf"{problem}.*manifest\.json.*http://host:port.*greenhouse@prod"):
        open_target(target)
    assert not asked
