from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from tests.cli import running

from worldline.errors import WorldlineError
from worldline.serve.callers import Caller, Scope
from worldline.serve.database import Database
from worldline.serve.tokens import Tokens


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORLDLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WORLDLINE_DATABASE", raising=False)
    return tmp_path / "home"


def run(*arguments: str | Path, code: int = 0) -> str:
    """What the command prints."""
    return running.run("token", *arguments, code=code, env={"COLUMNS": "200"}).output


def check(database: Path, token: str) -> Caller:
    with Database(database) as opened:
        return Tokens(opened).check(token)


def test_a_token_is_shown_once_and_works_until_it_is_revoked(home: Path, tmp_path: Path) -> None:
    assert "worldline token create NAME" in run("list")
    limits = ("--expires", "2h", "--rate", "50", "--quota", "100000")
    token, warning, following = run("create", "robot", "--scope", "infer", "--scope", "session", *limits).splitlines()
    assert "cannot be shown again" in warning
    assert following == "Next:   worldline token list"
    caller = check(home / "service.sqlite", token)
    assert (caller.scopes, caller.rate, caller.quota) == ({Scope.INFER, Scope.SESSION}, 50, 100_000)
    listed = run("list", "--json", tmp_path / "list.json") + (tmp_path / "list.json").read_text()
    assert token[20:] not in listed
    assert "hash" not in listed
    assert all(word in listed for word in ("robot", "infer, session", "100000", "revoke robot"))
    (record,) = json.loads((tmp_path / "list.json").read_text())["tokens"]
    assert (record["status"], record["scopes"]) == ("valid", ["infer", "session"])
    assert "refuse it within 5 s" in run("revoke", "robot")
    assert "revoked" in run("list")
    with pytest.raises(WorldlineError, match="no valid token"):
        check(home / "service.sqlite", token)


def test_a_database_is_chosen_and_the_file_of_a_token_is_private(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = tmp_path / "token.json"
    figures.write_text("old")
    token = run("create", "a", "--scope", "read", "--database", tmp_path / "one", "--json", figures).splitlines()[0]
    assert json.loads(figures.read_text()) == {"name": "a", "token": token}
    assert stat.S_IMODE(figures.stat().st_mode) == 0o600
    monkeypatch.setenv("WORLDLINE_DATABASE", f"sqlite:///{tmp_path / 'two'}")
    token = run("create", "b", "--scope", "read").splitlines()[0]
    assert check(tmp_path / "two", token).name == "b"
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "a", "--scope", "read", "--expires", "5 years"), "--expires is '5 years'"),
        (("create", "a b", "--scope", "read"), "not allowed as token name"),
        (("revoke", "nobody"), "no token is called 'nobody'"),
        (("list", "--database", "mysql://u:secret@h/d"), "Give the path of a file"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    shown = run(*arguments, code=1)
    assert shown.startswith("worldline: ")
    assert len(shown.splitlines()) == 1
    assert message in shown
    assert "secret" not in shown
