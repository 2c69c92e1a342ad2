from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import run

from worldline.cli import stores
from worldline.data.store import Store
from worldline.engines.base import CallCost
from worldline.engines.baselines import Linear
from worldline.episode import Episode
from worldline.errors import InputError, WorldlineError
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing.toys import Integrator
from worldline.world.bundle_io import save_world
from worldline.world.fit_calibration import calibrate
from worldline.world.local import LocalWorld


def show(*arguments: object) -> str:
    """What is printed, with ordinary spaces."""
    return run("show", *arguments, env={"COLUMNS": "200"}).output.replace("\u00a0", " ")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    schema = Schema(
        signals=(
            Signal(name="eye", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(4, 6, 3)),
            Signal(name="air_temperature", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC"),
            Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), unit="N", low=(-1.0,)),
        ),
        step_s=0.5,
    )
    store = Store.create(tmp_path / "logs", schema, max_error={"eye": 1}, notes={"importer": "a toy"})
    for number in range(3):
        store.append(
            Episode(
                observations={
                    "eye": np.full((5, 4, 6, 3), 60 * number, np.uint8),
                    "air_temperature": np.arange(5, dtype=np.float32)[:, None],
                },
                actions={"push": np.zeros((4, 1), np.float32)},
                observed={"air_temperature": np.array([True, True, True, True, number > 0])},
                seed=number,
            ),
            {"file": "a.npz", "episode": number},
        )
    return store.path


def test_it_prints_tables_and_where_the_files_are_and_writes_figures(logs: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    said = show(logs, "1", "--out", tmp_path / "pages", "--json", figures)
    for text in ("4 × 6 × 3", "°C", "from −1", "3 truncated", "6 s", "4 steps", "a.npz", "0, 1, 2", "a toy"):
        assert text in said, text
    for name in ("index.html", "episode-1.html"):
        assert str(tmp_path / "pages" / name) in said.replace("\n", "")
        assert (tmp_path / "pages" / name).stat().st_size > 1000
    found = json.loads(figures.read_text())
    assert (found["num_episodes"], found["num_steps"], found["time_s"], found["seeded"]) == (3, 12, 6.0, 3)
    assert found["num_bytes"] == sum(file.stat().st_size for file in logs.rglob("*") if file.is_file())
    eye, temperature, push = found["signals"]
    assert push["signal"]["high"] is None
    assert eye["max_error"] == 1
    assert temperature["missing"] == pytest.approx(1 / 15)
    assert found["sources"]["episode"] == "0, 1, 2"


def test_the_default_folder_is_show(logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    show(logs, "--signals", "push")
    page = (tmp_path / "show" / "episode-0.html").read_text()
    assert "push" in page
    assert "air_temperature" not in page


def test_it_takes_stores_only(tmp_path: Path) -> None:
    with pytest.raises(WorldlineError) as refused:
        stores.show(tmp_path)
    assert not isinstance(refused.value, InputError)


def test_it_prints_the_card_of_a_world(tmp_path: Path) -> None:
    toy = Integrator(camera=False, wind=False)
    engine = Linear.fit(toy.episodes(9, 20, seed=0), toy.schema)
    calibration = calibrate(engine, toy.episodes(16, 12, seed=1), horizon=6, num_windows=1, seed=0)
    world = LocalWorld(
        engine, calibration, CrossEntropy(), call=CallCost(latency_s=0.0125), bytes_per_candidate=234_567
    )
    save_world(tmp_path / "toy", world)
    text = show(tmp_path / "toy", "--json", tmp_path / "card.json").replace("\u202f", " ")
    for line in (
        r"actions +push",
        r"bands +up to 6 steps, highest level 92.3 %",
        r"one prediction +12.5 ms",
        r"worlds in one call +at most 65,?.?536",
        r"memory per candidate +235 kB",
    ):
        assert re.search(line, text), (line, text)
    assert json.loads((tmp_path / "card.json").read_text())["bytes_per_candidate"] == 234_567
