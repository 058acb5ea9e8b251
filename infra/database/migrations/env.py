"""What alembic runs: always on the connection that `infra.database.engine.migrate` holds its lock with."""

from __future__ import annotations

from alembic import context

from infra.database.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError(
        "migrations run through `hookline migrate`, which holds a lock; not through alembic's own command"
    )
context.configure(connection=connection, target_metadata=metadata, compare_type=True, compare_server_default=True)
with context.begin_transaction():
    context.run_migrations()
