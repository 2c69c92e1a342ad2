"""Exam runner: learns a world from the logs of each lab, queries the worlds and grades their answers.

The folder of the exam stores scenes, references and answers. They can be graded again (`regrade`) and compared with
another exam (`compare`) without training. An interrupted exam can be resumed, and a complete one can be extended by
trainings or tests.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
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
)
from worldline.progress import OnProgress
from worldline.schema import Kind
from worldline.workers import completed, workers
from worldline.workflows import versions
from worldline.world import save_world
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
    check_folder,
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

LOG_SEED: Final = 500_000
"""Added to the seed for the logs, so that no scene starts like a logged episode."""

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
    progress: OnProgress | None = None,
) -> ExamResult:
    """Trains the subject on the logs of each lab and grades it.

    Args:
        subject: the subject.
        folder: new or empty folder for logs, worlds, answers, `exam.json` and `report.html`.
        options: tests, sizes and seeds.
        resume: resume an exam of this subject in the folder. Logs, worlds and answers are reused. An interrupted
            training restarts, and missing or damaged files are built again.
        command: command line that repeats the exam.
        progress: called after each step.

    Raises:
        InputError: the folder is not empty, holds another exam, or cannot be written to. Also if several trainings
            are requested for a subject that pays per query, since it is not trained.
    """
    if subject.pays and options.num_seeds > 1:
        raise InputError(
            f"{options.num_seeds} trainings were requested, but {subject.title} is not trained: all answers would be "
            "the same. Omit --num-seeds."
        )
    options, start = replace(options, paid=subject.pays), time.monotonic()
    begun, tests, seeds = begun_with(subject, options), options.make_tests(), range(options.num_seeds)
    resumed = check_folder(folder, begun, subject, resume)
    subject = subject.for_exam(folder)
    with _writes(folder, "Choose another folder."):
        folder.mkdir(parents=True, exist_ok=True)
        if not subject.pays:
            write(folder / BEGUN, to_json(begun))
    skipped = {test.code: skip for test in tests if (skip := _skipped(subject, test, seeds)) is not None}
    learned, results = _run(subject, folder, options, [test for test in tests if test.code not in skipped], progress)
    graded = tuple(skipped.get(test.code) or results[test.code] for test in tests)
    elapsed = f"{time.monotonic() - start:.0f} s{', resumed' if resumed else ''}"
    facts = {**_facts(options, learned), "Wall time": elapsed, **subject.facts}
    examined = ExamResult(subject=subject.title, facts=facts, command=command, tests=graded)
    with _writes(folder, f"Fix that, then {'give --transcript' if subject.pays else 'continue with --resume'}."):
        write(folder / RESULT, to_strict_json(Stored(options=options, result=examined)))
        write(folder / REPORT, render(examined))
    return examined


def regrade(folder: Path) -> tuple[TestResult, ...]:
    """Grades the stored answers again. The results equal those in `exam.json` plus the bootstrap draws.

    Raises:
        InputError: the folder holds no exam.
        UnknownNameError: a test is no longer registered.
        ConfigError: `exam.json` cannot be read.
        DataError: scenes, references or answers are missing, damaged or have another shape.
    """
    stored = read_exam(folder)
    before = {test.code: test for test in stored.result.tests}
    return tuple(
        _regraded(test, folder, before[test.code]) if before[test.code].scenes else before[test.code]
        for test in replace(stored.options, tests=tuple(before)).make_tests()  # not the tests that are registered now
    )


def compare(ours: Path, theirs: Path, trainings: Pair | None = None) -> ExamComparison:
    """Score differences ours minus theirs, in every part in which both subjects have a grade.

    Args:
        ours: folder of an exam.
        theirs: folder of another exam, or the same folder.
        trainings: one training of ours and one of theirs; None for all common trainings, paired by seed.

    Raises:
        InputError: a folder holds no exam, the exams share no test or training, their scenes differ, or only one of
            them used images.
    """
    seen = ["pictures" if read_exam(folder).options.pixels else "vectors" for folder in (ours, theirs)]
    if seen[0] != seen[1]:
        raise InputError(
            f"the worlds of {ours} observed {seen[0]}, those of {theirs} {seen[1]}. Run both exams on vectors or both "
            "on pictures."
        )
    left, right = ({test.code: test for test in regrade(folder)} for folder in (ours, theirs))
    return compared(left, right, trainings)


@contextmanager
def _writes(folder: Path, fix: str) -> Iterator[None]:
    """Converts an `OSError` to an `InputError` with folder, reason and fix."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder} cannot be written to: {error.strerror}. {fix}") from error


def _skipped(subject: ExamSubject, test: ExamTest, seeds: Sequence[int]) -> TestResult | None:
    """The result of a test that the subject declines or whose datasets raise an error; None if the test runs."""
    try:
        if (declined := subject.declines(test)) is not None:
            return unasked(test, seeds, declined.verdict, declined.reason)
        tuple(test.datasets())
    except Exception as error:  # an error affects only this test
        _logger.debug("the datasets of %s raised an error", test.code, exc_info=True)
        return broken(test, seeds, f"{type(error).__name__}: {error}")
    return None


def _run(
    subject: ExamSubject, folder: Path, options: ExamOptions, tests: Sequence[ExamTest], progress: OnProgress | None
) -> tuple[list[Mapping[str, str]], dict[str, TestResult]]:
    """Facts about the learned worlds, and the result of each test by code."""
    if not tests:
        return [], {}
    seeds, datasets = range(options.num_seeds), _longest_first(dataset for test in tests for dataset in test.datasets())
    owners = {dataset.name: test for test in reversed(tests) for dataset in test.datasets()}
    with workers(1 if subject.pays else options.num_processes) as pool:
        logged = {name: pool.submit(_record, owners[name], name, options.seed, folder) for name in datasets}
        lost = {name: error for name, error in _finished(logged, "record", progress) if error is not None}
        tasks = {
            (name, seed): pool.submit(
                _learn,
                subject,
                logs_of(folder, name),
                Terms(
                    num_calibration=dataset.num_calibration,
                    horizon=dataset.horizon,
                    read=dataset.asked if options.pixels else (),
                ),
                seed,
                folder,
            )
            for seed in seeds
            for name, dataset in datasets.items()
            if name not in lost
        }
        learned: dict[tuple[str, int], LearnRecord] = {}
        running: dict[str, Future[TestResult]] = {}
        for key, outcome in _finished(tasks, "learn", progress):
            learned[key] = _or_reason(key[1], outcome)
            for test in tests:  # starts as soon as its worlds exist, while other worlds still train
                needed = {(dataset.name, seed) for dataset in test.datasets() for seed in seeds}
                if key in needed and needed <= learned.keys():
                    missing = _missing(test, learned)
                    running[test.code] = pool.submit(
                        _run_test, subject, test, options.seed, tuple(seeds), missing, folder
                    )
        ended = _finished(running, "query and grade", progress)
        results = dict(ended)
    known = [learn_record.facts for learn_record in learned.values() if learn_record.lost is None]
    return known, {test.code: _or_broken(test, seeds, results, lost) for test in tests}


def _longest_first(datasets: Iterable[DatasetSpec]) -> dict[str, DatasetSpec]:
    """Datasets by name, the longest first to balance the processes."""
    return {spec.name: spec for spec in sorted(datasets, key=lambda spec: -spec.num_episodes * spec.num_steps)}


def _record(test: ExamTest, name: str, seed: int, folder: Path) -> None:
    """Records the logs of a dataset if they do not exist. Runs in a worker process."""
    logs = logs_of(folder, name)
    if logs.exists():
        return
    part = logs.with_name(f"{name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    dataset = next(dataset for dataset in test.datasets() if dataset.name == name)
    lab, episodes = dataset.make_lab(), (dataset.num_episodes, dataset.num_steps)
    record(lab, part, num_episodes=episodes[0], max_steps=episodes[1], seed=seed + LOG_SEED)
    lab.close()
    part.rename(logs)


def _learn(subject: ExamSubject, logs: Path, terms: Terms, seed: int, folder: Path) -> LearnRecord:
    """Learns and saves a world and its record, if they do not exist. Runs in a worker process."""
    out = world_of(folder, logs.name, seed)
    known = out.with_name(f"{out.name}.json")
    if (before := _before(known, out)) is not None:
        return before
    learn_record = _learned(subject, open_store(logs), terms, seed, out)
    learn_record = replace(learn_record, facts={**learn_record.facts, "dataset": logs.name})
    write(known, to_json(learn_record))
    return learn_record


def _before(known: Path, out: Path) -> LearnRecord | None:
    """The stored record of a world; None if it cannot be read or the world is missing."""
    try:
        learn_record = read(LearnRecord, known)
    except ConfigError:
        return None
    return learn_record if learn_record.lost is not None or out.exists() else None


def _learned(subject: ExamSubject, store: Store, terms: Terms, seed: int, out: Path) -> LearnRecord:
    """Learns a world and saves it to `out`."""

    def lost(verdict: Verdict, reason: str) -> LearnRecord:
        return LearnRecord(facts={}, lost=SeedGrade(seed=seed, verdict=verdict, grade=None, reason=reason))

    work = out.with_name(f"{out.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    try:
        trained = subject.learn(store, seed=seed, terms=terms, folder=work)
        if trained.world is not None:
            save_world(out, trained.world)
        if unreadable := unread(trained.reads, terms.read):
            return lost(Verdict.UNREADABLE, unreadable)
    except UnsupportedError as error:
        return lost(Verdict.UNSUPPORTED, str(error))
    except (CollapseError, DataError, InputError) as error:
        return lost(Verdict.ERROR, f"training on {store.path.name}: {error}")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    context = {} if trained.world is None else {"context": _context(trained.world.describe())}
    return LearnRecord(facts={**trained.facts, **context})


def _context(card: Card) -> str:
    """Context length of a world, such as "3 observations, 0.2 s"."""
    length = f"{card.context} observation{'' if card.context == 1 else 's'}"
    step_s = card.schema.step_s
    return length if step_s is None or card.context == 1 else f"{length}, {(card.context - 1) * step_s:g} s"


def _run_test(
    subject: ExamSubject,
    test: ExamTest,
    seed: int,
    trainings: Sequence[int],
    missing: Mapping[int, SeedGrade],
    folder: Path,
) -> TestResult:
    """Checks the test, queries the worlds of every training and grades the answers. Runs in a worker process."""
    start = time.monotonic()
    stores = {dataset.name: open_store(logs_of(folder, dataset.name)) for dataset in test.datasets()}
    examined = examine(test, seed, {name: _episodes(store) for name, store in stores.items()})
    place = answers_of(folder, test.code)
    stored = _kept(place / SCENES)
    if place.exists() and (stored is None or digest(stored) != digest(examined.scenes)):
        shutil.rmtree(place)  # answers to other scenes
    keep_examined(place, examined)
    answers: dict[int, Arrays | SeedGrade] = {}
    for training in trainings:
        before = _kept(place / f"answers-{training}.npz")
        answers[training] = (
            before or missing.get(training) or _answers(subject, test, training, examined.scenes, folder)
        )
    return without_draws(result(test, examined, answers, time.monotonic() - start))


def _kept(path: Path) -> Arrays | None:
    """Saved arrays; None if they are missing or damaged."""
    try:
        return kept(path)
    except DataError:
        return None


def _answers(subject: ExamSubject, test: ExamTest, training: int, scenes: Arrays, folder: Path) -> Arrays | SeedGrade:
    """Queries the worlds of a training and saves the answers; if that fails, the verdict and reason."""
    try:
        answers = _asked(subject, test, training, scenes, folder)
        keep(answers_of(folder, test.code) / f"answers-{training}.npz", answers)
        return answers
    except UnreadableError as error:
        return SeedGrade(seed=training, verdict=Verdict.UNREADABLE, grade=None, reason=str(error))
    except UnsupportedError as error:
        return SeedGrade(seed=training, verdict=Verdict.UNSUPPORTED, grade=None, reason=str(error))
    except NoGoodAnswerError as error:
        return SeedGrade(seed=training, verdict=Verdict.ERROR, grade=None, reason=str(error))
    except UnavailableError as error:
        return SeedGrade(seed=training, verdict=Verdict.NOT_MEASURED, grade=None, reason=str(error))
    except Exception as error:  # an error affects only this training
        _logger.debug("queries of %s failed for training %d", test.code, training, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        return SeedGrade(seed=training, verdict=Verdict.ERROR, grade=None, reason=reason)


def _asked(subject: ExamSubject, test: ExamTest, training: int, scenes: Arrays, folder: Path) -> Arrays:
    worlds = {}
    for dataset in test.datasets():
        store = open_store(logs_of(folder, dataset.name))
        worlds[dataset.name] = subject.open(world_of(folder, dataset.name, training), store)
    return test.ask(worlds, scenes)


def _regraded(test: ExamTest, folder: Path, before: TestResult) -> TestResult:
    place = answers_of(folder, test.code)
    answers = {seed.seed: _stored_answers(place / f"answers-{seed.seed}.npz", seed) for seed in before.seeds}
    try:
        return result(test, kept_examined(test, place), answers, before.elapsed_s)
    except KeyError as error:
        raise DataError(
            f"{test.code} was run by another version: {error} is missing", fix="Run the exam again.", file=place
        ) from error


def _stored_answers(path: Path, before: SeedGrade) -> Arrays | SeedGrade:
    if path.exists():
        return kept(path)
    if before.grade is not None:
        raise DataError(
            "answers that were graded are missing", fix="Restore the file, or run the exam again.", file=path
        )
    return before


def _finished(
    tasks: Mapping[Key, Future[Value]], name: str, progress: OnProgress | None
) -> Iterator[tuple[Key, Value | BaseException]]:
    """Result or exception of each task, in order of completion."""
    for key, task in completed(tasks, name, progress):
        error = task.exception()
        yield key, (task.result() if error is None else error)


def _missing(test: ExamTest, learned: Mapping[tuple[str, int], LearnRecord]) -> dict[int, SeedGrade]:
    """The reason for each training that lacks a world of the test."""
    losses: dict[int, list[tuple[str, SeedGrade]]] = {}
    for dataset in test.datasets():
        for (name, seed), learn_record in learned.items():
            if name == dataset.name and learn_record.lost is not None:
                losses.setdefault(seed, []).append((name, learn_record.lost))
    return {seed: _merged(seed, lost) for seed, lost in losses.items()}


def _merged(seed: int, losses: Sequence[tuple[str, SeedGrade]]) -> SeedGrade:
    """The worst verdict and all reasons of the worlds that a training lacks."""
    reasons = "; ".join(f"{name}: {lost.reason.removesuffix('.')}" for name, lost in losses)
    verdict = worst([lost.verdict for _, lost in losses])
    return SeedGrade(seed=seed, verdict=verdict, grade=None, reason=f"{reasons}.")


def _or_reason(seed: int, outcome: LearnRecord | BaseException) -> LearnRecord:
    if isinstance(outcome, LearnRecord):
        return outcome
    reason = f"training failed: {type(outcome).__name__}: {outcome}"
    return LearnRecord(facts={}, lost=SeedGrade(seed=seed, verdict=Verdict.ERROR, grade=None, reason=reason))


def _or_broken(
    test: ExamTest,
    seeds: Sequence[int],
    outcomes: Mapping[str, TestResult | BaseException],
    lost: Mapping[str, BaseException],
) -> TestResult:
    """The result of a test, or an ERROR result if queries, grading or recording failed."""
    if test.code in outcomes:
        ended = outcomes[test.code]
        return ended if isinstance(ended, TestResult) else broken(test, seeds, f"{type(ended).__name__}: {ended}")
    reasons = [f"recording {dataset.name}: {lost[dataset.name]}" for dataset in test.datasets() if dataset.name in lost]
    return broken(test, seeds, "; ".join(reasons))


def _facts(options: ExamOptions, learned: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Details for the report."""
    kinds = {
        name: sorted({facts[name] for facts in learned if name in facts}, key=lambda text: (len(text), text))
        for name in ("parameters", "updates", "batches", "device")
    }
    known = {name.capitalize(): ", ".join(values) for name, values in kinds.items() if values}
    contexts = sorted({(facts["context"], facts["dataset"]) for facts in learned if "context" in facts})
    shared = {seen: [name for context, name in contexts if context == seen] for seen, _ in contexts}
    if shared:
        known["Context"] = "; ".join(f"{seen} ({', '.join(names)})" for seen, names in shared.items())
    return {
        "Seen": "pictures" if options.pixels else "vectors",
        "Generators": f"{options.pool}, seed {options.seed}",
        **({"Sizes": sizes} if (sizes := _sizes(options)) else {}),
        "Trainings": f"{options.num_seeds}, seeds 0 to {options.num_seeds - 1}",
        **known,
        "Machine": f"workers: {options.num_processes}, with one thread each; {os.cpu_count()} cores",
        "Versions": ", ".join(f"{name} {value}" for name, value in versions().items()),
    }


def _sizes(options: ExamOptions) -> str:
    """Sizes of the tests that differ from a full exam."""
    full = {test.code: test for test in replace(options, paid=False, sizes=None).make_tests()}
    changed = {
        test.code: [
            f"{field.name} {getattr(test, field.name)} of {getattr(full[test.code], field.name)}"
            for field in fields(test)
            if getattr(test, field.name) != getattr(full[test.code], field.name)
        ]
        for test in options.make_tests()
    }
    return "; ".join(f"{code}: {', '.join(names)}" for code, names in changed.items() if names)


def _episodes(store: Store) -> list[Episode]:
    """Episodes without images: no reference uses them, and they would fill the memory."""
    images = {signal.name for signal in store.schema.observations if signal.kind is Kind.IMAGE}
    return [_without(store.episode(number), images) for number in range(len(store))]


def _without(episode: Episode, names: Set[str]) -> Episode:
    kept = {name: value for name, value in episode.observations.items() if name not in names}
    return replace(episode, observations=kept) if names else episode
