from __future__ import annotations

import pytest

from worldline.cli.output import progress_bars
from worldline.progress import tell


def test_a_bar_for_each_stage_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        tell(progress, "record", 1, 2)
        tell(progress, "record", 2, 2)
        tell(progress, "learn", 3, 3, loss=0.125)
        tell(progress, "calibrate", 0)
        tell(progress, "calibrate", 1)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "record" in shown.err
    assert "calibrate" in shown.err
    assert "learn (loss 0.125)" in shown.err
    assert "100%" in shown.err
