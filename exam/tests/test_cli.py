from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from exam.tests.grading import result_of
from typer.testing import CliRunner

from worldline.audit.grades import Cell, Grade, Score, Verdict
from worldline.cli.main import app
from worldline_exam.cli import _print
from worldline_exam.comparison import Difference, ExamComparison

RUN = CliRunner()


def refused(*given: str) -> str:
    """What is said on one line of an exam that is not begun."""
    shown = RUN.invoke(app, ["exam", *given])
    assert shown.exit_code == 1
    assert not Path("exam").exists()
    return shown.stderr.replace("\n", " ")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("world", ["worlds/greenhouse", "http://127.0.0.1:8000", "greenhouse@prod", "trained"])
def test_a_trained_world_is_sent_to_the_audit(world: str) -> None:
    Path("trained").mkdir()
    said = refused(world)
    assert f"{world!r} is no recipe. An exam trains a recipe from scratch" in said
    assert f"worldline audit {world} LOGS" in said


def test_a_recipe_is_one_also_beside_a_folder_of_its_name() -> None:
    Path("vectors").mkdir()
    assert "no test is called 'X9'" in refused("vectors", "--tests", "X9")
    assert "Did you mean 'vectors'" in refused("vector")


@pytest.mark.parametrize("given", ["", " ", ","])
def test_no_test_at_all_is_not_all_of_them(given: str) -> None:
    assert "no test is called ''" in refused("persistence", "--tests", given)


def test_a_difference_without_an_end_is_written_so_that_anybody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Difference(code="C1", cell="boat", pairs=((0, 0),), value=0.5, low=-math.inf, high=math.inf)
    endless, stored = (
        ExamComparison(differences=(found,), unpaired=()),
        SimpleNamespace(result=SimpleNamespace(subject="x")),
    )
    monkeypatch.setattr("worldline_exam.run.compare", lambda *_: endless)
    monkeypatch.setattr("worldline_exam.folder.read_exam", lambda _: stored)
    shown = RUN.invoke(app, ["compare", "ours", "theirs", "--json", "compared.json"])
    assert shown.exit_code == 0, shown.output
    (told,) = json.loads(Path("compared.json").read_text())["differences"]
    assert (told["value"], told["low"], told["high"]) == (0.5, "-Infinity", "Infinity")


def test_a_part_without_a_score_is_told_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    scored = Cell(name="boat", score=Score(value=0.8, low=0.7, high=0.9, surely=0.6, p_half=0.001))

    for note, told in (("gated: it is still", 0), ("undefined for these answers", 1)):
        grade = Grade(cells=(scored, Cell(name="raft", score=None, note=note)))
        _print((result_of("C1", Verdict.INCONCLUSIVE, grade),), ())
        assert " ".join(capsys.readouterr().out.split()).count("not fully graded") == told
