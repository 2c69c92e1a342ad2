from __future__ import annotations

from pathlib import Path

import pytest

from worldline.cli.output import print_next, print_table, progress_bars
from worldline.progress import tell


def test_brackets_in_a_table_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("logs [b]", ("signal [i]", ""), [("place [m]", "[/m]")])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("logs [b]", "signal [i]", "place [m]", "[/m]"))


@pytest.mark.parametrize("columns", [30, 80])
def test_names_in_a_table_never_break_and_empty_columns_are_left_out(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "temperature_of_the_jacket_of_the_reactor"
    print_table("Signals", ("name", "entity", "range"), [(name, "", "a range of many words " * 3), ("level", "", "1")])
    shown = capsys.readouterr().out
    assert name in shown
    assert "entity" not in shown
    assert "many" in shown


def test_the_next_command_can_be_copied_with_the_users_paths(capsys: pytest.CaptureFixture[str]) -> None:
    print_next("learn", Path("my store"), "--out", "world/")
    assert capsys.readouterr().out == "Next:   worldline learn 'my store' --out world/\n"


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
