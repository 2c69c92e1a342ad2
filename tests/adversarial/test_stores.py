"""Stores that were cut, or in which files were replaced by links and pipes; and stores in other processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.data.stores import stored

from worldline.data.store import Store, open_store
from worldline.errors import DataError
from worldline.testing.toys import Integrator
from worldline.workflows.check import check

TOY = Integrator(camera=False, wind=False, noise=0.1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return stored(tmp_path / "store", TOY.schema, TOY.episodes(14, 40, seed=0))


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def test_a_cut_index_is_found(store: Store) -> None:
    assert not check(store).failed
    cut(store.path / "index.bin", 0.5)
    report = check(open_store(store.path))
    assert report.failed
    assert "the index lists 7 episodes, but the store holds at least 14" in [one.problem for one in report.findings]


def test_an_append_that_was_interrupted_is_no_error(store: Store) -> None:
    """The source of the last episode is written, its record is not."""
    cut(store.path / "index.bin", 13 / 14)
    again = open_store(store.path)
    assert len(again) == 13
    assert again.num_unlisted() == 1
    assert not check(again).failed


@pytest.mark.parametrize("name", ["sources.jsonl", "blocks/position.raw"])
def test_cut_files_are_found(store: Store, name: str) -> None:
    cut(store.path / name, 0.5)
    with pytest.raises(DataError, match=name):
        open_store(store.path)


def link(path: Path) -> None:
    moved = path.rename(path.parents[2] / "elsewhere")
    path.symlink_to(moved)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("replace", [link, pipe])
@pytest.mark.parametrize("name", ["blocks/position.raw", "blocks/push.raw"])
def test_links_and_pipes_are_refused_before_they_are_read(
    store: Store, replace: Callable[[Path], None], name: str
) -> None:
    replace(store.path / name)
    with pytest.raises(DataError, match=r"a link|not a regular file"):
        open_store(store.path)


def mean_of(store: Store) -> float:
    return float(store.read("position", 3, 0, 41).mean())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # from Python 3.12 on
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_store_works_in_other_processes(store: Store, method: str) -> None:
    expected = mean_of(store)  # files are open before the fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(mean_of, [store] * 4) == [expected] * 4
