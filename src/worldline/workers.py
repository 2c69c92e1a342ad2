"""Workers for independent tasks: processes of this machine, Ray, or any other executor."""

from __future__ import annotations

import itertools
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pickle import PicklingError
from threading import Thread, local
from typing import Any, Final, TypeVar, final
from urllib.parse import urlsplit

from worldline.errors import ConfigError, InputError, UnavailableError
from worldline.progress import OnProgress, tell

__all__ = ["Workers", "completed", "is_alone", "run_in_order", "run_tasks", "workers"]

Workers = int | str | Executor
"""A number of processes with one thread each (1 for this process); "ray" for the cluster of the environment, else a new
local one; "ray://HOST:PORT" for a cluster; or an executor."""

Key = TypeVar("Key")
Value = TypeVar("Value")

RETRIES: Final = 5
"""How often a task starts again after its worker was killed or a connection failed."""
TRANSIENT: Final = (ConnectionError, TimeoutError)
"""Errors of a task after which it starts again."""
AHEAD: Final = 16
"""Tasks whose results are not used yet, where their order counts."""
POLL_S: Final = 0.2
"""Seconds between two looks at which tasks run."""
PORT: Final = 10001
"""Of Ray's client server."""
ANSWER_S: Final = 5.0
"""Seconds within which a cluster must accept a connection."""

ATTEMPT_S: Final = 3
"""Seconds for an attempt to connect to Ray's client server, of which Ray makes three."""

_logger = logging.getLogger(__name__)


def num_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def workers(spec: Workers = 1) -> Iterator[Executor]:
    """An executor; an error in the block, such as Ctrl-C, cancels the pending tasks.

    Processes of this machine have one thread each and end with this one, even if it is killed. Functions, arguments and
    results must support pickle, and a script needs the usual `if __name__ == "__main__":`. With Ray, all machines see
    the same folders under the same paths.

    Args:
        spec: see `Workers`; an executor is not shut down.

    Raises:
        ConfigError: the number is below 1, or the text is neither a number nor an address of Ray.
        UnavailableError: Ray is not installed, does not answer, or has another version.
    """
    pool = spec if isinstance(spec, Executor) else _made(spec)
    try:
        yield pool
    finally:
        if pool is not spec:
            pool.shutdown(cancel_futures=True)


def _made(spec: int | str) -> Executor:
    if is_alone(spec):
        return ThreadPoolExecutor(1)
    return ProcessExecutor(int(spec)) if str(spec).isdecimal() else RayExecutor(str(spec))


def is_alone(spec: Workers) -> bool:
    """Whether tasks run in this process, one after the other.

    Raises:
        ConfigError: the number is below 1, or the text is neither a number nor an address of Ray.
    """
    if isinstance(spec, Executor) or spec == "ray" or str(spec).startswith("ray://"):
        return False
    if not str(spec).isdecimal() or int(spec) < 1:
        raise ConfigError(f"workers is {spec!r}. Give a number from 1 on, ray, or ray://HOST:PORT.")
    return int(spec) == 1


@final
@dataclass(frozen=True)
class NamedCall:
    """A function with a name, for messages about its task."""

    name: str
    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """Calls the function."""
        return self.function(*args)


@final
class ProcessExecutor(Executor):
    """Processes of this machine. If one is killed, its task starts again in a new one, and all others continue.

    Args:
        count: number of processes.
    """

    def __init__(self, count: int) -> None:
        # A pool with several processes breaks as a whole if one of them dies. So each thread has a pool of one.
        self._threads, self._own = ThreadPoolExecutor(count), local()
        self._pools, self._numbers = set[ProcessPoolExecutor](), itertools.count()

    def submit(self, function: Callable[..., Value], /, *args: Any, **kwargs: Any) -> Future[Value]:
        """The future result of a call."""
        return self._threads.submit(self._run, function, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes after their present tasks."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait)

    def _run(self, function: Callable[..., Value], args: Any, kwargs: Any) -> Value:
        starts = 0
        while True:
            starts += 1
            try:
                return self._pool().submit(function, *args, **kwargs).result()
            except (BrokenProcessPool, *TRANSIENT) as error:
                if isinstance(error, BrokenProcessPool):
                    self._pools.discard(self._own.__dict__.pop("pool"))
                if starts > RETRIES:
                    raise _given_up(error) from error
                _logger.warning("%s starts again: %s", getattr(function, "name", "a task"), error)

    def _pool(self) -> ProcessPoolExecutor:
        """The process of this thread."""
        if not hasattr(self._own, "pool"):
            self._own.pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (next(self._numbers),))
            self._pools.add(self._own.pool)
        pool: ProcessPoolExecutor = self._own.pool
        return pool


def _given_up(error: Exception) -> UnavailableError:
    if isinstance(error, BrokenProcessPool):
        return UnavailableError(
            f"its worker was killed {RETRIES + 1} times, possibly for lack of memory. Take fewer workers."
        )
    return UnavailableError(f"it failed {RETRIES + 1} times: {error}. Check the connection.")


def _begin(number: int) -> None:
    """Limits the worker to one thread and one GPU, and ends it with its parent, so that no orphan keeps running."""
    import torch

    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(number % max(1, torch.cuda.device_count()))  # for `choose_device`
    Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


@final
class RayExecutor(Executor):
    """Runs calls as tasks of Ray with one core, one thread, and an equal share of the GPUs each.

    Ray starts a task again if its worker or machine is lost. Its token is that of the environment or of Ray's file.

    Args:
        address: "ray" for the cluster of `RAY_ADDRESS`, or one that runs on this machine, or else a new one; or
            "ray://HOST:PORT".

    Raises:
        UnavailableError: Ray is not installed, the cluster does not answer, refuses the token, or has other versions.
    """

    def __init__(self, address: str) -> None:
        for name in ("INITIAL", "MAX"):  # of three attempts, read when Ray is imported
            os.environ.setdefault(f"RAY_CLIENT_{name}_CONNECTION_TIMEOUT_S", f"{ATTEMPT_S}")
        try:
            import ray
        except ImportError as error:
            raise UnavailableError("workers need Ray. Install it: pip install 'worldline[cluster]'.") from error
        self._ray: Any = ray
        self._references = list[Any]()
        self._is_own = not self._ray.is_initialized()
        if self._is_own:
            _prepare_connection(address)
            os.environ.setdefault("RAY_worker_niceness", "0")  # as workers without Ray; its default is 15
            try:
                self._ray.init(None if address == "ray" else address, log_to_driver=False, logging_level="error")
            except Exception as error:  # Ray raises many types
                raise UnavailableError(f"{address} cannot be used: {error}. Check its token and versions.") from error
        total = Counter(self._ray.cluster_resources())
        # Without a share of the GPUs, Ray hides them from a task. Shares have four digits.
        gpus = min(1.0, 1e4 * total["GPU"] // max(1.0, total["CPU"]) / 1e4)
        remote = self._ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=[*TRANSIENT])
        self._task = remote(_called)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future result of a call."""
        task = self._task.options(name=getattr(function, "name", "task"))
        reference = task.remote(version("worldline"), function, args, kwargs)
        self._references.append(reference)
        answer = Future[Any]()
        reference.future().add_done_callback(lambda task: self._pass_on(task, answer))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancels tasks on request, and leaves the cluster that was joined for this executor."""
        if not self._ray.is_initialized():  # the connection was lost
            return
        if cancel_futures:
            for reference in self._references:
                self._ray.cancel(reference)
        elif wait and self._references:
            self._ray.wait(self._references, num_returns=len(self._references))
        if self._is_own:
            self._ray.shutdown()

    def _pass_on(self, task: Future[Any], answer: Future[Any]) -> None:
        """Hands the result on, or the error of the task itself instead of Ray's with its traceback."""
        error: Any = task.exception()
        if answer.cancelled():
            return
        if error is None:
            answer.set_result(task.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            answer.set_exception(error.cause)
        else:
            answer.set_exception(UnavailableError(f"its worker was lost: {error}. Run the same again."))


def _prepare_connection(address: str) -> None:
    """Checks that the address answers, as Ray tries for minutes, and takes the token, as Ray's client does not."""
    address = os.environ.get("RAY_ADDRESS", "") if address == "ray" else address
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.port or parts.scheme:
        try:
            socket.create_connection((parts.hostname, parts.port or PORT), timeout=ANSWER_S).close()
        except OSError as error:
            raise UnavailableError(f"{address} does not answer: {error}. Start Ray there, or correct it.") from error
    if parts.scheme:
        with suppress(ImportError):  # not public
            from ray._private.authentication import authentication_token_setup

            authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _called(caller: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Calls the function in a worker, which must have the caller's version of worldline."""
    import torch

    if version("worldline") != caller:
        raise InputError(f"worldline is {version('worldline')} in a worker and {caller} here. Install the same.")
    torch.set_num_threads(1)
    return function(*args, **kwargs)


def completed(
    tasks: Mapping[Key, Future[Value]], stage: str, progress: OnProgress | None
) -> Iterator[tuple[Key, Future[Value]]]:
    """The tasks in the order of completion. Progress counts them, and shows each one while it runs.

    Args:
        tasks: by name.
        stage: name of the stage.
        progress: called when a task begins or ends.
    """
    left, running, total = {task: key for key, task in tasks.items()}, set[Future[Value]](), len(tasks)
    tell(progress, stage, 0, total)
    while left:
        ended = wait(left, timeout=POLL_S, return_when=FIRST_COMPLETED).done
        for task in [task for task in left if task not in running and task.running()]:
            running.add(task)
            tell(progress, stage, total - len(left), total, part=_text(left[task]))
        for task in [task for task in left if task in ended]:
            key = left.pop(task)
            tell(progress, stage, total - len(left), total, part=_text(key), ended=True)
            yield key, task


def _text(key: object) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def run_tasks(
    function: Callable[..., Value],
    tasks: Mapping[str, Sequence[Any]],
    spec: Workers,
    stage: str,
    progress: OnProgress | None = None,
) -> Iterator[tuple[str, Value]]:
    """The result of each task, in the order of completion; in this process they run in their order.

    Args:
        function: of a task. For other processes it is at the top level of a module.
        tasks: by name, the arguments.
        spec: the workers.
        stage: name of the stage.
        progress: as in `completed`.

    Raises:
        InputError: a folder cannot be read or written, or a function cannot be sent; the message names the task.
        UnavailableError: as in `workers`, or a task failed repeatedly.
    """
    if is_alone(spec):  # in the main thread, which Ctrl-C interrupts
        for done, (name, args) in enumerate(tasks.items()):
            tell(progress, stage, done, len(tasks))
            yield name, function(*args)
        tell(progress, stage, len(tasks), len(tasks))
        return
    with workers(spec) as pool:
        futures = {name: pool.submit(NamedCall(f"{stage} {name}", function), *args) for name, args in tasks.items()}
        for name, task in completed(futures, stage, progress):
            yield name, _result(f"{stage} {name}", task)


def run_in_order(
    function: Callable[..., Value], tasks: Mapping[str, Sequence[Any]], spec: Workers, stage: str
) -> Iterator[Value]:
    """The results of tasks in their order; at most `AHEAD` of them wait in memory.

    Args and errors are those of `run_tasks`.
    """
    with workers(spec) as pool:
        begun = deque[tuple[str, Future[Value]]]()
        for task, args in tasks.items():
            name = f"{stage} {task}"
            begun.append((name, pool.submit(NamedCall(name, function), *args)))
            if len(begun) == AHEAD:
                yield _result(*begun.popleft())
        while begun:
            yield _result(*begun.popleft())


def _result(name: str, task: Future[Value]) -> Value:
    """The result of a task; its errors are named."""
    try:
        return task.result()
    except UnavailableError as error:
        raise UnavailableError(f"{name}: {error}") from error
    except OSError as error:
        raise InputError(f"{name}: {error}. Correct it, and run the same again.") from error
    except (PicklingError, TypeError, AttributeError) as error:
        if "pickle" not in str(error):
            raise
        raise InputError(f"{name}: {error}. Workers need functions at the top level of a module.") from error
