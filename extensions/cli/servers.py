"""Asking the servers before importing what takes seconds."""

from extensions.errors import SkewlessError


def answering_postgres(table: str | None = None) -> str:
    """PostgreSQL's URL, after a connection to it was made and closed.

    Who mistyped an address, or has not migrated yet, is told so before Feast is imported.

    Raises:
        SkewlessError: there is no address, it does not answer, or it lacks ``table``.
    """
    from extensions.addresses import postgres_url
    from extensions.database import connect
    from extensions.database.connection import table_exists

    url = postgres_url()
    with connect(url) as conn:
        if table is not None and not table_exists(conn, table):
            raise SkewlessError(f"The table {table} is not there: run `skewless migrate` first.")
    return url
