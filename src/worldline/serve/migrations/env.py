"""Run by Alembic for every command; `worldline.serve.database` passes the connection."""

from alembic import context

from worldline.serve.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
