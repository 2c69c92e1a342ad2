from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.language.chat_server import ChatServer, Fault, Values

from worldline.engines.language.chat import Chat, Request
from worldline.engines.language.endpoint import HOSTS_VARIABLE, Endpoint
from worldline.engines.language.transcript import exchanges
from worldline.errors import (
    BundleError,
    ConfigError,
    MissingExtraError,
    NoGoodAnswerError,
    UnavailableError,
    UnsupportedError,
)

SECRET = "sk-0123456789"


def doubled(history: Values, actions: Values, exogenous: Values) -> Values:
    return {"x": 2 * history["x"][-1]}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(doubled) as server:
        yield server


def chat_of(server: ChatServer, *, endpoint: Mapping[str, Any] | None = None, **settings: Any) -> Chat:
    return Chat(Endpoint(base_url=server.base_url, model="toy", **(endpoint or {})), **settings)


def ask(chat: Chat, x: float = 1.0, seed: int = 0) -> Request:
    question = {
        "signals": [{"name": "x", "role": "observation", "size": 1}], "history": [{"observations": {"x": [x]}}],
        "apply": {}, "predict": ["x"], "answer": "draw",
    }  # fmt: skip
    return chat.request([("system", "?"), ("user", json.dumps(question))], schema={"type": "object"}, seed=seed)


def read(text: str) -> float:
    try:
        (value,) = json.loads(text)["x"]
    except (ValueError, KeyError) as error:
        raise UnavailableError("It is wrong.") from error
    if not np.isfinite(value) or abs(value) > 1e6:
        raise UnavailableError(f"{value} is wrong.")
    return float(value)


def test_a_question_is_asked_once(server: ChatServer) -> None:
    chat = chat_of(server)
    assert chat.answers([ask(chat, 1.0), ask(chat, 2.0), ask(chat, 1.0)], read) == [2.0, 4.0, 2.0]
    assert chat.answers([ask(chat, 2.0)], read) == [4.0]
    assert chat.spent.num_requests == len(server.seen) == 2
    assert {one.path for one in server.seen} == {"/v1/chat/completions"}
    assert server.seen[0].body["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_busy_server_is_asked_again_later(server: ChatServer) -> None:
    chat = chat_of(server)
    server.next(Fault.BUSY, Fault.BROKEN, Fault.BROKEN)
    assert (chat.answers([ask(chat)], read), chat.spent.num_requests) == ([2.0], 4)


def test_a_server_that_stays_broken_is_given_up(server: ChatServer) -> None:
    chat = chat_of(server, endpoint={"num_retries": 8})
    server.always(Fault.BROKEN)
    with pytest.raises(UnavailableError, match=r"'toy' at http://127.0.0.1:\d+ .* 9 tries: status 500.*out of order"):
        chat.answers([ask(chat)], read)
    assert chat.spent.num_requests == len(server.seen) == 9
    server.always(None)
    assert chat.answers([ask(chat)], read) == [2.0]


def test_only_the_headers_of_a_chat_request_are_sent(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Gateway: {SECRET}\nAuthorization: Bearer {SECRET}")
    chat = chat_of(server)
    assert chat.answers([ask(chat)], read) == [2.0]
    sent = server.seen[0].headers
    assert SECRET not in str(sent)
    assert {name.lower() for name in sent} <= {
        "accept", "accept-encoding", "connection", "content-length", "content-type", "host"
    }  # fmt: skip


def test_a_redirect_is_refused(server: ChatServer) -> None:
    chat = chat_of(server)
    server.next(Fault.MOVED)
    with pytest.raises(UnavailableError, match="status 307"):
        chat.answers([ask(chat)], read)
    assert len(server.seen) == 1


def test_a_server_that_hangs_or_is_not_there_is_given_up() -> None:
    with ChatServer(doubled) as server:
        server.always(Fault.HANG)
        chat = chat_of(server, endpoint={"num_retries": 1, "timeout_s": 0.05})
        with pytest.raises(UnavailableError, match=r"2 tries.*ReadTimeout"):
            chat.answers([ask(chat)], read)
    assert chat.spent.num_uncounted == 2
    with pytest.raises(UnavailableError, match=r"2 tries.*ConnectError"):
        chat.answers([ask(chat)], read)
    assert chat.spent.num_uncounted == 2  # a server that is not reached charges nothing


@pytest.mark.parametrize(
    "fault", [Fault.WORDS, Fault.SHAPE, Fault.NAME, Fault.NAN, Fault.OUTSIDE, Fault.SILENT, Fault.NO_CHOICE]
)
def test_a_wrong_answer_is_told_and_asked_for_again(fault: Fault, server: ChatServer) -> None:
    chat = chat_of(server)
    server.next(fault, fault)
    assert chat.answers([ask(chat)], read) == [2.0]
    again = server.seen[2].body["messages"]
    assert "wrong" in again[-1]["content"]
    roles = ["system", "user", "assistant", "user"]
    assert [message["role"] for message in again] == [role for role in roles if role != "assistant" or len(again) == 4]
    assert (len(again) == 4) == (fault not in (Fault.SILENT, Fault.NO_CHOICE))
    server.always(fault)
    with pytest.raises(NoGoodAnswerError, match=r"no good answer in 4 tries.*wrong"):
        chat.answers([ask(chat, 3.0)], read)


def test_what_is_no_completion_is_refused(server: ChatServer) -> None:
    chat = chat_of(server)
    server.next(Fault.NOT_JSON)
    with pytest.raises(UnavailableError, match=r"no chat completion.*welcome.*base_url"):
        chat.answers([ask(chat)], read)
    assert len(server.seen) == 1


def test_a_body_that_cannot_be_unpacked_is_asked_for_again(server: ChatServer) -> None:
    chat = chat_of(server, endpoint={"num_retries": 1})
    server.next(Fault.GARBLED)
    assert chat.answers([ask(chat)], read) == [2.0]
    server.always(Fault.GARBLED)
    with pytest.raises(UnavailableError, match=r"2 tries.*DecodingError"):
        chat.answers([ask(chat, 2.0)], read)


def test_a_server_that_takes_no_response_format_gets_none() -> None:
    with ChatServer(doubled, takes_format=False) as server:
        chat = chat_of(server)
        assert (chat.answers([ask(chat)], read), chat.answers([ask(chat, 2.0)], read)) == ([2.0], [4.0])
        assert ["response_format" in one.body for one in server.seen] == [True, False, False]
        other = Chat(chat.endpoint)
        assert ask(other) == ask(chat), "the same question, whatever the server takes"


def test_the_key_goes_into_the_header_and_nowhere_else(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "t.jsonl"
    chat = chat_of(server, endpoint={"api_key_env": "MY_KEY"}, transcript=path)
    with pytest.raises(ConfigError, match="MY_KEY is not set"):
        chat.answers([ask(chat)], read)
    monkeypatch.setenv("MY_KEY", SECRET)
    assert chat.answers([ask(chat)], read) == [2.0]
    assert server.seen[0].authorization == f"Bearer {SECRET}"
    server.next(Fault.KEY)
    with pytest.raises(UnavailableError, match=r"status 401.*who is Bearer \*\*\*") as refusal:
        chat.answers([ask(chat, 2.0)], read)
    server.next(Fault.KEY_ANSWERED)
    assert chat.answers([ask(chat, 3.0)], read) == [6.0]
    assert "Bearer ***" in path.read_text()
    for text in (str(refusal.value), path.read_text(), repr(chat.endpoint), caplog.text, str(vars(chat))):
        assert SECRET not in text
    monkeypatch.setenv("MY_KEY", "another-key")
    chat.answers([ask(chat, 2.0)], read)
    assert server.seen[-1].authorization == "Bearer another-key"


def test_the_endpoint_of_a_bundle_must_be_listed(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRECIOUS", SECRET)
    monkeypatch.setenv("MINE", "my-key")
    monkeypatch.delenv(HOSTS_VARIABLE, raising=False)
    chat = chat_of(server, endpoint={"api_key_env": "PRECIOUS"}, listed_only=True)
    with pytest.raises(BundleError, match=HOSTS_VARIABLE):
        chat.answers([ask(chat)], read)
    assert server.seen == []
    assert chat.spent.num_requests == 0
    monkeypatch.setenv(HOSTS_VARIABLE, f"{chat.endpoint.origin}=MINE")
    assert chat.answers([ask(chat)], read) == [2.0]
    assert [one.authorization for one in server.seen] == ["Bearer my-key"]


def test_a_transcript_says_how_often_a_model_had_to_try(server: ChatServer, tmp_path: Path) -> None:
    chat = chat_of(server, num_concurrent=1, transcript=tmp_path / "t.jsonl")
    server.next(Fault.WORDS, Fault.BROKEN, Fault.OUTSIDE)  # what the server breaks is no try of the model
    chat.answers([ask(chat, 1.0), ask(chat, 2.0)], read)
    assert [one.num_tries for one in exchanges(tmp_path / "t.jsonl")] == [3, 1]


def test_replaying_needs_no_client(server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_of(server, transcript=tmp_path / "t.jsonl")
    chat.answers([ask(chat)], read)
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "worldline.engines.language.http_client")
    again = chat_of(server, transcript=tmp_path / "t.jsonl")
    assert again.answers([ask(chat)], read) == [2.0]
    with pytest.raises(MissingExtraError, match=r"\[language\]"):
        again.answers([ask(chat, 3.0)], read)


def test_no_more_is_sent_than_was_allowed(server: ChatServer) -> None:
    chat = chat_of(server, max_requests=3)
    server.next(Fault.BROKEN)
    assert chat.answers([ask(chat, 1.0)], read) == [2.0]
    with pytest.raises(UnavailableError, match="max_requests is 3"):
        chat.answers([ask(chat, float(x)) for x in range(2, 12)], read)
    assert len(server.seen) == chat.spent.num_requests == 3
    assert chat.answers([ask(chat, 1.0)], read) == [2.0]


def test_threads_that_send_the_same_request_get_one_answer() -> None:
    count = iter(range(1000))

    def moody(history: Values, actions: Values, exogenous: Values) -> Values:
        return {"x": np.array([float(next(count))])}

    with ChatServer(moody) as server:
        chat = chat_of(server, num_concurrent=4)
        asked = [ask(chat, float(x)) for x in range(6)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: chat.answers(asked, read), range(8)))
        assert all(one == found[0] for one in found)


def test_what_an_answer_costs_is_measured(server: ChatServer) -> None:
    prices = {"price_per_million_input_tokens": 10.0, "price_per_million_output_tokens": 100.0, "currency": "EUR"}
    chat = chat_of(server, endpoint=prices)
    assert chat.measured() is None
    chat.answers([ask(chat)], read)
    chat.answers([ask(chat)], read)  # known, so nothing is paid
    found = chat.measured()
    assert found is not None
    assert found.latency_s > 0
    assert (found.price, found.currency) == (pytest.approx(0.003), "EUR")
    server.next(Fault.WORDS)  # paid for twice
    chat.answers([ask(chat, 2.0)], read)
    assert chat.measured().price == pytest.approx(0.0045)


PRICES = {"price_per_million_input_tokens": 100.0, "price_per_million_output_tokens": 500.0, "currency": "USD"}


def test_nothing_is_sent_beyond_what_it_may_cost_and_refused_answers_count(server: ChatServer) -> None:
    chat = chat_of(server, endpoint=PRICES, num_concurrent=1, max_price=0.05)  # 0.02 for an answer
    server.next(Fault.WORDS)
    assert (chat.answers([ask(chat, 1.0)], read), chat.spent.price) == ([2.0], pytest.approx(0.04))
    assert chat.answers([ask(chat, 2.0)], read) == [4.0]
    with pytest.raises(UnavailableError, match=r"max_price is 0\.05 USD, and 0\.06 USD were spent"):
        chat.answers([ask(chat, 3.0)], read)
    assert chat.answers([ask(chat, 1.0)], read) == [2.0]  # known answers still come
    spent = chat.spent
    assert (spent.num_requests, spent.input_tokens, spent.output_tokens, spent.num_uncounted) == (3, 300, 60, 0)
    assert len(server.seen) == 3


class Telling(ChatServer):
    """Tells its tokens in its own way."""

    usage: object = None

    def _reply(
        self, fault: Fault | None, body: dict[str, Any], authorization: str | None
    ) -> tuple[int, str, dict[str, str]]:
        status, text, headers = super()._reply(fault, body, authorization)
        return status, json.dumps({**json.loads(text), "usage": self.usage}), headers


@pytest.mark.parametrize("usage", [
    {},
    {"input_tokens": 900, "output_tokens": 9},
    {"prompt_tokens": 900},
    {"prompt_tokens": 9, "completion_tokens": None},
])  # fmt: skip
def test_tokens_that_are_told_in_another_way_are_not_told(usage: Mapping[str, Any], tmp_path: Path) -> None:
    with Telling(doubled) as server:
        server.usage = usage
        chat = chat_of(server, endpoint=PRICES, num_concurrent=1, max_price=1.0, transcript=tmp_path / "t.jsonl")
        assert chat.answers([ask(chat, 1.0)], read) == [2.0]
        with pytest.raises(UnavailableError, match="without token counts"):
            chat.answers([ask(chat, 2.0)], read)
        with pytest.raises(UnsupportedError, match="does not report token counts"):
            chat.measured()
        spent = chat.spent
        assert (spent.num_requests, spent.input_tokens, spent.output_tokens, spent.num_uncounted) == (1, 0, 0, 1)
        assert json.loads((tmp_path / "t.jsonl").read_text())["input_tokens"] is None


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.GARBLED, Fault.NOT_JSON])
def test_a_reply_that_is_lost_after_it_was_asked_for_may_have_cost_something(fault: Fault) -> None:
    with ChatServer(doubled) as server:
        chat = chat_of(server, endpoint={**PRICES, "num_retries": 0, "timeout_s": 0.05}, max_price=1.0)
        server.next(fault)
        with pytest.raises(UnavailableError):
            chat.answers([ask(chat)], read)
        assert chat.spent.num_uncounted == 1
        with pytest.raises(UnavailableError, match=r"1 replies .* lost"):
            chat.answers([ask(chat)], read)
        assert len(server.seen) == 1


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.BROKEN])
def test_what_a_server_refuses_costs_nothing(fault: Fault, server: ChatServer) -> None:
    chat = chat_of(server, endpoint=PRICES, max_price=1.0)
    server.next(fault)
    assert (chat.answers([ask(chat)], read), chat.spent.num_uncounted) == ([2.0], 0)


@pytest.mark.parametrize(("prices", "most"), [({}, 1.0), (PRICES, 0.0)])
def test_a_cost_needs_prices_and_has_to_be_positive(server: ChatServer, prices: Mapping[str, Any], most: float) -> None:
    with pytest.raises(ConfigError, match="max_price"):
        chat_of(server, endpoint=prices, max_price=most)
