"""The exam: learn a world from each lab's logs, ask all of them what the tests ask, and grade what they say.

Everything that was asked and answered stays in the folder of the exam, so that it can be graded again (`regrade`) and
compared with another exam (`compare`) without learning anything. An exam that was broken off goes on from there, and
one that is complete with more trainings or tests.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Final, TypeVar

from worldline import record
from worldline.audit import Verdict, worst
from worldline.config import to_json, to_strict_json
from worldline.data import Store, open_store
from worldline.engines import Card
from worldline.episode import Arrays, Episode
from worldline.errors import (
    CollapseError,
    ConfigError,
    DataError,
    InputError,
    NoGoodAnswerError,
    UnavailableError,
    UnreadableError,
    UnsupportedError,
    WorldlineError,
)
from worldline.schema import Kind
from worldline.workflows import Stage, device, versions
from worldline.world import clashes, save_world
from worldline_exam.base import DatasetSpec, ExamTest
from worldline_exam.comparison import ExamComparison, Pair, compared
from worldline_exam.folder import (
    BEGUN,
    REPORT,
    RESULT,
    SCENES,
    LearnRecord,
    Stored,
    answers_of,
    begun_with,
    goes_on,
    keep,
    keep_examined,
    kept,
    kept_examined,
    logs_of,
    read,
    read_exam,
    world_of,
    write,
)
from worldline_exam.options import ExamOptions
from worldline_exam.readability import unread
from worldline_exam.report import render
from worldline_exam.results import ExamResult, SeedGrade, TestResult, broken, digest, result, unasked, without_draws
from worldline_exam.self_check import examine
from worldline_exam.subjects import ExamSubject, Terms
from worldline_exam.worker_pool import workers

LOG_SEED: Final = 500_000
"""Added to the exam's seed for the logs, so that no scene begins as a logged episode did."""

_logger = logging.getLogger(__name__)

Key = TypeVar("Key")
Value = TypeVar("Value")


def exam(
    subject: ExamSubject,
    folder: Path,
    options: ExamOptions,
    *,
    resume: bool = False,
    command: str = "",
    stage: Stage | None = None,
) -> ExamResult:
    """Trains the sitter on each lab's logs, and grades it.

    Args:
        subject: who learns.
        folder: a new or empty one; gets logs, worlds, answers, `exam.json` and `report.html`.
        options: what is asked.
        resume: go on in a folder where an exam of this sitter was begun, with these tests and trainings. What was
            recorded, learned and answered stays; a training that was under way begins anew, as do a world, answers and
            a result that are gone or damaged.
        command: that repeats it.
        stage: told about progress.

    Raises:
        InputError: the folder holds something, or, to go on in it, something else, or cannot be written to; or a
            sitter that pays, and so learns nothing, is to be trained more than once.
    """
    if subject.pays and options.num_seeds > 1:
        raise InputError(
            f"{options.num_seeds} trainings are asked for, and {subject.title} learns nothing: all would give the same "
            "answers. Leave out --seeds."
        )
    options, begin = replace(options, paid=subject.pays), time.monotonic()
    begun, tests, seeds = begun_with(subject, options), options.tests(), range(options.num_seeds)
    resumed = goes_on(folder, begun, subject, options, resume)
    subject = subject.seated(folder)
    with _writes(folder, "Choose another folder."):
        folder.mkdir(parents=True, exist_ok=True)
        if not subject.pays:
            write(folder / BEGUN, to_json(begun))
    left = {test.code: why for test in tests if (why := _left(subject, test, seeds)) is not None}
    learned, found = _held(subject, folder, options, [test for test in tests if test.code not in left], stage)
    graded = tuple(left.get(test.code) or found[test.code] for test in tests)
    elapsed = f"{time.monotonic() - begin:.0f} s{', going on with one that was begun' if resumed else ''}"
    facts = {**_facts(options, learned), "Wall time": elapsed, **subject.facts}
    examined = ExamResult(subject=subject.title, facts=facts, command=command, tests=graded)
    with _writes(folder, f"Mend that, then {'give the transcript' if subject.pays else 'go on with --resume'}."):
        write(folder / RESULT, to_strict_json(Stored(options=options, result=examined)))
        write(folder / REPORT, render(examined))
    return examined


def regrade(folder: Path) -> tuple[TestResult, ...]:
    """The results of the stored answers, graded anew: those of `exam.json` but for the draws that are not stored.

    Raises:
        InputError: there is no exam.
        UnknownNameError: a test is no longer installed.
        ConfigError: `exam.json` cannot be read.
        DataError: scenes, references or answers are missing, damaged or of another shape.
    """
    stored = read_exam(folder)
    before = {one.code: one for one in stored.result.tests}
    return tuple(
        _regraded(test, folder, before[test.code]) if before[test.code].scenes else before[test.code]
        for test in replace(stored.options, codes=tuple(before)).tests()  # those of then, whatever is installed now
    )


def compare(ours: Path, theirs: Path, trainings: Pair | None = None) -> ExamComparison:
    """How much higher the first exam's sitter scores than the second's, in every part that both were graded in.

    Args:
        ours: folder of an exam.
        theirs: of another, or of the same one.
        trainings: one of ours and one of theirs; None for all that both have, each with its like.

    Raises:
        InputError: a folder holds no exam, no test or training is in both, they were asked about other scenes, or
            one saw vectors and the other pictures.
    """
    seen = ["pictures" if read_exam(folder).options.pixels else "vectors" for folder in (ours, theirs)]
    if seen[0] != seen[1]:
        raise InputError(
            f"the worlds of {ours} saw {seen[0]} and those of {theirs} {seen[1]}, so the difference would not be the "
            "sitters'. Run both in vectors or both in pictures."
        )
    left, right = ({one.code: one for one in regrade(folder)} for folder in (ours, theirs))
    return compared(left, right, trainings)


@contextmanager
def _writes(folder: Path, fix: str) -> Iterator[None]:
    """Says of what cannot be written which folder it is, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error.strerror}. {fix}") from error


def _left(subject: ExamSubject, test: ExamTest, seeds: Sequence[int]) -> TestResult | None:
    """What is said of a test that its sitter declines, or that cannot say what to learn; None where it is asked."""
    try:
        if (why := subject.declines(test)) is not None:
            return unasked(test, seeds, why.verdict, why.reason)
        tuple(test.datasets())
    except Exception as error:  # whatever broke, it broke in this test alone
        _logger.debug("what %s asks to learn from broke", test.code, exc_info=True)
        return broken(test, seeds, f"{type(error).__name__}: {error}")
    return None


def _held(
    subject: ExamSubject, folder: Path, options: ExamOptions, tests: Sequence[ExamTest], stage: Stage | None
) -> tuple[list[Mapping[str, str]], dict[str, TestResult]]:
    """What is to be known of the worlds that were learned, and by code what came of each test."""
    if not tests:
        return [], {}
    seeds, datasets = range(options.num_seeds), _longest_first(one for test in tests for one in test.datasets())
    owners = {one.name: test for test in reversed(tests) for one in test.datasets()}
    with workers(1 if subject.pays else options.num_processes) as pool:
        logged = {name: pool.submit(_record, owners[name], name, options.seed, folder) for name in datasets}
        lost = {name: error for name, error in _finished(logged, "record", stage) if error is not None}
        tasks = {
            (name, seed): pool.submit(
                _learn,
                subject,
                logs_of(folder, name),
                Terms(
                    num_calibration=one.num_calibration,
                    horizon=one.horizon,
                    read=one.asked if options.pixels else (),
                ),
                seed,
                folder,
            )
            for seed in seeds
            for name, one in datasets.items()
            if name not in lost
        }
        learned: dict[tuple[str, int], LearnRecord] = {}
        asked: dict[str, Future[TestResult]] = {}
        for key, one in _finished(tasks, "learn", stage):
            learned[key] = _or_reason(key[1], one)
            for test in tests:  # as soon as its worlds are there, while another process learns the last ones
                needed = {(one.name, seed) for one in test.datasets() for seed in seeds}
                if key in needed and needed <= learned.keys():
                    lacking = _lacking(test, learned)
                    asked[test.code] = pool.submit(_sit, subject, test, options.seed, tuple(seeds), lacking, folder)
        ended = _finished(asked, "ask and grade", stage)
        found = dict(ended)
    known = [one.facts for one in learned.values() if one.lost is None]
    return known, {test.code: _or_broken(test, seeds, found, lost) for test in tests}


def _longest_first(datasets: Iterable[DatasetSpec]) -> dict[str, DatasetSpec]:
    """By name, so that no process is left alone with a long one at the end."""
    return {one.name: one for one in sorted(datasets, key=lambda one: -one.num_episodes * one.num_steps)}


def _record(test: ExamTest, name: str, seed: int, folder: Path) -> None:
    """The logs of a curriculum, if they are not there. In a process of its own."""
    logs = logs_of(folder, name)
    if logs.exists():
        return
    part = logs.with_name(f"{name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    one = next(one for one in test.datasets() if one.name == name)
    lab, episodes = one.make_lab(), (one.num_episodes, one.num_steps)
    record(lab, part, num_episodes=episodes[0], max_steps=episodes[1], seed=seed + LOG_SEED)
    lab.close()
    part.rename(logs)


def _learn(subject: ExamSubject, logs: Path, terms: Terms, seed: int, folder: Path) -> LearnRecord:
    """Saves the world, if it is not there, and what is to be known of it. In a process of its own."""
    out = world_of(folder, logs.name, seed)
    known = out.with_name(f"{out.name}.json")
    if (before := _before(known, out)) is not None:
        return before
    found = _learned(subject, open_store(logs), terms, seed, out)
    found = replace(found, facts={**found.facts, "dataset": logs.name})
    write(known, to_json(found))
    return found


def _before(known: Path, out: Path) -> LearnRecord | None:
    """What came of learning a world before; None where that cannot be read, or the world is gone."""
    try:
        found = read(LearnRecord, known)
    except ConfigError:
        return None
    return found if found.lost is not None or out.exists() else None


def _learned(subject: ExamSubject, store: Store, terms: Terms, seed: int, out: Path) -> LearnRecord:
    """The world is in `out` if there is one."""

    def lost(verdict: Verdict, reason: str) -> LearnRecord:
        return LearnRecord(facts={}, lost=SeedGrade(seed=seed, verdict=verdict, grade=None, reason=reason))

    work = out.with_name(f"{out.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        sat = subject.learn(store, seed=seed, terms=terms, folder=work)
        if sat.world is not None:
            save_world(out, sat.world)
        if blind := unread(sat.reads, terms.read):
            return lost(Verdict.UNREADABLE, blind)
    except UnsupportedError as error:
        return lost(Verdict.UNSUPPORTED, str(error))
    except (CollapseError, DataError, InputError) as error:
        return lost(Verdict.ERROR, f"learning from {store.path.name}: {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    shown = {} if sat.world is None else {"context": _context(sat.world.describe())}
    return LearnRecord(facts={**sat.facts, **shown})


def _context(card: Card) -> str:
    """What a world looks back on, such as "3 observations, 0.2 s"."""
    seen = f"{card.context} observation{'' if card.context == 1 else 's'}"
    step_s = card.schema.step_s
    return seen if step_s is None or card.context == 1 else f"{seen}, {(card.context - 1) * step_s:g} s"


def _sit(
    subject: ExamSubject,
    test: ExamTest,
    seed: int,
    trainings: Sequence[int],
    lacking: Mapping[int, SeedGrade],
    folder: Path,
) -> TestResult:
    """Examines the test, asks the worlds of every training, keeps what they say, and grades it. In its own process."""
    begin = time.monotonic()
    stores = {one.name: open_store(logs_of(folder, one.name)) for one in test.datasets()}
    examined = examine(test, seed, {name: _episodes(store) for name, store in stores.items()})
    place = answers_of(folder, test.code)
    asked = _kept(place / SCENES)
    if place.exists() and (asked is None or digest(asked) != digest(examined.scenes)):
        shutil.rmtree(place)  # answers to other scenes
    keep_examined(place, examined)
    answers: dict[int, Arrays | SeedGrade] = {}
    for training in trainings:
        before = _kept(place / f"answers-{training}.npz")
        answers[training] = (
            before or lacking.get(training) or _answers(subject, test, training, examined.scenes, folder)
        )
    return without_draws(result(test, examined, answers, time.monotonic() - begin))


def _kept(path: Path) -> Arrays | None:
    """What was kept; None where that is missing or damaged, and so has to be made again."""
    try:
        return kept(path)
    except DataError:
        return None


def _answers(subject: ExamSubject, test: ExamTest, training: int, scenes: Arrays, folder: Path) -> Arrays | SeedGrade:
    """What the worlds of a training say, which is kept, or why they do not."""
    try:
        given = _asked(subject, test, training, scenes, folder)
        keep(answers_of(folder, test.code) / f"answers-{training}.npz", given)
        return given
    except UnreadableError as error:
        return SeedGrade(seed=training, verdict=Verdict.UNREADABLE, grade=None, reason=str(error))
    except UnsupportedError as error:
        return SeedGrade(seed=training, verdict=Verdict.UNSUPPORTED, grade=None, reason=str(error))
    except NoGoodAnswerError as error:
        return SeedGrade(seed=training, verdict=Verdict.ERROR, grade=None, reason=str(error))
    except UnavailableError as error:
        return SeedGrade(seed=training, verdict=Verdict.NOT_MEASURED, grade=None, reason=str(error))
    except Exception as error:  # whatever broke, it broke in this training alone
        _logger.debug("asking %s of training %d broke", test.code, training, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        return SeedGrade(seed=training, verdict=Verdict.ERROR, grade=None, reason=reason)


def _asked(subject: ExamSubject, test: ExamTest, training: int, scenes: Arrays, folder: Path) -> Arrays:
    """What the worlds of a training say."""
    worlds = {}
    for one in test.datasets():
        store = open_store(logs_of(folder, one.name))
        worlds[one.name] = world = subject.open(world_of(folder, one.name, training), store)
        if apart := clashes(store.schema, world.describe().schema, one.asked):
            raise UnsupportedError(f"what was opened is no world of {one.name}: {'; '.join(apart)}.")
    return test.ask(worlds, scenes)


def _regraded(test: ExamTest, folder: Path, before: TestResult) -> TestResult:
    """The result of the stored answers."""
    place = answers_of(folder, test.code)
    answers = {one.seed: _stored_answers(place / f"answers-{one.seed}.npz", one) for one in before.seeds}
    try:
        return result(test, kept_examined(test, place), answers, before.elapsed_s)
    except KeyError as error:
        raise DataError(
            f"{test.code} was asked by another version: there is no {error}", fix="Run the exam again.", file=place
        ) from error
    except WorldlineError:
        raise
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"what is stored of {test.code} cannot be graded ({error})",
            fix="Restore it, or run the exam again.",
            file=place,
        ) from error


def _stored_answers(path: Path, before: SeedGrade) -> Arrays | SeedGrade:
    if path.exists():
        return kept(path)
    if before.grade is not None:
        raise DataError("answers that were graded are gone", fix="Restore the file, or run the exam again.", file=path)
    return before


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


def _lacking(test: ExamTest, learned: Mapping[tuple[str, int], LearnRecord]) -> dict[int, SeedGrade]:
    """Per training that misses a world that the test asks, why."""
    losses: dict[int, list[tuple[str, SeedGrade]]] = {}
    for one in test.datasets():
        for (name, seed), found in learned.items():
            if name == one.name and found.lost is not None:
                losses.setdefault(seed, []).append((name, found.lost))
    return {seed: _together(seed, lost) for seed, lost in losses.items()}


def _together(seed: int, losses: Sequence[tuple[str, SeedGrade]]) -> SeedGrade:
    """All that a training lacks for a test: the worst of it, and every reason."""
    reasons = "; ".join(f"{name}: {lost.reason.removesuffix('.')}" for name, lost in losses)
    verdict = worst([lost.verdict for _, lost in losses])
    return SeedGrade(seed=seed, verdict=verdict, grade=None, reason=f"{reasons}.")


def _or_reason(seed: int, found: LearnRecord | BaseException) -> LearnRecord:
    if isinstance(found, LearnRecord):
        return found
    reason = f"learning broke: {type(found).__name__}: {found}"
    return LearnRecord(facts={}, lost=SeedGrade(seed=seed, verdict=Verdict.ERROR, grade=None, reason=reason))


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
    reasons = [f"recording {one.name}: {lost[one.name]}" for one in test.datasets() if one.name in lost]
    return broken(test, seeds, "; ".join(reasons))


def _facts(options: ExamOptions, learned: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The small print."""
    kinds = {
        name: sorted({one[name] for one in learned if name in one}, key=lambda text: (len(text), text))
        for name in ("parameters", "updates", "batches")
    }
    known = {name.capitalize(): ", ".join(values) for name, values in kinds.items() if values}
    contexts = sorted({(one["context"], one["dataset"]) for one in learned if "context" in one})
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


def _episodes(store: Store) -> list[Episode]:
    """Without pictures, which no reference looks at, and which would fill the memory."""
    images = {signal.name for signal in store.schema.observations if signal.kind is Kind.IMAGE}
    return [_without(store.episode(number), images) for number in range(len(store))]


def _without(episode: Episode, names: Set[str]) -> Episode:
    kept = {name: value for name, value in episode.observations.items() if name not in names}
    return replace(episode, observations=kept) if names else episode
