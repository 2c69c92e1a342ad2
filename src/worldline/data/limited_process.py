"""Limits of memory and time of a process in which files of strangers are read.

A library that decodes a damaged file can hang, crash or fill the memory. Then only its process ends.
"""

from __future__ import annotations

import math
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from worldline.config import from_json, to_strict_json
from worldline.data.array_size import in_words, memory_bytes
from worldline.data.checks import Finding
from worldline.data.formats.reading import DAMAGED, reason
from worldline.data.importing import ImportReport, import_logs
from worldline.data.store import is_store, open_store
from worldline.errors import DataError, InputError, WorldlineError

MEMORY_SHARE: Final = 2
"""The data of a process may take one part in this many of the memory, and at most `MAX_BYTES`."""
MAX_BYTES: Final = 10**9
TIME_S: Final = 3600
"""Seconds of wall time, and of processor time, that a process may take while it reads logs."""

_FIX: Final = "The files may be damaged. If you trust them, import them without --untrusted."


def limit_process(data_bytes: int, time_s: float) -> None:
    """Limits memory and processor time of this process, where the system can.

    Args:
        data_bytes: memory for data.
        time_s: seconds of processor time since the start of the process; `inf` lifts an earlier limit.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    soft = most if math.isinf(time_s) else int(time_s)
    for kind, limits in ((resource.RLIMIT_DATA, (data_bytes, data_bytes)), (resource.RLIMIT_CPU, (soft, most))):
        with suppress(OSError, ValueError):  # the system has no such limit, or a lower one is set
            resource.setrlimit(kind, limits)


@dataclass(frozen=True, kw_only=True)
class _ImportAnswer:
    """What the process returns: a report, a failure of the data, or the text of another error."""

    report: ImportReport | None = None
    failure: Finding | None = None
    refusal: str = ""


def import_untrusted(source: Path, destination: Path, **options: Any) -> ImportReport:
    """`import_logs` in a process that may take half of the memory, at most 1 GB, and one hour.

    An interrupted import leaves complete episodes, or no new store. A script that calls this needs the guard
    `if __name__ == "__main__"`, because the process imports it again.

    Args:
        source: file or folder.
        destination: as for `import_logs`.
        options: of `import_logs`, without `progress`.

    Raises:
        DataError: as for `import_logs`; or the process reached a limit, or crashed.
        InputError: any other error of `import_logs`.
    """
    is_new = not is_store(destination)
    try:
        text = _run_limited(source, destination, options)
    except DataError:
        if is_new and is_store(destination) and not len(open_store(destination)):
            shutil.rmtree(destination)
        raise
    answer = from_json(_ImportAnswer, text, where="the answer of the process")
    if answer.failure is not None:
        raise answer.failure.error()
    if answer.report is None:
        raise InputError(answer.refusal)
    return answer.report


def _run_limited(source: Path, destination: Path, options: dict[str, Any]) -> bytes:
    """The answer of the process as JSON."""
    data_bytes, context = min(memory_bytes() // MEMORY_SHARE, MAX_BYTES), get_context("spawn")
    late = DataError(f"reading took more than {TIME_S} s and was stopped", fix=_FIX, file=source)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_import, args=(there, data_bytes, TIME_S, source, destination, options))
    process.start()
    there.close()  # so that the end of the process ends the pipe
    try:
        if not here.poll(TIME_S):
            raise late
        return here.recv_bytes()
    except EOFError as error:
        process.join()
        if -(process.exitcode or 0) == getattr(signal, "SIGXCPU", None):
            raise late from error
        problem = f"the process that read it ended with status {process.exitcode}; it may use {in_words(data_bytes)}"
        raise DataError(problem, fix=_FIX, file=source) from error
    finally:
        process.kill()
        process.join()


def _import(
    pipe: Connection, data_bytes: int, time_s: float, source: Path, destination: Path, options: dict[str, Any]
) -> None:
    """Imports with limits, and sends an `_ImportAnswer` as JSON."""
    limit_process(data_bytes, time_s)
    try:
        answer = _ImportAnswer(report=import_logs(source, destination, **options))
    except DataError as error:
        answer = _ImportAnswer(failure=Finding.of(error))
    except WorldlineError as error:
        answer = _ImportAnswer(refusal=str(error))
    except Exception as error:  # noqa: BLE001  # damaged files raise any error of a library
        problem = f"it cannot be read ({reason(error)})"
        answer = _ImportAnswer(failure=Finding(problem=problem, fix=DAMAGED, file=str(source)))
    pipe.send_bytes(to_strict_json(answer).encode())
