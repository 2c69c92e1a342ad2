"""Process pool of an exam."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread

from worldline.errors import UnavailableError


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """An executor with `count` worker processes of one thread each; a count of 1 uses the current process.

    An error in the block, such as Ctrl-C, cancels the pending tasks. All workers end with the parent process, even if
    that is killed.

    Raises:
        UnavailableError: a worker was killed, for example when memory ran out.
    """
    pool = (
        ThreadPoolExecutor(1)
        if count == 1
        else ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin)
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UnavailableError(
            "a worker process was killed, possibly for lack of memory. Continue with --resume and fewer --threads."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Limits the worker to one thread and ends it with its parent, so that no orphan keeps running."""
    import torch

    torch.set_num_threads(1)
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
