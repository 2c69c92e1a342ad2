"""Process pool of an exam that survives the loss of a worker process."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Value = TypeVar("Value")


def workers(count: int) -> ThreadPoolExecutor:
    """An executor with `count` worker processes of one thread each; a count of 1 uses the current process.

    If a worker is killed, for example when memory runs out, only its task raises `ChildProcessError`. A new worker
    replaces it. All workers end with the parent process, even if that is killed.
    """
    return _Threads(1) if count == 1 else _Processes(count)


class _Threads(ThreadPoolExecutor):
    """Cancels pending tasks if an error, such as Ctrl-C, leaves the `with` block."""

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.shutdown(cancel_futures=kind is not None)


class _Processes(_Threads):
    """Threads that each pass their task to an idle worker process."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._idle = SimpleQueue[ProcessPoolExecutor]()
        for _ in range(count):
            self._idle.put(_process())

    def submit(self, task: Callable[..., Value], /, *given: Any, **named: Any) -> Future[Value]:
        return super().submit(self._do, partial(task, *given, **named))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        while not self._idle.empty():
            self._idle.get().shutdown(wait)

    def _do(self, task: Callable[[], Value]) -> Value:
        process = self._idle.get()
        try:
            return process.submit(task).result()
        except BrokenProcessPool as error:
            process.shutdown()
            process = _process()
            raise ChildProcessError(
                "the worker process was killed, possibly for lack of memory; use fewer --threads"
            ) from error
        finally:
            self._idle.put(process)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """Limits the worker to one thread and ends it with its parent, so that no orphan keeps running."""
    import torch

    torch.set_num_threads(1)
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
