"""A full disk: a message, and everything that was acknowledged is there. With space, the same command completes."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import failed, run
from tests.data.stores import stored
from tests.serve.scripted import linear_world
from tests.serve.test_sessions import PREDICT, SETTINGS, STEPS, add
from tests.serve.toy_sessions import ANN, opened

import worldline
from worldline.catalog.versions import Catalog
from worldline.data.store import open_store
from worldline.errors import UnavailableError
from worldline.serve.database import Database
from worldline.testing.toys import Integrator
from worldline.world.bundle_io import save_world

TOY = Integrator(noise=0.1, camera=False, wind=False)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, left: int = 0) -> Path:
    """Takes all space but `left` bytes."""
    file = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while True:
            os.write(file, bytes(4096))
    os.close(file)
    size = (disk / "filler").stat().st_size
    os.truncate(disk / "filler", max(0, size - left))
    return disk / "filler"


def write_rows(path: Path, count: int) -> Path:
    rows = (f"{t // 50},{t % 7},{t % 3}\n" for t in range(count))
    path.write_text("episode,temperature,valve_command\n" + "".join(rows))
    return path


@pytest.mark.parametrize("left", [0, 40_000])
def test_an_import_keeps_the_store_and_completes_later(small: Path, tmp_path: Path, left: int) -> None:
    run("import", write_rows(tmp_path / "first.csv", 500), small / "store")
    more = write_rows(tmp_path / "more.csv", 50_000)
    filler = fill(small, left)
    assert "No space left on device" in failed("import", more, small / "store")
    kept = open_store(small / "store")
    assert len(kept) >= 10
    assert [kept.verify(number) for number in range(len(kept))]
    filler.unlink()
    run("import", more, small / "store")
    assert len(open_store(small / "store")) == 10 + 1000


def test_publish_keeps_versions_and_completes_later(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDLINE_HOME", str(small))
    save_world(tmp_path / "toy", linear_world())
    run("publish", tmp_path / "toy", "toy", "--alias", "prod")
    filler = fill(small)
    assert "No space left on device" in failed("publish", tmp_path / "toy", "toy", "--alias", "prod")
    assert "No space left on device" in failed("alias", "toy@next", "1")
    (version,) = Catalog().versions("toy")
    assert version.aliases == ("prod",)
    assert worldline.open("toy@prod").describe().name == "linear"
    filler.unlink()
    run("publish", tmp_path / "toy", "toy", "--alias", "prod")
    assert [version.aliases for version in Catalog().versions("toy")] == [(), ("prod",)]


def test_learn_keeps_the_world_that_was_there_and_completes_later(small: Path, tmp_path: Path) -> None:
    store = stored(tmp_path / "store", TOY.schema, TOY.episodes(30, 30, seed=0))
    learn = ["learn", store.path, "--out", small / "world", "--recipe", "linear", "--threads", "1"]
    run(*learn)
    past, push = TOY.episodes(1, 9, seed=1)[0].history(5), {"push": np.zeros((3, 2), np.float32)}

    def answer() -> np.ndarray:
        return worldline.open(small / "world").predict(past, push).signals["position"].mean

    before, filler = answer(), fill(small, 10_000)
    assert "No space left on device" in failed(*learn, "--force")
    np.testing.assert_array_equal(answer(), before)
    filler.unlink()
    run(*learn, "--force")
    np.testing.assert_allclose(answer(), before)


def test_a_service_keeps_what_it_acknowledged(small: Path) -> None:
    async def session() -> None:
        with Database(small / "service.sqlite") as database, opened(database) as (_, sessions):
            view = await sessions.create(ANN, "toy", SETTINGS)
            await add(sessions, view.id, STEPS[:5])
            filler, count = fill(small), 5
            with suppress(UnavailableError):
                for step in STEPS[5:]:
                    count = (await sessions.observe(ANN, view.id, count, step)).step
            assert 5 <= count < len(STEPS)
            assert (await sessions.get(ANN, view.id)).step == count
            filler.unlink()
            await add(sessions, view.id, STEPS[count:12], count)
        with Database(small / "service.sqlite") as database, opened(database) as (_, sessions):
            assert (await sessions.get(ANN, view.id)).step == 12
            assert np.isfinite((await sessions.ask(ANN, view.id, PREDICT)).trust)

    asyncio.run(session())
