"""Databases for tests: copied from a template, their connections cut, dropped."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql


@contextmanager
def copied(server: str, template: str) -> Iterator[str]:
    """The URL of a copy of ``template`` on the server at URL ``server``; dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    url = create(server, name, template)
    try:
        yield url
    finally:
        with psycopg.connect(server, autocommit=True) as conn:
            drop(conn, name)


def create(server: str, name: str, template: str = "template1") -> str:
    """A copy of a database, to which nobody may be connected; returns its URL."""
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    return server.rpartition("/")[0] + "/" + name


def cut(conn: psycopg.Connection, name: str) -> None:
    """Ends every client's connection to a database, as an administrator does.

    What PostgreSQL does there by itself belongs to a superuser, and may not be ended.
    """
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
        [name],
    )


def drop(conn: psycopg.Connection, name: str) -> None:
    """Drops a database whoever is connected to it; ``conn`` is in autocommit.

    Not WITH (FORCE), which is refused to its owner while it is vacuumed automatically. Without,
    PostgreSQL ends the vacuum itself, and waits some seconds for sessions that are ending.
    """
    database = sql.Identifier(name)
    conn.execute(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(database))
    cut(conn, name)
    conn.execute(sql.SQL("DROP DATABASE {}").format(database))
