"""Large observations of sessions in a table of their own, which forks share; signals of a session."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Observations so far stay where they are."""
    op.create_table(
        "session_blobs",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("token_id", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_session_blobs"),
    )
    op.create_index("ix_session_blobs_token_id", "session_blobs", ["token_id"])
    op.add_column("session_steps", sa.Column("blob", sa.Text))
    op.create_index("ix_session_steps_blob", "session_steps", ["blob"])
    op.add_column("sessions", sa.Column("signals", sa.JSON(none_as_null=True)))
