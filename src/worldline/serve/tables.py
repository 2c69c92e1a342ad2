"""The tables of the service. Times are seconds since 1970 (UTC); ids are texts.

A change of a table needs a new revision in `migrations/versions`. New databases get the tables as they are here.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

metadata: Final = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)
"""All tables; names of constraints are the same in every database."""

_JSON = sa.JSON(none_as_null=True)

tokens: Final = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("scopes", _JSON, nullable=False),
    sa.Column("rate", sa.Double),
    sa.Column("quota", sa.BigInteger),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double),
    sa.Column("revoked", sa.Double),
    sa.Column("last_used", sa.Double),
)
"""Tokens of callers; `hash` is the SHA-256 of the token in hexadecimal digits."""

worlds: Final = sa.Table(
    "worlds",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("added", sa.Double, nullable=False),
    sa.Column("added_by", sa.Text, nullable=False),
)
"""Worlds that an administrator added; `reference` is of the catalog."""

sessions: Final = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("token_id", sa.Text, nullable=False, index=True),
    sa.Column("world", sa.Text, nullable=False),
    sa.Column("version", sa.Integer),
    sa.Column("settings", _JSON, nullable=False),
    sa.Column("state", _JSON, nullable=False),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double, nullable=False, index=True),
    sa.Column("signals", _JSON),
)
"""Open sessions; `step` counts the observations, `signals` is the schema of the world at the last one."""

session_steps: Final = sa.Table(
    "session_steps",
    metadata,
    sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("blob", sa.Text, index=True),
)
"""The steps that a session keeps, from which it is built again after a restart. A large one is in `session_blobs`."""

session_blobs: Final = sa.Table(
    "session_blobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("token_id", sa.Text, nullable=False, index=True),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
"""Large steps, which a session shares with its forks. The last session that keeps one deletes it."""

jobs: Final = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("token_id", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("arguments", _JSON, nullable=False),
    sa.Column("status", sa.Text, nullable=False, index=True),
    sa.Column("progress", _JSON),
    sa.Column("result", _JSON),
    sa.Column("error", _JSON),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("started", sa.Double),
    sa.Column("finished", sa.Double),
    sa.Column("owner", sa.Text),
    sa.Column("heartbeat", sa.Double),
    sa.Column("cancel", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
)
"""Jobs. `status` is queued, running, done, failed or cancelled; `owner` is the process that runs it, and `fence` counts
its claims."""

usage: Final = sa.Table(
    "usage",
    metadata,
    sa.Column("token_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("world", sa.Text, primary_key=True),
    sa.Column("verb", sa.Text, primary_key=True),
    sa.Column("calls", sa.BigInteger, nullable=False),
    sa.Column("errors", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("steps", sa.BigInteger, nullable=False),
)
"""Calls per token, day (UTC, such as 2026-01-31), world and verb."""
