"""The columns of a constraint that refused a row: PostgreSQL names the constraint only."""

from collections.abc import Sequence

from adbc_driver_manager import Error as AdbcError
from feast import RepoConfig
from psycopg import sql

from extensions.stores.offline.arrow.adbc_session import arrow_session

# The class of SQLSTATE for violated constraints.
_VIOLATION = "23"

# Columns of a table's own constraint, and of types made of a domain that has one.
_COLUMNS = sql.SQL(
    """
WITH RECURSIVE made_of AS (
    SELECT c.contypid AS type FROM pg_constraint AS c
    WHERE c.conname = {name} AND c.contypid = to_regtype({domain})
    UNION
    SELECT t.oid FROM pg_type AS t INNER JOIN made_of AS m ON m.type IN (t.typbasetype, t.typelem)
)
SELECT a.attrelid::regclass || '.' || quote_ident(a.attname) AS name
FROM pg_attribute AS a
WHERE NOT a.attisdropped AND a.attnum > 0 AND (
    a.attrelid = ANY(ARRAY[{logs}]::regclass[]) AND a.atttypid IN (SELECT type FROM made_of)
    OR EXISTS (
        SELECT FROM pg_constraint AS c WHERE c.conname = {name}
        AND c.conrelid = to_regclass({table}) AND c.conrelid = a.attrelid
        AND a.attnum = ANY(c.conkey)
    )
)
ORDER BY a.attrelid, a.attnum
"""
)


def constrained_columns(
    config: RepoConfig, error: BaseException | None, logs: Sequence[str]
) -> str | None:
    """The columns that a violated constraint is about, as ``table.column``.

    Args:
        config: The repository's configuration, for the connection.
        error: What the driver raised.
        logs: The tables that were written to; the columns of a domain are looked for in them.

    Returns:
        None where the error is of another kind, or the constraint has no columns.
    """
    if not isinstance(error, AdbcError) or not str(error.sqlstate or "").startswith(_VIOLATION):
        return None
    about = {key: value.decode() for key, value in _details(error)}
    if "PG_DIAG_CONSTRAINT_NAME" not in about:
        return None

    def qualified(part: str) -> sql.Literal:
        names = [about.get(f"PG_DIAG_{each}", "") for each in ("SCHEMA_NAME", part)]
        return sql.Literal(sql.Identifier(*names).as_string(None) if all(names) else None)

    query = _COLUMNS.format(
        name=sql.Literal(about["PG_DIAG_CONSTRAINT_NAME"]),
        table=qualified("TABLE_NAME"),
        domain=qualified("DATATYPE_NAME"),
        logs=sql.SQL(", ").join(map(sql.Literal, logs)),
    )
    with arrow_session(config, "looking up a constraint") as session:
        columns = session.table(query)["name"].to_pylist()
    return ", ".join(columns) or None


def _details(error: AdbcError) -> list[tuple[str, bytes]]:
    return [
        (key.decode() if isinstance(key, bytes) else key, value) for key, value in error.details
    ]
