"""`worldline token create`, `list` and `revoke`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worldline.cli.options import Json, with_help
from worldline.cli.output import print_next, print_table, write_json
from worldline.errors import InputError
from worldline.serve.callers import Scope

if TYPE_CHECKING:
    from worldline.serve.database import Database
    from worldline.serve.tokens import TokenRecord, Tokens

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

token = typer.Typer(help="Create, list and revoke the tokens of a service.", no_args_is_help=True)

Where = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="Database of the service: a file or postgresql://USER@HOST/NAME. WORLDLINE_DATABASE sets it too.",
        show_default="service.sqlite in the folder of published worlds",
    ),
]


@token.command()
@with_help
def create(
    name: str,
    scope: Annotated[list[Scope], typer.Option()],
    expires: Annotated[str | None, typer.Option(metavar="TIME")] = None,
    rate: float | None = None,
    quota: int | None = None,
    database: Where = None,
    json: Json = None,
) -> None:
    """Create a token. It is printed once.

    Args:
        name: name of the token, such as the application that uses it.
        scope: what it allows; repeat the option for more.
        expires: time until it expires, such as 30d. Default: never.
        rate: calls per second. Default: no limit.
        quota: calls per day (UTC). Default: no limit.
    """
    expires_s = None if expires is None else _seconds(expires)
    with opened_tokens(database) as (tokens, _):
        text = tokens.create(name, scope, expires_s=expires_s, rate=rate, quota=quota)
    print(text)
    print("Store it now: it cannot be shown again.")
    if json is not None:
        json.touch(mode=0o600)
        json.chmod(0o600)  # the file may exist
    write_json(json, {"name": name, "token": text})
    print_next("token", "list")


@token.command("list")
def list_tokens(database: Where = None, json: Json = None) -> None:
    """List the tokens, without their secrets."""
    with opened_tokens(database) as (tokens, _):
        records = tokens.list()
    figures = [_figures(record) for record in records]
    names = ("name", "status", "scopes", "rate", "quota", "created", "expires", "last_used")
    rows = [[", ".join(row[name]) if name == "scopes" else row[name] for name in names] for row in figures]
    head = ("name", "status", "scopes", "calls/s", "calls/day", "created", "expires", "last used")
    print_table("Tokens", head, rows)
    write_json(json, {"tokens": figures})
    if valid := [record.name for record in records if record.is_valid(time.time())]:
        print_next("token", "revoke", valid[-1])
    else:
        print_next("token", "create", "NAME", "--scope", "infer")


@token.command()
@with_help
def revoke(name: str, database: Where = None, json: Json = None) -> None:
    """Revoke a token. Services refuse it within 5 seconds.

    Args:
        name: name of the token.
    """
    with opened_tokens(database) as (tokens, _):
        tokens.revoke(name)
    print(f"{name}: revoked; services refuse it within 5 s")
    write_json(json, {"name": name, "status": "revoked"})
    print_next("token", "list")


@contextmanager
def opened_tokens(database: str | None) -> Iterator[tuple[Tokens, Database]]:
    """The tokens in a database, and the database; without a URL, that of the catalog."""
    from worldline.serve.database import Database, default_url
    from worldline.serve.tokens import Tokens

    with Database(database or default_url()) as opened:
        yield Tokens(opened), opened


def _seconds(text: str) -> float:
    parts = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if parts is None:
        raise InputError(f"--expires is {text!r}. Give a number with a unit: s, m, h or d, such as 30d.")
    return int(parts[1]) * _SECONDS[parts[2]]


def _figures(record: TokenRecord) -> dict[str, Any]:
    """The fields of a token, with its status, and with times as text (UTC)."""
    figures = {**asdict(record), "scopes": sorted(record.scopes)}
    for name in ("created", "expires", "revoked", "last_used"):
        at = figures[name]
        figures[name] = None if at is None else datetime.fromtimestamp(at, UTC).isoformat(" ", "minutes")
    valid = "valid" if record.is_valid(time.time()) else "expired"
    return {**figures, "status": valid if record.revoked is None else "revoked"}
