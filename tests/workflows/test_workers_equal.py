"""Recordings, imports, trainings and choices by several workers equal those of one process with one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.data.stores import stored

from worldline.data.importing import import_logs
from worldline.data.store import Store, open_store
from worldline.errors import InputError
from worldline.labs.two_rooms import TwoRooms
from worldline.testing.toys import Integrator
from worldline.workflows.learn import learn_logs
from worldline.workflows.learn_options import Options
from worldline.workflows.learn_result import LearnResult
from worldline.workflows.record import record

SHORT = {"training.num_updates": 6, "training.num_checks": 2, "training.min_deviation": 0.0, "training.min_rank": 1.0}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    toy = Integrator(camera=False)
    return stored(tmp_path_factory.mktemp("logs") / "store", toy.schema, toy.episodes(24, 14, seed=0))


def test_a_recording(tmp_path: Path) -> None:
    sizes: Any = {"num_episodes": 7, "max_steps": 5, "seed": 3}
    alone, shared = (record("two-rooms", tmp_path / f"by-{count}", workers=count, **sizes) for count in (1, 2))
    assert shared.content_hash() == alone.content_hash()
    assert [entry.source for entry in shared.entries()] == [entry.source for entry in alone.entries()]
    with pytest.raises(InputError, match=r"the environment is open here\. Give its name or a function"):
        record(TwoRooms(), tmp_path / "open", workers=2, **sizes)


def test_an_import_of_several_files(tmp_path: Path) -> None:
    folder, draw = tmp_path / "logs", np.random.default_rng(0)
    folder.mkdir()
    for number in range(5):
        rows = {"level": draw.normal(size=30), "valve": draw.uniform(-1, 1, 30)}
        pd.DataFrame(rows).to_csv(folder / f"{number}.csv", index=False)
    (folder / "3.csv").write_text("level,valve\n1,x\n")
    edits = {"valve": {"role": "action"}}
    alone, shared = (
        import_logs(folder, tmp_path / f"by-{count}", edits=edits, keep_going=True, workers=count) for count in (1, 2)
    )
    assert (shared.files, shared.findings) == (alone.files, alone.findings)
    assert shared.num_episodes == 4
    assert open_store(shared.destination).content_hash() == open_store(alone.destination).content_hash()


def learned(logs: Store, out: Path, workers: int, **options: Any) -> tuple[LearnResult, dict[str, torch.Tensor]]:
    result = learn_logs(logs, out, Options(set=SHORT, workers=workers, **options))
    return result, result.learned.engine.model.state_dict()


def test_seeds(logs: Store, tmp_path: Path) -> None:
    (alone, expected), (shared, weights) = (
        learned(logs, tmp_path / f"by-{count}", count, recipe="vectors", num_seeds=2) for count in (1, 2)
    )
    assert [row.control for row in shared.seeds] == [row.control for row in alone.seeds]
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    lines = sorted(path.name for path in tmp_path.glob("by-2.log/*.jsonl"))
    assert lines == ["by-2-seed0.jsonl", "by-2-seed1.jsonl"]


def test_candidates(logs: Store, tmp_path: Path) -> None:
    (alone, _), (shared, _) = (learned(logs, tmp_path / f"by-{count}", count) for count in (1, 2))
    assert alone.choice is not None
    assert shared.choice is not None
    assert len(shared.choice.trials) > 1
    assert [(one.name, one.errors) for one in shared.choice.trials] == [
        (one.name, one.errors) for one in alone.choice.trials
    ]
    assert shared.choice.chosen == alone.choice.chosen
