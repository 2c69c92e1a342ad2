from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.stores import stored

from worldline.data.base import ReadOptions
from worldline.data.checks import Severity
from worldline.data.importing import import_logs
from worldline.data.quality.alignment import AlignmentVerdict
from worldline.data.store import Store
from worldline.episode import Episode
from worldline.errors import DataError, InputError
from worldline.schema import Kind, Role, Schema, Signal
from worldline.workflows.check import check, late_actions

SCHEMA = Schema(
    signals=(
        Signal(name="place [left]", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="m"),
        Signal(name="push", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,), low=(-1.0,), high=(1.0,)),
    )
)


def make(number: int, late: int = 0) -> Episode:
    """A walk by pushes, which are logged `late` rows too late."""
    draw = np.random.default_rng(number)
    push = draw.uniform(-1, 1, (33, 1)).astype(np.float32)
    place = (draw.normal() + np.concatenate([np.zeros((1, 1)), np.cumsum(push, 0)])).astype(np.float32)
    return Episode(observations={"place [left]": place[2:33]}, actions={"push": push[2 - late : 32 - late]})


def write(path: Path, late: int = 0, num_episodes: int = 12) -> Store:
    return stored(path, SCHEMA, (make(number, late) for number in range(num_episodes)))


def test_a_good_store_passes(tmp_path: Path) -> None:
    store, ticks = write(tmp_path / "store"), []
    report = check(store, progress=lambda now: ticks.append((now.step, now.total)))
    assert not report.failed
    assert not report.misaligned
    assert (report.num_episodes, report.num_steps, report.num_whole) == (12, 360, 12)
    assert report.findings == ()
    assert report.advice == ()
    assert ticks == [*((number, 12) for number in range(1, 13)), (0, 1), (1, 1)]
    assert report.alignment.verdict is AlignmentVerdict.ALIGNED


@pytest.mark.parametrize(("late", "verdict"), [(1, AlignmentVerdict.LAG), (-1, AlignmentVerdict.LEAD)])
def test_the_advice_for_a_shifted_store_mends_it(tmp_path: Path, late: int, verdict: AlignmentVerdict) -> None:
    store = write(tmp_path / "store", late)
    report = check(store)
    assert report.alignment.verdict is verdict
    assert report.failed is report.misaligned is (late > 0), "actions may lead because the system responds late"
    _, source, destination, option, lag = shlex.split(report.advice[0].rpartition(": worldline ")[2])
    assert ("change nothing, and check with --delay 1" in report.advice[0]) == (late < 0)
    assert option == "--action-lag"
    import_logs(source, destination, reading=ReadOptions(action_lag=int(lag)))
    mended = check(destination)
    assert not mended.failed
    assert mended.realign == ()
    assert mended.num_steps == report.num_steps - 12, "each episode loses the step without an action"


def test_only_actions_that_are_certainly_late_are_a_warning(tmp_path: Path) -> None:
    late = late_actions(write(tmp_path / "late", 1))
    assert late.lag == 1
    assert late.command == ("import", str(tmp_path / "late"), str(tmp_path / "late-aligned"), "--action-lag", "1")
    assert str(late.finding).startswith("warning: actions are logged 1 step too late: the change from observation t")
    assert shlex.join(late.command) in late.finding.fix
    assert late_actions(write(tmp_path / "good")) is None
    assert late_actions(write(tmp_path / "early", -1)) is None, "the system may respond late"


def test_a_delay_that_is_known_is_no_error(tmp_path: Path) -> None:
    store = write(tmp_path / "store", -1)
    known = check(store, delay=1)
    assert not known.failed
    assert known.accepted
    assert known.advice == ()
    assert known.alignment.verdict is AlignmentVerdict.LEAD
    assert check(store, delay=2).failed
    with pytest.raises(InputError, match="delay is -1"):
        check(store, delay=-1)


def test_damage_is_an_error_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "store")
    block = next((tmp_path / "store" / "blocks").glob("place*.raw"))
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 0xFF
    block.write_bytes(bytes(content))
    report = check(tmp_path / "store")
    assert report.failed
    assert not report.misaligned
    assert report.num_whole == 11
    first = report.findings[0]
    assert (first.severity, first.episode) == (Severity.ERROR, 6)
    assert report.alignment.num_episodes == 11
    assert report.advice[0].startswith("episode 6: ")


def test_notes_do_not_fail_and_advice_names_the_place(tmp_path: Path) -> None:
    store = write(tmp_path / "store")
    store.append(make(3))
    store.append(replace(make(20), actions={"push": make(20).actions["push"] * 0 + 0.5}))
    report = check(store)
    assert not report.failed
    assert {one.severity for one in report.findings} == {Severity.NOTE}
    assert any(one.startswith("episode 12: Keep one of the two") for one in report.advice)


def test_nothing_to_check_is_refused(tmp_path: Path) -> None:
    Store.create(tmp_path / "store", SCHEMA)
    with pytest.raises(DataError, match="no episode"):
        check(tmp_path / "store")
    with pytest.raises(DataError):
        check(tmp_path / "nowhere")
