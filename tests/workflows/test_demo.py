from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import worldline
from worldline.data.store import Store, open_store
from worldline.errors import InputError
from worldline.progress import Progress
from worldline.recipes.recipe import Recipe
from worldline.recipes.two_rooms import two_rooms
from worldline.workflows.demo import demo
from worldline.workflows.goals import reached, side


def test_everything_in_small(tmp_path: Path, tiny: Callable[[Store], Recipe]) -> None:
    told: list[Progress] = []
    result = demo(tmp_path / "demo", num_episodes=24, num_pairs=2, recipe=tiny, progress=told.append)
    assert result.pairs == 2
    assert result.oracle == 1.0
    assert result.no_move == 0.0
    assert 0 <= result.success_low <= result.success <= result.success_high <= 1
    assert result.refine_s == 0  # with fixed walls the dynamics are not refined
    assert 0 < result.heads_s < result.learn_s < result.total_s
    assert min(result.plan_ms, result.plan_batched_ms, result.peak_memory_gb) > 0
    stages = [stage for stage in dict.fromkeys(now.stage for now in told) if not stage.startswith("plan")]
    assert stages == ["record", "check", "learn", "encode", "fit heads", "calibrate", "measure", "report"]
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["result"] == asdict(result)
    page = (tmp_path / "demo" / "report.html").read_text()
    for words in ("true dynamics", "effective rank", "decoder serves visualisation only", "persistence", "shuffled"):
        assert words in page.lower(), words
    assert "executed plan" in page.lower()
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert files == {"demo.json", "logs", "report.html", "world", "world.log"}
    episode = open_store(tmp_path / "demo" / "logs").episode(0)
    world = worldline.open(tmp_path / "demo" / "world")
    goal = worldline.Goal(targets={"camera": episode.observations["camera"][9]})
    assert world.plan(episode.history(at=0, length=1), goal, horizon=5).actions["move"].shape == (5, 2)


@pytest.mark.parametrize("names", [("demo.json", "thesis.txt"), ("thesis.txt",), ("logs",)])
def test_a_folder_with_something_else_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("years of work")
    with pytest.raises(InputError, match=rf"{names[-1]}.*not part of an earlier demo"):
        demo(tmp_path)
    assert (tmp_path / names[-1]).exists()


def test_an_earlier_demo_is_replaced(tmp_path: Path, tiny: Callable[[Store], Recipe]) -> None:
    (tmp_path / "demo.json").write_text("{}")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "old").touch()
    (tmp_path / "report.html").write_text("old")

    def refuse(store: Store) -> Recipe:
        raise InputError("far enough")

    with pytest.raises(InputError, match="far enough"):
        demo(tmp_path, num_episodes=4, recipe=refuse)
    assert not (tmp_path / "logs" / "old").exists()
    assert not (tmp_path / "report.html").exists()


def test_sides_and_success() -> None:
    def at(x: float, y: float) -> dict[str, np.ndarray]:
        return {"position": np.array([x, y], np.float32), "wall": np.array([32, 32], np.float32)}

    assert side(at(10, 10), at(50, 10)) == "across the wall"
    assert side(at(10, 10), at(12, 50)) == "same room"
    assert reached(at(10, 10), at(12.9, 10))
    assert not reached(at(10, 10), at(13, 10))


def reduced(store: Store) -> Recipe:
    recipe = two_rooms(store)
    return replace(
        recipe,
        training=replace(recipe.training, num_updates=300, num_checks=5),
        heads=replace(recipe.heads, readout_updates=300, distance_updates=800, inverse_updates=400),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_learns_to_reach_goals_across_the_wall(tmp_path: Path) -> None:
    result = demo(tmp_path / "demo", num_episodes=200, num_pairs=80, recipe=reduced)
    assert result.success_low > max(result.random, result.no_move) + 0.2
    assert result.success >= result.inverse - 0.05
    assert result.success >= 0.8
    assert result.success > result.straight  # who walks straight at the goal needs no model
    assert result.oracle >= 0.99
