"""`worldline exam`, `worldline regrade` and `worldline compare`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from worldline.cli import Device, Json, free_cores, use_threads

if TYPE_CHECKING:
    from worldline_exam.comparison import ExamComparison
    from worldline_exam.results import TestResult
    from worldline_exam.subjects import ExamSubject

MAX_REQUESTS: Final = 25_000


_TEXT: Final = {"rich_help_panel": "Language model"}


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Options of a language model.

    Args:
        endpoint: URL of the chat endpoint, without /chat/completions.
        endpoint_model: model name at the endpoint.
        api_key_env: environment variable that holds the API key.
        transcript: transcript of another exam, or its folder; without --endpoint, no request is sent.
        max_requests: limit on requests in total.
        prices: prices per million input and output tokens, such as 2.5,10,USD.
        max_cost: limit on the total cost at these prices.
    """

    endpoint: str | None = field(default=None, metadata={"option": _TEXT})
    endpoint_model: str | None = field(default=None, metadata={"option": _TEXT})
    api_key_env: str | None = field(default=None, metadata={"option": _TEXT})
    transcript: Path | None = field(default=None, metadata={"option": _TEXT})
    max_requests: int = field(default=MAX_REQUESTS, metadata={"option": {"min": 0, **_TEXT}})
    prices: str | None = field(default=None, metadata={"option": _TEXT})
    max_cost: float | None = field(default=None, metadata={"option": _TEXT})


def exam(
    subject: Annotated[str, typer.Argument(metavar="RECIPE")],
    *,
    out: Path = Path("exam"),
    model: str | None = None,
    tests: str | None = None,
    pixels: bool = False,
    pool: Literal["report", "development"] = "report",
    num_seeds: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    resume: bool = False,
    chat_options: ChatOptions,
    device: Device = "auto",
    workers: Annotated[
        str | None, typer.Option(metavar="N|ray|ray://HOST", show_default="number of free cores")
    ] = None,
    json: Json = None,
) -> None:
    """Train a recipe on the logs of each lab and grade its predictions against ground truth from simulators.

    Args:
        subject: recipe name or module:name; persistence, constant_velocity, linear, action_blind; or language.
        out: new folder for report, figures, logs, worlds and answers.
        model: model family with as many parameters; token-blind receives no actions. Default: the recipe's.
        tests: test codes, such as C1,P2. Default: all sixteen.
        pixels: worlds observe images instead of vectors.
        pool: scene generators: for published figures, or for the development of models.
        num_seeds: number of trainings; the worst verdict counts.
        seed: seed of logs and scenes; use a fresh one for each report.
        resume: resume the exam in the folder; more trainings or tests may be added.
        workers: a number of processes with one thread each, ray, or ray://HOST:PORT.
    """
    from worldline.cli import print_next, progress_bars, write_json
    from worldline_exam.base import Pool
    from worldline_exam.folder import REPORT
    from worldline_exam.options import ExamOptions
    from worldline_exam.run import exam as run

    if ":" in subject:
        sys.path.append(str(Path.cwd()))  # finds the user's recipe module; installed packages take precedence
    options = ExamOptions(
        tests=() if tests is None else tuple(code.strip() for code in tests.split(",")),
        pool=Pool(pool),
        pixels=pixels,
        seed=seed,
        num_seeds=num_seeds,
        num_processes=workers or free_cores(),
    )
    use_threads(1)  # the worker processes share the cores
    with progress_bars() as progress:
        chosen = _subject(subject, model, device, chat_options)
        result = run(chosen, out, options, resume=resume, command=_command(), progress=progress)
    _print(result.tests, result.passed)
    write_json(json, {"passed": result.passed, **asdict(result)})
    print(f"Report: {out / REPORT}")
    print_next("compare", out, "OTHER")
    if result.failed_to_grade:
        raise typer.Exit(1)


def regrade(folder: Path) -> None:
    """Grade the stored answers of an exam again. The exit status is 1 if a figure differs.

    Args:
        folder: folder of an exam.
    """
    from worldline.cli import print_next
    from worldline_exam.folder import read_exam
    from worldline_exam.results import ExamResult, same_figures, without_draws
    from worldline_exam.run import regrade as run

    before = read_exam(folder).result
    again = tuple(without_draws(test) for test in run(folder))
    _print(again, ExamResult(subject=before.subject, facts={}, command="", tests=again).passed)
    different = [test.code for test, other in zip(again, before.tests, strict=True) if not same_figures(test, other)]
    print(f"Different from {folder}: {', '.join(different)}" if different else f"Identical to {folder}, bit for bit.")
    print_next("compare", folder, "OTHER")
    if different:
        raise typer.Exit(1)


def compare(
    ours: Annotated[Path, typer.Argument(metavar="A")],
    theirs: Annotated[Path, typer.Argument(metavar="B")],
    trainings: tuple[int, int] | None = None,
    json: Json = None,
) -> None:
    """Score differences A minus B, paired by scene and training, with 95 % intervals over scenes and trainings.

    Args:
        ours: folder of an exam.
        theirs: folder of another exam with the same seed and pool.
        trainings: one training of A and one of B; A A --trainings 0 1 measures the effect of retraining. Default: all
            common trainings, paired by seed.
    """
    from worldline.cli import print_next, write_json
    from worldline_exam.folder import read_exam
    from worldline_exam.run import compare as run

    comparison = run(ours, theirs, trainings)
    names = [read_exam(folder).result.subject for folder in (ours, theirs)]
    titles = names if trainings is None else [f"{n}, training {t}" for n, t in zip(names, trainings, strict=True)]
    _print_comparison(comparison, titles)
    write_json(json, {"ours": names[0], "theirs": names[1], **asdict(comparison)})
    print_next("regrade", ours)


def _print_comparison(comparison: ExamComparison, titles: Sequence[str]) -> None:
    """Prints the differences and the parts that were not compared."""
    from worldline.cli import print_table

    print_table(
        f"{titles[0]} minus {titles[1]}",
        ("test", "part", "difference", "95 %", "trainings"),
        [
            (diff.code, diff.cell, f"{diff.value:+.3f}", f"{diff.low:+.3f} to {diff.high:+.3f}", _trainings(diff.pairs))
            for diff in comparison.differences
        ],
    )
    alike = sum(diff.includes_zero for diff in comparison.differences)
    print(f"{alike} of {len(comparison.differences)} intervals include 0.")
    if any(len(diff.pairs) == 1 for diff in comparison.differences):
        print(
            "With one training each, intervals cover scenes only; retraining may change more. Run with --num-seeds 3."
        )
    for lost in comparison.unpaired:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (("A", lost.ours), ("B", lost.theirs)) if reason)
        where = f" ({_trainings((lost.pair,))})" if lost.pair else ""
        print(f"Not compared: {lost.code} {lost.cell or 'all parts'}{where}. {reasons}")


def _trainings(pairs: Sequence[tuple[int, int]]) -> str:
    """Such as "0, 1, 2", or "0 with 1"."""
    return ", ".join(str(seed) if seed == other else f"{seed} with {other}" for seed, other in pairs)


def _subject(name: str, model: str | None, device: str, chat_options: ChatOptions) -> ExamSubject:
    """Raises `InputError` for options that do not apply to the subject, and for a trained world."""
    from worldline.errors import InputError
    from worldline.registry import names
    from worldline_exam.language_subject import NAME
    from worldline_exam.subjects import TRIVIAL, RecipeSubject, TrivialSubject

    if model is not None and name in (*TRIVIAL, NAME):
        raise InputError(f"--model {model} does not apply: {name} is no recipe. Omit --model or give a recipe.")
    if name == NAME:
        return _language(chat_options)
    if chat_options != ChatOptions():
        raise InputError(
            f"endpoint, limit and transcript options apply to the subject {NAME!r} only, got {name!r}. Omit them."
        )
    if name in TRIVIAL:
        return TrivialSubject(name=name)
    if name not in names("recipe") and (Path(name).is_dir() or any(mark in name for mark in "/@")):
        raise InputError(
            f"{name!r} is no recipe. An exam trains a recipe from scratch on its own logs: give a recipe name. To "
            f"evaluate a trained world on your logs, run: worldline audit {name} LOGS."
        )
    return RecipeSubject(recipe=name, family=model, device=device)


def _language(options: ChatOptions) -> ExamSubject:
    from worldline.errors import InputError
    from worldline_exam.language_subject import LanguageSubject, endpoint_of

    if (options.endpoint is None) != (options.endpoint_model is None):
        raise InputError("--endpoint and --endpoint-model require each other. Give both, or only --transcript.")
    endpoint = None
    if options.endpoint is not None and options.endpoint_model is not None:
        prices = None if options.prices is None else _prices(options.prices)
        endpoint = endpoint_of(options.endpoint, options.endpoint_model, api_key_env=options.api_key_env, prices=prices)
    elif options.prices is not None or options.max_cost is not None or options.api_key_env is not None:
        raise InputError("--api-key-env, --prices and --max-cost require --endpoint. Give one, or omit them.")
    return LanguageSubject(
        endpoint=endpoint, transcript=options.transcript, max_requests=options.max_requests, max_price=options.max_cost
    )


def _prices(text: str) -> tuple[float, float, str]:
    from worldline.errors import InputError

    try:
        price_in, price_out, currency = text.split(",")
        return float(price_in), float(price_out), currency.strip()
    except ValueError as error:
        raise InputError(
            f"--prices is {text!r}. Give prices per million input and output tokens and the currency: 2.5,10,USD."
        ) from error


def _print(tests: Sequence[TestResult], passed: Sequence[str]) -> None:
    """Prints one row per test: its verdict and its weakest part."""
    from worldline.cli import print_table
    from worldline_exam.results import deciding_part, is_any_graded, is_fully_graded

    rows = []
    for test in tests:
        part = deciding_part(test)
        score, name = (None, "") if part is None else (part.score, part.name)
        interval = "" if score is None else f"{score.value:.2f} ({score.low:.2f} to {score.high:.2f})"
        lost = "not fully graded" if part is not None and not is_fully_graded(test) else ""
        reason = next((f"training {seed.seed}: {seed.reason}" for seed in test.seeds if seed.grade is None), "")
        rows.append(
            (test.code, test.title, str(test.verdict), interval, "; ".join(filter(None, (name, lost, reason[:60]))))
        )
    print_table("Understanding", ("", "test", "verdict", "weakest part", ""), rows)
    summary = f"Passed: {len(passed)} of {len(tests)}{': ' if passed else ''}{', '.join(passed)} (Holm over the tests)."
    print(summary if is_any_graded(tests) else "No test was graded.")


def _command() -> str:
    """The command line without output paths, which depend on the user, and without --resume."""
    typed = iter(sys.argv[1:])
    kept = ["worldline"]
    for argument in typed:
        if argument in ("--out", "--json"):
            next(typed, None)
        elif argument != "--resume" and not argument.startswith(("--out=", "--json=")):
            kept.append(argument)
    return shlex.join(kept)
