"""Errors of the service, and errors as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from logging import Logger
from typing import Any, Final, final

from worldline.errors import (
    ConfigError,
    DataError,
    EngineError,
    InputError,
    UnavailableError,
    UnknownNameError,
    UnsupportedError,
    WorldlineError,
)
from worldline.serve.callers import ForbiddenError, UnauthorizedError

MEDIA_TYPE: Final = "application/problem+json"


class NotFoundError(UnknownNameError):
    """The URL names a world, session or job that does not exist for this caller.

    Args:
        kind: as in `UnknownNameError`.
        name: as in `UnknownNameError`.
        known: names that the caller may know.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str] = ()) -> None:
        super().__init__(kind, name[:100], known)
        if not self.known:
            self.args = (f"there is no {kind} {self.name!r}.",)


class MethodError(InputError):
    """The path exists, but not with this HTTP method.

    Args:
        message: the whole text.
        allow: methods of the path, as in the header `Allow`.
    """

    def __init__(self, message: str, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class StepConflictError(InputError):
    """The step number of an observation is not the next one of its session."""


class GoneError(InputError):
    """The session has expired or was deleted."""


class ConflictError(InputError):
    """The request contradicts an earlier one, such as an idempotency key that was used for other content."""


class SlowRequestError(InputError):
    """The body of the request did not arrive in time."""


class MediaTypeError(InputError):
    """The body has a content type that the service does not read."""


class TooLargeError(UnsupportedError):
    """The request, or the work that it asks for, exceeds a limit of the service."""


class OverloadedError(UnavailableError):
    """The service refused a call because too many are waiting.

    Args:
        message: the whole text.
        retry_after_s: seconds after which a retry may succeed.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitedError(OverloadedError):
    """The caller exceeded its rate or its quota."""


class DeadlineError(UnavailableError):
    """The answer was not ready at the deadline of the call."""


_KINDS: Final[tuple[tuple[type[WorldlineError], int, str], ...]] = (
    (UnauthorizedError, 401, "unauthorized"),
    (ForbiddenError, 403, "forbidden"),
    (NotFoundError, 404, "not_found"),
    (MethodError, 405, "method_not_allowed"),
    (StepConflictError, 409, "step_conflict"),
    (ConflictError, 409, "conflict"),
    (SlowRequestError, 408, "request_timeout"),
    (GoneError, 410, "gone"),
    (MediaTypeError, 415, "unsupported_media_type"),
    (TooLargeError, 413, "too_large"),
    (RateLimitedError, 429, "rate_limited"),
    (OverloadedError, 429, "overloaded"),
    (DeadlineError, 504, "deadline_exceeded"),
    (UnsupportedError, 422, "unsupported"),
    (InputError, 400, "invalid_request"),
    (UnknownNameError, 400, "invalid_request"),
)
"""Per error its status and code; the first that matches."""


def _texts() -> dict[int, dict[str, str]]:
    texts: dict[int, dict[str, str]] = {}
    for kind, status, code in _KINDS:
        texts.setdefault(status, {}).setdefault(code, (kind.__doc__ or "").partition("\n")[0])
    texts[500] = {"internal": "The server failed."}
    texts[503] = {"unavailable": "The world or the database is not available. Try again later."}
    return texts


STATUSES: Final[Mapping[int, Mapping[str, str]]] = _texts()
"""Per status its codes, and what each means."""

_HIDDEN: Final = (ConfigError, DataError)
"""Errors about files of the server, whose text names paths."""


@final
@dataclass(frozen=True, kw_only=True)
class Problem:
    """The answer to a request that failed.

    Args:
        status: HTTP status.
        code: kind of the problem, for programs.
        error: the error to raise at the client. Its text holds neither paths nor addresses of the server.
        pointer: JSON pointer to the value in the request; None if unknown.
        retry_after_s: seconds after which a retry may succeed; None if unknown.
    """

    status: int
    code: str
    error: WorldlineError
    pointer: str | None = None
    retry_after_s: float | None = None

    def to_json(self, request_id: str) -> dict[str, Any]:
        """The problem details."""
        details = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": str(self.error),
            "request_id": request_id,
        }
        return details if self.pointer is None else {**details, "pointer": self.pointer}


def problem_of(error: Exception) -> Problem:
    """The problem that an error is to the caller. The text of unexpected errors is withheld."""
    if lacks_memory(error):
        error = TooLargeError("the call needs more memory than is free. Send fewer worlds, plans, samples or steps.")
    for kind, status, code in _KINDS:
        if isinstance(error, kind) and not isinstance(error, _HIDDEN):
            pointer, retry_after_s = getattr(error, "pointer", None), getattr(error, "retry_after_s", None)
            return Problem(status=status, code=code, error=error, pointer=pointer, retry_after_s=retry_after_s)
    if isinstance(error, EngineError):
        return Problem(status=503, code="unavailable", error=error)
    if isinstance(error, WorldlineError):
        hidden = UnavailableError("the world is not available. Try again, or ask the operator with this request_id.")
        return Problem(status=503, code="unavailable", error=hidden)
    hidden = UnavailableError("the server failed. Ask the operator with this request_id.")
    return Problem(status=500, code="internal", error=hidden)


def logged_problem(logger: Logger, what: str, error: Exception) -> Problem:
    """The answer for an error; the log has the place of one that was not expected.

    Args:
        logger: gets the fault.
        what: failed.
        error: of the call.
    """
    problem = problem_of(error)
    if problem.status == 500:
        logger.error("%s failed: %s", what, fault_text(error))
    return problem


def lacks_memory(error: Exception) -> bool:
    """Whether memory is missing: for Python and NumPy, for torch on a GPU, or for torch on the CPU."""
    if type(error) is RuntimeError:
        return "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def fault_text(error: BaseException) -> str:
    """An unexpected error for the log: its class and the places in code, without its text and without paths."""
    places, trace = list[str](), error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-8:])}"


@final
class FaultLog:
    """Logs the fault of a task that is repeated once when it begins, and once when it has ended.

    Args:
        logger: gets the messages.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger, self._failing = logger, set[str]()

    @contextmanager
    def logged(self, task: str) -> Iterator[None]:
        """Ends the block, and nothing else, if it raises an error."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # it is logged, and other tasks must still be done
            if task not in self._failing:
                self._logger.error("%s fails, and is repeated: %s", task, fault_text(error))
            self._failing.add(task)
        else:
            if task in self._failing:
                self._logger.warning("%s no longer fails", task)
            self._failing.discard(task)
