"""The catalog: publications that are killed, and worlds of earlier releases."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest
from tests.serve.scripted import linear_world

import worldline
from worldline.catalog.versions import WORLDS, Catalog
from worldline.errors import InputError
from worldline.world.bundle_io import save_world


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_world(tmp_path / "toy", linear_world())
    return tmp_path / "toy"


def publish_for_ever(folder: Path, bundle: Path) -> None:
    while True:
        Catalog(folder).publish(bundle, "toy", alias="prod")


@pytest.mark.parametrize("count", [4, pytest.param(15, marks=pytest.mark.slow)])
def test_killed_publications_leave_complete_versions_and_the_next_one_removes_drafts(
    count: int, tmp_path: Path, bundle: Path
) -> None:
    catalog, draw = Catalog(tmp_path / "catalog"), random.Random(count)
    first = catalog.publish(bundle, "toy", alias="prod")
    numbers, drafts = {first.number}, 0
    for _ in range(count):
        process = multiprocessing.get_context("spawn").Process(
            target=publish_for_ever, args=(catalog.folder, bundle), daemon=True
        )
        process.start()
        before = len(catalog.versions("toy"))
        while len(catalog.versions("toy")) == before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        drafts += len([*first.path.parent.glob(".*.partial")])
        assert numbers < (numbers := {version.number for version in catalog.versions("toy")})
        assert catalog.alias("toy", "prod").now.version in numbers
    last = catalog.publish(bundle, "toy")
    assert last.number > max(numbers)
    assert drafts
    assert [path.name for path in last.path.parent.glob(".*.partial")] == []
    assert worldline.open(last.path).describe().name == "linear"


def old_catalog(folder: Path, bundle: Path) -> Catalog:
    """A catalog as an earlier release wrote it: worlds beside the files of the service."""
    catalog = Catalog(folder)
    for alias in ("prod", None):
        catalog.publish(bundle, "toy", alias=alias)
    (folder / WORLDS / "toy").rename(folder / "toy")
    (folder / WORLDS).rmdir()
    (folder / "jobs" / "12345678").mkdir(parents=True)
    return catalog


def test_worlds_of_an_earlier_release_are_moved_once_and_keep_their_numbers(tmp_path: Path, bundle: Path) -> None:
    for number, use in enumerate(
        (
            lambda catalog: catalog.versions("toy"),
            lambda catalog: catalog.resolve("toy@prod"),
            lambda catalog: catalog.publish(bundle, "other"),
        )
    ):
        catalog = old_catalog(tmp_path / str(number), bundle)
        use(catalog)
        assert not (catalog.folder / "toy").exists()
        assert (catalog.folder / "jobs" / "12345678").is_dir()
        assert [version.number for version in catalog.versions("toy")] == [1, 2]
        assert catalog.alias("toy", "prod").now.version == 1
        assert catalog.publish(bundle, "toy").number == 3


def test_a_name_that_was_used_twice_is_refused_with_the_command_that_helps(tmp_path: Path, bundle: Path) -> None:
    catalog = old_catalog(tmp_path / "catalog", bundle)
    folder = catalog.folder
    (folder / WORLDS / "toy").mkdir(parents=True)
    (folder / WORLDS / "toy" / "1").mkdir()
    for use in (catalog.names, lambda: catalog.publish(bundle, "toy"), lambda: catalog.resolve("toy@prod")):
        with pytest.raises(InputError, match=r"Rename the earlier one: mv \S+/toy \S+/worlds/toy-before$") as refused:
            use()
    source, target = str(refused.value).split("mv ")[1].split()
    Path(source).rename(target)
    assert [version.number for version in catalog.versions("toy-before")] == [1, 2]
