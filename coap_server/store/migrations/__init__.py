"""Alembic revisions of the database, run by `coap_server.store.schema.upgrade` when a database is opened."""

from typing import Final

HEAD: Final = "0001"
"""The newest revision; a test holds it against the files in ``versions``."""
