from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from worldline.cli.main import app
from worldline.workflows import learn


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ((), "nothing was saved"),
        (("budget.json",), "nothing was saved"),
        (("checkpoint.json",), "--resume"),
        (("budget.json", "seed1/checkpoint.json"), "--resume"),
    ],
)
def test_ctrl_c_tells_whether_there_is_something_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: tuple[str, ...], told: str
) -> None:
    def stopped(*arguments: Any, **settings: Any) -> None:
        for name in left:
            file = tmp_path / "world.partial" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(learn, "learn_logs", stopped)
    shown = CliRunner().invoke(app, ["learn", "logs", "--out", str(tmp_path / "world"), "--threads", "1"])
    assert shown.exit_code == 130
    assert told in shown.output
