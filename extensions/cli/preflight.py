"""Preflight check: does PostgreSQL answer? Made before Feast is imported, which takes seconds."""


def answering_postgres(table: str | None = None) -> str:
    """Connect to PostgreSQL once and return its URL.

    A wrong address, or a database without tables, is so reported before Feast is imported.

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
