from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldline.errors import InputError, UnknownNameError
from worldline.serve.callers import Caller, Scope, UnauthorizedError
from worldline.serve.database import Database
from worldline.serve.tokens import Tokens

UNKNOWN = f"wl_{'0' * 16}_{secrets.token_urlsafe(32)}"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with Database(tmp_path_factory.mktemp("tokens") / "service.sqlite") as opened:
        yield opened


def refusal(checked: Tokens, token: str) -> str:
    with pytest.raises(UnauthorizedError) as refused:
        checked.check(token)
    return str(refused.value)


def test_a_token_gives_its_caller_in_every_process(database: Database) -> None:
    token = Tokens(database).create("robot", [Scope.INFER, Scope.SESSION], rate=2.5, quota=10**12)
    record = Tokens(database).list()[0]
    assert re.fullmatch(r"wl_[0-9a-f]{16}_[A-Za-z0-9_-]{43}", token)
    assert Tokens(database).check(token) == Caller(
        id=record.id, name="robot", scopes=frozenset({Scope.INFER, Scope.SESSION}), rate=2.5, quota=10**12
    )


def test_the_file_does_not_hold_the_secret(tmp_path: Path) -> None:
    with Database(tmp_path / "service.sqlite") as database:
        token = Tokens(database).create("robot", [Scope.READ])
        held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert token[:19].removeprefix("wl_").encode() in held
    assert token[20:].encode() not in held


def test_all_refusals_have_one_message(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Tokens(database)
    valid, short, revoked = (
        made.create(name, [Scope.READ], expires_s=seconds)
        for name, seconds in (("valid", None), ("short", 5.0), ("revoked", None))
    )
    for token in (valid, short, revoked):
        made.check(token)
    made.revoke("revoked")
    changed = valid[:-1] + ("A" if valid[-1] != "A" else "B")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6)  # the token that expires is in memory
    sent = (UNKNOWN, changed, valid[:-1], valid + "\n", "", "wl__", short, revoked, valid.upper())
    assert len({refusal(made, token) for token in sent}) == 1
    assert made.check(valid).name == "valid"
    assert not any(token in refusal(made, token) for token in sent if token)


@given(st.one_of(st.text(), st.from_regex(r"wl_[0-9a-f]{16}_[A-Za-z0-9_-]{43}\n?"), st.just("\udcff")))
def test_texts_that_are_no_tokens_are_refused(file: Database, text: str) -> None:
    assert refusal(Tokens(file), text) == str(UnauthorizedError())


def test_a_revocation_by_another_process_takes_effect(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = Tokens(database), Tokens(database)
    token = elsewhere.create("robot", [Scope.READ])
    here.check(token)
    elsewhere.revoke("robot")
    now, read = time.monotonic(), database.read
    refusal(elsewhere, token)
    reads = list[object]()
    monkeypatch.setattr(Database, "read", lambda _, function: (reads.append(function), read(function))[1])
    assert here.check(token).name == "robot"  # from memory
    assert reads == []
    monkeypatch.setattr(time, "monotonic", lambda: now + 5)
    refusal(here, token)
    with pytest.raises(UnknownNameError, match="Did you mean 'robot'"):
        here.revoke("robots")


def test_whether_there_is_a_token(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    here, elsewhere = Tokens(database), Tokens(database)
    now = time.monotonic()
    assert not here.any()
    assert not elsewhere.any()
    elsewhere.create("old", [Scope.READ], expires_s=1e-6)
    assert elsewhere.any()
    monkeypatch.setattr(time, "monotonic", lambda: now + 6)
    assert here.any()


def test_the_last_use_is_written_once_a_minute(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    checked, now = Tokens(database), time.time()
    monkeypatch.setattr(Database, "write_later", Database.write)

    def used(at: float) -> float | None:
        monkeypatch.setattr(time, "time", lambda: at)
        checked.check(token)
        return checked.list()[0].last_used

    token = checked.create("robot", [Scope.READ])
    assert checked.list()[0].last_used is None
    assert [used(now + after) for after in (1, 59, 62)] == [now + 1, now + 1, now + 62]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "a b"}, "token name"),
        ({"name": ""}, "token name"),
        ({"name": "taken"}, "such as taken-2"),
        ({"scopes": []}, "scopes is none"),
        ({"expires_s": 0}, "expires_s is 0"),
        ({"expires_s": 1e12}, "100 years"),
        ({"rate": 0}, "rate is 0"),
        ({"rate": math.nan}, "rate is nan"),
        ({"quota": -1}, "quota is -1"),
        ({"quota": 2**63}, "from 0 to"),
    ],
)
def test_wrong_arguments(file: Database, wrong: dict[str, Any], message: str) -> None:
    made = Tokens(file)
    if not any(one.name == "taken" for one in made.list()):
        made.create("taken", [Scope.READ])
    number = len(made.list())
    with pytest.raises(InputError, match=message):
        made.create(**{"name": "new", "scopes": [Scope.READ], **wrong})
    assert len(made.list()) == number
