"""A cache of requests to an endpoint and their answers, so that equal requests get equal answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, final

import msgspec

from worldline.errors import DataError

_OPENING = b'{"hash": "'
"""The beginning of every line of a transcript, also of one that was cut off when its writer died."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One request and the answer that was accepted.

    Args:
        hash: of the request; see `request_hash`.
        request: body of the request, without headers and therefore without a key.
        answer: text of the answer.
        input_tokens: charged tokens, including rejected answers; None if the endpoint did not report them.
        output_tokens: charged tokens, including rejected answers; None if the endpoint did not report them.
        seconds: from the request to the answer.
        num_tries: answers until one was valid, including it; each invalid answer was returned with its error. None if
            the transcript lacks the number.
    """

    hash: str
    request: Mapping[str, Any]
    answer: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0
    num_tries: int | None = None


def request_hash(request: Mapping[str, Any]) -> str:
    """64 hexadecimal digits that identify a request by its content, including model and seed.

    The address is not included, so a transcript replays for any server of the model.
    """
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def exchanges(path: Path) -> Iterator[Exchange]:
    """The exchanges in a file, in order; a line that was cut off is skipped.

    Raises:
        DataError: the file is not a transcript, or a request was changed.
    """
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            fix = "Give the path of a transcript, or of a new file."
            try:
                exchange = msgspec.json.decode(text, type=Exchange)
            except (msgspec.DecodeError, RecursionError) as error:
                if text.startswith(_OPENING[: len(text.rstrip(b"\n"))]):
                    continue
                raise DataError(f"line {number} is not a line of a transcript", fix=fix, file=path) from error
            if request_hash(exchange.request) != exchange.hash:
                fix = "Restore the original transcript, or remove the line."
                raise DataError(f"line {number} is not what was written there", fix=fix, file=path)
            yield exchange


@final
class Transcript:
    """Answers by the hash of their request, in memory and in an optional file.

    Thread-safe. Several processes may add to one file. Each reads its own lines and those before its first access.

    Args:
        path: file of JSON lines, one per `Exchange`, created if missing; None to keep answers in memory only.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._answers: dict[str, str] | None = None  # None before the first access
        self._lock = Lock()

    def get(self, key: str) -> str | None:
        """The answer to the request with this hash; None if there is none.

        Raises:
            DataError: the file is not a transcript, or a request was changed.
        """
        with self._lock:
            return self._known().get(key)

    def add(self, exchange: Exchange) -> str:
        """Stores an answer, and returns the one that counts: the first to its request.

        Raises:
            DataError: the file is not a transcript.
        """
        with self._lock:
            answer = self._known().setdefault(exchange.hash, exchange.answer)
            if self.path is None:
                return answer
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps(asdict(exchange)).encode() + b"\n"
            with self.path.open("a+b") as file:
                size = file.tell()
                file.seek(max(size - 1, 0))
                is_torn = file.read(1) not in (b"\n", b"")  # a writer that died left a line without an end
                file.write(b"\n" + line if is_torn else line)
            return answer

    def _known(self) -> dict[str, str]:
        """The answers, read from the file at the first access; of two answers to a request, the first counts."""
        if self._answers is None:
            self._answers = {}
            for exchange in exchanges(self.path) if self.path is not None and self.path.exists() else ():
                self._answers.setdefault(exchange.hash, exchange.answer)
        return self._answers
