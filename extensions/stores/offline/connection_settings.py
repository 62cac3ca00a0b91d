"""The offline store's PostgreSQL: its URL, and connections for Feast's own code.

Feast's sources connect by themselves to look at a table's columns. Their settings are fewer than
libpq's, and a schema that must be quoted is not quoted there. So this module puts a function of
ours in that place, which is for stores of ours only.
"""

from typing import Any

import psycopg
from feast import RepoConfig
from feast.infra.offline_stores.contrib.postgres_offline_store import postgres_source
from psycopg import sql

from extensions.addresses import postgres_url_of
from extensions.database import connect


def url_of(config: RepoConfig) -> str:
    """The offline store's PostgreSQL as a URL that libpq reads."""
    return postgres_url_of(config.offline_store.model_dump())


def use_own_connections() -> None:
    """Let Feast's PostgreSQL sources look at their tables through our connections."""
    feasts = postgres_source._get_conn  # type: ignore[attr-defined] # noqa: SLF001
    if getattr(feasts, "ours", False):
        return

    def open_connection(config: Any) -> psycopg.Connection:
        if not hasattr(config, "parameters"):
            return feasts(config)
        conn = connect(postgres_url_of(config.model_dump()), name="skewless definitions")
        if config.db_schema != "public":
            conn.execute(
                sql.SQL("SET search_path = {}, public").format(sql.Identifier(config.db_schema))
            )
        return conn

    open_connection.ours = True  # type: ignore[attr-defined]
    postgres_source._get_conn = open_connection  # type: ignore[attr-defined] # noqa: SLF001
