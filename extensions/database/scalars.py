"""Queries that always return one row."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql


def one_row(
    conn: psycopg.Connection,
    query: str | sql.Composable,
    params: Sequence[Any] | Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """The first row of a query that cannot return none: an aggregate, a scalar, RETURNING."""
    row = conn.execute(query, params).fetchone()  # type: ignore[arg-type]  # a text of the caller's
    assert row is not None
    return tuple(row)


def scalar(
    conn: psycopg.Connection,
    query: str | sql.Composable,
    params: Sequence[Any] | Mapping[str, Any] | None = None,
) -> Any:
    """The first value of `one_row`."""
    return one_row(conn, query, params)[0]


def clock(conn: psycopg.Connection) -> datetime:
    """The database's clock, which all stored times are told by; not the transaction's beginning."""
    at: datetime = scalar(conn, "SELECT clock_timestamp()")
    return at
