"""The offline store's PostgreSQL: its URL, and connections for Feast's own code.

Feast's sources connect by themselves to look at a table's columns. Their settings are fewer than
libpq's, and a schema that must be quoted is not quoted there. So this module puts a function of
ours in that place, which is for stores of ours only.
"""

from typing import Any

import psycopg
from feast import RepoConfig
from psycopg import sql

from extensions.addresses import postgres_url_of
from extensions.database import connect
from extensions.feast_internals import replace_source_connection, source_connection


def url_of(config: RepoConfig) -> str:
    """The offline store's PostgreSQL as a URL that libpq reads."""
    return postgres_url_of(config.offline_store.model_dump())


def use_own_connections() -> None:
    """Let Feast's PostgreSQL sources look at their tables through our connections."""
    feasts = source_connection()
    if getattr(feasts, "ours", False):
        return

    def open_connection(config: Any) -> psycopg.Connection:
        if not hasattr(config, "parameters"):
            theirs: psycopg.Connection = feasts(config)
            return theirs
        conn = connect(postgres_url_of(config.model_dump()), name="skewless definitions")
        if config.db_schema != "public":
            conn.execute(
                sql.SQL("SET search_path = {}, public").format(sql.Identifier(config.db_schema))
            )
        return conn

    open_connection.ours = True  # type: ignore[attr-defined]
    replace_source_connection(open_connection)
