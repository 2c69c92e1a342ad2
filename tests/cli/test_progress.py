from __future__ import annotations

import pytest

from worldline.cli.output import progress_bars


def test_a_bar_for_each_stage_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as stage:
        stage("record", 1, 2)
        stage("record", 2, 2)
        stage("calibrate", 0, 1)
        stage("calibrate", 1, 1)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "record" in shown.err
    assert "calibrate" in shown.err
    assert "100%" in shown.err
