"""Commands of worldline, run in this process."""

from __future__ import annotations

from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from worldline.cli.main import app


def run(*arguments: object, code: int = 0, **options: Any) -> Result:
    """The result of a command, which ends with this exit code and without a traceback."""
    shown = CliRunner().invoke(app, [*map(str, arguments)], **options)
    assert shown.exit_code == code, (shown.output, shown.exception)
    assert isinstance(shown.exception, SystemExit | None), shown.exception
    return shown


def failed(*arguments: object, **options: Any) -> str:
    """What a command that fails prints to stderr, on one line."""
    return " ".join(run(*arguments, code=1, **options).stderr.split())
