"""The exam from end to end, on a toy test whose right answers are known."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exam.tests.steering import EPISODES, SCENES, Steering
from typer.testing import CliRunner

from worldline import registry
from worldline.audit.grades import Grade, Verdict
from worldline.cli.main import app
from worldline.config import to_json
from worldline.data.store import open_store
from worldline.episode import Arrays
from worldline.errors import ConfigError, DataError, InputError, UnknownNameError, UnsupportedError
from worldline.world.base import Prediction, World
from worldline.world.local import LocalWorld
from worldline_exam.base import DatasetSpec, ExamTest, References
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.folder import LearnRecord, read_exam
from worldline_exam.labs.wind import Wind
from worldline_exam.options import ExamOptions
from worldline_exam.results import SeedGrade, TestResult, same_figures, without_draws
from worldline_exam.run import _missing, compare, exam, regrade
from worldline_exam.subjects import RecipeSubject, TrivialSubject

NO_ZIP = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (0,), }".ljust(117) + b"\n"
"""A file of one array, as np.save writes it."""
ANSWERS, SCENES_FILE = "answers/C9/answers-0.npz", "answers/C9/scenes.npz"


class Breaking(Steering):
    """Breaks when it asks."""

    code = "C8"

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        raise ZeroDivisionError("planted")


class Unsure(Steering):
    """Has figures that are no numbers."""

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        (one,) = super().grade(scenes, answers, references).cells
        assert one.score is not None
        return Grade(cells=(replace(one, score=replace(one.score, surely=-math.inf), raw={"loss": math.nan}),))


class Ungradable(Steering):
    """Breaks when it grades a world."""

    code = "C5"

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        raise ZeroDivisionError("planted")


class Unlogged(Steering):
    """Has a lab that breaks."""

    code = "C7"

    def datasets(self) -> tuple[DatasetSpec, ...]:
        def breaks() -> Wind:
            raise ZeroDivisionError("no lab")

        return (replace(super().datasets()[0], name="unlogged", make_lab=breaks),)


class Unsaid(Steering):
    """Breaks before anything is learned."""

    code = "C6"

    def datasets(self) -> tuple[DatasetSpec, ...]:
        raise LookupError("no curricula")


class Fleet(Steering):
    """Asks about two worlds."""

    def datasets(self) -> tuple[DatasetSpec, ...]:
        return tuple(replace(super(Fleet, self).datasets()[0], name=name) for name in ("boat", "raft"))


Install = Callable[..., None]
Sit = Callable[..., Path]


def installer(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes toy tests, by code, the only ones that there are."""
    known: dict[str, Callable[..., ExamTest]] = {}

    def load(kind: str, code: str) -> Callable[..., ExamTest]:
        if code not in known:
            raise UnknownNameError(kind, code, known)
        return known[code]

    monkeypatch.setattr("worldline_exam.options.load", load)
    monkeypatch.setattr("worldline_exam.options.names", lambda kind: list(known))
    assert "test" in registry.BUILTIN

    def only(**tests: ExamTest) -> None:
        known.clear()
        for code, one in tests.items():
            known[code] = lambda pool, pixels, one=one: replace(one, pool=pool, pixels=pixels)

    return only


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    return installer(monkeypatch)


@pytest.fixture
def sit(install: Install, tmp_path: Path) -> Sit:
    """Runs an exam of toy tests and gives its folder."""

    def run(
        name: str, subject: str = "linear", seed: int = 3, num_seeds: int = 1, resume: bool = False, **tests: ExamTest
    ) -> Path:
        install(**(tests or {"C9": Steering()}))
        options = ExamOptions(seed=seed, num_seeds=num_seeds)
        exam(TrivialSubject(name=subject), tmp_path / name, options, resume=resume, command="worldline exam")
        return tmp_path / name

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an exam of a linear world."""
    folder = tmp_path_factory.mktemp("exam") / "linear"
    with pytest.MonkeyPatch.context() as monkeypatch:
        installer(monkeypatch)(C9=Steering())
        exam(TrivialSubject(name="linear"), folder, ExamOptions(seed=3), command="worldline exam")
    return folder


@pytest.fixture
def linear(finished: Path, tmp_path: Path, install: Install) -> Path:
    """A copy of the folder of an exam of a linear world."""
    install(C9=Steering())
    return shutil.copytree(finished, tmp_path / "linear")


@pytest.fixture
def go_on(linear: Path, sit: Sit) -> Callable[..., tuple[TestResult, ...]]:
    """Resumes the exam of a linear world."""
    return lambda **how: results(sit("linear", resume=True, **how))


GoOn = Callable[..., tuple[TestResult, ...]]


def results(folder: Path) -> tuple[TestResult, ...]:
    return tuple(replace(one, elapsed_s=0.0) for one in read_exam(folder).result.tests)


def verdicts(folder: Path) -> list[Verdict]:
    return [one.verdict for one in results(folder)]


def alter(path: Path, **changes: Callable[[Any], Any] | None) -> None:
    """Changes arrays of a file; None removes one."""
    with np.load(path) as arrays:
        held = dict(arrays)
    changed = {name: change(held.pop(name)) for name, change in changes.items() if change is not None}
    np.savez(path, **{name: value for name, value in held.items() if name not in changes}, **changed)


def test_who_knows_what_the_motor_does_passes_and_who_does_not_fails(linear: Path, sit: Sit) -> None:
    assert read_exam(linear).result.passed == ("C9",)
    still = sit("still", "persistence")
    assert verdicts(still) == [Verdict.FAIL]
    assert read_exam(still).result.facts["Context"] == "1 observation (boat)"
    assert read_exam(sit("velocity", "constant_velocity")).result.facts["Context"] == "2 observations, 1 s (boat)"


def test_the_same_exam_has_the_same_result(linear: Path, sit: Sit) -> None:
    assert results(sit("again")) == results(linear)
    assert results(sit("other", seed=4))[0].scenes != results(linear)[0].scenes


def test_stored_answers_are_graded_again_with_the_same_result(linear: Path) -> None:
    again = tuple(without_draws(one) for one in regrade(linear))
    assert to_json(again) == to_json(read_exam(linear).result.tests)


def test_the_same_figures_are_the_same_whatever_is_drawn_of_them(linear: Path) -> None:
    """A gap in a line is NaN, which is not even equal to itself."""
    (one,) = results(linear)
    gap = ExamFigure(
        caption="",
        panels=(FigurePanel(title="", x_label="", y_label="", lines=(FigureLine(name="", x=(0.0,), y=(math.nan,)),)),),
    )
    drawn = replace(one, figure=gap)
    assert same_figures(drawn, drawn)
    assert same_figures(drawn, one)
    assert not same_figures(drawn, replace(one, floor="another"))


def test_what_is_installed_later_is_not_graded_again_and_what_is_gone_is_named(linear: Path, install: Install) -> None:
    install(C9=Steering(), C8=Steering())
    assert [one.code for one in regrade(linear)] == ["C9"]
    assert [one.code for one in compare(linear, linear).differences] == ["C9"]
    install(C8=Steering())
    with pytest.raises(UnknownNameError, match="no test is called 'C9'"):
        regrade(linear)


def strictly(path: Path) -> dict[str, Any]:
    """What any reader of JSON reads."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    read: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return read


def test_figures_that_are_no_numbers_are_stored_so_that_anybody_reads_them(linear: Path, go_on: GoOn) -> None:
    go_on(C9=Unsure())
    (cell,) = strictly(linear / "exam.json")["result"]["tests"][0]["seeds"][0]["grade"]["cells"]
    assert (cell["score"]["surely"], cell["raw"]["loss"]) == ("-Infinity", "NaN")
    stored = read_exam(linear)
    (again,) = (without_draws(one) for one in regrade(linear))
    assert same_figures(again, stored.result.tests[0])
    (linear / "exam.json").write_text(to_json(stored))  # as it was written before
    assert ": -Infinity" in (linear / "exam.json").read_text()
    assert same_figures(again, read_exam(linear).result.tests[0])


def test_the_command_writes_every_figure_and_its_exit_status_tells_what_broke(install: Install, tmp_path: Path) -> None:
    install(C9=Unsure(), C8=Breaking())
    out, figures = tmp_path / "exam", tmp_path / "exam.json"
    given = ["exam", "linear", "--seed", "3", "--pool", "development", "--workers", "1", "--json", str(figures)]
    given += ["--tests", "C9,C9"]
    shown = CliRunner().invoke(app, [*given, "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "Passed: 1 of 1: C9" in shown.output
    written = strictly(figures)
    assert (written["subject"], written["passed"]) == ("linear", ["C9"])
    assert [one["code"] for one in written["tests"]] == ["C9"]
    assert written["facts"]["Generators"] == "development, seed 3"
    assert written["command"].startswith("worldline")
    shown = CliRunner().invoke(app, [*given[:-1], "C9,C8", "--resume", "--out", str(out)])
    assert shown.exit_code == 1
    assert "Report:" in shown.output, "and yet all was graded"
    assert [one["verdict"] for one in strictly(figures)["tests"]] == ["ERROR", "PASS"]


def test_the_command_line_tells_whether_grading_again_gives_the_same(linear: Path) -> None:
    shown = CliRunner().invoke(app, ["regrade", str(linear)])
    assert shown.exit_code == 0, shown.output
    assert "Identical to" in shown.output
    alter(linear / ANSWERS, effect=lambda effect: 0.9 * effect)
    shown = CliRunner().invoke(app, ["regrade", str(linear)])
    assert shown.exit_code == 1
    assert "C9" in shown.output.partition("Different from")[2]
    alter(linear / ANSWERS, effect=lambda effect: 0 * effect)
    assert regrade(linear)[0].verdict is Verdict.FAIL


def test_what_breaks_in_one_test_is_an_error_there_and_leaves_the_others_graded(sit: Sit) -> None:
    tests = {"C9": Steering(), "C8": Breaking(), "C7": Unlogged(), "C6": Unsaid(), "C5": Ungradable()}
    folder = sit("broken", num_seeds=2, **tests)
    assert verdicts(folder) == [*[Verdict.ERROR] * 4, Verdict.PASS]
    assert [one.verdict for one in regrade(folder)] == verdicts(folder)
    assert read_exam(folder).result.failed_to_grade == ("C5", "C6", "C7", "C8")
    _, unsaid, unlogged, broken, _ = results(folder)
    assert [(one.seed, one.reason) for one in unsaid.seeds] == [(n, "LookupError: no curricula") for n in range(2)]
    assert "LookupError: no curricula" in (folder / "report.html").read_text()
    assert "recording unlogged: no lab" in unlogged.seeds[0].reason
    assert "ZeroDivisionError: planted" in broken.seeds[0].reason
    assert broken.seeds[0].grade is None
    assert verdicts(sit("alone", C6=Unsaid())) == [Verdict.ERROR]


def test_no_scene_begins_as_a_logged_episode_did(linear: Path) -> None:
    logs = open_store(linear / "logs" / "boat")
    logged = {float(logs.episode(one).observations["boat_position"][0, 0]) for one in range(len(logs))}
    with np.load(linear / SCENES_FILE) as scenes:
        asked = set(scenes["history.observations.boat_position"][:, 0, 0].tolist())
    assert (len(logged), len(asked)) == (EPISODES, SCENES)
    assert not logged & asked


@pytest.fixture
def unasked(linear: Path, go_on: GoOn) -> GoOn:
    """Resumes an exam whose logs and world are there, and no answers."""
    shutil.rmtree(linear / "answers")
    return go_on


@pytest.mark.parametrize(("test", "verdict", "said"), [
    (Steering(signal="depth"), Verdict.UNREADABLE, "depth"),
    (Steering(tempting=True), Verdict.VOID, "blind must fail"),
])  # fmt: skip
def test_what_is_not_graded_has_a_reason(unasked: GoOn, test: Steering, verdict: Verdict, said: str) -> None:
    """A signal that is not predicted; a test that a model passes which must fail."""
    (found,) = unasked(C9=test)
    assert found.verdict is verdict
    assert found.seeds[0].grade is None
    assert said in found.seeds[0].reason


@pytest.mark.parametrize(
    ("planted", "said"), [(None, "predicts NaN or infinity"), (ValueError("planted"), "ValueError: planted")]
)
def test_a_training_that_breaks_leaves_the_others_graded(
    unasked: GoOn, monkeypatch: pytest.MonkeyPatch, planted: Exception | None, said: str
) -> None:
    predict, asked = LocalWorld.predict, list[World]()

    def broken(self: LocalWorld, *given: Any, **more: Any) -> Prediction:
        asked.append(self)
        found = predict(self, *given, **more)
        if self is not asked[0]:
            return found
        if planted is not None:
            raise planted
        return replace(found, signals={n: replace(one, mean=one.mean * np.nan) for n, one in found.signals.items()})

    monkeypatch.setattr(LocalWorld, "predict", broken)
    (one,) = unasked(num_seeds=2)
    assert [seed.verdict for seed in one.seeds] == [Verdict.ERROR, Verdict.PASS]
    assert one.verdict is Verdict.ERROR
    assert said in one.seeds[0].reason


def test_two_exams_are_compared_scene_by_scene(linear: Path, sit: Sit) -> None:
    (found,) = compare(linear, sit("blind", "action_blind")).differences
    assert found.low > 0.8
    assert found.high < 1.1
    (same,) = compare(linear, linear).differences
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_trainings_of_one_exam_are_compared_from_the_command_line(linear: Path, go_on: GoOn) -> None:
    go_on(num_seeds=2, C9=Steering(), C8=Breaking())
    alter(linear / "answers" / "C9" / "answers-1.npz", effect=lambda effect: 0 * effect)
    shown = CliRunner().invoke(app, ["compare", str(linear), str(linear), "--trainings", "0", "1"])
    assert shown.exit_code == 0, shown.output
    assert "0 of 1 intervals include 0" in shown.output
    assert "Not compared: C8 all parts (0 with 1). A: ERROR: ZeroDivisionError: planted" in shown.output
    assert "retraining may change more" in shown.output
    both = CliRunner().invoke(app, ["compare", str(linear), str(linear)]).output
    assert "1 of 1 intervals include 0" in both
    assert "retraining may change more" not in both


def test_exams_of_other_scenes_or_signals_are_not_compared(linear: Path) -> None:
    other, pictures = (shutil.copytree(linear, linear.with_name(name)) for name in ("other", "pictures"))
    alter(other / SCENES_FILE, motor=lambda motor: motor + 1)
    with pytest.raises(InputError, match="different scenes"):
        compare(linear, other)
    stored = (linear / "exam.json").read_text()
    (pictures / "exam.json").write_text(stored.replace('"pixels": false', '"pixels": true'))
    with pytest.raises(InputError, match=r"linear observed vectors, those of .*pictures pictures\. Run both"):
        compare(linear, pictures)


def test_a_folder_that_holds_something_is_left_alone(linear: Path, sit: Sit, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    for resume in (False, True):
        with pytest.raises(InputError, match="is not an empty folder"):
            sit("full", resume=resume)
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"
    with pytest.raises(InputError, match="--resume"):
        sit("linear")
    with pytest.raises(InputError, match="cannot be written to: Not a directory"):
        sit("full/mine.txt/exam")
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize("name", ["exam.json", "report.html"])
def test_a_result_that_cannot_be_written_is_told_and_the_exam_goes_on(
    linear: Path, go_on: GoOn, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(path: Path, text: str) -> None:
        if path.name == name:
            raise OSError(28, "No space left on device")
        path.write_text(text)

    (linear / name).unlink()
    with monkeypatch.context() as filled:
        filled.setattr("worldline_exam.run.write", full)
        with pytest.raises(InputError, match=r"linear cannot be written to: No space left on device.*--resume"):
            go_on()
    assert not (linear / name).exists()
    assert [one.verdict for one in go_on()] == [Verdict.PASS]
    assert (linear / name).exists()


def test_an_exam_broken_off_goes_on_from_there(linear: Path, sit: Sit, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("worldline_exam.run.render", breaks)
        with pytest.raises(KeyboardInterrupt):
            sit("broken")
    learned: list[object] = []
    learn = TrivialSubject.learn
    monkeypatch.setattr(TrivialSubject, "learn", lambda *of, **how: learned.append(of) or learn(*of, **how))
    folder = sit("broken", resume=True)
    assert not learned
    assert results(folder) == results(linear)
    assert read_exam(folder).result.facts["Wall time"].endswith("resumed")
    assert [one.seed for one in results(sit("broken", num_seeds=2, resume=True))[0].seeds] == [0, 1]
    assert len(learned) == 1


def half_written(folder: Path) -> None:
    (folder / "logs" / "boat").rename(folder / "logs" / "boat.partial")
    (folder / "worlds" / "boat-0.json").unlink()
    (folder / ANSWERS).rename(folder / "answers" / "C9" / "answers-0.partial.npz")


def no_world(folder: Path) -> None:
    shutil.rmtree(folder / "worlds" / "boat-0")
    (folder / ANSWERS).unlink()


def other_scenes(folder: Path) -> None:
    alter(folder / SCENES_FILE, motor=lambda motor: motor + 1)
    alter(folder / ANSWERS, effect=lambda effect: 0 * effect)


def damages(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(b"\xff\xfe{")


@pytest.mark.parametrize(
    "damage",
    [half_written, no_world, other_scenes]
    + [damages(name) for name in (ANSWERS, SCENES_FILE, "worlds/boat-0.json", "exam.json")],
)
def test_what_is_damaged_or_missing_is_made_again_when_an_exam_goes_on(
    linear: Path, go_on: GoOn, damage: Callable[[Path], object]
) -> None:
    before, files = results(linear), {path for path in linear.rglob("*") if path.is_file()}
    damage(linear)
    assert same_figures(go_on()[0], before[0])
    assert files <= set(linear.rglob("*"))
    assert results(linear) == before
    regrade(linear)


@pytest.mark.parametrize(("subject", "seed", "said"), [("persistence", 3, "another subject"), ("linear", 4, "options")])
def test_an_exam_does_not_go_on_with_another_one(linear: Path, sit: Sit, subject: str, seed: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sit("linear", subject, seed, resume=True)


def test_an_exam_does_not_go_on_with_other_code(go_on: GoOn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("another subject")
    monkeypatch.setattr(TrivialSubject, "sources", (tmp_path / "own.py",), raising=False)
    with pytest.raises(InputError, match="begun with another code"):
        go_on()


def test_the_module_of_an_own_recipe_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "homemade.py").write_text("def recipe(store): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert RecipeSubject(recipe="homemade:recipe").sources == (tmp_path / "homemade.py",)
    assert not RecipeSubject(recipe="memory").sources


def test_what_cannot_be_learned_is_not_tried_again(sit: Sit, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuses(*_: object, **__: object) -> None:
        tried.append(1)
        raise UnsupportedError("not this one")

    monkeypatch.setattr(TrivialSubject, "learn", refuses)
    for resume in (False, True):
        assert verdicts(sit("refused", resume=resume)) == [Verdict.UNSUPPORTED]
    assert len(tried) == 1


@pytest.mark.parametrize("damage", [b"", b"PK", NO_ZIP, None])
def test_damaged_answers_are_named(linear: Path, damage: bytes | None) -> None:
    path = linear / ANSWERS
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    with pytest.raises(DataError, match=r"answers-0\.npz: the answers cannot be read"):
        regrade(linear)


def test_answers_of_another_version_are_named(linear: Path) -> None:
    alter(linear / SCENES_FILE, effect=None)
    with pytest.raises(DataError, match="C9 was run by another version: 'effect' is missing"):
        regrade(linear)


def test_a_result_that_cannot_be_read_is_named(linear: Path, go_on: GoOn) -> None:
    (linear / "begun.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match=r"begun\.json: the document: Invalid JSON.*Restore it, or run"):
        go_on()
    (linear / "exam.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match=r"exam\.json: the document: Invalid JSON.*Restore it, or run"):
        regrade(linear)
    (linear / "exam.json").unlink()
    with pytest.raises(InputError, match="holds no exam"):
        read_exam(linear)
    (linear / "exam.json").mkdir()
    with pytest.raises(ConfigError, match=r"exam\.json cannot be read: Is a directory"):
        regrade(linear)


def test_answers_that_are_gone_are_not_taken_from_their_own_grade(linear: Path) -> None:
    (linear / ANSWERS).unlink()
    with pytest.raises(DataError, match="answers that were graded are missing"):
        regrade(linear)


@pytest.mark.parametrize("first", ["boat", "raft"])
def test_of_several_worlds_that_a_training_lacks_the_worst_is_told_and_all_of_them(first: str) -> None:
    """Whichever was lost first."""

    def lost(verdict: Verdict, reason: str) -> LearnRecord:
        return LearnRecord(facts={}, lost=SeedGrade(seed=0, verdict=verdict, grade=None, reason=reason))

    both = {
        ("boat", 0): lost(Verdict.ERROR, "its process was killed"),
        ("raft", 0): lost(Verdict.UNREADABLE, "it does not read drift 0.3."),
    }
    learned = {key: both[key] for key in sorted(both, key=lambda key: key[0] != first)}
    found = _missing(Fleet(), learned)[0]
    assert found.verdict is Verdict.ERROR
    assert found.reason == "boat: its process was killed; raft: it does not read drift 0.3."


def test_the_command_that_repeats_an_exam_names_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["exam", "persistence", "--tests", "C3", "--out", str(tmp_path / "exam"), f"--json={tmp_path / 'a.json'}"]
    monkeypatch.setattr("sys.argv", ["worldline", *given])
    kept: list[str] = []

    def run(*_: object, command: str, **__: object) -> None:
        kept.append(command)
        raise InputError("enough")

    monkeypatch.setattr("worldline_exam.run.exam", run)
    CliRunner().invoke(app, given)
    assert kept == ["worldline exam persistence --tests C3"]
