"""History tables of a test's own: their SQL, and the declaration that a repository would have."""

from types import SimpleNamespace

import psycopg
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from extensions.sources import HistoryTable, load_sources
from extensions.sources.storage import ensure_id_tables


def declare(url: str, ddl: str, *, time: str, arrival: str = "", **tags: str) -> HistoryTable:
    """Makes the table that ``ddl`` creates, and returns its declaration."""
    name = ddl.split()[2]
    source = PostgreSQLSource(
        name=name, table=name, timestamp_field=time, created_timestamp_column=arrival, tags=tags
    )
    with psycopg.connect(url) as conn:
        conn.execute(ddl)
        table = load_sources(SimpleNamespace(data_sources=[source]), conn, "test").tables[name]
        ensure_id_tables(conn, [table])
        return table
