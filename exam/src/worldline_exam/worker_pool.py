"""Processes that share the work of an exam, and outlive one that is killed."""

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
    """`count` processes of one thread each; one alone is this one.

    A process that is killed, as systems do when memory runs out, ends its own task with `ChildProcessError` and no
    other: another takes its place. All end with the process that asked, also where that is killed.
    """
    return _Threads(1) if count == 1 else _Processes(count)


class _Threads(ThreadPoolExecutor):
    """Where an error ends the block that it is for, such as Ctrl-C, what has not begun is left undone."""

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.shutdown(cancel_futures=kind is not None)


class _Processes(_Threads):
    """Threads, each of which hands its task to a process that has none."""

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
            raise ChildProcessError("its process was killed, as systems do when memory runs out") from error
        finally:
            self._idle.put(process)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """One thread, and an end with the process that asked, which nobody would answer to otherwise."""
    import torch

    torch.set_num_threads(1)
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
