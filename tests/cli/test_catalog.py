from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import failed, run

from worldline.catalog.named import NamedWorld
from worldline.catalog.versions import Catalog, open_named
from worldline.testing.toys import Integrator
from worldline.world.bundle_io import open_world

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "swap.md"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "home"


def test_the_life_of_a_version(learned_bundle: Path, home: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    assert "Worlds in" in run("worlds").output
    shown = run("publish", learned_bundle, "toy", "--alias", "prod", "--json", figures)
    assert "smoke test: not run, because the bundle stores no windows" in shown.output
    assert f"toy@1: {home / 'worlds' / 'toy' / '1'}" in shown.output
    assert "toy@prod points to version 1" in shown.output
    assert json.loads(figures.read_text())["aliases"] == ["prod"]
    run("publish", learned_bundle, "toy")
    assert "version 2 runs in its shadow" in run("shadow", "toy@prod", "2", "--json", figures).output
    assert json.loads(figures.read_text())["shadow"] == 2
    listed = run("worlds", "--json", figures).output
    assert "prod (shadow)" in listed
    assert "jepa" in listed
    assert [one["number"] for one in json.loads(figures.read_text())["versions"]] == [1, 2]

    world = open_named("toy@prod")
    for one in Integrator(noise=0.1, camera=False, wind=False).episodes(4, 6, seed=0):
        world.predict(one.history(6, 7), {"push": np.zeros((2, 2), np.float32)})
    world.flush()
    shown = run("shadow", "toy@prod", "--json", figures)
    assert "too few: 4 scored calls of 4; 100 are needed" in shown.output
    found = json.loads(figures.read_text())
    assert (found["verdict"], found["num_calls"], found["difference"]) == ("too few", 4, 0.0)
    assert 0 <= found["serving_coverage"] <= 1

    assert "is not promoted over version 1 (too few)" in failed("promote", "toy@prod")
    assert "toy@prod points to version 2" in run("promote", "toy@prod", "--despite").output
    assert world.version == 2
    assert "toy@prod points to version 1" in run("rollback", "toy@prod").output
    assert "toy@prod points to version 2" in run("alias", "toy@prod", "2", "--reason", "again").output
    assert world.version == 2
    world.close()
    run("shadow", "toy@prod", "1")
    assert "no version runs in its shadow" in run("shadow", "toy@prod", "none").output


def test_the_page_runs_from_top_to_end(learned_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("world", "newer"):
        shutil.copytree(learned_bundle, name)
    lines = re.findall(
        r"^    worldline (.*?)(?: +#.*)?$", PAGE.read_text().partition("## One application")[0], re.MULTILINE
    )
    assert len(lines) == 7
    for line in lines:
        shown = run(*shlex.split(line))
        if line == "shadow greenhouse@prod 2":
            with NamedWorld(Catalog().shelf("greenhouse"), "prod", open_bundle=open_world, queue_size=200) as world:
                for one in Integrator(noise=0.1, camera=False, wind=False).episodes(100, 6, seed=0):
                    world.predict(one.history(6, 7), {"push": np.zeros((2, 2), np.float32)})
        if line == "shadow greenhouse@prod":
            assert "no difference found" in shown.output
    assert "greenhouse@prod points to version 2" in run("alias", "greenhouse@prod", "2").output


def test_what_is_wrong_is_one_line(learned_bundle: Path) -> None:
    run("publish", learned_bundle, "toy", "--alias", "prod")
    for arguments, said in (
        (["alias", "toy@1", "1"], "Give an alias, such as toy@prod"),
        (["alias", "toy", "1"], "Use NAME@ALIAS"),
        (["alias", "tyo@prod", "1"], "Did you mean 'toy'"),
        (["shadow", "toy@prod", "two"], "'two' is not a version"),
        (["shadow", "toy@prod"], "no candidate runs in the shadow"),
        (["rollback", "toy@prod"], "has no version before"),
        (["worlds", "--json", "/nowhere/at/all.json"], "--json"),
    ):
        assert said in failed(*arguments)
