from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.cli.running import failed, run

from worldline.data.store import open_store


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "steering_for_a_test.py").write_text("def left(observation, generator):\n    return 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_a_policy_lies_in_the_current_folder() -> None:
    run("record", "CartPole-v1", "--out", "logs", "--num-episodes", "2", "--policy", "steering_for_a_test:left")
    assert not open_store("logs").episode(1).actions["action"].any()


def test_wrong_options_are_named() -> None:
    start = ["record", "Pendulum-v1", "--out", "logs", "--num-episodes", "1"]
    said = failed(*start, "--policy", "steering_for_a_test:lefd")
    assert "no policy in steering_for_a_test is called 'lefd'. Did you mean 'left'" in said
    assert "there is no module 'steering'" in failed(*start, "--policy", "steering:left")
    for text in ("{g: 1}", "[1]"):
        assert "--env-kwargs" in run(*start, "--env-kwargs", text, code=2).stderr
    assert "cannot be made with {'h': 1}" in failed(*start, "--env-kwargs", '{"h": 1}')
    assert not Path("logs").exists()
