from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import click
import pytest
import typer
from tests.cli.running import failed

import worldline
from worldline.catalog.versions import Catalog
from worldline.cli.main import app
from worldline.data import ReadOptions, export_store, import_logs
from worldline.serve import server
from worldline.testing.named_cases import case_from_logs
from worldline.workflows.audit import audit
from worldline.workflows.check import check
from worldline.workflows.compare_worlds import compare_worlds
from worldline.workflows.demo import demo
from worldline.workflows.learn_options import Options
from worldline.workflows.show import show

COMMANDS = {
    "learn": ("logs", "--out", "world"),
    "audit": ("world", "logs"),
    "compare-worlds": ("a", "b", "logs"),
    "demo": (),
    "serve": ("world",),
    "conform": ("world", "logs"),
    "exam": ("vectors",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("name", "said"), [("gpu", "unknown"), ("cuda:99", "not available")])
def test_a_wrong_device_is_refused_first(command: str, name: str, said: str) -> None:
    assert f"device '{name}' is {said}" in failed(command, *COMMANDS[command], "--device", name)


FUNCTIONS: dict[str, tuple[Callable[..., Any], ...]] = {
    "demo": (demo,),
    "record": (worldline.record,),
    "import": (import_logs, ReadOptions),
    "check": (check,),
    "show": (show,),
    "export": (export_store,),
    "learn": (worldline.learn, Options),
    "audit": (audit, worldline.open),
    "compare-worlds": (compare_worlds,),
    "serve": (server.listen, worldline.open),
    "publish": (Catalog.publish,),
    "alias": (Catalog.point,),
    "promote": (Catalog.promote,),
    "conform": (case_from_logs, worldline.open),
}
"""The Python functions of each command with options."""
OF_THE_COMMAND = {"json", "threads", "help"}
"""Options for the output and the process of a command. `audit` also has `out`, the path of its page."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_have_the_names_of_the_arguments_in_python(name: str) -> None:
    command = typer.main.get_group(app).commands[name]
    given = {one.opts[0] for one in command.params if isinstance(one, click.Option)}
    options = {option.removeprefix("--").replace("-", "_") for option in given} - OF_THE_COMMAND
    options -= {"out"} if name == "audit" else set()
    known = {parameter for function in FUNCTIONS[name] for parameter in inspect.signature(function).parameters}
    assert options <= known
