from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from worldline.cli.main import app
from worldline.data.store import open_store

RUN = CliRunner()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "steering_for_a_test.py").write_text("def left(observation, generator):\n    return 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def record(*arguments: str) -> str:
    shown = RUN.invoke(app, ["record", *arguments])
    assert shown.exit_code == 0, shown.output + shown.stderr
    return shown.output


def refusal(*arguments: str) -> str:
    shown = RUN.invoke(app, ["record", *arguments])
    assert shown.exit_code == 1
    assert not Path("logs").exists()
    return shown.stderr.replace("\n", " ")


def test_a_policy_lies_in_the_current_folder() -> None:
    record("CartPole-v1", "--out", "logs", "--num-episodes", "2", "--policy", "steering_for_a_test:left")
    assert not open_store("logs").episode(1).actions["action"].any()


def test_wrong_options_are_named() -> None:
    start = ["Pendulum-v1", "--out", "logs", "--num-episodes", "1"]
    assert "no policy in steering_for_a_test is called 'lefd'. Did you mean 'left'" in refusal(
        *start, "--policy", "steering_for_a_test:lefd"
    )
    assert "there is no module 'steering'" in refusal(*start, "--policy", "steering:left")
    for text in ("{g: 1}", "[1]"):
        shown = RUN.invoke(app, ["record", *start, "--env-kwargs", text])
        assert shown.exit_code == 2
        assert "--env-kwargs" in shown.stderr
    assert "cannot be made with {'h': 1}" in refusal(*start, "--env-kwargs", '{"h": 1}')
