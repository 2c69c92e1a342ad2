"""The process of a job, as the service sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, final

import msgspec

from worldline.progress import Progress
from worldline.serve.database import ENVIRONMENT
from worldline.serve.job_process import JobMessage, JobTask

COMMAND: Final = (sys.executable, "-m", "worldline.serve.job_process")
"""The process of a job."""

_LINE_BYTES: Final = 2**26


@final
class JobChild:
    """A running process of a job. It leads a group, so that what it starts ends with it.

    Args:
        process: reads a task, and writes messages.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.progress: Progress | None = None
        self.end: JobMessage | None = None
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, command: Sequence[str], task: JobTask) -> JobChild:
        """Starts a process.

        Args:
            command: program and arguments.
            task: what to do.
        """
        env = {name: value for name, value in os.environ.items() if name != ENVIRONMENT}  # it may hold a password
        env |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(task.threads))
        env["PYTHONSAFEPATH"] = "1"  # no module from the working directory
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True, limit=_LINE_BYTES, env=env
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(task) + b"\n")
        return cls(process)

    @property
    def status(self) -> int | None:
        """The exit status; negative for a signal, None while the process runs."""
        return self._process.returncode

    async def ended(self, limit_s: float) -> bool:
        """Whether it ends within this time."""
        await asyncio.wait({self._reading}, timeout=limit_s)
        return self._reading.done()

    def stop(self) -> None:
        """Asks the process to end."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    async def kill(self) -> None:
        """Ends the process and those that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        """Reads messages until the process closes its output."""
        assert self._process.stdout is not None
        with suppress(ValueError, msgspec.MsgspecError):  # a line that is too long, or no message
            async for line in self._process.stdout:
                message = msgspec.json.decode(line, type=JobMessage)
                if message.progress is None:
                    self.end = message
                else:
                    self.progress = message.progress
