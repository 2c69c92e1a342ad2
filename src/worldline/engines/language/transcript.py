"""A cache of requests to an endpoint and their answers, so that equal requests get equal answers."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, final

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
    input_tokens: int | None
    output_tokens: int | None
    seconds: float
    num_tries: int | None


def request_hash(request: Mapping[str, Any]) -> str:
    """64 hexadecimal digits that identify a request by its content, including model and seed.

    The address is not included, so a transcript replays for any server of the model.
    """
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def exchanges(path: Path) -> Iterator[Exchange]:
    """The exchanges in a file, in order; a line that was cut off is skipped."""
    with path.open("rb") as file:
        for text in file:
            if (line := _line(text)) is not None:
                yield Exchange(
                    hash=line["hash"],
                    request=line["request"],
                    answer=line["answer"],
                    input_tokens=line.get("input_tokens"),
                    output_tokens=line.get("output_tokens"),
                    seconds=line.get("seconds", 0.0),
                    num_tries=line.get("num_tries"),
                )


@final
class Transcript:
    """Answers by the hash of their request: the last ones in memory, all of them in an optional file.

    Thread-safe. Several processes may add to one file. Each reads its own lines and those before its first access.

    Args:
        path: file of JSON lines, one per `Exchange`, created if missing; None to keep answers in memory only.
        num_remembered: answers kept in memory; older ones are dropped, or read from the file again.
    """

    def __init__(self, path: Path | str | None = None, *, num_remembered: int = 65_536) -> None:
        self.path = None if path is None else Path(path)
        self.num_remembered = num_remembered
        self._answers: OrderedDict[str, str] = OrderedDict()
        self._places: dict[str, int] | None = None  # byte offsets of lines in the file; None before the first access
        self._torn = False  # whether the last line of the file is incomplete
        self._lock = Lock()

    def get(self, key: str) -> str | None:
        """The answer to the request with this hash; None if there is none.

        Raises:
            DataError: the file is not a transcript, or the line was changed.
        """
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
            answer = self._read(key)
            if answer is not None:
                self._remember(key, answer)
            return answer

    def add(self, exchange: Exchange) -> None:
        """Stores an answer.

        Raises:
            DataError: the file is not a transcript.
        """
        with self._lock:
            self._remember(exchange.hash, exchange.answer)
            if self.path is None:
                return
            places = self._index(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps(asdict(exchange)).encode() + b"\n"
            with self.path.open("ab") as file:
                file.write(b"\n" + line if self._torn else line)
                file.flush()
                places.setdefault(exchange.hash, file.tell() - len(line))
            self._torn = False

    def _remember(self, key: str, answer: str) -> None:
        self._answers[key] = answer
        if len(self._answers) > self.num_remembered:
            self._answers.popitem(last=False)

    def _read(self, key: str) -> str | None:
        """The answer from the file."""
        if self.path is None or (place := self._index(self.path).get(key)) is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place)
            line = _line(file.readline())
        if line is None or line["hash"] != key or request_hash(line["request"]) != key:
            raise DataError(
                f"the line at byte {place} is not what was written there",
                fix="Restore the original transcript, or remove the line.",
                file=self.path,
            )
        return str(line["answer"])

    def _index(self, path: Path) -> dict[str, int]:
        """The byte offset of each line by its hash; the first line counts if a hash is repeated."""
        if self._places is not None:
            return self._places
        places: dict[str, int] = {}
        if path.exists():
            place = 0
            with path.open("rb") as file:
                for number, text in enumerate(file, start=1):
                    line = _line(text)
                    self._torn = not text.endswith(b"\n")
                    if line is not None and not self._torn:
                        places.setdefault(line["hash"], place)
                    elif not text.startswith(_OPENING[: len(text.rstrip(b"\n"))]):
                        raise DataError(
                            f"line {number} is not a line of a transcript",
                            fix="Give the path of a transcript, or of a new file.",
                            file=path,
                        )
                    place += len(text)
        self._places = places
        return places


def _line(text: bytes) -> dict[str, Any] | None:
    """The decoded line; None if it is not a line of a transcript."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    good = isinstance(line, dict) and isinstance(line.get("hash"), str) and isinstance(line.get("answer"), str)
    return line if good and isinstance(line.get("request"), dict) else None
