from __future__ import annotations

import json
from pathlib import Path

import typer
from tests.cli.test_check import words, write
from typer.testing import CliRunner

from worldline.cli.fix import fix
from worldline.data.store import open_store
from worldline.errors import InputError

RUN = CliRunner()
APP = typer.Typer()
APP.command()(fix)


def test_late_actions_are_shown_and_moved(tmp_path: Path) -> None:
    write(tmp_path / "store", late=1)
    store, new, figures = (str(tmp_path / name) for name in ("store", "new", "figures.json"))
    shown = RUN.invoke(APP, [store, "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.endswith(f"Next:   worldline fix {store} --to {store}-fixed\n")
    assert not Path(new).exists()
    shown = RUN.invoke(APP, [store, "--to", new, "--json", figures])
    assert shown.exit_code == 0, shown.output
    said = words(shown.stdout)
    assert "shift back: actions lag by 1 row in the whole log -> moved back; each episode loses" in said
    assert "Left alone - episode 12: it is an exact copy of episode 3." in said
    assert "13 episodes, 377 steps. Its fix.json records the repairs. Remaining findings" in said
    assert shown.stdout.endswith(f"Next:   worldline check {new}\n")
    assert json.loads(Path(figures).read_text())["repairs"][0]["places"][0]["lag"] == 1
    old, fixed = open_store(store).episode(2), open_store(new).episode(2)
    assert fixed.actions["push"].tolist() == old.actions["push"][1:].tolist()
    assert fixed.observations["place [left]"].tolist() == old.observations["place [left]"][:-1].tolist()


def test_a_good_store_exits_with_3_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path / "store")
    shown = RUN.invoke(APP, [str(tmp_path / "store"), "--to", str(tmp_path / "new")])
    assert shown.exit_code == 3, shown.output
    assert "Nothing can be repaired with certainty; nothing was written." in shown.stdout
    assert not (tmp_path / "new").exists()
    assert isinstance(RUN.invoke(APP, [str(tmp_path / "store")]).exception, InputError)
