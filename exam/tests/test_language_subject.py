"""A language model sits the exam: a chat server on this machine that knows the law, or holds on to what it last saw."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from exam.tests.steering import STEPS, Steering
from tests.engines.language.chat_server import ChatServer, Fault, Values, latest, question_of
from typer.testing import CliRunner

from worldline.audit.baselines import as_world
from worldline.audit.grades import Verdict
from worldline.cli.main import app
from worldline.data.store import open_store
from worldline.engines.baselines import Persistence
from worldline.engines.language.prompt import PROMPT_HASH
from worldline.engines.language.transcript import Exchange, Transcript, request_hash
from worldline.episode import Arrays
from worldline.errors import InputError, UnsupportedError
from worldline.registry import load, names
from worldline.workflows.record import record
from worldline_exam.base import ExamTest
from worldline_exam.folder import REPORT, RESULT, read_exam
from worldline_exam.labs.fleet import BOATS, Fleet
from worldline_exam.labs.wind import DECAY, Wind
from worldline_exam.language_subject import TRANSCRIPT, LanguageSubject, endpoint_of
from worldline_exam.options import ExamOptions
from worldline_exam.results import ExamResult, same_figures
from worldline_exam.run import exam

SCENES = 10
QUESTIONS = SCENES * 2 * STEPS  # with the motor and without
CALIBRATED = {"T4": {"num_pairs": 10}, "U1": {"num_scenes": 10}, "U2": {"num_scenes": 10}, "U3": {"num_each": 10}}


@dataclass(frozen=True, kw_only=True)
class Dear(Steering):
    """Asks a few scenes of who pays for it."""

    paid: ClassVar[Mapping[str, int]] = {"num_scenes": SCENES}


class Later(Dear):
    """Other scenes, asked after the first ones."""

    code = "P9"

    def generate(self, seed: int) -> Arrays:
        return super().generate(seed + 50)


class Banded(Dear):
    """Needs bands."""

    code = "U9"
    calibrated = True


def lawful(history: Values, actions: Values, exogenous: Values) -> Values:
    return {"boat_position": DECAY * latest(history["boat_position"]) + actions["motor"]}


def still(history: Values, actions: Values, exogenous: Values) -> Values:
    return {"boat_position": latest(history["boat_position"])}


@contextmanager
def toy_tests() -> Iterator[None]:
    """Makes the toy tests the only ones that there are."""
    known: dict[str, type[ExamTest]] = {one.code: one for one in (Dear, Later, Banded)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("worldline_exam.options.load", lambda kind, code: known[code])
        patched.setattr("worldline_exam.options.names", lambda kind: list(known))
        yield


def sit(folder: Path, subject: LanguageSubject, *codes: str) -> ExamResult:
    """Runs an exam of toy tests."""
    with toy_tests():
        return exam(subject, folder, ExamOptions(tests=codes, seed=3))


@pytest.fixture(scope="module")
def lawful_exam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exam") / "law"
    with ChatServer(lawful) as server:
        sit(folder, subject(server, max_requests=500, max_price=2.0), "C9", "U9")
        assert len(server.seen) == QUESTIONS
    return folder


@pytest.fixture
def law(lawful_exam: Path) -> Iterator[Path]:
    """The folder of an exam of a model that knows the law."""
    with toy_tests():
        yield lawful_exam


def subject(server: ChatServer, **settings: object) -> LanguageSubject:
    endpoint = endpoint_of(server.base_url, "toy", api_key_env=None, prices=(10.0, 50.0, "USD"))
    return replace(LanguageSubject(endpoint=endpoint), **settings)


def verdicts(found: ExamResult) -> dict[str, Verdict]:
    return {one.code: one.verdict for one in found.tests}


def reason(found: ExamResult, code: str) -> str:
    return next(one.seeds[0].reason for one in found.tests if one.code == code)


def test_who_knows_the_law_passes_and_who_holds_on_to_the_present_fails(law: Path, tmp_path: Path) -> None:
    found = read_exam(law).result
    assert verdicts(found) == {"C9": Verdict.PASS, "U9": Verdict.UNSUPPORTED}
    assert "Calibration" in reason(found, "U9")
    with ChatServer(still) as server:
        assert verdicts(sit(tmp_path / "still", subject(server), "C9")) == {"C9": Verdict.FAIL}
        seen = len(server.seen)
        sit(tmp_path / "bands", subject(server), "U9")
        assert len(server.seen) == seen, "nothing is asked for tests of bands"
    assert not (tmp_path / "bands" / "logs").exists()


def test_the_small_print_says_what_was_sent_and_charged(law: Path) -> None:
    found = read_exam(law).result
    facts = found.facts
    assert found.subject == "language, toy"
    assert facts["Sizes"] == f"C9: num_scenes {SCENES} of 30; U9: num_scenes {SCENES} of 30"
    assert facts["Model"].startswith("toy at http://127.0.0.1:")
    assert facts["Trainings"].startswith("none: it received no logs")
    assert facts["Prompt"].startswith(PROMPT_HASH)
    assert "entity_1" in facts["Names"]
    assert facts["Requests"] == f"{QUESTIONS} sent, of at most 500"
    assert facts["Tokens"] == f"{100 * QUESTIONS:,} input, {20 * QUESTIONS:,} output"
    assert facts["Cost"] == f"{QUESTIONS * (100 * 10 + 20 * 50) / 1e6:.4g} USD, of at most 2 USD"
    report = (law / REPORT).read_text()
    assert facts["Tokens"] in report
    assert facts["Cost"] in report


def test_the_small_print_says_how_often_a_model_was_told_what_was_wrong(tmp_path: Path) -> None:
    with ChatServer(lawful) as server:
        server.next(Fault.WORDS, Fault.WORDS)
        first = sit(tmp_path / "first", subject(server), "C9")
    assert first.facts["Requests"].startswith(f"{QUESTIONS + 2} sent")
    assert first.facts["Tries"].startswith(f"{QUESTIONS + 2} for {QUESTIONS} answers (")
    lines = (tmp_path / "first" / TRANSCRIPT).read_text().splitlines()
    older = [
        json.dumps({name: value for name, value in json.loads(one).items() if name != "num_tries"}) for one in lines
    ]
    (tmp_path / "older.jsonl").write_text("\n".join([*older, ""]))
    again = sit(tmp_path / "again", LanguageSubject(transcript=tmp_path / "older.jsonl"), "C9")
    assert verdicts(again) == verdicts(first)
    assert again.facts["Tries"] == f"not recorded for {QUESTIONS} answers"


def test_a_cost_that_is_known_in_part_is_at_least_that(tmp_path: Path) -> None:
    with ChatServer(lawful, tells_usage=False) as server:
        facts = sit(tmp_path / "untold", subject(server), "C9").facts
    assert facts["Tokens"] == f"0 input, 0 output; not reported for {QUESTIONS} replies"
    assert facts["Cost"] == "at least 0 USD"


def test_an_exam_is_held_again_from_its_transcript_without_an_endpoint(law: Path, tmp_path: Path) -> None:
    first = read_exam(law).result
    for name, given in (("file", law / TRANSCRIPT), ("folder", law)):
        again = sit(tmp_path / name, LanguageSubject(transcript=given), "C9")
        assert same_figures(replace(again.tests[0], elapsed_s=0.0), replace(first.tests[0], elapsed_s=0.0))
        assert (again.facts["Requests"], again.facts["Transcript"]) == ("0 sent", first.facts["Transcript"])
        assert "replayed" in again.facts["Model"]
        assert (tmp_path / name / TRANSCRIPT).read_bytes() == (law / TRANSCRIPT).read_bytes()


@pytest.mark.parametrize("other", [{"model": "other"}, {"temperature": 0.5}, {"max_tokens": None}])
def test_a_transcript_of_another_model_is_refused(tmp_path: Path, other: Mapping[str, Any]) -> None:
    path, endpoint = tmp_path / "t.jsonl", endpoint_of("http://localhost:1/v1", "toy", api_key_env=None, prices=None)
    given = LanguageSubject(endpoint=endpoint)
    one, two = ({"model": "toy", "temperature": 0.0, "max_tokens": 8192, "seed": 0}, {"seed": 1})
    store(path, one)
    assert replace(given, transcript=path).title == LanguageSubject(transcript=path).title == "language, toy"
    with pytest.raises(InputError, match=r"answers of 'toy' \(temperature 0.0, max_tokens 8192\), not of"):
        replace(given, endpoint=replace(endpoint, **other), transcript=path)
    store(path, {**one, **two, **other})
    for sat in (given, LanguageSubject()):
        with pytest.raises(InputError, match="answers of more than one model"):
            replace(sat, transcript=path)


def store(path: Path, request: Mapping[str, Any]) -> None:
    """Adds an answer to a transcript."""
    key = request_hash(request)
    exchange = Exchange(
        hash=key, request=request, answer="{}", input_tokens=1, output_tokens=1, seconds=0.0, num_tries=1
    )
    Transcript(path).add(exchange)


def test_what_a_transcript_lacks_is_not_measured(law: Path, tmp_path: Path) -> None:
    found = sit(tmp_path / "again", LanguageSubject(transcript=law), "C9", "P9")
    assert verdicts(found) == {"C9": Verdict.PASS, "P9": Verdict.NOT_MEASURED}
    assert "not in the transcript" in reason(found, "P9")


@pytest.mark.parametrize(
    ("cap", "said"), [({"max_requests": QUESTIONS + 20}, "max_requests"), ({"max_price": 0.21}, "max_price")]
)
def test_tests_beyond_the_cap_are_left_out_until_resumed(tmp_path: Path, cap: dict[str, float], said: str) -> None:
    with ChatServer(lawful) as server:
        found = sit(tmp_path / "capped", subject(server, **cap), "C9", "P9")
        assert verdicts(found) == {"C9": Verdict.PASS, "P9": Verdict.NOT_MEASURED}
        assert said in reason(found, "P9")
        assert found.failed_to_grade == ()
        assert QUESTIONS < len(server.seen) < 2 * QUESTIONS
        whole = sit(tmp_path / "whole", subject(server, transcript=tmp_path / "capped"), "C9", "P9")
        assert verdicts(whole) == {"C9": Verdict.PASS, "P9": Verdict.PASS}
        assert len(server.seen) == 2 * QUESTIONS


def test_an_exam_that_is_paid_for_goes_on_from_its_transcript_alone(tmp_path: Path) -> None:
    with ChatServer(lawful) as server, pytest.raises(InputError, match="transcript"):
        exam(subject(server), tmp_path / "paid", ExamOptions(tests=("C1",)), resume=True)
    assert not (tmp_path / "paid").exists()


def test_more_trainings_of_who_learns_nothing_are_refused(tmp_path: Path) -> None:
    with ChatServer(lawful) as server, pytest.raises(InputError, match=r"3 trainings .* language, toy is not trained"):
        exam(subject(server), tmp_path / "thrice", ExamOptions(tests=("C1",), num_seeds=3))
    assert not (tmp_path / "thrice").exists()


@pytest.mark.parametrize(("fault", "verdict", "said", "failed"), [
    (Fault.WORDS, Verdict.ERROR, "no good answer in 4 tries", ("C9",)),
    (Fault.NOT_JSON, Verdict.NOT_MEASURED, "", ()),
])  # fmt: skip
def test_answers_that_are_no_good_are_an_error_and_none_are_not_measured(
    tmp_path: Path, fault: Fault, verdict: Verdict, said: str, failed: tuple[str, ...]
) -> None:
    with ChatServer(lawful) as server:
        server.always(fault)
        found = sit(tmp_path / "faulty", subject(server), "C9")
    assert verdicts(found) == {"C9": verdict}
    assert said in reason(found, "C9")
    assert found.failed_to_grade == failed


def test_without_an_endpoint_all_sixteen_are_not_measured(tmp_path: Path) -> None:
    out = tmp_path / "exam"
    done = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["exam", "language", "--out", str(out), "--json", str(tmp_path / "figures.json")]
    )
    assert done.exit_code == 0, done.output
    found = read_exam(out).result
    assert (set(verdicts(found).values()), len(found.tests)) == ({Verdict.NOT_MEASURED}, 16)
    assert "No endpoint was given" in reason(found, "C1")
    assert sorted(one.name for one in out.iterdir()) == [RESULT, REPORT]
    assert "not measured" in (out / REPORT).read_text()
    assert "NOT MEASURED" in (tmp_path / "figures.json").read_text()


@pytest.mark.parametrize(("given", "said"), [
    (("language", "--endpoint", "http://localhost:1/v1"), "--endpoint-model"),
    (("language", "--max-cost", "3"), "--endpoint"),
    (("language", "--model", "token"), "no recipe"),
    (("language", "--transcript", "nowhere.jsonl"), "no answers"),
    (("language", "--endpoint", "http://localhost:1/v1", "--endpoint-model", "m", "--prices", "3"), "--prices"),
    (("language", "--endpoint", "http://localhost:1/v1", "--endpoint-model", "m", "--max-cost", "3"), "prices"),
    (("persistence", "--endpoint-model", "m"), "Omit them"),
    (("persistence", "--max-requests", "5"), "Omit them"),
    (("persistence", "--max-cost", "5"), "Omit them"),
])  # fmt: skip
def test_options_that_do_not_go_together_are_refused_before_anything_is_done(
    tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    done = CliRunner().invoke(app, ["exam", *given, "--out", str(tmp_path / "exam")])
    assert done.exit_code == 1
    assert said in done.output
    assert not (tmp_path / "exam").exists()


def test_a_subject_without_a_chat_opens_nothing(tmp_path: Path) -> None:
    record(Wind(), tmp_path / "logs", num_episodes=1, max_steps=2, seed=0)
    with pytest.raises(InputError, match="for_exam"):
        LanguageSubject().open(tmp_path, open_store(tmp_path / "logs"))


def test_names_tell_no_settings_of_a_lab(tmp_path: Path) -> None:
    fleet = Fleet()
    logs = record(fleet, tmp_path / "logs", num_episodes=1, max_steps=3, seed=0)
    motors = [boat.motor for boat in BOATS]

    def moved(history: Values, actions: Values, exogenous: Values) -> Values:
        drifts = {name.replace("motor", "drift"): motor for name, motor in actions.items()}
        return {**drifts, "drill": np.array([0.5])}

    with ChatServer(moved) as server:
        world = subject(server).for_exam(tmp_path).open(tmp_path, logs)
        actions = {name: np.full((1, 1), number / 4, np.float32) for number, name in enumerate(motors)}
        found = world.predict(logs.episode(0).history(at=3, length=4), actions).signals
        assert {boat.drift: found[boat.drift].mean.ravel().tolist() for boat in BOATS} == {
            boat.drift: [number / 4] for number, boat in enumerate(BOATS)
        }
        assert found["drill"].mean.ravel().tolist() == [0.5]
        assert world.describe().predicts == tuple(signal.name for signal in fleet.schema.observations)
        (seen,) = server.seen
        assert not re.search(r"gusty|steady|drilled|_\d\d", json.dumps(seen.body))
        assert question_of(seen.body)["signals"][0] == {
            "name": "entity_1_drift", "role": "observation", "entity": "entity_1", "unit": "m", "size": 1,
        }  # fmt: skip


@pytest.mark.parametrize("code", names("test"))
def test_paid_sizes_are_smaller_ones_of_the_test_and_only_tests_of_bands_need_a_calibration(code: str) -> None:
    full: ExamTest = load("test", code)()
    assert full.calibrated == (code in CALIBRATED)
    assert bool(full.paid) != full.calibrated
    sizes = {one.name: getattr(full, one.name) for one in fields(full)}
    assert all(10 <= size < sizes[name] or name in ("num_branches", "num_motors") for name, size in full.paid.items())


@pytest.mark.parametrize("code", sorted(CALIBRATED))
def test_a_world_without_a_calibration_is_unsupported_there(code: str) -> None:
    test: ExamTest = replace(load("test", code)(), **CALIBRATED[code])
    schemas = {one.name: one.make_lab().schema for one in test.datasets()}
    worlds = {name: as_world(Persistence.fit([], schema)) for name, schema in schemas.items()}
    with pytest.raises(UnsupportedError):
        test.ask(worlds, test.generate(0))
