"""The number of claims of a job, which keeps out processes that lost it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Jobs so far were not claimed."""
    op.add_column("jobs", sa.Column("fence", sa.Integer, nullable=False, server_default="0"))
