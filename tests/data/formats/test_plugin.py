"""The how-to page on importers: its package is installed as a user would, and all that it prints is run."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.installed import installed
from typer.testing import CliRunner

import worldline
from worldline import registry
from worldline.cli.main import app
from worldline.data.open_logs import open_logs
from worldline.registry import names as registered
from worldline.schema import Kind, Role, Schema, Signal

ROOT = Path(__file__).parents[3]
PLUGIN = ROOT / "tests" / "plugin"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGE = ROOT / "docs" / "howto" / "import-your-format.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def only(language: str, word: str) -> str:
    (found,) = [block for block in blocks(language) if word in block]
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the plugin is installed in."""
    with installed(PLUGIN, tmp_path_factory.mktemp("plugin"), "worldline_tape") as folder:
        yield folder


def test_the_page_shows_the_package_as_it_is() -> None:
    assert only("toml", "[project") == (PLUGIN / "pyproject.toml").read_text()
    assert only("python", "@importer") == (PLUGIN / "src" / "worldline_tape" / "__init__.py").read_text()


@pytest.mark.parametrize("damage", ["", "cut", "flip"])
def test_the_round_trip_of_the_page_passes(tmp_path: Path, site: Path, damage: str) -> None:
    names: dict[str, Callable[..., None]] = {}
    exec(compile(only("python", "def test_what_went_in_comes_out"), str(PAGE), "exec"), names)  # noqa: S102 (our own page)
    if damage:
        names["test_a_damaged_tape_is_a_finding_and_the_others_are_kept"](tmp_path, damage)
    else:
        names["test_what_went_in_comes_out"](tmp_path)
    assert [*(tmp_path / "tapes").iterdir()]  # written by the test of the page, which has the assertions


def test_the_commands_of_the_page_run(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tape.py").write_text(only("python", "def write_tape"))
    names = runpy.run_path("tape.py")
    for folder, seeds in (("tapes", range(3)), ("more", range(3, 5))):
        Path(folder).mkdir()
        for seed in seeds:
            names["write_tape"](Path(folder) / f"{seed}.tape", seed)
    install, *commands = only("sh", "pip install").splitlines()
    assert install == "pip install ./worldline-tape"  # what `installed` does
    for command in commands:
        shown = CliRunner().invoke(app, command.removeprefix("worldline ").split())
        assert shown.exit_code == 0, shown.output
    assert (len(worldline.open_store("store")), len(open_logs("tapes/"))) == (5, 3)


def test_the_plugin_is_loaded_only_if_needed(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "worldline_tape", raising=False)
    np.savez(tmp_path / "a.npz", position=np.zeros((3, 1), np.float32), action=np.ones((2, 1), np.float32))
    open_logs(tmp_path)
    assert "tape" in registered("importer")
    assert "worldline_tape" not in sys.modules


def test_the_importer_of_the_contribution_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = CONTRIBUTING.read_text().partition("## Adding an importer")[2].partition("\n## ")[0]
    code, check = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, str(CONTRIBUTING), "exec", dont_inherit=True), names)  # noqa: S102 (our own page)
    monkeypatch.setitem(registry._REGISTERED, "importer", {"lamp": names["read"]})
    exec(compile(check, str(CONTRIBUTING), "exec", dont_inherit=True), names)  # noqa: S102 (our own page)
    names["test_lamp_logs"](tmp_path)  # type: ignore[operator]  # the page defined it, with its assertions
    assert len(worldline.open_store(tmp_path / "store")) == 2


def test_the_function_for_rlds() -> None:
    names: dict[str, object] = {}
    exec(compile(only("python", "def from_rlds"), str(PAGE), "exec"), names)  # noqa: S102 (our own page)
    schema = Schema(
        signals=(
            Signal(name="state", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,)),
            Signal(name="action", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,)),
            Signal(name="reward", role=Role.REWARD, kind=Kind.VECTOR, shape=(1,)),
        )
    )
    steps = [
        {
            "observation": {"state": np.full(2, t, np.float32)}, "action": np.full(1, 10 + t, np.float32),
            "reward": np.float32(20 + t), "is_first": t == 0, "is_last": t == 3, "is_terminal": t == 3,
        }
        for t in range(4)
    ]  # fmt: skip
    episode = names["from_rlds"](iter(steps), schema)  # type: ignore[operator]  # the page defined it
    assert episode.observations["state"][:, 0].tolist() == [0, 1, 2, 3]
    assert episode.actions["action"].tolist() == [[10], [11], [12]]
    assert episode.rewards["reward"].tolist() == [[20], [21], [22]]
    assert (episode.terminated, episode.truncated) == (True, False)


def test_the_function_for_zarr() -> None:
    names: dict[str, object] = {}
    exec(compile(only("python", "def from_rows"), str(PAGE), "exec"), names)  # noqa: S102 (our own page)
    schema = Schema(
        signals=(
            Signal(name="state", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,)),
            Signal(name="action", role=Role.ACTION, kind=Kind.VECTOR, shape=(1,)),
        )
    )
    data = {"state": np.arange(7.0)[:, None], "action": 10 + np.arange(7.0)[:, None]}
    one, two = names["from_rows"](data, [3, 7], schema)  # type: ignore[operator]  # the page defined it
    assert one.observations["state"][:, 0].tolist() == [0, 1, 2]
    assert one.actions["action"][:, 0].tolist() == [10, 11]
    assert two.observations["state"][:, 0].tolist() == [3, 4, 5, 6]
    assert two.actions["action"][:, 0].tolist() == [13, 14, 15]
