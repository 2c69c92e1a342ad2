from __future__ import annotations

import pytest
from typer.testing import CliRunner

from worldline.cli.main import app

COMMANDS = {
    "learn": ("logs", "--out", "world"),
    "audit": ("world", "logs"),
    "demo": (),
    "serve": ("world",),
    "conform": ("world", "logs"),
    "exam": ("vectors",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("name", "said"), [("gpu", "unknown"), ("cuda:99", "not available")])
def test_a_wrong_device_is_a_usage_error(command: str, name: str, said: str) -> None:
    found = CliRunner().invoke(app, [command, *COMMANDS[command], "--device", name], env={"COLUMNS": "200"})
    assert found.exit_code == 2
    assert "--device" in found.output
    assert f"device '{name}' is {said}" in " ".join(found.output.split())
