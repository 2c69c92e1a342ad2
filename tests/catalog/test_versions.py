from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldline.bundle import read_bundle
from worldline.catalog.comparison import ShadowVerdict
from worldline.catalog.named import NamedWorld
from worldline.catalog.versions import Catalog, default_folder
from worldline.episode import History
from worldline.errors import BundleError, ConfigError, InputError, UnknownNameError
from worldline.testing.toys import Integrator
from worldline.world.local import LocalWorld

Write = Callable[..., Path]
Open = Callable[[Path], LocalWorld]
PUSHES = {"push": np.zeros((2, 2), np.float32)}
HISTORIES = [one.history(6, 7) for one in Integrator(noise=0.1, camera=False, wind=False).episodes(120, 6, seed=5)]


@pytest.fixture
def catalog(tmp_path: Path, open_toy: Open) -> Catalog:
    return Catalog(tmp_path / "catalog", open_bundle=open_toy)


@pytest.fixture
def asked(catalog: Catalog, open_toy: Open) -> Iterator[Callable[[list[History]], None]]:
    """Asks toy@prod about each of the histories, and waits for its shadow."""
    worlds: list[NamedWorld] = []

    def ask(histories: list[History]) -> None:
        if not worlds:
            worlds.append(NamedWorld(catalog.shelf("toy"), "prod", open_bundle=open_toy, queue_size=1000))
        for history in histories:
            worlds[0].predict(history, PUSHES)
        worlds[0].flush()

    yield ask
    for world in worlds:
        world.close()


def published(catalog: Catalog, toy_bundle: Write, *biases: float) -> None:
    """Version 1 is that with the first bias, and so on; prod stands for 1."""
    for number, bias in enumerate(biases):
        catalog.publish(toy_bundle(bias), "toy", alias=None if number else "prod")


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WORLDLINE_HOME", raising=False)
    for data in (None, "relative/is/ignored"):
        if data is None:
            monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_DATA_HOME", data)
        assert default_folder() == tmp_path / ".local" / "share" / "worldline"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_folder() == tmp_path / "data" / "worldline"
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "own"))
    assert Catalog().folder == tmp_path / "own"


def test_a_version_is_a_copy_that_counts_on(catalog: Catalog, toy_bundle: Write, tmp_path: Path) -> None:
    assert catalog.names() == ()
    source = toy_bundle(0.5)
    manifest = (source / "manifest.json").read_bytes()
    first = catalog.publish(source, "toy")
    for path in sorted(source.rglob("*"), reverse=True):
        path.unlink()
    assert (first.number, first.aliases, first.model) == (1, (), "toy")
    assert first.path == tmp_path / "catalog" / "worlds" / "toy" / "1"
    assert (first.path / "manifest.json").read_bytes() == manifest
    assert json.loads(read_bundle(first.path).text("toy.json"))["bias"] == 0.5
    second = catalog.publish(toy_bundle(0.25), "toy", alias="prod")
    assert (second.number, second.aliases) == (2, ("prod",))
    assert [one.number for one in catalog.versions("toy")] == [1, 2]
    assert catalog.names() == ("toy",)
    assert catalog.resolve("toy@prod") == catalog.resolve("toy@2") == second.path
    assert {path.name for path in first.path.parent.iterdir()} == {"1", "2", "aliases.json", ".lock", ".publishing"}


def test_names_that_are_not_there(catalog: Catalog, toy_bundle: Write) -> None:
    published(catalog, toy_bundle, 0.0)
    with pytest.raises(UnknownNameError, match=r"no world is called 'tyo'\. Did you mean 'toy'"):
        catalog.resolve("tyo@prod")
    with pytest.raises(UnknownNameError, match="Did you mean 'prod'"):
        catalog.resolve("toy@prd")
    with pytest.raises(UnknownNameError, match="version of 'toy' is called '7'"):
        catalog.resolve("toy@7")
    with pytest.raises(UnknownNameError):
        catalog.versions("other")
    with pytest.raises(UnknownNameError):
        catalog.point("toy", "prod", 2)
    for name in ("../toy", "a/b", ".", ""):
        with pytest.raises(InputError, match="not allowed"):
            catalog.publish(toy_bundle(0.0), name)
        with pytest.raises(InputError, match="not allowed"):
            catalog.versions(name)
    assert catalog.names() == ("toy",)


def test_a_damaged_bundle_is_not_published(catalog: Catalog, toy_bundle: Write) -> None:
    source = toy_bundle(0.0)
    (source / "toy.json").write_text("{}")
    with pytest.raises(BundleError):
        catalog.publish(source, "toy")
    assert catalog.names() == ()
    with pytest.raises(BundleError):
        catalog.publish(source / "nowhere", "toy")


@pytest.mark.parametrize("named", ["alias", "earlier", "shadow", "nothing"])
def test_a_number_is_given_once_whatever_named_it(catalog: Catalog, toy_bundle: Write, named: str) -> None:
    published(catalog, toy_bundle, 0.0, 1.0)
    if named in ("alias", "earlier"):
        catalog.point("toy", "prod", 2)
    if named == "earlier":
        catalog.roll_back("toy", "prod")
    elif named == "shadow":
        catalog.shadow("toy", "prod", 2)
    shutil.rmtree(catalog.resolve("toy@2"))
    catalog.shadow("toy", "prod", None)
    assert catalog.publish(toy_bundle(2.0), "toy").number == 3
    if named == "alias":
        with pytest.raises(UnknownNameError, match="'2'"):
            catalog.resolve("toy@prod")
    assert catalog.publish(toy_bundle(3.0), "toy", alias="prod").number == 4


def test_a_new_version_never_replaces_a_deleted_one(catalog: Catalog, toy_bundle: Write, open_toy: Open) -> None:
    published(catalog, toy_bundle, 0.0, 1.0)
    catalog.point("toy", "prod", 2)
    with NamedWorld(catalog.shelf("toy"), "prod", open_bundle=open_toy) as world:
        assert world.describe().name == "biased by 1.0"
        catalog.roll_back("toy", "prod")
        shutil.rmtree(catalog.resolve("toy@2"))
        catalog.publish(toy_bundle(2.0), "toy", alias="prod")
        assert (world.version, world.describe().name) == (3, "biased by 2.0")


def test_an_alias_is_moved_and_rolled_back(catalog: Catalog, toy_bundle: Write) -> None:
    published(catalog, toy_bundle, 0.0, 1.0, 2.0)
    assert catalog.point("toy", "prod", 2).aliases == ("prod",)
    catalog.point("toy", "prod", 2)  # changes nothing
    catalog.point("toy", "prod", 3, reason="the harvest began")
    now = catalog.alias("toy", "prod")
    assert (now.now.version, now.now.reason) == (3, "the harvest began")
    assert [turn.version for turn in now.earlier] == [1, 2]
    assert catalog.roll_back("toy", "prod").number == 2
    assert catalog.alias("toy", "prod").now.reason == "rolled back from 3"
    assert catalog.roll_back("toy", "prod").number == 1
    with pytest.raises(InputError, match="has no version before 1"):
        catalog.roll_back("toy", "prod")
    catalog.shadow("toy", "prod", 2)
    catalog.point("toy", "prod", 3)
    assert catalog.alias("toy", "prod").shadow == 2
    catalog.point("toy", "prod", 2)
    assert catalog.alias("toy", "prod").shadow is None, "it serves now"
    catalog.point("toy", "prod", 1)
    catalog.point("toy", "canary", 3)
    assert [one.aliases for one in catalog.versions("toy")] == [("prod",), (), ("canary",)]


def test_what_cannot_be_opened_is_not_published_or_pointed_to(catalog: Catalog, toy_bundle: Write) -> None:
    published(catalog, toy_bundle, 0.0)
    for alias in (None, "prod"):
        with pytest.raises(BundleError, match="no key fits"):
            catalog.publish(toy_bundle(fails="open"), "toy", alias=alias)
    assert len(catalog.versions("toy")) == 1
    replace(catalog, open_bundle=lambda path: catalog.open_bundle(catalog.resolve("toy@1"))).publish(
        toy_bundle(fails="open"), "toy"
    )
    with pytest.raises(BundleError, match="no key fits"):
        catalog.point("toy", "prod", 2)
    assert catalog.alias("toy", "prod").now.version == 1


def test_what_speaks_otherwise_is_refused_with_the_differences(
    catalog: Catalog, toy_bundle: Write, open_toy: Open, tmp_path: Path
) -> None:
    def windy(path: Path) -> LocalWorld:
        world = open_toy(path)
        if 'bias": 9' not in (path / "toy.json").read_text():
            return world
        return replace(world, engine=replace(world.engine, schema=Integrator(camera=False).schema))

    published(catalog, toy_bundle, 0.0, 9.0)
    strict = Catalog(catalog.folder, open_bundle=windy)
    for refused in (
        lambda: strict.point("toy", "prod", 2),
        lambda: strict.shadow("toy", "prod", 2),
        lambda: strict.publish(toy_bundle(9.0), "toy", alias="prod"),
    ):
        with pytest.raises(InputError, match=r"toy@prod is not changed.*'wind' is required by the new version"):
            refused()
    assert len(strict.versions("toy")) == 2
    strict.point("toy", "windy", 2)  # an alias of its own has nobody to surprise
    catalog.shadow("toy", "prod", 2)
    with pytest.raises(InputError, match="'wind' is required"):
        strict.promote("toy", "prod", despite=True)
    catalog.point("toy", "prod", 2)
    assert strict.roll_back("toy", "prod").number == 1


def test_a_damaged_file_of_aliases_is_named(catalog: Catalog, toy_bundle: Write) -> None:
    published(catalog, toy_bundle, 0.0, 1.0)
    (catalog.folder / "worlds" / "toy" / "aliases.json").write_text("{")
    for refused in (
        lambda: catalog.resolve("toy@prod"),
        lambda: catalog.point("toy", "prod", 2),
        lambda: catalog.publish(toy_bundle(2.0), "toy"),
        lambda: catalog.versions("toy"),
    ):
        with pytest.raises(ConfigError, match=r"aliases\.json"):
            refused()
    assert catalog.resolve("toy@2").name == "2"


def test_shadow_and_promotion(catalog: Catalog, toy_bundle: Write, asked: Callable[[list[History]], None]) -> None:
    published(catalog, toy_bundle, 0.5, 0.0)
    with pytest.raises(InputError, match="no candidate runs in the shadow of toy@prod"):
        catalog.comparison("toy", "prod")
    with pytest.raises(InputError, match="no candidate runs in the shadow"):
        catalog.promote("toy", "prod")
    with pytest.raises(InputError, match="already points to version 1"):
        catalog.shadow("toy", "prod", 1)
    catalog.shadow("toy", "prod", 2)
    assert [one.shadows for one in catalog.versions("toy")] == [(), ("prod",)]
    asked(HISTORIES[:20])
    with pytest.raises(InputError, match=r"too few\): 20 scored calls of 20; 100 are needed"):
        catalog.promote("toy", "prod")
    asked(HISTORIES[20:])
    found = catalog.comparison("toy", "prod")
    assert (found.verdict, found.num_calls, found.num_scored) == (ShadowVerdict.BETTER, 120, 120)
    assert (found.serving_coverage, found.candidate_coverage) == (None, None)
    assert catalog.promote("toy", "prod").number == 2
    now = catalog.alias("toy", "prod")
    assert now.shadow is None
    assert now.now.reason.startswith("promoted over 1 (better): its error minus that of")
    assert catalog.roll_back("toy", "prod").number == 1


def test_a_worse_one_is_promoted_only_despite(catalog: Catalog, toy_bundle: Write, asked: Callable[..., None]) -> None:
    published(catalog, toy_bundle, 0.0, 0.5)
    catalog.shadow("toy", "prod", 2)
    asked(HISTORIES)
    with pytest.raises(InputError, match=r"\(worse\): its error minus that .* is \+.*promote it anyway"):
        catalog.promote("toy", "prod")
    assert catalog.promote("toy", "prod", despite=True).number == 2


def test_a_candidate_that_crashes_is_not_promoted(
    catalog: Catalog, toy_bundle: Write, asked: Callable[[list[History]], None]
) -> None:
    published(catalog, toy_bundle, 0.5)
    catalog.publish(toy_bundle(fails="imagine"), "toy")
    catalog.shadow("toy", "prod", 2)
    asked(HISTORIES[:3])
    with pytest.raises(InputError, match=r"failed on 3 of 3 calls; last error: RuntimeError: out of luck"):
        catalog.promote("toy", "prod")
    catalog.shadow("toy", "prod", None)
    assert catalog.alias("toy", "prod").shadow is None


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # from Python 3.12 on
def test_processes_that_publish_lose_nothing(catalog: Catalog, toy_bundle: Write) -> None:
    source, context = toy_bundle(0.0), multiprocessing.get_context("fork")

    def publish() -> None:
        for _ in range(6):
            catalog.publish(source, "toy")

    running = [context.Process(target=publish) for _ in range(2)]
    for one in running:
        one.start()
    for one in running:
        one.join(100)
    assert [one.exitcode for one in running] == [0, 0]
    versions = catalog.versions("toy")
    assert [one.number for one in versions] == list(range(1, 13))
    for one in versions:
        read_bundle(one.path)
