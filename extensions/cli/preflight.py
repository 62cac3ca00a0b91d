"""Preflight checks before Feast is imported, which takes seconds: PostgreSQL, and the port."""

from extensions.cli.console import err
from extensions.errors import SkewlessError


def refuse_foreign_database() -> None:
    """End a command whose database another project has claimed, whatever it would do there.

    A PostgreSQL that has no address or does not answer is passed over: not all commands need it.

    Raises:
        ConflictError: another project's.
    """
    from extensions.addresses import postgres_url, project_name
    from extensions.database import connect
    from extensions.database.project_claim import check_project

    try:
        conn = connect(postgres_url())
    except SkewlessError:
        return
    with conn:
        check_project(conn, project_name() or "")


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


def warn_of_blocked(port: int) -> None:
    """Say that no browser will open a port of the Fetch standard's list."""
    from extensions.local.ports import BLOCKED_BY_BROWSERS

    if port in BLOCKED_BY_BROWSERS:
        err.print(
            f"Port {port} is on the list of ports that browsers refuse (the Fetch standard's "
            f"port blocking): programs reach it, but no browser opens /docs there.",
            markup=False, soft_wrap=True,
        )  # fmt: skip
