"""A world is never graded on what it was learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.audit.carts import SCHEMA, Cart, carts, write
from tests.data.stores import stored

from worldline.audit.baselines import as_world
from worldline.config import to_json
from worldline.data.store import Store, open_store
from worldline.engines.base import Card
from worldline.engines.baselines import Persistence
from worldline.episode import Episode
from worldline.errors import BundleError, DataError
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Signal
from worldline.workflows.audit import audit
from worldline.workflows.held_out import WorldEpisode, chosen, fingerprints, read_episodes
from worldline.world.bundle_io import save_world
from worldline.world.local import LocalWorld


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


def files(folder: Path, episodes: Sequence[Episode]) -> Path:
    folder.mkdir()
    (folder / "schema.json").write_text(to_json(SCHEMA))
    for number, one in enumerate(episodes):
        np.savez(folder / f"{number}.npz", **one.observations, **one.actions)
    return folder


def test_of_the_store_that_a_world_was_learned_from_each_episode_has_its_part(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", count=6)
    split = {"rule": "at random", "train": [0, 1, 2], "validation": [3], "calibration": [4], "held_out": [5]}
    run = {"split": split, "curves": [{"train_loss": float("nan")}]}
    found = read_episodes(learned_from(logs).describe(), logs, bundle(tmp_path / "world", run))
    assert [one.part for one in found] == ["train"] * 3 + ["held_out"]


@pytest.mark.parametrize("run", [None, {}, {"split": {}}])
def test_a_bundle_that_does_not_say_what_was_held_out_is_refused(tmp_path: Path, run: Any) -> None:
    logs, opened_from = write(tmp_path / "logs", count=6), bundle(tmp_path / "world", run)
    with pytest.raises(DataError, match="does not state which episodes were held out"):
        list(read_episodes(learned_from(logs).describe(), logs, opened_from))


@pytest.mark.parametrize(
    "run", [{"split": [1, 2]}, {"split": {"train": ["x"]}}, {"data": [1]}, {"data": {"fingerprints": None}}]
)
def test_a_run_of_an_odd_shape_is_refused(tmp_path: Path, run: Mapping[str, Any]) -> None:
    logs, opened_from = write(tmp_path / "logs", count=2), bundle(tmp_path / "world", run)
    with pytest.raises(BundleError, match=r"run\.json: its episodes cannot be read"):
        list(read_episodes(Cart().describe(), logs, opened_from))


def test_a_served_world_is_not_graded_on_its_training_episodes(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", count=6)
    with pytest.raises(DataError, match=r"http://localhost:1 does not state .* Give the folder of its bundle"):
        list(read_episodes(learned_from(logs).describe(), logs, "http://localhost:1"))
    others = write(tmp_path / "others", count=3)
    found = read_episodes(learned_from(logs).describe(), others, "http://localhost:1")
    assert [one.part for one in found] == [""] * 3


def test_an_open_world_is_not_looked_for_in_the_working_directory(tmp_path: Path, monkeypatch: Any) -> None:
    logs = write(tmp_path / "logs", count=6)
    split = {"train": [0, 1, 2], "held_out": [3, 4, 5]}
    monkeypatch.chdir(bundle(tmp_path / "another", {"split": split}))
    with pytest.raises(DataError, match="a world that is already open does not state"):
        audit(as_world(learned_from(logs)), logs)


@pytest.mark.parametrize("kind", ["store", "files"])
def test_episodes_that_a_world_was_learned_with_are_known_in_other_logs_too(tmp_path: Path, kind: str) -> None:
    """Here among others, in another order; else what it was trained on would be graded as unseen."""
    learned = open_store(write(tmp_path / "logs", count=6))
    split = {"train": [0, 1, 2], "calibration": [3], "held_out": [4, 5]}
    run = {"split": split, "data": {"fingerprints": fingerprints(learned, SCHEMA)}}
    opened_from = bundle(tmp_path / "world", run)
    order, others, logs = [5, 3, 0, 1, 2, 4], carts(50, 2), tmp_path / "more"
    episodes = [*others, *(learned.episode(number) for number in order)]
    if kind == "store":
        stored(logs, SCHEMA, episodes)
    else:
        files(logs, episodes)
    seen = list(read_episodes(learned_from(tmp_path / "logs").describe(), logs, opened_from))
    assert [one.part for one in seen] == ["", "", "held_out", "train", "train", "train", "held_out"]
    graded, fitted = chosen(seen, need=3, max_graded=9, seed=0)
    assert [len(graded), len(fitted)] == [4, 3]
    assert all(one.part != "train" for one in graded)


def test_without_a_trained_episode_among_the_logs_a_third_serves_the_fits(tmp_path: Path) -> None:
    logs = write(tmp_path / "logs", count=9)
    seen = list(read_episodes(learned_from(write(tmp_path / "others", count=3)).describe(), logs, ""))
    graded, fitted = chosen(seen, need=3, max_graded=9, seed=0)
    assert [len(graded), len(fitted)] == [6, 3]


def logged(count: int, part: str = "") -> list[WorldEpisode]:
    return [WorldEpisode(episode=one, flag=None, part=part) for one in carts(0, count)]


def test_of_many_episodes_a_draw_is_graded_in_the_order_of_the_logs() -> None:
    """Not the first ones: logs are in the order of time, and what they are of may have changed."""
    seen = [*logged(30), *logged(20, "train")]
    graded, _ = chosen(seen, need=3, max_graded=10, seed=0)
    places = [seen.index(one) for one in graded]
    assert len(places) == 10
    assert places == sorted(places) != list(range(10))
    assert graded == chosen(seen, need=3, max_graded=10, seed=0)[0]
    assert graded != chosen(seen, need=3, max_graded=10, seed=1)[0]


def test_few_trained_episodes_among_the_logs_are_not_all_that_the_fits_get() -> None:
    graded, fitted = chosen([*logged(9), *logged(1, "train")], need=3, max_graded=9, seed=0)
    assert [len(graded), len(fitted)] == [6, 4]
    graded, fitted = chosen([*logged(9), *logged(3, "train")], need=3, max_graded=9, seed=0)
    assert [len(graded), len(fitted)] == [9, 3]


def test_a_step_whose_flag_was_not_observed_is_not_randomised(tmp_path: Path) -> None:
    flag = Signal(name="randomised", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,))
    store = Store.create(tmp_path / "logs", replace(SCHEMA, signals=(*SCHEMA.signals, flag)))
    (one,) = carts(0, 1)
    observations = {**one.observations, "randomised": np.ones((31, 1), np.float32)}
    store.append(replace(one, observations=observations, observed={"randomised": np.arange(31) >= 10}))
    (seen,) = read_episodes(Cart().describe(), tmp_path / "logs", "")
    assert seen.flag.tolist() == [0.0] * 10 + [1.0] * 20


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"push": np.zeros((27, 1), np.float32)}, r"1\.npz, episode 1, signal 'place': expected 28 rows, got 31"),
        ({"place": np.full((31, 1), np.inf, np.float32)}, r"1\.npz, episode 1, signal 'place', step 0: the value is"),
        (None, r"1\.npz, episode 1: .*"),
    ],
)
def test_logs_that_are_no_store_are_checked_too(tmp_path: Path, wrong: Mapping[str, Any] | None, told: str) -> None:
    """Nor is a file that cannot be read passed over in silence."""
    logs = files(tmp_path / "logs", carts(0, 3))
    if wrong is None:
        (logs / "1.npz").write_bytes(b"PK")
    else:
        (one,) = carts(1, 1)
        np.savez(logs / "1.npz", **{**one.observations, **one.actions, **wrong})
    with pytest.raises(DataError, match=f"{told}.* Or import the logs with --keep-going"):
        list(read_episodes(Cart().describe(), logs, ""))
