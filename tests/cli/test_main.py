from __future__ import annotations

import errno
import io
import itertools
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from tests.cli.running import failed, run
from tests.data.stores import stored

from worldline.cli import main
from worldline.cli.main import app
from worldline.data.store import open_store
from worldline.testing.toys import Integrator

pytestmark = pytest.mark.usefixtures("brief_recalibration")


@pytest.mark.parametrize("command", typer.main.get_group(app).commands)
def test_each_command_explains_itself(command: str) -> None:
    assert len(run(command, "--help").output) > 100
    assert command in run("--help").output


def test_an_error_is_one_line_on_stderr(tmp_path: Path) -> None:
    shown = run("learn", tmp_path / "nowhere", "--out", tmp_path / "world", code=1)
    assert shown.stderr.strip().splitlines()[-1].startswith("worldline: ")
    assert "the path does not exist" in shown.stderr
    assert "Traceback" not in shown.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--out", "demo", "--json"), ("learn", "logs", "--out", "world", "--json"), ("worlds", "--json"),
        ("audit", "world", "logs", "--json"), ("compare-worlds", "a", "b", "logs", "--json"),
        ("check", "logs", "--json"), ("show", "logs", "--json"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [".", "no/figures.json"])
def test_a_place_for_results_is_checked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = failed(*arguments, place)
    assert f"{arguments[-1]} {place} cannot be written" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "logs.csv/world"), "logs.csv/world cannot be written"),
        (("--out", "world"), "world.log is a file"),
        (("--out", "w", "--set", "training.num_update=3"), "Did you mean 'training.num_updates'"),
        (("--out", "w", "--set", "trainin.num_updates=3"), "Did you mean 'training'"),
    ],
)
def test_learn_checks_its_arguments_before_it_reads_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("logs.csv", "world.log"):
        Path(name).write_text("not a log")
    assert said in failed("learn", "logs.csv", *arguments)


def test_a_command_of_the_exam_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "EVALUATING", ("examine",))
    assert "'examine' needs the package worldline-exam. Run: pip install" in failed("examine")


OWN_RECIPE = """
from dataclasses import replace
from worldline.recipes.vectors import vectors

def small(store):
    known = vectors(store)
    training = replace(known.training, num_updates=4, num_checks=1, min_deviation=0.0, min_rank=1.0)
    return replace(known, name="my own", training=training)
"""


def test_learn_takes_a_recipe_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("recipe_for_a_test.py").write_text(OWN_RECIPE)
    Path("logs").mkdir()
    for number, one in enumerate(Integrator(camera=False, wind=False).episodes(24, 12, seed=0)):
        np.savez(f"logs/{number:02}.npz", **one.observations, **one.actions)
    arguments = ["learn", "logs", "--out", "world", "--threads", "1", "--json", "figures.json", "--recipe"]
    said = run(*arguments, "recipe_for_a_test:small").output
    assert "widen them if the actuator allows more" in said.replace("\n", " ")
    assert "report.html" in said
    found = json.loads(Path("figures.json").read_text())
    assert (found["recipe"], found["episodes"]) == ("my own", 24)
    assert any("bounds" in line for line in json.loads(Path("world/run.json").read_text())["unclear"])
    assert set(found["rmse"]["position"]["1"]) == {"world", "persistence", "linear", "action_blind"}
    said = failed(*arguments, "recipe_for_a_test:smal")
    assert "no recipe in recipe_for_a_test is called 'smal'. Did you mean 'small'" in said


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A store of 24 episodes."""
    store = stored(tmp_path / "toy", Integrator(camera=False).schema, Integrator(camera=False).episodes(24, 12, seed=0))
    return store.path


@pytest.mark.parametrize("command", ["show", "learn"])
def test_a_file_where_a_folder_is_needed_is_one_line(toy: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    said = failed(command, toy, "--out", tmp_path / "file" / "out")
    assert f"worldline: {tmp_path / 'file' / 'out'}" in said
    assert "Not a directory" in said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device. Free space and run the command again."),
        (errno.EACCES, "Permission denied. Get write access, or choose another path."),
    ],
)
def test_a_page_that_cannot_be_written_is_one_line(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(path: Path, data: str, encoding: str) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert failed("show", toy, "--out", tmp_path / "pages").endswith(f"{tmp_path / 'pages' / 'index.html'}: {said}")


def test_an_import_goes_on_after_the_disk_was_full(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = itertools.count()

    class Full(io.BufferedWriter):
        """A disk that is full in the sixth episode."""

        def write(self, content: Any) -> int:
            if next(full) > 60:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", lambda descriptor, mode: Full(io.FileIO(descriptor, mode)))
        said = failed("import", toy, tmp_path / "store")
    assert f"worldline: {tmp_path / 'store'}" in said
    assert said.endswith("No space left on device. Free space and run the command again.")
    kept = len(open_store(tmp_path / "store"))
    assert 0 < kept < 24
    assert f"{24 - kept} episodes added, {kept} already present" in run("import", toy, tmp_path / "store").output


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ((), "Nothing was saved"),
        (("world.partial/budget.json",), "Nothing was saved"),
        (("world.partial/checkpoint.json",), "--resume"),
        (("world.partial/budget.json", "world.partial/seed1/checkpoint.json"), "--resume"),
        (("world.store/schema.json", "world.store/card.json", "world.store/index.bin"), "The imported episodes are in"),
    ],
)
def test_ctrl_c_tells_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: tuple[str, ...], told: str
) -> None:
    def interrupted(*arguments: Any, **settings: Any) -> Any:
        for name in left:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("worldline.workflows.learn.learn_logs", interrupted)
    assert told in run("learn", "logs", "--out", tmp_path / "world", code=130).stderr


@pytest.mark.parametrize(("setting", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_commands_let_waiting_threads_sleep(setting: dict[str, str], expected: str) -> None:
    program = "import os, sys, worldline.cli.main; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | setting
    shown = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [expected, "False"]  # torch would have read the setting before


@pytest.mark.parametrize("asked", [["-h"], ["learn", "-h"], ["token", "-h"]])
def test_the_short_option_shows_the_help(asked: list[str]) -> None:
    assert "Usage: " in run(*asked).output


def test_the_version_is_printed() -> None:
    assert run("--version").output == f"worldline {metadata.version('worldline')}\n"
