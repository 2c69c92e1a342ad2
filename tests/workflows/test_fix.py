"""Repairs of logs with planted corruptions, on a linear plant whose clean log is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.quality.test_consistency import SCHEMA, STEPS, changed, joined, logged, with_shifted_actions
from tests.data.stores import stored

from worldline.data.base import PIECE
from worldline.data.quality.alignment import Alignment, AlignmentVerdict
from worldline.data.quality.segments import Segment
from worldline.data.store import Store, open_store
from worldline.episode import Episode
from worldline.errors import DataError, InputError, UnknownNameError
from worldline.workflows.fix import fix, plan_repairs


@pytest.fixture(autouse=True)
def lags(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lags of the actions that the next checks find; then they are aligned. The regressions take seconds."""
    found = list[int]()

    def judged(tracks: Sequence[Segment], seed: int) -> Alignment:
        del tracks, seed
        lag = found.pop(0) if found else 0
        verdict = AlignmentVerdict.LAG if lag > 0 else AlignmentVerdict.LEAD if lag else AlignmentVerdict.ALIGNED
        return Alignment(verdict=verdict, shift=lag, reason="planted", fix="Move them: --action-lag" if lag else "")

    monkeypatch.setattr("worldline.workflows.check.judge", judged)
    monkeypatch.setattr("worldline.workflows.check.survey", lambda *_: None)
    return found


def repaired(path: Path, episodes: list[Episode], saturated: Collection[str] = ()) -> Store:
    """The repaired store of a log; nothing that can be repaired remains in it."""
    plan = plan_repairs(stored(path / "log", SCHEMA, episodes), saturated=saturated)
    remaining = fix(plan, path / "fixed")
    assert not remaining.misaligned
    assert not any(one.kind for one in remaining.findings)
    return open_store(path / "fixed")


def with_values(one: Episode, name: str, values: np.ndarray) -> Episode:
    return replace(one, observations={**one.observations, name: values})


def assert_equal(one: Episode, truth: Episode, tolerance: float = 0.0) -> None:
    for group in ("observations", "actions"):
        for name, values in getattr(truth, group).items():
            np.testing.assert_allclose(getattr(one, group)[name], values, rtol=tolerance, atol=0)


def test_a_clean_log_is_not_repaired(tmp_path: Path) -> None:
    plan = plan_repairs(stored(tmp_path / "log", SCHEMA, logged()))
    assert (plan.repairs, plan.left_alone) == ([], [])
    with pytest.raises(InputError, match="nothing that can be repaired"):
        fix(plan, tmp_path / "fixed")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize(
    ("name", "change", "words", "tolerance"),
    [
        ("heat", lambda heat: -heat, "the sign is changed back", 0.0),
        ("heat", lambda heat: heat * np.float32(1.8) + 32, "minus 32, divided by 1.8", 2e-4),
        pytest.param("heat", lambda heat: heat * np.float32(1.55), "divided by 1.5", 0.02, marks=pytest.mark.slow),
        ("tank", lambda tank: tank[:, ::-1], "swapped back with tank.right", 0.0),
        pytest.param(
            "tank", lambda tank: tank * np.array([1, 1000], np.float32), "divided by 1000", 1e-6, marks=pytest.mark.slow
        ),
    ],
)
def test_a_unit_sign_or_swap_is_converted_back(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], words: str, tolerance: float
) -> None:
    truth = logged(1)
    plan = plan_repairs(stored(tmp_path / "log", SCHEMA, changed(truth, name, change)))
    (repair,) = plan.repairs
    assert (repair.signal, repair.places[0].episode, len(repair.places)) == (name, 50, 30)
    assert words in repair.after
    assert plan.left_alone == []
    assert fix(plan, tmp_path / "fixed").findings == ()
    fixed = open_store(tmp_path / "fixed")
    for number, one in enumerate(truth):
        found = fixed.episode(number).observations[name]
        np.testing.assert_allclose(found, one.observations[name], rtol=tolerance, atol=50 * tolerance)


def test_columns_of_two_signals_are_swapped_back_with_their_masks(tmp_path: Path) -> None:
    signals = [replace(one, shape=(1,), components=()) if one.name == "tank" else one for one in SCHEMA.signals]
    known, truth, log = np.arange(STEPS + 1) % 9 > 0, list[Episode](), list[Episode]()
    for number, one in enumerate(logged()):
        tank, heat = one.observations["tank"][:, :1], one.observations["heat"]
        truth.append(replace(one, observations={**one.observations, "tank": tank}, observed={"heat": known}))
        swapped = {**one.observations, "tank": heat, "heat": tank}
        log.append(replace(one, observations=swapped, observed={"tank": known}) if number >= 50 else truth[-1])
    plan = plan_repairs(stored(tmp_path / "log", replace(SCHEMA, signals=tuple(signals)), log))
    fix(plan, tmp_path / "fixed")
    fixed = open_store(tmp_path / "fixed")
    for number in (49, 50, 79):
        assert_equal(fixed.episode(number), truth[number])
        assert fixed.episode(number).observed["heat"].tolist() == known.tolist()
        assert "tank" not in fixed.episode(number).observed


@pytest.mark.parametrize(
    "change",
    [
        lambda heat: heat + np.float32(3),
        lambda heat: heat + np.cumsum(np.full_like(heat, 0.05), 0),
        lambda heat: heat * np.float32(1.8) + 2,
        lambda heat: np.where(heat > 0, 2, 1).astype(np.float32) * heat,
    ],
    ids=["offset", "drift", "factor and offset", "nonlinear"],
)
def test_a_change_that_may_be_real_is_left_alone(tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    plan = plan_repairs(stored(tmp_path / "log", SCHEMA, changed(logged(), "heat", change)))
    assert plan.repairs == []
    assert any(one.signal == "heat" and "Not certain" in one.reason for one in plan.left_alone)


def test_joined_episodes_are_split_into_the_original_ones(tmp_path: Path) -> None:
    truth = logged()
    fixed = repaired(tmp_path, [*truth[6:30], *joined(truth[:6]), *truth[30:]])
    expected = [*truth[6:30], *truth[:6], *truth[30:]]
    assert len(fixed) == len(expected)
    for number, one in enumerate(expected):
        assert_equal(fixed.episode(number), one)
    assert fixed.entry(25).source == {"label": "episode 24", PIECE: 1}
    assert fixed.entry(23).source == {}


def test_an_episode_is_split_where_its_clock_jumps(tmp_path: Path) -> None:
    log = logged()
    steps = np.full(STEPS, 1.0, np.float32)
    steps[20] = 50.0
    fixed = repaired(tmp_path, [replace(log[0], step_s=steps), *log[1:]])
    assert fixed.num_steps[:3].tolist() == [20, STEPS - 21, STEPS]
    assert_equal(fixed.episode(0), log[0].window(0, 21))
    assert_equal(fixed.episode(1), log[0].window(21, STEPS + 1))


@pytest.mark.parametrize(("lag", "start"), [(1, 20), (-1, 0)])
def test_shifted_parts_are_shifted_back(tmp_path: Path, lag: int, start: int) -> None:
    truth = logged(held=2)
    known = dict[bytes, bytes]()
    for one in truth:
        known |= {one.observations["heat"][t].tobytes(): one.actions["pump"][t].tobytes() for t in range(STEPS)}
    fixed = repaired(tmp_path, with_shifted_actions(truth, lag, start))
    assert len(fixed) == (80 if start == 0 else 85)
    assert int(fixed.num_steps.sum()) >= 80 * STEPS - 5 * 12
    for number in range(len(fixed)):
        one = fixed.episode(number)
        for step in range(one.num_steps):
            assert one.actions["pump"][step].tobytes() == known[one.observations["heat"][step].tobytes()]


def test_actions_of_the_whole_log_are_shifted_back(tmp_path: Path, lags: list[int]) -> None:
    lags.append(lag := 2)
    truth = [one.window(3, STEPS - 2) for one in logged()]
    late = [one.actions["pump"][3 - lag : STEPS - 3 - lag] for one in logged()]
    log = [replace(one, actions={"pump": pump}) for one, pump in zip(truth, late, strict=True)]
    fixed = repaired(tmp_path, log)
    assert fixed.card.notes["action_lag"] == str(lag)
    for number in (0, 79):
        steps = truth[number].num_steps
        assert_equal(fixed.episode(number), truth[number].window(0, steps + 1 - lag))


def test_a_lead_may_be_a_dead_time(tmp_path: Path, lags: list[int]) -> None:
    store = stored(tmp_path / "log", SCHEMA, logged())
    for delay, found, lag in ((0, -1, 0), (2, -2, 0), (2, -1, 1)):
        lags.append(found)
        plan = plan_repairs(store, delay=delay)
        assert plan.lag == lag
        assert ["dead time" in one.reason for one in plan.left_alone] == ([True] if not delay else [])


def test_stuck_and_saturated_rows_are_masked(tmp_path: Path) -> None:
    truth = logged()
    log = list(truth)
    for number in range(3, 10):
        heat = truth[number].observations["heat"].copy()
        heat[20:50] = heat[20]
        log[number] = with_values(truth[number], "heat", heat)
    low = np.quantile(np.concatenate([one.observations["tank"] for one in log]), 0.05).astype(np.float32)
    log = [with_values(one, "tank", np.maximum(one.observations["tank"], low)) for one in log]
    fixed = repaired(tmp_path, log, saturated=["tank"])
    for number in (3, 5, 6, 7, 8, 9):  # more than the findings that are printed one by one; 4 may be a stop
        one = fixed.episode(number)
        assert np.flatnonzero(~one.observed["heat"]).tolist() == list(range(20, 50))
        assert (one.observations["heat"][20:50] == truth[number].observations["heat"][19]).all()
        assert (one.observations["heat"][50:] == truth[number].observations["heat"][50:]).all()
    for number, logged_one in enumerate(log):
        clipped = (logged_one.observations["tank"] == low).astype(np.int64)
        threes = np.flatnonzero(sum(clipped[at : STEPS - 1 + at] for at in range(3)).max(1) == 3)
        expected = np.isin(np.arange(STEPS + 1), threes[:, None] + np.arange(3)).tolist()
        assert (~fixed.observed("tank", number, 0, STEPS + 1)).tolist() == expected
    assert "heat" not in fixed.episode(1).observed
    with pytest.raises(UnknownNameError, match="no vector observation is called 'mode'"):
        plan_repairs(tmp_path / "log", saturated=["mode"])


def test_the_result_is_recorded_and_deterministic(tmp_path: Path) -> None:
    store = stored(tmp_path / "log", SCHEMA, changed(logged(), "heat", lambda heat: -heat))
    before = store.content_hash()
    for name in ("one", "two"):
        fix(plan_repairs(store), tmp_path / name)
    assert open_store(tmp_path / "one").content_hash() == open_store(tmp_path / "two").content_hash()
    texts = [(tmp_path / name / "fix.json").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1]
    (record,) = json.loads(texts[0])
    assert record["source"] == before == open_store(tmp_path / "log").content_hash()
    assert (record["repairs"][0]["kind"], record["repairs"][0]["signal"]) == ("convert", "heat")
    with pytest.raises(InputError, match="one exists"):
        fix(plan_repairs(store), tmp_path / "one")


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    store = stored(tmp_path / "log", SCHEMA, changed(logged(), "heat", lambda heat: -heat))
    plan = plan_repairs(store)
    block = tmp_path / "log" / "blocks" / "heat.raw"
    content = bytearray(block.read_bytes())
    content[-1] ^= 1
    block.write_bytes(content)
    with pytest.raises(DataError, match="differs from the one that was added"):
        fix(plan, tmp_path / "fixed")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    with pytest.raises(DataError, match="differs from the one that was added"):
        plan_repairs(tmp_path / "log")
