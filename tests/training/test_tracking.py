from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from worldline.training.tracking import JsonLines, TensorBoard, Tracker

SETTINGS = {"training": {"num_updates": 10}, "model": {"inputs": ["camera"]}}


def report(tracker: Tracker) -> None:
    tracker.start("run", SETTINGS, step=0)
    tracker.log(1, {"loss": 3.0})
    tracker.log(2, {"loss": 1.5})
    tracker.finish()


def test_json_lines(tmp_path: Path) -> None:
    report(JsonLines(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert lines == [{"run": "run", "settings": SETTINGS}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.5}]


def test_json_lines_go_on_where_the_run_does(tmp_path: Path) -> None:
    report(JsonLines(tmp_path))
    with (tmp_path / "run.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # the process was killed
    again = JsonLines(tmp_path)
    again.start("run", SETTINGS, step=1)
    again.log(2, {"loss": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert lines[1:] == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.0}]


def test_in_tensorboard_a_new_run_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def logged() -> list[tuple[int, float]]:
        events = loading.EventAccumulator(str(tmp_path / "run"))
        events.Reload()
        return [(event.step, event.value) for event in events.Scalars("loss")]

    report(TensorBoard(tmp_path))
    assert logged() == [(1, 3.0), (2, 1.5)]
    time.sleep(1.1)  # files are told apart, and read, by the second that they were begun in
    again = TensorBoard(tmp_path)
    again.start("run", SETTINGS, step=0)
    again.log(1, {"loss": 2.0})
    again.finish()
    assert logged() == [(1, 2.0)]
