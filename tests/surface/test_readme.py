"""The README is short, its Python and its commands run as printed, and its links resolve.

Trainings are small, fewer episodes are recorded, and the exam commands are parsed, not run.
"""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.surface import pages
from typer.testing import CliRunner

import worldline
from worldline.cli.main import app
from worldline.recipes import pixels, two_rooms
from worldline.recipes.recipe import Recipe
from worldline.workflows import choosing, choosing_images

pytestmark = pytest.mark.usefixtures("brief_recalibration")

ROOT = Path(__file__).parents[2]
README, COMMANDS, IMPORT = ROOT / "README.md", ROOT / "docs" / "commands.md", ROOT / "docs" / "howto" / "import-logs.md"
HOWTO = sorted(IMPORT.parent.glob("*.md"))
EPISODES = 120
"""Enough for bands of level 0.9, which the README asks for."""
MAX_WORDS = 900
GROUPS = {group.name for group in app.registered_groups}


def commands(page: Path, heading: str = "") -> list[str]:
    """The arguments of each `worldline` command that a page, or its section under a heading, prints as a block."""
    text = page.read_text()
    if heading:
        text = text.split(f"# {heading}\n")[1].split("\n#")[0]
    return re.findall(r"^    worldline (.*?)(?: +#.*)?$", text, re.MULTILINE)


def run(line: str) -> None:
    shown = CliRunner().invoke(app, shlex.split(line))
    assert shown.exit_code == 0, (line, shown.output, shown.exception)


def help_of(*words: str) -> str:
    return CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"}).output


def test_it_is_short() -> None:
    fences = re.sub(r"^```.*?^```", "", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    running = [line for line in fences.splitlines() if not line.startswith(("    ", "|"))]
    assert sum(len(line.split()) for line in running) <= MAX_WORDS


@pytest.mark.timeout(300)
def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[Any], Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    record = worldline.record

    def short_record(*arguments: Any, **settings: Any) -> Any:
        return record(*arguments, **{**settings, "num_episodes": EPISODES, "max_steps": 26})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(two_rooms, "two_rooms", tiny)
    monkeypatch.setattr(worldline, "record", short_record)
    code, _ = pages.blocks(README)
    assert len([line for line in code.splitlines() if line]) == 8
    assert pages.run(code, README)["plan"].actions["move"].shape == (12, 2)
    assert (tmp_path / "world" / "report.html").exists()
    assert "[" in capsys.readouterr().out


def test_the_commands_for_a_table_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choosing, "CANDIDATES", (choosing.LINEAR,))
    draw = np.random.default_rng(0)
    with Path("plant.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["time", "episode", "temperature", "heater", "outdoor"])
        for episode in range(EPISODES):
            temperature = draw.uniform(15, 25)
            for step in range(13):
                heater, outdoor = draw.uniform(0, 2), draw.uniform(10, 14)
                cells = [f"{value:.6f}" for value in (temperature, heater, outdoor)]
                table.writerow([episode * 100 + step, episode, *cells])
                temperature += 0.1 * (outdoor - temperature) + heater + 0.05 * draw.standard_normal()
    found = commands(README, "You have a table of sensors")
    assert [line.split()[0] for line in found] == ["import", "check", "learn", "studio", "serve", "judge"]
    loop = '[[loops]]\nreads = "temperature"\nacts = "heater"\nset_point = 20.0\ngain = 0.3\n'
    Path("pid.toml").write_text(f'kind = "pid"\n{loop}')
    Path("goal.toml").write_text("targets = { temperature = 20.0 }\ntolerance = { temperature = 1.0 }\n")
    for line in (*found[:3], found[-1].split(" #")[0]):
        run(line)
    signals = {signal.name for signal in worldline.open_store("store").schema.signals}
    assert signals == {"temperature", "heater", "outdoor"}
    assert (tmp_path / "world" / "report.html").exists()
    room, steps = [15.0], iter(range(8))

    def send(heater: np.ndarray) -> None:
        room.append(room[-1] + 0.1 * (12 - room[-1]) + heater.item())

    functions = {
        "running": lambda: next(steps, None) is not None,
        "measured": lambda: np.array([room[-1]]),
        "forecast": lambda: np.full((12, 1), 12.0),
        "outdoor": lambda: np.array([12.0]),
        "rule": lambda: np.array([0.9]),
        "send": send,
    }
    pages.run(pages.blocks(README)[1], README, {"worldline": worldline, "np": np, **functions})
    assert room[-1] == pytest.approx(21, abs=0.7)


def test_commands_for_cameras_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[Any], Recipe]
) -> None:
    found = commands(README, "You have a robot with cameras")
    assert [line.split()[0] for line in found] == ["import", "show", "learn"]
    monkeypatch.chdir(tmp_path)
    for recipe in ("pixels_and_vectors", "film_and_vectors"):
        monkeypatch.setattr(pixels, recipe, tiny)
    every = choosing_images.candidate_options

    def tiny_ones(*given: Any) -> dict[str, Any]:
        return dict(list(every(*given).items())[:2])  # without the RSSM, which is not tiny

    monkeypatch.setattr(choosing_images, "candidate_options", tiny_ones)
    write_recordings(tmp_path / "recordings", 20)
    for line in found:
        run(line.replace(" --budget 30min", ""))
    assert (tmp_path / "show" / "index.html").exists()
    assert (tmp_path / "world" / "report.html").exists()


def test_the_commands_for_research_are_an_exam_of_two_recipes_and_their_comparison() -> None:
    first, second, compared = commands(README, "You do research on world models")
    assert {first.split()[0], second.split()[0]} == {"exam"}
    folders = [re.findall(r"--out (\S+)", line)[0] for line in (first, second)]
    assert compared == f"compare {' '.join(folders)}"


@pytest.mark.parametrize("page", [README, COMMANDS, IMPORT], ids=lambda page: page.stem)
def test_every_option_exists(page: Path) -> None:
    shown: dict[tuple[str, ...], str] = {}
    inline = re.findall(r"`worldline ([a-z-]+)([^`]*)`", page.read_text())
    printed = [line.partition(" ")[::2] for line in commands(page)]
    assert inline or printed
    for name, rest in [*inline, *printed]:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest):
            path = (name, *rest.split()[:1]) if name in GROUPS else (name,)
            if path not in shown:
                shown[path] = help_of(*path)
            assert option in shown[path], (path, option)


def test_every_option_of_the_table_of_commands_exists() -> None:
    for name, row in re.findall(r"^\| `worldline ([\w-]+)(.*)$", COMMANDS.read_text(), re.MULTILINE):
        shown = help_of(name, *row.split()[:1]) if name in GROUPS else help_of(name)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", row):
            assert option in shown, (name, option)


def test_the_page_on_logs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[[Any], Recipe], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for recipe in ("pixels_and_vectors", "film_and_vectors"):
        monkeypatch.setattr(pixels, recipe, tiny)
    write_recordings(tmp_path / "LOGS", 8)
    found = commands(IMPORT)[:5]
    assert [line.split()[0] for line in found] == ["import", "schema", "check", "show", "learn"]
    for line in found[:4]:
        run(line)
    assert (tmp_path / "show" / "index.html").exists()
    (tmp_path / "LOGS").rename(tmp_path / "logs")
    for code in pages.blocks(IMPORT):
        pages.run(code, IMPORT)
    assert (tmp_path / "copy.h5").exists()
    assert capsys.readouterr().out


def test_every_command_is_in_the_table() -> None:
    listed = set(re.findall(r"^\| `worldline ([\w-]+)", COMMANDS.read_text(), re.MULTILINE))
    known = app.registered_commands
    assert listed == {command.name or command.callback.__name__ for command in known if command.callback} | GROUPS


@pytest.mark.parametrize(
    "page",
    [README, COMMANDS, ROOT / "CONTRIBUTING.md", ROOT / "docs" / "glossary.md", *HOWTO],
    ids=lambda page: page.stem,
)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"(?<!!)\[[^]]*\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []


def write_recordings(folder: Path, num_episodes: int) -> None:
    """Episodes of Two Rooms as `.npz` files."""
    store = worldline.record("two-rooms", folder.parent / "recorded", num_episodes=num_episodes, max_steps=16, seed=0)
    folder.mkdir()
    for number in range(len(store)):
        one = store.episode(number)
        np.savez(folder / f"{number}.npz", **one.observations, **one.actions)
