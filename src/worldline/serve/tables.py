"""The tables of the service. Times are seconds since 1970 (UTC); ids are texts.

A change of a table needs a new revision in `migrations/versions`.
"""

from __future__ import annotations

from typing import Final

from worldline.errors import MissingExtraError

try:
    from sqlalchemy import (
        JSON,
        BigInteger,
        Boolean,
        Column,
        Double,
        ForeignKey,
        Integer,
        LargeBinary,
        MetaData,
        Table,
        Text,
    )
except ModuleNotFoundError as error:
    raise MissingExtraError(str(error.name), "serve") from error

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)
"""All tables; names of constraints are the same in every database."""

_JSON = JSON(none_as_null=True)

tokens: Final = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("hash", Text, nullable=False),
    Column("scopes", _JSON, nullable=False),
    Column("rate", Double),
    Column("quota", BigInteger),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
    Column("last_used", Double),
)
"""Tokens of callers; `hash` is the SHA-256 of the token in hexadecimal digits."""

worlds: Final = Table(
    "worlds",
    metadata,
    Column("name", Text, primary_key=True),
    Column("reference", Text, nullable=False),
    Column("added", Double, nullable=False),
    Column("added_by", Text, nullable=False),
)
"""Worlds that an administrator added; `reference` is of the catalog."""

sessions: Final = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("token_id", Text, nullable=False, index=True),
    Column("world", Text, nullable=False),
    Column("version", Integer),
    Column("settings", _JSON, nullable=False),
    Column("state", _JSON, nullable=False),
    Column("step", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("used", Double, nullable=False),
    Column("expires", Double, nullable=False, index=True),
)
"""Open sessions; `step` counts the observations."""

session_steps: Final = Table(
    "session_steps",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)
"""The steps that a session keeps, from which it is built again after a restart."""

jobs: Final = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("token_id", Text, nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("arguments", _JSON, nullable=False),
    Column("status", Text, nullable=False, index=True),
    Column("progress", _JSON),
    Column("result", _JSON),
    Column("error", _JSON),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("finished", Double),
    Column("owner", Text),
    Column("heartbeat", Double),
    Column("cancel", Boolean, nullable=False),
)
"""Jobs. `status` is queued, running, done, failed or cancelled; `owner` is the process that runs it."""

usage: Final = Table(
    "usage",
    metadata,
    Column("token_id", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("world", Text, primary_key=True),
    Column("verb", Text, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("steps", BigInteger, nullable=False),
)
"""Calls per token, day (UTC, such as 2026-01-31), world and verb."""

calls: Final = Table(
    "calls",
    metadata,
    # SQLite numbers rows only in a column of the type INTEGER.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("time", Double, nullable=False, index=True),
    Column("request_id", Text, nullable=False),
    Column("token_id", Text, nullable=False),
    Column("world", Text, nullable=False),
    Column("version", Integer),
    Column("verb", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("duration_ms", Double, nullable=False),
)
"""The sampled log of calls."""
