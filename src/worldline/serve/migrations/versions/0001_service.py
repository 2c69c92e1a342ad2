"""The tables of the first service."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _columns(kind: Any, *names: str, **options: Any) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind, **{"nullable": False, **options}) for name in names]


def upgrade() -> None:
    """Creates all tables."""
    op.create_table(
        "tokens",
        *_columns(sa.Text, "id", primary_key=True),
        *_columns(sa.Text, "name", unique=True),
        *_columns(sa.Text, "hash"),
        *_columns(sa.JSON, "scopes"),
        *_columns(sa.Double, "rate", nullable=True),
        *_columns(sa.BigInteger, "quota", nullable=True),
        *_columns(sa.Double, "created"),
        *_columns(sa.Double, "expires", "revoked", "last_used", nullable=True),
    )
    op.create_table(
        "worlds",
        *_columns(sa.Text, "name", primary_key=True),
        *_columns(sa.Text, "reference"),
        *_columns(sa.Double, "added"),
        *_columns(sa.Text, "added_by"),
    )
    op.create_table(
        "sessions",
        *_columns(sa.Text, "id", primary_key=True),
        *_columns(sa.Text, "token_id", index=True),
        *_columns(sa.Text, "world"),
        *_columns(sa.Integer, "version", nullable=True),
        *_columns(sa.JSON, "settings", "state"),
        *_columns(sa.Integer, "step"),
        *_columns(sa.Double, "created"),
        *_columns(sa.Double, "expires", index=True),
    )
    op.create_table(
        "session_steps",
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        *_columns(sa.Integer, "step", primary_key=True, autoincrement=False),
        *_columns(sa.LargeBinary, "body"),
    )
    _create_jobs_and_calls()


def _create_jobs_and_calls() -> None:
    op.create_table(
        "jobs",
        *_columns(sa.Text, "id", primary_key=True),
        *_columns(sa.Text, "token_id", index=True),
        *_columns(sa.Text, "kind"),
        *_columns(sa.JSON, "arguments"),
        *_columns(sa.Text, "status", index=True),
        *_columns(sa.JSON, "progress", "result", "error", nullable=True),
        *_columns(sa.Double, "created"),
        *_columns(sa.Double, "started", "finished", nullable=True),
        *_columns(sa.Text, "owner", nullable=True),
        *_columns(sa.Double, "heartbeat", nullable=True),
        *_columns(sa.Boolean, "cancel"),
        *_columns(sa.Integer, "attempts"),
    )
    op.create_table(
        "usage",
        *_columns(sa.Text, "token_id", "day", "world", "verb", primary_key=True),
        *_columns(sa.BigInteger, "calls", "errors"),
        *_columns(sa.Double, "seconds"),
        *_columns(sa.BigInteger, "steps"),
    )
    op.create_table(
        "calls",
        *_columns(sa.BigInteger().with_variant(sa.Integer, "sqlite"), "id", primary_key=True, autoincrement=True),
        *_columns(sa.Double, "time", index=True),
        *_columns(sa.Text, "request_id", "token_id", "world"),
        *_columns(sa.Integer, "version", nullable=True),
        *_columns(sa.Text, "verb"),
        *_columns(sa.Integer, "status"),
        *_columns(sa.Double, "duration_ms"),
    )
