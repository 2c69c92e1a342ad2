"""A world is never graded on what it was learned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.understanding.audit.carts import SCHEMA, Cart, carts, write

from worldline.contracts.engine import Card
from worldline.data.store import open_store
from worldline.engines.trivial import Persistence
from worldline.errors import DataError
from worldline.planners.cem import CrossEntropy
from worldline.understanding.exam.bank import as_world
from worldline.workflows.audit import audit
from worldline.workflows.held_out import read_episodes
from worldline.worlds.bundled import save_world
from worldline.worlds.local import LocalWorld


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned(Cart):
    """Says what it was learned from."""

    notes: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> Card:
        return replace(super().describe(), notes=self.notes)


def learned_from(logs: Path) -> Learned:
    return Learned(notes={"data": open_store(logs).content_hash()})


def bundle(folder: Path, run: Mapping[str, Any] | None) -> str:
    save_world(folder, LocalWorld(Persistence.fit(carts(0, 2), SCHEMA), None, CrossEntropy()), run=run)
    return str(folder)


def test_of_the_store_that_a_world_was_learned_from_each_episode_has_its_part(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", count=6)
    split = {"rule": "at random", "train": [0, 1, 2], "validation": [3], "calibration": [4], "held_out": [5]}
    found = read_episodes(learned_from(logs).describe(), logs, bundle(tmp_path / "world", {"split": split}))
    assert [one.part for one in found] == ["train"] * 3 + ["held_out"]


@pytest.mark.parametrize("run", [None, {}, {"split": {}}])
def test_a_bundle_that_does_not_tell_what_was_held_out_is_refused(
    tmp_path: Path, run: Mapping[str, Any] | None
) -> None:
    logs, opened_from = write(tmp_path / "logs", count=6), bundle(tmp_path / "world", run)
    with pytest.raises(DataError, match="does not tell which of the episodes were held out"):
        list(read_episodes(learned_from(logs).describe(), logs, opened_from))


def test_a_served_world_is_not_graded_on_its_training_episodes(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", count=6)
    with pytest.raises(DataError, match=r"http://localhost:1 does not tell .* Give the folder of its bundle"):
        list(read_episodes(learned_from(logs).describe(), logs, "http://localhost:1"))
    others = write(tmp_path / "others", count=3)
    found = read_episodes(learned_from(logs).describe(), others, "http://localhost:1")
    assert [one.part for one in found] == [""] * 3


def test_a_world_that_is_open_already_is_not_looked_for_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = write(tmp_path / "logs", count=6)
    split = {"train": [0, 1, 2], "held_out": [3, 4, 5]}
    monkeypatch.chdir(bundle(tmp_path / "another", {"split": split}))
    with pytest.raises(DataError, match="a world that is open already does not tell"):
        audit(as_world(learned_from(logs)), logs)
