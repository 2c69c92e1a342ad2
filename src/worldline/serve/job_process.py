"""The process of one job: `python -m worldline.serve.job_process`.

The first line of stdin is the task; stdin ends with the service. The progress and the end are files in the folder of
the job.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, final

import msgspec
from msgspec import Struct

from worldline.catalog.versions import Catalog, default_folder
from worldline.data.fsync import locked
from worldline.data.limited_process import TIME_S, limit_process
from worldline.errors import StoppedError, WorldlineError
from worldline.progress import OnProgress, Progress, stoppable
from worldline.serve.job_requests import AuditJob, JobRequest, LearnJob
from worldline.serve.problems import fault_text, lacks_memory

REPORT: Final = "report.html"
"""The report in the folder of a job."""
PROGRESS: Final = "progress.json"
"""The progress, in the folder of a job."""
END: Final = "end.json"
"""The result or the error, in the folder of a job."""
WORK: Final = "work"
"""Folder with everything that a job needs only while it runs, in its folder."""
FENCE: Final = "fence"
"""The number of the last claim, in the folder of a job. Only its process may publish and write the result."""
STOPPED: Final = 75
"""Exit status of a process that was asked to end, and can go on in another one."""

MAX_LOSSES: Final = 200
"""Largest number of losses in a progress."""

_FIGURES: Final = "figures.json"  # in WORK, as soon as a learned world is complete
_READING: Final = ("import", "read")  # stages in which a job reads logs
_NICE: Final = 10
_PROGRESS_S: Final = 0.1


class JobTask(Struct, kw_only=True, frozen=True):
    """What a process is to do.

    Args:
        request: what the caller asked for.
        folder: of the job.
        logs: path of the logs.
        world: path of the bundle to audit; "" for none.
        device: argument of `worldline.open`.
        threads: of numerical libraries.
        memory_bytes: memory for data.
        fence: number of the claim for which the process runs.
    """

    request: JobRequest
    folder: str
    logs: str
    world: str = ""
    device: str = "auto"
    threads: int = 1
    memory_bytes: int
    fence: int = 0


@final
class LossCurve:
    """Losses of the last stage that has a loss, evenly spread over its steps."""

    def __init__(self) -> None:
        self._stage, self._points, self._every = "", list[tuple[int, float]](), 1

    def add(self, now: Progress) -> list[tuple[int, float]]:
        """The losses so far as pairs of step and loss, at most 200.

        Args:
            now: the progress after a step.
        """
        if now.loss is None:
            return self._points
        if now.stage != self._stage:
            self._stage, self._points, self._every = now.stage, [], 1
        if not self._points or now.step >= self._points[-1][0] + self._every:
            self._points.append((now.step, now.loss))
        if len(self._points) > MAX_LOSSES:
            self._points, self._every = self._points[::2], 2 * self._every
        return self._points


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
    if isinstance(task.request, LearnJob):
        page = work / "world" / task.request.name  # below a fixed folder, because the caller chose the name
        figures = _learn(task, task.request, page, stoppable(progress, stop))
    else:
        figures, page = _audit(task, task.request, work, progress), work
    text = without_paths((page / REPORT).read_text(encoding="utf-8"), task)
    with fenced(task):
        (Path(task.folder) / REPORT).write_text(text, encoding="utf-8")
    shown: dict[str, Any] = json.loads(without_paths(json.dumps(figures, ensure_ascii=False), task))
    return shown


def _learn(task: JobTask, request: LearnJob, out: Path, progress: OnProgress | None) -> dict[str, Any]:
    """Learns and publishes; continues where an earlier attempt was killed, and never publishes a world twice."""
    from worldline.bundle import MANIFEST
    from worldline.config import spelled
    from worldline.workflows.learn import learn_logs, partial_folder
    from worldline.workflows.learn_options import Options
    from worldline.workflows.learn_result import learn_figures

    path, catalog = Path(task.folder) / WORK / _FIGURES, Catalog()
    if not path.exists():
        asked: Any = {name: getattr(request, name) for name in ("recipe", "budget", "seed")}
        options = Options(**asked, device=task.device, resume=partial_folder(out).is_dir())
        write(path, spelled(learn_figures(learn_logs(task.logs, out, options, progress=progress))))
    with fenced(task):
        manifest = (out / MANIFEST).read_bytes()
        versions = catalog.versions(request.name) if request.name in catalog.names() else ()
        numbers = [version.number for version in versions if (version.path / MANIFEST).read_bytes() == manifest]
        number = numbers[0] if numbers else catalog.publish(out, request.name).number
    return {"world": f"{request.name}@{number}", "figures": json.loads(path.read_text(encoding="utf-8"))}


def _audit(task: JobTask, request: AuditJob, work: Path, progress: OnProgress) -> Any:
    from worldline.config import to_strict_json
    from worldline.report.audit_page import render_audit
    from worldline.workflows.audit import audit

    goals, seed = request.goals, request.seed
    audited = audit(task.world, task.logs, goals=goals, seed=seed, device=task.device, progress=progress)
    audited = replace(audited, world=request.world)
    (work / REPORT).write_text(render_audit(audited), encoding="utf-8")
    return json.loads(to_strict_json(audited))


def raise_fence(folder: Path, fence: int) -> bool:
    """Lets the process of a claim publish and write in the folder of a job, and those of earlier claims no longer.

    Returns whether it did so: False after a later claim. Waits while another process publishes or writes.
    """
    with _fence(folder) as path:
        if int(path.read_text() or 0) > fence:
            return False
        path.write_text(str(fence))
        (folder / END).unlink(missing_ok=True)  # of an earlier claim
    return True


@contextmanager
def fenced(task: JobTask) -> Iterator[None]:
    """Publishes and writes in its block, while no other process can claim the job.

    Raises:
        StoppedError: another process has claimed it.
    """
    with _fence(Path(task.folder)) as path:
        if int(path.read_text() or 0) != task.fence:
            raise StoppedError("another process has this job.")
        yield


@contextmanager
def _fence(folder: Path) -> Iterator[Path]:
    """The file of the fence, locked."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FENCE
    path.touch()
    with locked(path):
        yield path


def write(path: Path, content: object) -> None:
    """Writes JSON to a file, which others see complete or not at all."""
    fresh = path.with_suffix(".partial")
    fresh.write_bytes(msgspec.json.encode(content))
    fresh.replace(path)


def failure(error: Exception, task: JobTask) -> dict[str, Any]:
    """What the caller may know of an error: its text without paths, or only its class if it was not expected."""
    name, fault = type(error).__name__, ""
    if lacks_memory(error):
        name, message = "UnavailableError", "the job needs more memory than it may use."
    elif isinstance(error, WorldlineError):
        message = re.sub(r"(?<![\w.:/])/[\w.-][^\s'\"),;]*", "...", without_paths(str(error), task))
    else:
        message, fault = f"the job failed unexpectedly ({name}).", fault_text(error)
    return {"error": {"class": name, "message": message}, "fault": fault}


def without_paths(text: str, task: JobTask) -> str:
    """The text with paths below folders of the server relative to them; in HTML, too."""
    folders = {Path(task.folder) / WORK, default_folder().absolute(), Path(task.logs).parent, Path(task.world).parent}
    for root in sorted(map(str, folders - {Path()}), key=len, reverse=True):
        for name in (root, html.escape(root)):
            text = text.replace(f"{name}{os.sep}", "").replace(name, "")
    return text


def _end_with_service() -> None:
    """Kills this process and those that it started, once the service is gone."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def _main() -> None:
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=JobTask)
    threading.Thread(target=_end_with_service, daemon=True).start()
    os.nice(_NICE)
    with suppress(OSError):  # only Linux has it: the job is killed before the service
        Path("/proc/self/oom_score_adj").write_text("500")
    limit_process(task.memory_bytes, TIME_S)  # the processor time of an import, until the logs are read
    folder, stopping, written_s, curve = Path(task.folder), threading.Event(), 0.0, LossCurve()
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(task.request, LearnJob):  # which saves what can be resumed; others end at once
        signal.signal(signal.SIGTERM, lambda *_: stopping.set())

    def report(now: Progress) -> None:
        nonlocal written_s
        if now.stage not in _READING:
            limit_process(task.memory_bytes, math.inf)
        losses = curve.add(now)
        if now.step in (0, now.total) or time.monotonic() - written_s > _PROGRESS_S:
            if (folder / FENCE).read_text() != str(task.fence):
                os.killpg(0, signal.SIGKILL)  # another process has the job and its folder
            write(folder / PROGRESS, {**asdict(now), "losses": losses})
            written_s = time.monotonic()

    try:
        end = {"result": run(task, report, stopping.is_set)}
    except StoppedError:
        sys.exit(STOPPED)
    except Exception as error:  # noqa: BLE001  # every error ends the job
        end = failure(error, task)
    with suppress(StoppedError), fenced(task):
        write(folder / END, end)


if __name__ == "__main__":
    _main()
