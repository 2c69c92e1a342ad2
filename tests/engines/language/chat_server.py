"""A chat endpoint on this machine that knows a world's dynamics: what an ideal language model would answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any

import numpy as np

Values = Mapping[str, np.ndarray]
Dynamics = Callable[[Values, Values, Values], Values]
"""Takes the history {observation: [H, *shape]} (NaN where it was not measured), the actions {name: [*shape]} and the
exogenous values {name: [*shape]} of the next step; gives the next value of each observation that is to be told."""


class Fault(StrEnum):
    """What the server does in the place of answering well."""

    BUSY = "429 with Retry-After"
    BROKEN = "500"
    KEY = "401, repeating the key"
    KEY_ANSWERED = "the right answer, and the key with JSON escapes"
    MOVED = "307 to the same address"
    GARBLED = "a body that is not the gzip that it says"
    NOT_JSON = "a body that is no JSON"
    NO_CHOICE = "a completion without a choice"
    SILENT = "a completion without content"
    WORDS = "no JSON object in the text"
    SHAPE = "a component too many"
    NAME = "a signal too few"
    NAN = "NaN"
    OUTSIDE = "far out of all bounds"
    PROSE = "the right answer, with words and a fence around it"
    HANG = "nothing, until the server is closed"


class ChatServer:
    """Serves `/v1/chat/completions` on a free port of the loopback while it is open (`with`).

    Args:
        dynamics: of the world; exact.
        noise: standard deviation that is added to each vector, drawn from the request's seed; 0 for none.
        takes_format: whether `response_format` is accepted, else it is refused with status 400.
        tells_usage: whether tokens are told.
    """

    def __init__(
        self, dynamics: Dynamics, *, noise: float = 0.0, takes_format: bool = True, tells_usage: bool = True
    ) -> None:
        self.dynamics, self.noise, self.takes_format, self.tells_usage = dynamics, noise, takes_format, tells_usage
        self.seen: list[Seen] = []
        self._faults: list[Fault] = []
        self._always: Fault | None = None
        self._lock, self._closing = Lock(), Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def questions(self) -> list[dict[str, Any]]:
        """What the model was told, per request."""
        return [question_of(one.body) for one in self.seen]

    def next(self, *faults: Fault) -> None:
        """These happen to the next requests, one each."""
        self._faults += faults

    def always(self, fault: Fault | None) -> None:
        """This happens to every request from now on."""
        self._always = fault

    def __enter__(self) -> ChatServer:
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                token = self.headers.get("Authorization")
                fault = owner._note(Seen(path=self.path, authorization=token, headers=dict(self.headers), body=body))
                if fault is Fault.HANG:
                    owner._closing.wait()
                    return
                status, text, headers = owner._reply(fault, body, token)
                content = text.encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                return

        return Handler

    def _note(self, seen: Seen) -> Fault | None:
        with self._lock:
            self.seen.append(seen)
            return self._always or (self._faults.pop(0) if self._faults else None)

    def _reply(
        self, fault: Fault | None, body: dict[str, Any], authorization: str | None
    ) -> tuple[int, str, dict[str, str]]:
        if fault is Fault.BUSY:
            return 429, '{"error": {"message": "slow down"}}', {"Retry-After": "0.01"}
        if fault is Fault.BROKEN:
            return 500, "out of order", {}
        if fault is Fault.KEY:
            return 401, f"who is {authorization}?", {}
        if fault is Fault.MOVED:
            return 307, "", {"Location": f"{self.base_url}/chat/completions"}
        if fault is Fault.GARBLED:
            return 200, "no gzip", {"Content-Encoding": "gzip"}
        if fault is Fault.NOT_JSON:
            return 200, "<html>welcome</html>", {}
        if "response_format" in body and not self.takes_format:
            return 400, '{"error": {"message": "response_format is not supported"}}', {}
        usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 20}} if self.tells_usage else {}
        content = None if fault is Fault.SILENT else self._content(fault, body)
        if fault is Fault.KEY_ANSWERED:
            content = json.dumps({**self.answer(body), "said": authorization})
        choices = [] if fault is Fault.NO_CHOICE else [{"message": {"role": "assistant", "content": content}}]
        text = json.dumps({"object": "chat.completion", "choices": choices, **usage})
        return 200, _escaped(text) if fault is Fault.KEY_ANSWERED else text, {}

    def _content(self, fault: Fault | None, body: dict[str, Any]) -> str:
        if fault is Fault.WORDS:
            return "It will go on much as before."
        answer = self.answer(body)
        name = next(iter(answer))
        if fault is Fault.NAME:
            del answer[name]
        if fault in (Fault.SHAPE, Fault.NAN, Fault.OUTSIDE):
            wrong = {Fault.SHAPE: [1.0] * 99, Fault.NAN: [float("nan")] * 2, Fault.OUTSIDE: [1e9] * 2}[fault]
            answer[name] = wrong
        text = json.dumps(answer)
        return f"With {{care}}:\n```json\n{text}\n```\nThat is all." if fault is Fault.PROSE else text

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The next values, as the dynamics have it."""
        question = question_of(body)
        signals = {signal["name"]: signal for signal in question["signals"]}
        history = {
            name: np.array([_value(signals[name], row["observations"][name]) for row in question["history"]])
            for name in question["predict"]
        }
        applied = {
            role: {
                name: np.asarray(value) for name, value in question["apply"].items() if signals[name]["role"] == role
            }
            for role in ("action", "exogenous")
        }
        after = self.dynamics(history, applied["action"], applied["exogenous"])
        rng = np.random.default_rng(body["seed"])
        noise = self.noise if question["answer"] == "draw" else 0.0
        return {
            name: int(after[name])
            if "num_values" in signals[name]
            else _inside(signals[name], after[name] + noise * rng.standard_normal(after[name].shape)).tolist()
            for name in question["predict"]
        }


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A request that came in."""

    path: str
    authorization: str | None
    headers: dict[str, str]
    body: dict[str, Any] = field(repr=False)


def question_of(body: dict[str, Any]) -> dict[str, Any]:
    """The JSON object that the model was told."""
    found = json.loads(body["messages"][1]["content"])
    assert isinstance(found, dict)
    return found


def latest(values: np.ndarray) -> np.ndarray:
    """The last value [*shape] of a history [H, *shape] that was measured; 0 where none was."""
    known = np.flatnonzero(np.isfinite(values.reshape(len(values), -1)).all(1))
    return np.asarray(values[known[-1]] if len(known) else np.zeros(values.shape[1:]))


def _escaped(text: str) -> str:
    """JSON that says the same, as encoders write it that do not trust slashes and signs."""
    return text.replace("/", "\\/").replace("+", "\\u002B")


def _inside(signal: Mapping[str, Any], value: np.ndarray) -> np.ndarray:
    """`value` on the nearer bound where noise threw it out."""
    low = [-np.inf if bound is None else bound for bound in signal.get("low", [-np.inf])]
    high = [np.inf if bound is None else bound for bound in signal.get("high", [np.inf])]
    return np.asarray(value if "period" in signal else np.clip(value, low, high))


def _value(signal: Mapping[str, Any], told: object) -> np.ndarray:
    if told is not None:
        return np.asarray(told, float)
    return np.full((signal["size"],) if "size" in signal else (), np.nan)
