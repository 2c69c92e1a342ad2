"""The process of one job: `python -m worldline.serve.job_process`.

The first line of stdin is the task; stdin ends with the service. Messages go to stdout.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from worldline.data.limited_process import TIME_S, limit_process
from worldline.errors import StoppedError, WorldlineError
from worldline.progress import OnProgress, Progress, stoppable, tell
from worldline.registry import load
from worldline.serve.job_requests import AuditJob, ExamJob, JobRequest, LearnJob
from worldline.serve.problems import fault_text, lacks_memory

REPORT: Final = "report.html"
"""The report in the folder of a job."""
WORK: Final = "work"
"""Folder with everything that a job needs only while it runs, in its folder."""
FIGURES: Final = "figures.json"
"""Figures of a learned world, in the folder for work. It is there as soon as the world is complete."""

_READING: Final = ("import", "read")
"""Stages in which a job reads logs."""
_NICE: Final = 10
_PROGRESS_S: Final = 0.1


class JobTask(Struct, kw_only=True, frozen=True):
    """What a process is to do.

    Args:
        request: what the caller asked for.
        folder: of the job.
        logs: path of the logs; "" for none.
        world: path of the bundle to audit; "" for none.
        roots: folders of the server, which texts for callers must not name.
        device: argument of `worldline.open`.
        threads: of numerical libraries, and processes of an exam.
        memory_bytes: memory for data.
    """

    request: JobRequest
    folder: str
    logs: str = ""
    world: str = ""
    roots: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = 1
    memory_bytes: int


class JobFailure(Struct, kw_only=True, frozen=True):
    """Why a job failed.

    Args:
        error: name of the class of the error.
        message: its text without paths.
        fault: where an unexpected error was raised, for the log of the service.
    """

    error: str
    message: str
    fault: str = ""


class JobMessage(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A line from a process: progress, or one of three ends."""

    progress: Progress | None = None
    result: dict[str, Any] | None = None
    failure: JobFailure | None = None
    stopped: bool = False


def run(task: JobTask, progress: OnProgress, stop: Callable[[], bool]) -> dict[str, Any]:
    """Does the work of a job and writes its report; returns the figures.

    Args:
        task: what to do.
        progress: called after each step.
        stop: whether to save what can be resumed, and raise `StoppedError`.

    Raises:
        WorldlineError: as the function that does the work.
    """
    work = Path(task.folder) / WORK
    work.mkdir(parents=True, exist_ok=True)
    match task.request:
        case LearnJob():
            figures, page = (
                _learn(task, task.request, work, stoppable(progress, stop)),
                work / "world" / task.request.name,
            )
        case AuditJob():
            figures, page = _audit(task, task.request, work, progress), work
        case ExamJob():
            figures, page = _exam(task, task.request, work, progress), work / "exam"
    text = _without((page / REPORT).read_text(encoding="utf-8"), [*task.roots, *map(html.escape, task.roots)])
    (Path(task.folder) / REPORT).write_text(text, encoding="utf-8")
    return figures


def _learn(task: JobTask, request: LearnJob, work: Path, progress: OnProgress | None) -> dict[str, Any]:
    """Learns and publishes; continues where an earlier attempt was killed, and never publishes a world twice."""
    from worldline.bundle import MANIFEST
    from worldline.catalog.versions import Catalog
    from worldline.config import spelled
    from worldline.workflows.learn import learn_logs, partial_folder
    from worldline.workflows.learn_options import Options
    from worldline.workflows.learn_result import learn_figures

    # Below a fixed folder, because the caller chose the name.
    out, figures, catalog = work / "world" / request.name, work / FIGURES, Catalog()
    if not figures.exists():
        options = Options(
            recipe=request.recipe,
            budget=request.budget,
            seed=request.seed,
            device=task.device,
            resume=partial_folder(out).is_dir(),
        )
        learned = learn_logs(task.logs, out, options, progress=progress)
        (fresh := figures.with_suffix(".partial")).write_text(json.dumps(spelled(learn_figures(learned))))
        fresh.replace(figures)
    manifest = (out / MANIFEST).read_bytes()
    versions = catalog.versions(request.name) if request.name in catalog.names() else ()
    published = [version.number for version in versions if (version.path / MANIFEST).read_bytes() == manifest]
    if not published:
        published = [catalog.publish(out, request.name, alias=request.alias).number]
    elif request.alias is not None:
        catalog.point(request.name, request.alias, published[0], reason="published")
    return {
        "world": f"{request.name}@{published[0]}",
        "alias": request.alias,
        "figures": _figures(figures.read_text(), task),
    }


def _audit(task: JobTask, request: AuditJob, work: Path, progress: OnProgress) -> dict[str, Any]:
    from worldline.config import to_strict_json
    from worldline.report.audit_page import render_audit
    from worldline.workflows.audit import audit

    audited = audit(
        task.world, task.logs, goals=request.goals, seed=request.seed, device=task.device, progress=progress
    )
    audited = replace(audited, world=request.world)
    (work / REPORT).write_text(render_audit(audited), encoding="utf-8")
    return _figures(to_strict_json(audited), task)


def _exam(task: JobTask, request: ExamJob, work: Path, progress: OnProgress) -> dict[str, Any]:
    """Runs the command of the exam, which is not a part of the toolkit and shows its progress only on a terminal."""
    import typer

    tell(progress, "exam", 0)
    typed = [request.recipe, f"--seed={request.seed}", f"--num-seeds={request.num_seeds}"]
    typed += [f"--tests={','.join(request.tests or ())}"] * bool(request.tests) + ["--pixels"] * request.pixels
    sys.argv[1:] = ["exam", *typed]  # the report shows it
    own = ["--resume", f"--out={work / 'exam'}", f"--json={work / FIGURES}", f"--device={task.device}"]
    app = typer.Typer()
    app.command()(load("command", "exam"))
    app([*typed, *own, f"--threads={task.threads}"], standalone_mode=False)
    return _figures((work / FIGURES).read_text(encoding="utf-8"), task)


def _figures(text: str, task: JobTask) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(_without(text, task.roots))
    return figures


def _without(text: str, roots: Iterable[str]) -> str:
    """The text with paths below these folders relative to them."""
    for root in sorted(roots, key=len, reverse=True):
        text = text.replace(f"{root}{os.sep}", "").replace(root, "")
    return text


def _failure(error: Exception, roots: Iterable[str]) -> JobFailure:
    """What the caller may know of an error: its text without paths, or only its class if it was not expected."""
    if lacks_memory(error):
        return JobFailure(error="UnavailableError", message="the job needs more memory than it may use.")
    if not isinstance(error, WorldlineError):
        name = type(error).__name__
        return JobFailure(error=name, message=f"the job failed unexpectedly ({name}).", fault=fault_text(error))
    text = re.sub(r"(?<![\w.:/])/[\w.-][^\s'\"),;]*", "...", _without(str(error), roots))
    return JobFailure(error=type(error).__name__, message=text)


def _end_with_service() -> None:
    """Kills this process and those that it started, once the service is gone."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _limit_resources(memory_bytes: int) -> None:
    """Lowers the priority of this process, lets Linux kill it before the service, and limits its memory and time.

    The limit of the processor time is that of an import, and is lifted when the logs are read: see `_READING`.
    """
    os.nice(_NICE)
    with suppress(OSError):  # only Linux has it
        Path("/proc/self/oom_score_adj").write_text("500")
    limit_process(memory_bytes, TIME_S)


def _main() -> None:
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=JobTask)
    threading.Thread(target=_end_with_service, daemon=True).start()
    messages = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no message
    _limit_resources(task.memory_bytes)
    stopping = threading.Event()
    if isinstance(task.request, LearnJob):  # which saves what can be resumed; others end at once
        signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    last = Progress(stage="", step=0, total=1), 0.0

    def report(now: Progress) -> None:
        nonlocal last
        if now.stage not in _READING:
            limit_process(task.memory_bytes, math.inf)
        if now.stage != last[0].stage or now.step == now.total or time.monotonic() - last[1] > _PROGRESS_S:
            messages.write(msgspec.json.encode(JobMessage(progress=now)) + b"\n")
            last = now, time.monotonic()

    try:
        end = JobMessage(result=run(task, report, stopping.is_set))
    except StoppedError:
        end = JobMessage(stopped=True)
    except Exception as error:  # noqa: BLE001  # every error ends the job
        end = JobMessage(failure=_failure(error, task.roots))
    messages.write(msgspec.json.encode(end) + b"\n")


if __name__ == "__main__":
    _main()
