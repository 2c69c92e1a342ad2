"""Mutated bundles, stores, tables and archives: a clear error or the same answer, without a traceback or a hang."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import stored
from tests.serve.scripted import TOY, linear_world

import worldline
from worldline.data.importing import import_logs
from worldline.data.store import open_store
from worldline.errors import WorldlineError
from worldline.world.bundle_io import save_world

COUNTS = [40, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
LIMIT_S = 20.0
"""Wide: a file takes milliseconds."""
EPISODE = TOY.episodes(1, 12, seed=3)[0]


def mutate(path: Path, draw: np.random.Generator) -> None:
    """Flips, removes, repeats or inserts bytes, or cuts the file."""
    content = bytearray(path.read_bytes())
    at, size = int(draw.integers(len(content) + 1)), int(draw.integers(1, 40))
    match int(draw.integers(6)):
        case 0 if content:
            content[at % len(content)] ^= 1 << int(draw.integers(8))
        case 1:
            del content[at : at + size]
        case 2:
            content[at:at] = content[at : at + size] * int(draw.integers(1, 50))
        case 3:
            content[at:at] = draw.bytes(size)
        case 4:
            content[at : at + size] = b"9" * size
        case _:
            del content[at:]
    path.write_bytes(content)


def tried(action: Callable[[], object]) -> object:
    """The result of an action, or the error that a user sees. Others fail the test."""
    began_s = time.process_time()
    try:
        return action()
    except (WorldlineError, OSError) as error:  # commands print both on one line
        return error
    finally:
        assert time.process_time() - began_s < LIMIT_S


def one_file(folder: Path, draw: np.random.Generator) -> Path:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return files[int(draw.integers(len(files)))]


@pytest.mark.parametrize("count", COUNTS)
def test_a_changed_bundle_is_refused_or_predicts_the_same(count: int, tmp_path: Path) -> None:
    draw, history = np.random.default_rng(count), EPISODE.history(5, 6)
    push = {"push": EPISODE.actions["push"][5:9]}
    save_world(tmp_path / "good", linear_world())
    expected, refused = worldline.open(tmp_path / "good", device="cpu").predict(history, push), 0

    def predicted() -> np.ndarray:
        world = worldline.open(tmp_path / "bad", device="cpu")
        return world.predict(history, push).signals["position"].mean

    for _ in range(count):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        mutate(file := one_file(tmp_path / "bad", draw), draw)
        answer = tried(predicted)
        if isinstance(answer, Exception):
            refused += 1
        else:
            assert file.name == "manifest.json" or file.read_bytes() == (tmp_path / "good" / file.name).read_bytes()
            np.testing.assert_array_equal(answer, expected.signals["position"].mean)
    assert refused > count / 2


@pytest.mark.parametrize("count", COUNTS)
def test_a_changed_store_is_refused_or_verified(count: int, tmp_path: Path) -> None:
    draw, episodes = np.random.default_rng(count), TOY.episodes(4, 10, seed=0)
    stored(tmp_path / "good", TOY.schema, episodes)

    def verified() -> list[np.ndarray]:
        store = open_store(tmp_path / "bad")
        return [store.verify(number).observations["position"] for number in range(len(store))]

    for _ in range(count):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        mutate(one_file(tmp_path / "bad", draw), draw)
        if not isinstance(answer := tried(verified), Exception):
            assert isinstance(answer, list)
            for read, known in zip(answer, episodes, strict=False):
                np.testing.assert_array_equal(read, known.observations["position"])


def write_csv(path: Path) -> None:
    rows = (f"{t // 30},{t * 0.5},{t % 7},{t % 3},{'on' if t % 2 else 'off'}\n" for t in range(120))
    path.write_text("episode,time [s],temperature [degC],valve_command,mode\n" + "".join(rows))


def write_npz(path: Path) -> None:
    np.savez_compressed(path, temperature=np.arange(90.0).reshape(30, 3), valve_action=np.zeros((29, 1)))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("name", "write"), [("log.csv", write_csv), ("log.npz", write_npz)])
def test_a_changed_log_is_imported_or_refused(
    count: int, name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    draw, imported = np.random.default_rng(count), 0
    for number in range(count):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(folder / name)
        mutate(folder / name, draw)
        answer = tried(lambda folder=folder: import_logs(folder / name, folder / "store", keep_going=True))
        imported += not isinstance(answer, Exception)
        shutil.rmtree(folder)
    assert imported or name == "log.npz"
