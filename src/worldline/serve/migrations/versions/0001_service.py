"""The tables of the first service, which a new database gets at once; see `worldline.serve.database`."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Changes nothing."""
