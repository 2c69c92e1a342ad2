"""Worlds are named when the service starts, so none are added while it runs."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Forgets the added worlds; their bundles stay in the catalog."""
    op.drop_table("worlds")
