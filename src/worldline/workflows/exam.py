"""The exam: learn a world from each lab's logs, ask all of them what the tests ask, and grade what they say.

Everything that was asked and answered stays in the folder of the exam, so that it can be graded again (`regrade`) and
compared with another exam (`compare`) without learning anything. An exam that was broken off goes on from there, and
one that is complete with more trainings.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from worldline.config import from_json, to_json
from worldline.contracts.engine import Card
from worldline.contracts.episode import Arrays, Episode
from worldline.contracts.evaluation import Verdict
from worldline.contracts.schema import Kind
from worldline.data.store import Store, open_store
from worldline.errors import (
    CollapseError,
    ConfigError,
    DataError,
    InputError,
    UnavailableError,
    UnreadableError,
    UnsupportedError,
)
from worldline.registry import load, names
from worldline.understanding.exam.comparing import Comparison, Pair, compared
from worldline.understanding.exam.contract import ExamTest, Pool, References
from worldline.understanding.exam.examining import Examined, examine
from worldline.understanding.exam.report import render
from worldline.understanding.exam.results import (
    ExamResult,
    SeedGrade,
    TestResult,
    broken,
    result,
    unasked,
    without_draws,
)
from worldline.understanding.exam.verdicts import flaws
from worldline.workflows.manifest import device, versions
from worldline.workflows.reading import unread
from worldline.workflows.record import record
from worldline.workflows.sitters import Sitter, Terms
from worldline.workflows.stage import Stage
from worldline.worlds.bundled import save_world

RESULT, REPORT, BEGUN = "exam.json", "report.html", "begun.json"
LOG_SEED: Final = 500_000
"""Added to the exam's seed for the logs, so that no scene begins as a logged episode did."""

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class ExamOptions:
    """What is asked of whom.

    Args:
        codes: of the tests; empty for all.
        pool: of the generators.
        pixels: whether worlds see pictures instead of vectors.
        seed: of logs and scenes; a fresh one for every report.
        num_seeds: trainings, from 0 on.
        num_processes: that learn and ask side by side, each with one thread.
        sizes: fields of the tests to set, such as num_scenes, for a quick look; tests without the field stay.
        paid: whether tests begin with the sizes that they have for who pays for each question.
    """

    codes: tuple[str, ...] = ()
    pool: Pool = Pool.REPORT
    pixels: bool = False
    seed: int = 0
    num_seeds: int = 1
    num_processes: int = 1
    sizes: Mapping[str, int] | None = None
    paid: bool = False

    def __post_init__(self) -> None:
        for name in ("num_seeds", "num_processes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}. It must be at least 1.")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}. It must be at least 0.")
        for code in self.codes:
            load("test", code)

    def tests(self) -> list[ExamTest]:
        """The tests, in the order of their codes."""
        every: list[ExamTest] = [load("test", code)(pool=self.pool, pixels=self.pixels) for code in self._codes]
        return [_sized(test, {**(test.paid if self.paid else {}), **(self.sizes or {})}) for test in every]

    @property
    def _codes(self) -> list[str]:
        order = {letter: place for place, letter in enumerate("CPTU")}
        return sorted(self.codes or names("test"), key=lambda code: (order.get(code[:1], 9), code))


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What it takes to grade the answers in a folder again.

    Args:
        options: of the exam.
        result: that was found.
    """

    options: ExamOptions
    result: ExamResult


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What an exam that goes on has to have in common with what is in its folder.

    Args:
        sitter: its title.
        options: of the exam, those that do not change a world or an answer as they are by default.
        versions: of what the result depends on.
    """

    sitter: str
    options: ExamOptions
    versions: Mapping[str, str]


def exam(
    sitter: Sitter,
    folder: Path,
    options: ExamOptions,
    *,
    resume: bool = False,
    command: str = "",
    stage: Stage | None = None,
) -> ExamResult:
    """Trains the sitter on each lab's logs, and grades it.

    Args:
        sitter: who learns.
        folder: a new or empty one; gets logs, worlds, answers, `exam.json` and `report.html`.
        options: what is asked.
        resume: go on in a folder where an exam of this sitter was begun, with these tests and trainings.
        command: that repeats it.
        stage: told about progress.

    Raises:
        InputError: the folder holds something, or, to go on in it, something else.
    """
    options = replace(options, paid=sitter.pays)
    goes_on = _begin(folder, sitter, options, resume)
    sitter, begin = sitter.seated(folder), time.monotonic()
    tests, seeds = options.tests(), range(options.num_seeds)
    declined = {test.code: why for test in tests if (why := sitter.declines(test)) is not None}
    learned, found = _held(sitter, folder, options, [test for test in tests if test.code not in declined], stage)
    graded = tuple(
        unasked(test, seeds, why.verdict, why.reason)
        if (why := declined.get(test.code)) is not None
        else found[test.code]
        for test in tests
    )
    elapsed = f"{time.monotonic() - begin:.0f} s{', going on with one that was begun' if goes_on else ''}"
    facts = {**_facts(options, learned), "Wall time": elapsed, **sitter.facts}
    examined = ExamResult(sitter=sitter.title, facts=facts, command=command, tests=graded)
    (folder / RESULT).write_text(to_json(Stored(options=options, result=examined)) + "\n")
    (folder / REPORT).write_text(render(examined), encoding="utf-8")
    return examined


def _begin(folder: Path, sitter: Sitter, options: ExamOptions, resume: bool) -> bool:
    """Writes down what is begun, or checks that it goes on with what is in the folder: whether it does."""
    same = replace(options, codes=(), num_seeds=1, num_processes=1)
    path, begun = folder / BEGUN, Begun(sitter=sitter.title, options=same, versions=versions())
    if resume and path.exists():
        before = from_json(Begun, path.read_text(), where=path)
        other = [name for name, value in vars(begun).items() if value != getattr(before, name)]
        if other:
            raise InputError(
                f"{folder} holds an exam with another {other[0]}: {getattr(before, other[0])}, not "
                f"{getattr(begun, other[0])}. Go on with that, or choose a new folder."
            )
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something already. Choose a new folder for the exam.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(begun) + "\n")
    return False


def read_exam(folder: Path) -> Stored:
    """What an exam left in its folder.

    Raises:
        InputError: there is no exam.
        ConfigError: it cannot be read.
    """
    path = folder / RESULT
    if not path.exists():
        raise InputError(
            f"{folder} holds no exam: there is no {RESULT}. Run one: worldline exam RECIPE --out {folder}."
        )
    return from_json(Stored, path.read_text(), where=path)


def regrade(folder: Path) -> tuple[TestResult, ...]:
    """The results of the stored answers, graded anew: those of `exam.json` but for the draws that are not stored.

    Raises:
        InputError: there is no exam.
        DataError: answers are missing or damaged.
    """
    stored = read_exam(folder)
    before = {one.code: one for one in stored.result.tests}
    return tuple(
        before[test.code] if not _place(folder, test.code).exists() else _regraded(test, folder, before[test.code])
        for test in stored.options.tests()
    )


def compare(ours: Path, theirs: Path, trainings: Pair | None = None) -> Comparison:
    """How much higher the first exam's sitter scores than the second's, in every part that both were graded in.

    Args:
        ours: folder of an exam.
        theirs: of another, or of the same one.
        trainings: one of ours and one of theirs; None for all that both have, each with its like.

    Raises:
        InputError: a folder holds no exam, no test or training is in both, or they were asked about other scenes.
    """
    left, right = ({one.code: one for one in regrade(folder)} for folder in (ours, theirs))
    return compared(left, right, trainings)


def _held(
    sitter: Sitter, folder: Path, options: ExamOptions, tests: Sequence[ExamTest], stage: Stage | None
) -> tuple[list[Mapping[str, str]], dict[str, TestResult]]:
    """What is to be known of the worlds that were learned, and by code what came of each test."""
    if not tests:
        return [], {}
    seeds, curricula = range(options.num_seeds), {one.name: one for test in tests for one in test.curricula()}
    owners = {one.name: test for test in reversed(tests) for one in test.curricula()}
    with _workers(1 if sitter.pays else options.num_processes) as pool:
        logged = {name: pool.submit(_record, owners[name], name, options.seed, folder) for name in curricula}
        lost = {name: error for name, error in _finished(logged, "record", stage) if error is not None}
        tasks = {
            (name, seed): pool.submit(
                _learn,
                sitter,
                _logs(folder, name),
                Terms(
                    num_calibration=one.num_calibration,
                    horizon=one.horizon,
                    read=one.asked if options.pixels else (),
                ),
                seed,
                folder,
            )
            for seed in seeds
            for name, one in curricula.items()
            if name not in lost
        }
        learned = {key: _or_reason(key[1], one) for key, one in _finished(tasks, "learn", stage)}
        reasons = {key: one for key, one in learned.items() if isinstance(one, SeedGrade)}
        asked: dict[str, Future[TestResult]] = {
            test.code: pool.submit(_sit, sitter, test, options.seed, tuple(seeds), _lacking(test, reasons), folder)
            for test in tests
            if not any(one.name in lost for one in test.curricula())
        }
        ended = _finished(asked, "ask and grade", stage)
        found = dict(ended)
    known: list[Mapping[str, str]] = [one for one in learned.values() if not isinstance(one, SeedGrade)]
    return known, {test.code: _or_broken(test, seeds, found, lost) for test in tests}


def _record(test: ExamTest, name: str, seed: int, folder: Path) -> None:
    """The logs of a curriculum, if they are not there. In a process of its own."""
    logs = _logs(folder, name)
    if logs.exists():
        return
    part = logs.with_name(f"{name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    one = next(one for one in test.curricula() if one.name == name)
    lab, episodes = one.make_lab(), (one.num_episodes, one.num_steps)
    record(lab, part, num_episodes=episodes[0], max_steps=episodes[1], seed=seed + LOG_SEED)
    lab.close()
    part.rename(logs)


def _learn(sitter: Sitter, logs: Path, terms: Terms, seed: int, folder: Path) -> dict[str, str] | SeedGrade:
    """Saves the world if it is not there; what is to be known of it, or why there is none. In a process of its own."""
    store, out = open_store(logs), _world(folder, logs.name, seed)
    work, known = out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.json")
    if known.exists():
        return from_json(dict[str, str], known.read_text(), where=known)
    shutil.rmtree(work, ignore_errors=True)
    try:
        sat = sitter.learn(store, seed=seed, terms=terms, folder=work)
        if sat.world is not None:
            save_world(out, sat.world)
        if blind := unread(sat.reads, terms.read):
            return SeedGrade(seed=seed, verdict=Verdict.UNREADABLE, grade=None, reason=blind)
    except UnsupportedError as error:
        return SeedGrade(seed=seed, verdict=Verdict.UNSUPPORTED, grade=None, reason=str(error))
    except (CollapseError, DataError, InputError) as error:
        return SeedGrade(seed=seed, verdict=Verdict.ERROR, grade=None, reason=f"learning from {logs.name}: {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    shown = {} if sat.world is None else {"context": _context(sat.world.describe())}
    facts = {**sat.facts, **shown, "curriculum": logs.name}
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(facts))
    return facts


def _context(card: Card) -> str:
    """What a world looks back on, such as "3 observations, 0.2 s"."""
    seen = f"{card.context} observation{'' if card.context == 1 else 's'}"
    step_s = card.schema.step_s
    return seen if step_s is None or card.context == 1 else f"{seen}, {(card.context - 1) * step_s:g} s"


def _sit(
    sitter: Sitter,
    test: ExamTest,
    seed: int,
    trainings: Sequence[int],
    lacking: Mapping[int, SeedGrade],
    folder: Path,
) -> TestResult:
    """Examines the test, asks the worlds of every training, keeps what they say, and grades it. In its own process."""
    begin = time.monotonic()
    stores = {one.name: open_store(_logs(folder, one.name)) for one in test.curricula()}
    examined = examine(test, seed, {name: _episodes(store) for name, store in stores.items()})
    place = _place(folder, test.code)
    _keep_examined(place, examined)
    answers: dict[int, Arrays | SeedGrade] = {}
    for training in trainings:
        path = place / f"answers-{training}.npz"
        if path.exists():
            answers[training] = _kept(path)
            continue
        answers[training] = given = lacking.get(training) or _answers(sitter, test, training, examined.scenes, folder)
        if not isinstance(given, SeedGrade):
            _keep(path, given)
    return without_draws(result(test, examined, answers, time.monotonic() - begin))


def _answers(sitter: Sitter, test: ExamTest, training: int, scenes: Arrays, folder: Path) -> Arrays | SeedGrade:
    """What the worlds of a training say, or why they do not."""
    try:
        worlds = {
            one.name: sitter.open(_world(folder, one.name, training), open_store(_logs(folder, one.name)))
            for one in test.curricula()
        }
        return test.ask(worlds, scenes)
    except UnreadableError as error:
        return SeedGrade(seed=training, verdict=Verdict.UNREADABLE, grade=None, reason=str(error))
    except UnsupportedError as error:
        return SeedGrade(seed=training, verdict=Verdict.UNSUPPORTED, grade=None, reason=str(error))
    except UnavailableError as error:
        return SeedGrade(seed=training, verdict=Verdict.NOT_MEASURED, grade=None, reason=str(error))


def _regraded(test: ExamTest, folder: Path, before: TestResult) -> TestResult:
    """The result of the stored answers."""
    place = _place(folder, test.code)
    answers = {
        one.seed: _kept(path) if (path := place / f"answers-{one.seed}.npz").exists() else one for one in before.seeds
    }
    try:
        return result(test, _kept_examined(test, place), answers, before.elapsed_s)
    except KeyError as error:
        raise DataError(
            f"{test.code} was asked by another version: there is no {error}", fix="Run the exam again.", file=place
        ) from error


def _keep_examined(place: Path, examined: Examined) -> None:
    references = examined.references
    parts = {"floor": references.floor, "ceiling": references.ceiling, "oracle": references.oracle}
    parts |= {f"must_fail/{name}": one for name, one in references.must_fail.items()}
    _keep(place / "scenes.npz", examined.scenes)
    named = {f"{part}/{name}": value for part, one in parts.items() for name, value in one.items()}
    _keep(place / "references.npz", {**named, "floor_name": np.array(references.floor_name)})


def _kept_examined(test: ExamTest, place: Path) -> Examined:
    """What `_keep_examined` wrote, graded again."""
    scenes, arrays = _kept(place / "scenes.npz"), _kept(place / "references.npz")
    floor_name = str(arrays.pop("floor_name"))
    parts: dict[str, dict[str, Any]] = {"floor": {}, "ceiling": {}, "oracle": {}}
    for key, value in arrays.items():
        part, _, name = key.rpartition("/")
        parts.setdefault(part, {})[name] = value
    named = {part.removeprefix("must_fail/"): one for part, one in parts.items() if part.startswith("must_fail/")}
    references = References(
        floor=parts["floor"],
        ceiling=parts["ceiling"],
        oracle=parts["oracle"],
        must_fail=named,
        floor_name=floor_name,
    )
    oracle = test.grade(scenes, references.oracle, references)
    must_fail = {name: test.grade(scenes, one, references) for name, one in named.items()}
    return Examined(
        scenes=scenes,
        references=references,
        oracle=oracle,
        must_fail=must_fail,
        flaws=flaws(oracle, must_fail, test.declared_ceiling),
    )


def _keep(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".partial.npz")
    np.savez_compressed(part, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    part.replace(path)


def _kept(path: Path) -> dict[str, Any]:
    """Raises `DataError` where the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise DataError(f"the answers cannot be read ({error})", fix="Run the exam again.", file=path) from error


def _workers(count: int) -> Executor:
    """Processes of one thread each; one alone is this one."""
    if count == 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_one_thread)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _finished(
    tasks: Mapping[Key, Future[Value]], name: str, stage: Stage | None
) -> Iterator[tuple[Key, Value | BaseException]]:
    """What each task gave, or the error that it ended with."""
    keys = {task: key for key, task in tasks.items()}
    if stage is not None:
        stage(name, 0, len(tasks))
    for done, task in enumerate(as_completed(keys), start=1):
        if stage is not None:
            stage(name, done, len(tasks))
        error = task.exception()
        yield keys[task], (task.result() if error is None else error)


def _lacking(test: ExamTest, reasons: Mapping[tuple[str, int], SeedGrade]) -> dict[int, SeedGrade]:
    """Per training that misses a world that the test asks, why."""
    needed = {one.name for one in test.curricula()}
    return {seed: reason for (name, seed), reason in reasons.items() if name in needed}


def _or_reason(seed: int, found: dict[str, str] | SeedGrade | BaseException) -> dict[str, str] | SeedGrade:
    if not isinstance(found, BaseException):
        return found
    reason = f"learning broke: {type(found).__name__}: {found}"
    return SeedGrade(seed=seed, verdict=Verdict.ERROR, grade=None, reason=reason)


def _or_broken(
    test: ExamTest,
    seeds: Sequence[int],
    found: Mapping[str, TestResult | BaseException],
    lost: Mapping[str, BaseException],
) -> TestResult:
    """What came of a test, or what broke: asking and grading it, or recording its logs."""
    if test.code in found:
        one = found[test.code]
        return one if isinstance(one, TestResult) else broken(test, seeds, f"{type(one).__name__}: {one}")
    reasons = [f"recording {one.name}: {lost[one.name]}" for one in test.curricula() if one.name in lost]
    return broken(test, seeds, "; ".join(reasons))


def _facts(options: ExamOptions, learned: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The small print."""
    kinds = {
        name: sorted({one[name] for one in learned if name in one}) for name in ("parameters", "updates", "batches")
    }
    known = {name.capitalize(): ", ".join(values) for name, values in kinds.items() if values}
    contexts = sorted({(one["context"], one["curriculum"]) for one in learned if "context" in one})
    shared = {seen: [name for one, name in contexts if one == seen] for seen, _ in contexts}
    if shared:
        known["Context"] = "; ".join(f"{seen} ({', '.join(names)})" for seen, names in shared.items())
    return {
        "Seen": "pictures" if options.pixels else "vectors",
        "Generators": f"{options.pool}, seed {options.seed}",
        **({"Sizes": sizes} if (sizes := _sizes(options)) else {}),
        "Trainings": f"{options.num_seeds}, seeds 0 to {options.num_seeds - 1}",
        **known,
        "Machine": f"{device()}, {options.num_processes} of {os.cpu_count()} cores, one thread each",
        "Versions": ", ".join(f"{name} {value}" for name, value in versions().items()),
    }


def _sizes(options: ExamOptions) -> str:
    """The sizes of the tests that are not as they are in a full exam."""
    full = {one.code: one for one in replace(options, paid=False, sizes=None).tests()}
    changed = {
        test.code: [
            f"{one.name} {getattr(test, one.name)} of {getattr(full[test.code], one.name)}"
            for one in fields(test)
            if getattr(test, one.name) != getattr(full[test.code], one.name)
        ]
        for test in options.tests()
    }
    return "; ".join(f"{code}: {', '.join(names)}" for code, names in changed.items() if names)


def _sized(test: ExamTest, sizes: Mapping[str, int]) -> ExamTest:
    known = {one.name for one in fields(test)}
    changed: dict[str, Any] = {name: value for name, value in sizes.items() if name in known}
    return replace(test, **changed)


def _episodes(store: Store) -> list[Episode]:
    """Without pictures, which no reference looks at, and which would fill the memory."""
    images = {signal.name for signal in store.schema.observations if signal.kind is Kind.IMAGE}
    return [_without(store.episode(number), images) for number in range(len(store))]


def _without(episode: Episode, names: Set[str]) -> Episode:
    kept = {name: value for name, value in episode.observations.items() if name not in names}
    return replace(episode, observations=kept) if names else episode


def _logs(folder: Path, curriculum: str) -> Path:
    return folder / "logs" / curriculum


def _world(folder: Path, curriculum: str, seed: int) -> Path:
    return folder / "worlds" / f"{curriculum}-{seed}"


def _place(folder: Path, code: str) -> Path:
    return folder / "answers" / code
