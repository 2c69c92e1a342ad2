"""Logs in which nothing is chosen: imported with the action `noop`, checked, learned, audited and asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import worldline
from worldline.cli.main import app
from worldline.data.exporting import export_store
from worldline.data.importing import import_logs
from worldline.data.store import Store, open_store
from worldline.errors import DataError, InputError, UnsupportedError
from worldline.planning.base import Goal
from worldline.schema import NOOP, Role
from worldline.workflows.audit import audit
from worldline.workflows.check import check
from worldline.world.base import World

NOISE = 0.1
OBSERVED = {"swing": {"role": "observation"}, "drift": {"role": "observation"}}


def recorded(count: int, steps: int, seed: int) -> str:
    """A table of a damped swing that noise drives, with a known best error of one step, and of a slow drift."""
    draw, rows = np.random.default_rng(seed), ["episode,time,swing,drift"]
    for episode in range(count):
        before, now, drift = draw.normal(size=3)
        for step in range(steps):
            before, now = now, 1.8 * now - 0.9 * before + NOISE * draw.normal()
            drift = 0.99 * drift + NOISE * draw.normal()
            rows.append(f"{episode},{60 * step},{now:.5f},{drift:.5f}")
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("logs")
    (folder / "swing.csv").write_text(recorded(30, 120, 0))
    import_logs(folder / "swing.csv", folder / "store", edits=OBSERVED)
    return open_store(folder / "store")


@pytest.fixture(scope="module")
def world(store: Store, tmp_path_factory: pytest.TempPathFactory) -> World:
    return worldline.learn(store, tmp_path_factory.mktemp("world") / "w", recipe="linear", progress=None)


def test_every_step_gets_the_only_action(store: Store) -> None:
    assert store.schema.actions == (NOOP,)
    assert not store.schema.has_choice
    episode = store.episode(3)
    assert episode.actions[NOOP.name].tolist() == [0] * episode.num_steps
    assert episode.observations["swing"].shape == (120, 1)


def test_doubtful_roles_are_confirmed_first(tmp_path: Path) -> None:
    logs = tmp_path / "swing.csv"
    logs.write_text(recorded(4, 200, 1))
    with pytest.raises(DataError, match=r"If nothing is chosen .* --observation swing"):
        import_logs(logs, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_an_import_goes_on_and_an_export_comes_back(store: Store, tmp_path: Path) -> None:
    logs = store.path.parent / "swing.csv"
    assert len(open_store(import_logs(logs, store.path).destination)) == 30
    export_store(store, tmp_path / "out.csv")
    again = open_store(import_logs(tmp_path / "out.csv", tmp_path / "store").destination)
    assert again.schema == store.schema
    np.testing.assert_array_equal(again.episode(5).observations["drift"], store.episode(5).observations["drift"])


def test_a_check_finds_nothing_and_asks_for_no_action(store: Store) -> None:
    report = check(store)
    assert (report.findings, report.advice, report.alignment, report.coverage) == ((), (), None, None)
    said = CliRunner().invoke(app, ["check", str(store.path)])
    assert said.exit_code == 0
    assert "action" not in said.output.lower()


def test_a_world_forecasts_with_bands(store: Store, world: World) -> None:
    assert not world.describe().action_conditioned
    (store.path.parent / "fresh.csv").write_text(recorded(60, 60, 7))
    fresh = import_logs(store.path.parent / "fresh.csv", store.path.parent / "fresh", schema=store.schema)
    misses, inside = [], []
    logs = open_store(fresh.destination)
    for episode in map(logs.episode, range(len(logs))):
        answer = world.predict(episode.history(at=30), {NOOP.name: np.zeros(24, np.int64)})
        swing, truth = answer.signals["swing"], episode.observations["swing"][31:55]
        assert swing.mean.shape == (24, 1)
        misses.append(float(swing.mean[0, 0] - truth[0, 0]))
        assert swing.low is not None
        assert swing.high is not None
        inside.append(bool(((swing.low <= truth) & (truth <= swing.high)).all()))
    assert np.sqrt(np.mean(np.square(misses))) == pytest.approx(NOISE, rel=0.3)
    assert np.mean(inside) > 0.75


def test_wrong_futures_and_plans_are_refused(store: Store, world: World) -> None:
    history = store.episode(0).history(at=30)
    with pytest.raises(InputError, match="'noop' is missing"):
        world.predict(history, {})
    with pytest.raises(InputError, match=r"noop.*expected values in \[0, 0\]"):
        world.predict(history, {NOOP.name: np.ones(3, np.int64)})
    with pytest.raises(UnsupportedError, match="not action-conditioned"):
        world.plan(history, Goal(targets={"swing": [0.0]}), horizon=5)


def test_reports_measure_no_use_of_actions(store: Store, world: World, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(recorded(24, 100, 11))
    import_logs(tmp_path / "new.csv", tmp_path / "new", edits=OBSERVED)
    found = audit(world, tmp_path / "new")
    assert found.measured is not None
    measured = found.measured
    assert (measured.effects, measured.excitation, measured.placebo, measured.diagnostics.gaps) == ((), (), (), ())
    said = [*found.decision.reasons, *found.decision.limits, *found.decision.help]
    assert not any("effect" in line or "noop" in line for line in said)
    assert any("swing" in line for line in said)
    assert {signal.name for signal in store.schema.of(Role.ACTION)} == {NOOP.name}
