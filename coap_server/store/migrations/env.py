"""Alembic's entry: runs the revisions on the connection that the server hands over. There is no offline mode."""

from alembic import context

from coap_server.store.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter a table in place: Alembic copies it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
