from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from worldline.catalog import shadow
from worldline.catalog.comparison import read_records
from worldline.catalog.shadow import Shadow, VersionPair
from worldline.planning.calls import PredictCall
from worldline.testing.toys import Integrator
from worldline.world.base import World
from worldline.world.local import LocalWorld

EPISODE = Integrator(noise=0.1, camera=False, wind=False).episodes(1, 9, seed=0)[0]
HISTORY = EPISODE.history(EPISODE.num_steps, EPISODE.num_steps + 1)
PUSHES = {"push": np.zeros((3, 2), np.float32)}
Write = Callable[..., Path]
Open = Callable[[Path], LocalWorld]


@pytest.fixture
def pair(tmp_path: Path, toy_bundle: Write) -> VersionPair:
    return VersionPair(candidate=2, bundle=toy_bundle(0.5), records=tmp_path / "shadow" / "prod-1-2.jsonl")


def wanting(pair: VersionPair, open_bundle: Callable[[Path], World], size: int = 4) -> Shadow:
    found = Shadow(open_bundle, size)
    found.want(pair.bundle)
    return found


def put(shadowing: Shadow, pair: VersionPair, world: World, times: int = 1) -> None:
    for _ in range(times):
        shadowing.offer(pair, world, PredictCall(history=HISTORY, actions=PUSHES), 0.25)


def test_calls_are_repeated_and_a_history_is_scored_once(pair: VersionPair, toy_bundle: Write, open_toy: Open) -> None:
    shadowing = wanting(pair, open_toy)
    put(shadowing, pair, open_toy(toy_bundle(0.0)), 2)
    shadowing.flush()
    record, second = read_records(pair.records)
    assert (record.verb, record.serving_s, record.error, record.unscored) == ("predict", 0.25, "", "")
    assert record.candidate_s is not None
    assert record.outcomes["position"].candidate > record.outcomes["position"].serving + 0.2
    assert (second.outcomes, second.unscored, second.error) == ({}, "this history was scored already", "")
    assert shadowing.opened(pair.bundle) is not None
    shadowing.want(None)
    assert shadowing.opened(pair.bundle) is None
    shadowing.close()


def test_no_caller_waits_and_dropped_calls_are_counted(pair: VersionPair, toy_bundle: Write, open_toy: Open) -> None:
    opening, may_open = Event(), Event()

    def slow(path: Path) -> World:
        opening.set()
        assert may_open.wait(60)
        return open_toy(path)

    world, shadowing = open_toy(toy_bundle(0.0)), wanting(pair, slow, 2)
    put(shadowing, pair, world)
    assert opening.wait(60)
    put(shadowing, pair, world, 4)
    may_open.set()
    shadowing.flush()
    put(shadowing, pair, world)
    shadowing.close()
    put(shadowing, pair, world)
    found = read_records(pair.records)
    assert len(found) == 4
    assert sum(record.dropped for record in found) == 2


def test_a_candidate_that_cannot_be_opened_is_tried_once(
    tmp_path: Path, toy_bundle: Write, open_toy: Open, caplog: pytest.LogCaptureFixture
) -> None:
    pair = VersionPair(candidate=2, bundle=toy_bundle(fails="open"), records=tmp_path / "shadow" / "a.jsonl")
    shadowing, world = wanting(pair, open_toy), open_toy(toy_bundle(0.0))
    with caplog.at_level(logging.DEBUG, "worldline"):
        put(shadowing, pair, world, 3)
        shadowing.close()
    assert [record.error for record in read_records(pair.records)] == ["BundleError: no key fits"] * 3
    assert len(caplog.records) == 1
    assert "version 2 cannot be opened to run in shadow (BundleError)" in caplog.text
    assert "no key fits" not in caplog.text


def test_records_stop_at_a_size(
    pair: VersionPair, toy_bundle: Write, open_toy: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "MAX_FILE_BYTES", 500)
    shadowing, world = wanting(pair, open_toy, 16), open_toy(toy_bundle(0.0))
    put(shadowing, pair, world, 8)
    shadowing.flush()
    assert 500 <= pair.records.stat().st_size < 1500
    assert len(read_records(pair.records)) < 8
    pair.records.unlink()
    put(shadowing, pair, world)  # the comparison begins anew
    shadowing.close()
    assert len(read_records(pair.records)) == 1


def test_a_disk_that_is_full_ends_nothing(
    pair: VersionPair, toy_bundle: Write, open_toy: Open, caplog: pytest.LogCaptureFixture
) -> None:
    shadowing, world = wanting(pair, open_toy), open_toy(toy_bundle(0.0))
    pair.records.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.DEBUG, "worldline"):
        put(shadowing, pair, world)
        shadowing.flush()
    assert "could not be recorded" in caplog.text
    assert str(pair.records.parent) not in caplog.text
    pair.records.parent.unlink()
    put(shadowing, pair, world)
    shadowing.close()
    assert len(read_records(pair.records)) == 1


def test_a_candidate_that_is_let_go_is_not_opened_again(toy_bundle: Write, open_toy: Open, pair: VersionPair) -> None:
    opening, may_open, opened = Event(), Event(), []

    def slow(path: Path) -> World:
        opened.append(path)
        opening.set()
        assert may_open.wait(60)
        return open_toy(path)

    world, shadowing = open_toy(toy_bundle(0.0)), wanting(pair, slow)
    put(shadowing, pair, world, 3)
    assert opening.wait(60)
    shadowing.want(None)
    may_open.set()
    shadowing.flush()
    assert (shadowing.opened(pair.bundle), (len(opened), len(read_records(pair.records)))) == (None, (1, 1))
    put(shadowing, pair, world)
    shadowing.want(pair.bundle)
    put(shadowing, pair, world)
    shadowing.close()
    assert len(read_records(pair.records)) == 2


def test_a_process_ends_although_a_candidate_is_at_work(tmp_path: Path) -> None:
    code = """
import runpy, sys
from pathlib import Path
import numpy as np
import torch
from worldline.episode import History
from worldline.catalog.versions import Catalog
from worldline.catalog.named import NamedWorld

toys, folder = runpy.run_path(sys.argv[1]), Path(sys.argv[2])
def slow(path):
    if path.name == "2":
        layer, batch = torch.nn.Linear(512, 512), torch.zeros(256, 512)
        for _ in range(30):
            layer(batch).sum().backward()
    return toys["open_toy"](path)
catalog = Catalog(folder / "c", open_bundle=toys["open_toy"])
catalog.publish(toys["write_toy"](folder / "a"), "toy", alias="prod")
catalog.publish(toys["write_toy"](folder / "b"), "toy")
catalog.shadow("toy", "prod", 2)
world = NamedWorld(catalog.shelf("toy"), "prod", open_bundle=slow)
for _ in range(9):
    history = History(observations={"position": np.zeros((6, 2))}, actions={"push": np.zeros((5, 2))})
    world.predict(history, {"push": np.zeros((2, 2))})
"""
    here = str(Path(__file__).parents[1] / "world" / "toy_worlds.py")
    done = subprocess.run([sys.executable, "-c", code, here, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
