"""The exam from end to end, on a toy test whose right answers are known."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from worldline import registry
from worldline.audit.grades import Grade, Verdict
from worldline.audit.queries import history_of, means, only, packed_history
from worldline.audit.scoring import skill_cell
from worldline.cli.main import app
from worldline.config import to_json
from worldline.data.store import Store, open_store
from worldline.episode import Arrays, Episode, History
from worldline.errors import ConfigError, DataError, InputError, UnknownNameError, UnsupportedError
from worldline.labs.playing import replay, stacked
from worldline.world.base import Prediction, World
from worldline.world.local import LocalWorld
from worldline_exam.base import DatasetSpec, ExamTest, References, Section
from worldline_exam.figures import ExamFigure, FigureLine, FigurePanel
from worldline_exam.folder import LearnRecord, read_exam
from worldline_exam.labs.wind import Wind
from worldline_exam.options import ExamOptions
from worldline_exam.results import SeedGrade, same_figures, without_draws
from worldline_exam.run import _missing, compare, exam, regrade
from worldline_exam.subjects import RecipeSubject, TrivialSubject

STEPS = 4
NO_ZIP = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (0,), }".ljust(117) + b"\n"
"""A file of one array, as np.save writes it."""


@dataclass(frozen=True, kw_only=True)
class Steering(ExamTest):
    """How far a motor takes a boat beyond where it would drift."""

    code = "C9"
    section = Section.CAUSE
    title = "Steering"
    claim = "It knows what the motor does."
    signal: str = "boat_position"
    tempting: bool = False
    num_scenes: int = 60

    def datasets(self) -> tuple[DatasetSpec, ...]:
        return (
            DatasetSpec(
                name="boat",
                make_lab=lambda: Wind(0.0),
                asked=("boat_position",),
                num_episodes=50,
                num_steps=20,
                num_calibration=20,
            ),
        )

    def generate(self, seed: int) -> Arrays:
        lab, rng = Wind(0.0), np.random.default_rng(seed)
        motors = rng.uniform(-2, 2, (self.num_scenes, STEPS, 1)).astype(np.float32)
        # As logs are recorded from their seed, so that scenes of the same one would begin as they do.
        seeds = [int(np.random.SeedSequence([seed, one]).generate_state(1)[0]) for one in range(self.num_scenes)]
        pushed = stacked([replay(lab, one, {"motor": motor}) for one, motor in zip(seeds, motors, strict=True)])
        still = stacked([replay(lab, one, {"motor": np.zeros((STEPS, 1), np.float32)}) for one in seeds])
        start = {name: value[:, :1] for name, value in pushed.observations.items()}
        past = {"motor": np.zeros((self.num_scenes, 0, 1), np.float32)}
        return {
            **packed_history(History(observations=start, actions=past)),
            "motor": motors,
            "effect": pushed.observations["boat_position"][:, 1:] - still.observations["boat_position"][:, 1:],
        }

    def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
        world, history = only(worlds), history_of(scenes)
        moved, held = (
            means(world, history, {"motor": motor}, signals=(self.signal,))[self.signal]
            for motor in (scenes["motor"], np.zeros_like(scenes["motor"]))
        )
        return {"effect": moved - held}

    def references(self, scenes: Arrays, pilot: Arrays, logs: Mapping[str, Sequence[Episode]]) -> References:
        assert len(logs["boat"]) == 50
        assert not np.array_equal(pilot["motor"], scenes["motor"])
        share = 0.6 if self.tempting else 0.0
        return References(
            oracle={"effect": scenes["effect"]}, must_fail={"blind": {"effect": share * scenes["effect"]}}
        )

    def grade(self, scenes: Arrays, answers: Arrays, references: References) -> Grade:
        size = (scenes["effect"].astype(float) ** 2).sum((1, 2))
        error = ((scenes["effect"].astype(float) - answers["effect"]) ** 2).sum((1, 2))
        return Grade(cells=(skill_cell("boat", error, size),))

    def figure(self, scenes: Arrays, answers: Arrays, references: References) -> ExamFigure:
        steps = tuple(float(step) for step in range(STEPS))
        line = FigureLine(name="this world", x=steps, y=tuple(map(float, answers["effect"][0, :, 0])))
        return ExamFigure(
            caption="It moves.", panels=(FigurePanel(title="Boat", x_label="step", y_label="m", lines=(line,)),)
        )


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

    code = "C8"

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


Install = Callable[..., None]
Sit = Callable[..., Path]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
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
def sit(install: Install, tmp_path: Path) -> Sit:
    """Runs an exam of toy tests and gives its folder."""

    def run(
        name: str, subject: str, seed: int = 3, num_seeds: int = 1, resume: bool = False, **tests: ExamTest
    ) -> Path:
        install(**tests)
        options = ExamOptions(seed=seed, num_seeds=num_seeds)
        exam(TrivialSubject(name=subject), tmp_path / name, options, resume=resume, command="worldline exam")
        return tmp_path / name

    return run


class Fleet(Steering):
    """Asks about two worlds."""

    def datasets(self) -> tuple[DatasetSpec, ...]:
        return tuple(replace(super(Fleet, self).datasets()[0], name=name) for name in ("boat", "raft"))


def verdicts(folder: Path) -> list[Verdict]:
    return [one.verdict for one in read_exam(folder).result.tests]


def test_who_knows_what_the_motor_does_passes_and_who_does_not_fails(sit: Sit) -> None:
    assert verdicts(sit("linear", "linear", C9=Steering())) == [Verdict.PASS]
    assert read_exam(sit("linear2", "linear", C9=Steering())).result.passed == ("C9",)
    assert verdicts(sit("still", "persistence", C9=Steering())) == [Verdict.FAIL]


def test_the_small_print_says_what_a_world_looks_back_on(sit: Sit) -> None:
    facts = read_exam(sit("velocity", "constant_velocity", C9=Steering())).result.facts
    assert facts["Context"] == "2 observations, 1 s (boat)"
    assert read_exam(sit("still", "persistence", C9=Steering())).result.facts["Context"] == "1 observation (boat)"


def test_the_same_exam_has_the_same_result(sit: Sit) -> None:
    first, again, other = (sit(name, "linear", seed, C9=Steering()) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    results = [replace(read_exam(one).result.tests[0], elapsed_s=0.0) for one in (first, again, other)]
    assert results[0] == results[1]
    assert results[0].scenes != results[2].scenes


def test_stored_answers_are_graded_again_with_the_same_result(sit: Sit) -> None:
    folder = sit("linear", "linear", C9=Steering())
    again = tuple(without_draws(one) for one in regrade(folder))
    assert to_json(again[0]) == to_json(read_exam(folder).result.tests[0])


def test_the_same_figures_are_the_same_whatever_is_drawn_of_them(sit: Sit) -> None:
    """A gap in a line is NaN, which is not even equal to itself."""
    (one,) = read_exam(sit("linear", "linear", C9=Steering())).result.tests
    gap = ExamFigure(
        caption="",
        panels=(FigurePanel(title="", x_label="", y_label="", lines=(FigureLine(name="", x=(0.0,), y=(math.nan,)),)),),
    )
    drawn = replace(one, figure=gap)
    assert same_figures(drawn, drawn)
    assert same_figures(drawn, one)
    assert not same_figures(drawn, replace(one, floor="another"))


def test_what_is_installed_later_is_not_graded_again_and_what_is_gone_is_named(sit: Sit, install: Install) -> None:
    folder = sit("linear", "linear", C9=Steering())
    install(C9=Steering(), C8=Steering())
    assert [one.code for one in regrade(folder)] == ["C9"]
    assert [one.code for one in compare(folder, folder).differences] == ["C9"]
    install(C8=Steering())
    with pytest.raises(UnknownNameError, match="no test is called 'C9'"):
        regrade(folder)


def strictly(path: Path) -> dict[str, Any]:
    """What any reader of JSON reads."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    read: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return read


def test_figures_that_are_no_numbers_are_stored_so_that_anybody_reads_them(sit: Sit) -> None:
    folder = sit("unsure", "linear", C9=Unsure())
    (cell,) = strictly(folder / "exam.json")["result"]["tests"][0]["seeds"][0]["grade"]["cells"]
    assert (cell["score"]["surely"], cell["raw"]["loss"]) == ("-Infinity", "NaN")
    stored = read_exam(folder)
    (again,) = (without_draws(one) for one in regrade(folder))
    assert same_figures(again, stored.result.tests[0])
    (folder / "exam.json").write_text(to_json(stored))  # as it was written before
    assert ": -Infinity" in (folder / "exam.json").read_text()
    assert same_figures(again, read_exam(folder).result.tests[0])


def test_the_command_writes_every_figure_and_its_exit_status_tells_what_broke(install: Install, tmp_path: Path) -> None:
    install(C9=Unsure(), C8=Breaking())
    out, figures = tmp_path / "exam", tmp_path / "exam.json"
    given = ["exam", "linear", "--seed", "3", "--threads", "1", "--json", str(figures), "--tests", "C9,C9"]
    shown = CliRunner().invoke(app, [*given, "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "Passed: 1 of 1: C9" in shown.output
    told = strictly(figures)
    assert (told["subject"], told["passed"], [one["code"] for one in told["tests"]]) == ("linear", ["C9"], ["C9"])
    assert told["facts"]["Generators"] == "report, seed 3"
    assert told["command"].startswith("worldline")
    shown = CliRunner().invoke(app, [*given[:-1], "C9,C8", "--resume", "--out", str(out)])
    assert shown.exit_code == 1
    assert "Report:" in shown.output, "and yet all was graded"
    assert [one["verdict"] for one in strictly(figures)["tests"]] == ["ERROR", "PASS"]


def test_the_command_line_tells_whether_grading_again_gives_the_same(sit: Sit) -> None:
    folder = sit("linear", "linear", C9=Steering())
    shown = CliRunner().invoke(app, ["regrade", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "Identical to" in shown.output
    path = folder / "answers" / "C9" / "answers-0.npz"
    with np.load(path) as arrays:
        effect = arrays["effect"]
    np.savez(path, effect=0.9 * effect)
    shown = CliRunner().invoke(app, ["regrade", str(folder)])
    assert shown.exit_code == 1
    assert "Different from" in shown.output
    assert "C9" in shown.output.partition("Different from")[2]


def test_a_test_that_broke_stays_broken_when_it_is_graded_again(sit: Sit) -> None:
    folder = sit("broke", "linear", C9=Steering(), C8=Ungradable())
    assert verdicts(folder) == [Verdict.ERROR, Verdict.PASS]
    assert [one.verdict for one in regrade(folder)] == [Verdict.ERROR, Verdict.PASS]


def test_answers_that_were_changed_are_graded_otherwise_and_damaged_ones_are_refused(sit: Sit) -> None:
    folder = sit("linear", "linear", C9=Steering())
    path = folder / "answers" / "C9" / "answers-0.npz"
    with np.load(path) as arrays:
        effect = arrays["effect"]
    np.savez(path, effect=0 * effect)
    assert regrade(folder)[0].verdict is Verdict.FAIL
    scenes = folder / "answers" / "C9" / "scenes.npz"
    with np.load(scenes) as arrays:
        kept = dict(arrays)
    np.savez(scenes, **{name: value for name, value in kept.items() if name != "effect"})
    with pytest.raises(DataError, match="C9 was run by another version: 'effect' is missing"):
        regrade(folder)
    np.savez(scenes, **kept)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"answers-0\.npz"):
        regrade(folder)


def test_a_crash_in_one_test_is_an_error_there_and_leaves_the_others_graded(sit: Sit) -> None:
    folder = sit("linear", "linear", C9=Steering(), C8=Breaking(), C7=Unlogged())
    assert verdicts(folder) == [Verdict.ERROR, Verdict.ERROR, Verdict.PASS]
    unlogged, broken, _ = read_exam(folder).result.tests
    assert "recording unlogged: no lab" in unlogged.seeds[0].reason
    assert "ZeroDivisionError: planted" in broken.seeds[0].reason
    assert broken.seeds[0].grade is None
    assert read_exam(folder).result.failed_to_grade == ("C7", "C8")


def test_a_test_that_cannot_say_what_to_learn_leaves_the_others_graded(sit: Sit) -> None:
    folder = sit("unsaid", "linear", num_seeds=2, C9=Steering(), C6=Unsaid())
    unsaid, sound = read_exam(folder).result.tests
    assert (unsaid.code, unsaid.verdict, sound.verdict) == ("C6", Verdict.ERROR, Verdict.PASS)
    assert [(one.seed, one.reason) for one in unsaid.seeds] == [(n, "LookupError: no curricula") for n in range(2)]
    assert "LookupError: no curricula" in (folder / "report.html").read_text()
    assert [one.verdict for one in regrade(folder)] == [Verdict.ERROR, Verdict.PASS]
    assert verdicts(sit("alone", "linear", C6=Unsaid())) == [Verdict.ERROR]


def test_a_subject_that_breaks_over_one_test_is_asked_the_others(sit: Sit, monkeypatch: pytest.MonkeyPatch) -> None:
    def declines(self: TrivialSubject, test: ExamTest) -> SeedGrade | None:
        if test.code == "C8":
            raise ZeroDivisionError("planted")
        return None

    monkeypatch.setattr(TrivialSubject, "declines", declines)
    folder = sit("unsure", "linear", C9=Steering(), C8=Breaking())
    assert verdicts(folder) == [Verdict.ERROR, Verdict.PASS]
    assert read_exam(folder).result.tests[0].seeds[0].reason == "ZeroDivisionError: planted"
    assert not (folder / "answers" / "C8").exists(), "it was not asked"


def test_no_scene_begins_as_a_logged_episode_did(sit: Sit) -> None:
    folder = sit("starts", "linear", C9=Steering())
    logs = open_store(folder / "logs" / "boat")
    logged = {float(logs.episode(one).observations["boat_position"][0, 0]) for one in range(len(logs))}
    with np.load(folder / "answers" / "C9" / "scenes.npz") as scenes:
        asked = set(scenes["history.observations.boat_position"][:, 0, 0].tolist())
    assert (len(logged), len(asked)) == (50, 60)
    assert not logged & asked


def test_a_signal_that_is_not_predicted_is_unreadable_with_the_reason(sit: Sit) -> None:
    folder = sit("linear", "linear", C9=Steering(signal="depth"))
    (found,) = read_exam(folder).result.tests
    assert found.verdict is Verdict.UNREADABLE
    assert "depth" in found.seeds[0].reason


def test_a_world_of_other_units_is_no_world_of_the_lab(sit: Sit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A custom subject may open a world in other units; kilometres must not be graded as metres."""
    opened = TrivialSubject.open

    def in_kilometres(self: TrivialSubject, folder: Path, store: Store) -> World:
        world = opened(self, folder, store)
        schema = world.describe().schema
        signals = tuple(replace(one, unit="km") if one.name == "boat_position" else one for one in schema.signals)
        card = replace(world.describe(), schema=replace(schema, signals=signals))
        monkeypatch.setattr(type(world), "describe", lambda self: card)
        return world

    monkeypatch.setattr(TrivialSubject, "open", in_kilometres)
    (one,) = read_exam(sit("km", "linear", C9=Steering())).result.tests
    assert one.verdict is Verdict.UNSUPPORTED
    assert "does not match the logs of boat: unit of 'boat_position' is km, not m" in one.seeds[0].reason


def test_a_training_that_answers_what_is_no_number_leaves_the_others_graded(
    sit: Sit, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, said, lost = TrivialSubject.open, LocalWorld.predict, list[World]()

    def noting(self: TrivialSubject, folder: Path, store: Store) -> World:
        world = opened(self, folder, store)
        if folder.name.endswith("-0"):
            lost.append(world)
        return world

    def saying(self: LocalWorld, *asked: Any, **more: Any) -> Prediction:
        found = said(self, *asked, **more)
        times = np.nan if any(self is one for one in lost) else 1.0
        return replace(found, signals={n: replace(one, mean=one.mean * times) for n, one in found.signals.items()})

    monkeypatch.setattr(TrivialSubject, "open", noting)
    monkeypatch.setattr(LocalWorld, "predict", saying)
    (one,) = read_exam(sit("lost", "linear", num_seeds=3, C9=Steering())).result.tests
    assert [seed.verdict for seed in one.seeds] == [Verdict.ERROR, Verdict.PASS, Verdict.PASS]
    assert "predicts NaN or infinity" in one.seeds[0].reason


def test_a_training_that_breaks_leaves_the_others_graded(sit: Sit) -> None:
    asked: list[int] = []

    class Once(Steering):
        def question(self, worlds: Mapping[str, World], scenes: Arrays) -> Arrays:
            asked.append(1)
            if len(asked) == 2:
                raise ValueError("planted")
            return super().question(worlds, scenes)

    (one,) = read_exam(sit("once", "linear", num_seeds=3, C9=Once())).result.tests
    assert [seed.verdict for seed in one.seeds] == [Verdict.PASS, Verdict.ERROR, Verdict.PASS]
    assert (one.verdict, one.seeds[1].reason) == (Verdict.ERROR, "ValueError: planted")


def test_a_test_that_a_model_passes_which_must_fail_is_void_and_prints_no_grade(sit: Sit) -> None:
    (found,) = read_exam(sit("linear", "linear", C9=Steering(tempting=True))).result.tests
    assert found.verdict is Verdict.VOID
    assert found.seeds[0].grade is None
    assert "blind must fail" in found.seeds[0].reason


def test_two_exams_are_compared_scene_by_scene(sit: Sit) -> None:
    ours, theirs = sit("linear", "linear", C9=Steering()), sit("blind", "action_blind", C9=Steering())
    (found,) = compare(ours, theirs).differences
    assert found.low > 0.8
    assert found.high < 1.1
    (same,) = compare(ours, ours).differences
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_trainings_of_one_exam_are_compared_from_the_command_line(sit: Sit) -> None:
    folder = sit("linear", "linear", num_seeds=2, C9=Steering(), C8=Breaking())
    path = folder / "answers" / "C9" / "answers-1.npz"
    with np.load(path) as arrays:
        effect = arrays["effect"]
    np.savez(path, effect=0.5 * effect)
    shown = CliRunner().invoke(app, ["compare", str(folder), str(folder), "--trainings", "0", "1"])
    assert shown.exit_code == 0, shown.output
    assert "0 of 1 intervals include 0" in shown.output
    assert "Not compared: C8 all parts (0 with 1). A: ERROR: ZeroDivisionError: planted" in shown.output
    assert "retraining may change more" in shown.output
    both = CliRunner().invoke(app, ["compare", str(folder), str(folder)]).output
    assert "1 of 1 intervals include 0" in both
    assert "retraining may change more" not in both


def test_exams_of_other_scenes_are_not_compared(sit: Sit) -> None:
    ours, theirs = sit("linear", "linear", 3, C9=Steering()), sit("other", "linear", 4, C9=Steering())
    with pytest.raises(InputError, match="different scenes"):
        compare(ours, theirs)


def test_an_exam_of_pictures_is_not_compared_with_one_of_vectors(sit: Sit) -> None:
    folder = sit("vectors", "linear", C9=Steering())
    pictures = shutil.copytree(folder, folder.with_name("pictures"))
    told = (folder / "exam.json").read_text()
    (pictures / "exam.json").write_text(told.replace('"pixels": false', '"pixels": true'))
    with pytest.raises(InputError, match=r"vectors observed vectors, those of .*pictures pictures\. Run both"):
        compare(folder, pictures)


def test_a_folder_that_holds_something_is_left_alone(sit: Sit, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="is not an empty folder"):
        sit("full", "linear", C9=Steering())
    with pytest.raises(InputError, match="is not an empty folder"):
        sit("full", "linear", resume=True, C9=Steering())
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep"
    sit("done", "linear", C9=Steering())
    with pytest.raises(InputError, match="--resume"):
        sit("done", "linear", C9=Steering())


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_recorded(sit: Sit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(InputError, match="cannot be written to: Not a directory"):
        sit("file/exam", "linear", C9=Steering())
    assert (tmp_path / "file").read_text() == "keep"


@pytest.mark.parametrize("name", ["exam.json", "report.html"])
def test_a_result_that_cannot_be_written_is_told_and_the_exam_goes_on(
    sit: Sit, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(path: Path, text: str) -> None:
        if path.name == name:
            raise OSError(28, "No space left on device")
        path.write_text(text)

    with monkeypatch.context() as filled:
        filled.setattr("worldline_exam.run.write", full)
        with pytest.raises(InputError, match=r"full cannot be written to: No space left on device.*--resume"):
            sit("full", "linear", C9=Steering())
    assert verdicts(sit("full", "linear", resume=True, C9=Steering())) == [Verdict.PASS]


def test_figures_that_cannot_be_written_do_not_take_the_table_with_them(sit: Sit) -> None:
    folder = str(sit("linear", "linear", C9=Steering()))
    shown = CliRunner().invoke(app, ["compare", folder, folder, "--json", "/dev/full"])
    assert shown.exit_code == 1
    assert "worldline: --json /dev/full cannot be written" in shown.stderr
    assert "1 of 1 intervals include 0" in shown.stdout


@pytest.mark.parametrize("recipe", ["film", "pixels-and-vectors"])
def test_a_recipe_whose_signals_the_logs_lack_is_unsupported(install: Install, tmp_path: Path, recipe: str) -> None:
    install(C9=Steering())
    exam(RecipeSubject(recipe=recipe), tmp_path / "exam", ExamOptions(seed=3))
    (one,) = read_exam(tmp_path / "exam").result.tests[0].seeds
    assert one.verdict is Verdict.UNSUPPORTED
    assert "this recipe needs an image observation" in one.reason


def test_an_exam_that_was_broken_off_goes_on_from_there(sit: Sit, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_exam(sit("whole", "linear", C9=Steering(), C8=Steering())).result

    def breaks(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("worldline_exam.run.render", breaks)
        with pytest.raises(KeyboardInterrupt):
            sit("broken", "linear", C9=Steering())
    with monkeypatch.context() as counted:
        learned: list[object] = []
        learn = TrivialSubject.learn
        counted.setattr(TrivialSubject, "learn", lambda *of, **how: learned.append(of) or learn(*of, **how))
        found = read_exam(sit("broken", "linear", resume=True, C9=Steering(), C8=Steering())).result
        assert not learned
        more = read_exam(sit("broken", "linear", num_seeds=2, resume=True, C9=Steering(), C8=Steering())).result
        assert len(learned) == 1
    assert [replace(one, elapsed_s=0.0) for one in found.tests] == [replace(o, elapsed_s=0.0) for o in whole.tests]
    assert found.facts["Wall time"].endswith("resumed")
    assert [one.seed for one in more.tests[0].seeds] == [0, 1]


def test_what_was_half_written_when_an_exam_was_broken_off_is_made_again(sit: Sit) -> None:
    folder = sit("half", "linear", C9=Steering())
    before = read_exam(folder).result.tests[0]
    (folder / "logs" / "boat").rename(folder / "logs" / "boat.partial")
    (folder / "worlds" / "boat-0.json").unlink()
    (folder / "answers" / "C9" / "answers-0.npz").rename(folder / "answers" / "C9" / "answers-0.partial.npz")
    again = read_exam(sit("half", "linear", resume=True, C9=Steering())).result.tests[0]
    assert replace(again, elapsed_s=0.0) == replace(before, elapsed_s=0.0)


@pytest.mark.parametrize("name", ["answers/C9/answers-0.npz", "answers/C9/scenes.npz", "worlds/boat-0.json"])
def test_what_is_damaged_is_made_again_when_an_exam_goes_on(sit: Sit, name: str) -> None:
    folder = sit("damaged", "linear", C9=Steering())
    before = read_exam(folder).result.tests[0]
    (folder / name).write_bytes(b"PK")
    again = read_exam(sit("damaged", "linear", resume=True, C9=Steering())).result.tests[0]
    assert replace(again, elapsed_s=0.0) == replace(before, elapsed_s=0.0)
    assert (folder / name).read_bytes() != b"PK"


def test_a_world_that_is_gone_is_learned_again_when_an_exam_goes_on(sit: Sit) -> None:
    folder = sit("gone", "linear", C9=Steering())
    shutil.rmtree(folder / "worlds" / "boat-0")
    (folder / "answers" / "C9" / "answers-0.npz").unlink()
    assert verdicts(sit("gone", "linear", resume=True, C9=Steering())) == [Verdict.PASS]


@pytest.mark.parametrize(
    ("subject", "seed", "said"), [("persistence", 3, "another subject: linear"), ("linear", 4, "options")]
)
def test_an_exam_does_not_go_on_with_another_one(sit: Sit, subject: str, seed: int, said: str) -> None:
    sit("begun", "linear", C9=Steering())
    with pytest.raises(InputError, match=said):
        sit("begun", subject, seed, resume=True, C9=Steering())


def test_an_exam_does_not_go_on_with_other_code(sit: Sit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("before")
    monkeypatch.setattr(TrivialSubject, "sources", (own,), raising=False)
    sit("own", "linear", C9=Steering())
    sit("own", "linear", resume=True, C9=Steering())
    own.write_text("after")
    with pytest.raises(InputError, match="begun with other code of the toolkit"):
        sit("own", "linear", resume=True, C9=Steering())


def test_the_module_of_an_own_recipe_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "homemade.py").write_text("def recipe(store): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert RecipeSubject(recipe="homemade:recipe").sources == (tmp_path / "homemade.py",)
    assert not RecipeSubject(recipe="memory").sources


def test_answers_to_other_scenes_are_asked_for_again(sit: Sit) -> None:
    folder = sit("asked", "linear", C9=Steering())
    before, place = read_exam(folder).result.tests[0], folder / "answers" / "C9"
    with np.load(place / "scenes.npz") as scenes:
        np.savez(place / "scenes.npz", **{name: scenes[name] + 1 for name in scenes.files})
    with np.load(place / "answers-0.npz") as answers:
        np.savez(place / "answers-0.npz", **{name: 0 * answers[name] for name in answers.files})
    again = read_exam(sit("asked", "linear", resume=True, C9=Steering())).result.tests[0]
    assert replace(again, elapsed_s=0.0) == replace(before, elapsed_s=0.0)


def test_what_cannot_be_learned_is_not_tried_again(sit: Sit, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refuses(*_: object, **__: object) -> None:
        tried.append(1)
        raise UnsupportedError("not this one")

    monkeypatch.setattr(TrivialSubject, "learn", refuses)
    for resume in (False, True):
        folder = sit("refused", "linear", resume=resume, C9=Steering())
        assert verdicts(folder) == [Verdict.UNSUPPORTED]
    assert len(tried) == 1


@pytest.mark.parametrize("damage", [b"", b"PK", NO_ZIP, None])
def test_damaged_answers_are_named(sit: Sit, damage: bytes | None) -> None:
    folder = sit("damaged", "linear", C9=Steering())
    path = folder / "answers" / "C9" / "answers-0.npz"
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    with pytest.raises(DataError, match="answers cannot be read"):
        regrade(folder)


@pytest.mark.parametrize(
    ("file", "changed"),
    [("answers-0", lambda effect: effect[:, :2]), ("answers-0", lambda effect: effect.astype(str)),
     ("scenes", lambda effect: effect[:30])],
)  # fmt: skip
def test_what_is_stored_and_cannot_be_graded_is_named(sit: Sit, file: str, changed: Callable[..., Any]) -> None:
    folder = sit("tampered", "linear", C9=Steering())
    path = folder / "answers" / "C9" / f"{file}.npz"
    with np.load(path) as arrays:
        held = dict(arrays)
    np.savez(path, **{**held, "effect": changed(held["effect"])})
    with pytest.raises(DataError, match=r"answers/C9: the stored arrays of C9 cannot be graded .*Restore it, or run"):
        regrade(folder)


def test_a_result_that_cannot_be_read_is_named(sit: Sit) -> None:
    folder = sit("torn", "linear", C9=Steering())
    (folder / "begun.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match=r"begun\.json: the document: Invalid JSON.*Restore it, or run"):
        sit("torn", "linear", resume=True, C9=Steering())
    (folder / "exam.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match=r"exam\.json: the document: Invalid JSON.*Restore it, or run"):
        regrade(folder)
    (folder / "exam.json").unlink()
    (folder / "exam.json").mkdir()
    with pytest.raises(ConfigError, match=r"exam\.json cannot be read: Is a directory"):
        regrade(folder)


def test_going_on_writes_a_result_anew_that_cannot_be_read(sit: Sit) -> None:
    folder = sit("torn", "linear", C9=Steering())
    before = read_exam(folder).result.tests
    (folder / "exam.json").write_bytes(b"\xff\xfe{")
    again = read_exam(sit("torn", "linear", resume=True, C9=Steering())).result.tests
    assert same_figures(replace(again[0], elapsed_s=0.0), replace(before[0], elapsed_s=0.0))


def test_answers_that_are_gone_are_not_taken_from_their_own_grade(sit: Sit) -> None:
    folder = sit("gone", "linear", C9=Steering())
    (folder / "answers" / "C9" / "answers-0.npz").unlink()
    with pytest.raises(DataError, match="answers that were graded are missing"):
        regrade(folder)


def test_nothing_that_was_graded_is_left_out_by_going_on(sit: Sit) -> None:
    folder = sit("two", "linear", num_seeds=2, C9=Steering(), C8=Ungradable())
    before = (folder / "exam.json").read_text()
    with pytest.raises(InputError, match="holds an exam with 2 trainings, not 1"):
        sit("two", "linear", resume=True, C9=Steering(), C8=Ungradable())
    with pytest.raises(InputError, match="holds an exam with tests C9"):
        sit("two", "linear", num_seeds=2, resume=True, C8=Ungradable())
    assert (folder / "exam.json").read_text() == before


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


def test_a_folder_without_an_exam_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no exam"):
        read_exam(tmp_path)


def test_the_command_that_repeats_an_exam_leaves_the_place_to_who_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["exam", "persistence", "--tests", "C3", "--out", str(tmp_path / "exam"), f"--json={tmp_path / 'a.json'}"]
    monkeypatch.setattr("sys.argv", ["worldline", *given])
    kept: list[str] = []

    def run(*_: object, command: str, **__: object) -> None:
        kept.append(command)
        raise InputError("enough")

    monkeypatch.setattr("worldline_exam.run.exam", run)
    CliRunner().invoke(app, given)
    assert kept == ["worldline exam persistence --tests C3"]
