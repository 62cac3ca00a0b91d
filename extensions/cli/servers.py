"""Asking the servers before importing what takes seconds."""


def answering_postgres(table: str | None = None) -> str:
    """PostgreSQL's URL, after a connection to it was made and closed.

    Who mistyped an address, or has not migrated yet, is told so before Feast is imported.

    Raises:
        SkewlessError: there is no address, or it does not answer.
        psycopg.errors.UndefinedTable: it lacks ``table``.
    """
    from psycopg import sql

    from extensions.addresses import postgres_url
    from extensions.database import connect

    url = postgres_url()
    with connect(url) as conn:
        if table is not None:
            conn.execute(sql.SQL("SELECT FROM {} LIMIT 0").format(sql.Identifier(table)))
    return url
