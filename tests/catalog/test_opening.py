from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import worldline
from worldline.catalog.named import NamedWorld
from worldline.catalog.opening import open_target
from worldline.catalog.versions import Catalog
from worldline.engines.learned import Adaptation
from worldline.episode import History
from worldline.errors import BundleError, InputError, UnknownNameError, UnsupportedError
from worldline.planning.base import Goal
from worldline.planning.planners.cem import ImprovedCrossEntropy
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld
from worldline.world.remote import RemoteWorld


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty catalog; relative paths begin in `tmp_path`."""
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_open_is_this(world: LocalWorld) -> None:
    assert worldline.open is open_target


@pytest.mark.parametrize("named", [str, Path])
def test_a_path_is_a_bundle(tmp_path: Path, world: LocalWorld, named: type) -> None:
    save_world(tmp_path / "w", world)
    opened = open_target(named(tmp_path / "w"), planner="icem")
    assert isinstance(opened, LocalWorld)
    assert (opened.planner, opened.describe()) == (ImprovedCrossEntropy(), world.describe())


def test_a_bundle_whose_writer_was_killed_between_two_renames_is_opened(tmp_path: Path, world: LocalWorld) -> None:
    save_world(tmp_path / "w@1", world)
    (tmp_path / "w@1").rename(tmp_path / ".w@1.previous")
    assert open_target(str(tmp_path / "w@1")).describe() == world.describe()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "HTTPS://example/w@prod"])
def test_a_url_is_a_served_world(url: str) -> None:
    assert isinstance(open_target(url), RemoteWorld)  # which asks nothing before it is asked
    with pytest.raises(InputError, match="planner and adaptation cannot be given for a URL"):
        open_target(url, planner="cem", adaptation=Adaptation())
    with pytest.raises(InputError, match="device cannot be given for a URL"):
        open_target(url, device="cpu")


@pytest.mark.parametrize("name", ["w", "w@1"])
def test_a_device_is_checked(name: str, tmp_path: Path, world: LocalWorld) -> None:
    save_world(tmp_path / "w", world)
    Catalog().publish("w", "w")
    assert open_target(name, device="cpu").describe() == world.describe()
    with pytest.raises(InputError, match="device 'gpu' is unknown"):
        open_target(name, device="gpu")


@pytest.mark.parametrize(("name", "kind"), [("greenhouse@prod", NamedWorld), ("greenhouse@1", LocalWorld)])
def test_a_name_is_in_the_catalog(name: str, kind: type, tmp_path: Path, world: LocalWorld) -> None:
    save_world(tmp_path / "w", world)
    Catalog().publish("w", "greenhouse", alias="prod")
    opened = open_target(name)
    assert type(opened) is kind
    assert opened.describe() == world.describe()
    with pytest.raises(UnsupportedError, match="only learned worlds adapt"):
        open_target(name, adaptation=Adaptation())
    with pytest.raises(UnknownNameError, match="'cme'"):
        open_target(name, planner="cme")


def test_a_planner_reaches_a_named_world(tmp_path: Path, world: LocalWorld, history: History) -> None:
    save_world(tmp_path / "w", world)
    Catalog().publish("w", "greenhouse", alias="prod")
    opened = open_target("greenhouse@1", planner="icem")
    assert isinstance(opened, LocalWorld)
    assert opened.planner == ImprovedCrossEntropy()
    goal = Goal(targets={"position": np.zeros(2, np.float32)})
    own, same, asked = (
        one.plan(history, goal, horizon=2).actions["push"]
        for one in (world, opened, open_target("greenhouse@prod", planner="icem"))
    )
    np.testing.assert_array_equal(asked, same)
    assert not np.array_equal(asked, own)


@pytest.mark.parametrize("name", ["greenhouse@prod", "greenhouse@3"])
def test_a_folder_goes_before_a_name(name: str, tmp_path: Path, world: LocalWorld) -> None:
    with pytest.raises(UnknownNameError, match="no world is called 'greenhouse'"):
        open_target(name)
    save_world(tmp_path / name, world)
    assert open_target(name).describe() == world.describe()


@pytest.mark.parametrize(("target", "problem"), [
    ("greenhouse", "'greenhouse' does not exist"),
    (Path("greenhouse@prod"), "'greenhouse@prod' does not exist"),
    ("worlds/greenhouse@prod", "'worlds/greenhouse@prod' does not exist"),
    ("ftp://somewhere", "'ftp://somewhere' does not exist"),
    ("notes@2", "'notes@2' exists, but is not a bundle"),
    (".", "'.' exists, but is not a bundle"),
])  # fmt: skip
def test_anything_else_is_told_the_three_forms(target: str | Path, problem: str, tmp_path: Path) -> None:
    (tmp_path / "notes@2").write_text("a file")
    with pytest.raises(BundleError, match=rf"{problem}.*manifest\.json.*http://host:port.*greenhouse@prod"):
        open_target(target)
