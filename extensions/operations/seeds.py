"""Seeds: small reference tables that stand as files beside the definitions.

``feature_repo/seeds/<source>.json`` (a list of objects) or ``.csv`` (with a header) holds the rows
of a history source. A key's first row is valid since ever, so that values can be computed from
history older than this store; a changed one is valid from now on, so that past values stay the
same. A row that leaves the file stays in the table.
"""

import csv
import json
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from extensions.database.connection import identifiers
from extensions.database.event_ingest import take_ingest_lock
from extensions.errors import DefinitionError
from extensions.sources import HistoryTable, Sources
from extensions.suggestions import did_you_mean

# By key, the row of the file where it differs from the newest one of the table.
_CHANGED = """
INSERT INTO {table} ({columns}, {times})
SELECT {d_columns}, {stamps}
FROM jsonb_populate_recordset(NULL::{table}, %(rows)s) AS d
LEFT JOIN LATERAL (
    SELECT TRUE AS is_known, {k_columns} FROM {table} AS k
    WHERE ({k_keys}) = ({d_keys}) ORDER BY {order} LIMIT 1
) AS k ON TRUE
WHERE ({d_columns}) IS DISTINCT FROM ({k_columns})
"""
_STAMP = sql.SQL(
    "CASE WHEN k.is_known THEN clock_timestamp() ELSE timestamptz '1970-01-01 00:00:00+00' END"
)


def record_seeds(conn: psycopg.Connection, folder: Path, sources: Sources) -> int:
    """Append the rows of all seeds that are new or changed; returns how many.

    Raises:
        DefinitionError: a file belongs to no history source, cannot be read, or the table refuses
            a row of it.
    """
    recorded = 0
    files = sorted([*folder.glob("*.json"), *folder.glob("*.csv")]) if folder.is_dir() else []
    for path in files:
        table = sources.tables.get(path.stem)
        if table is None:
            raise DefinitionError(
                f"The seed {path.name} belongs to no history source; declared are "
                f"{', '.join(sorted(sources.tables))}.{did_you_mean(path.stem, sources.tables)}"
            )
        recorded += _record(conn, path, table)
    return recorded


def _record(conn: psycopg.Connection, path: Path, table: HistoryTable) -> int:
    rows = _rows(path)
    if not rows:
        return 0
    times = list(dict.fromkeys([table.time, table.arrival]))
    columns = [name for name in rows[0] if name not in times]
    for name in columns:
        if name not in table.by_name:
            raise DefinitionError(
                f"The seed {path.name} has {name}, which is no column of {table.table}."
                f"{did_you_mean(name, table.by_name)}"
            )
    query = sql.SQL(_CHANGED).format(
        table=sql.Identifier(table.table),
        columns=identifiers(columns),
        times=identifiers(times),
        stamps=sql.SQL(", ").join([_STAMP] * len(times)),
        d_columns=identifiers(columns, "d"),
        k_columns=identifiers(columns, "k"),
        d_keys=identifiers(table.keys, "d"),
        k_keys=identifiers(table.keys, "k"),
        order=sql.SQL(", ").join(
            sql.SQL("k.{} DESC").format(sql.Identifier(name)) for name in reversed(times)
        ),
    )
    try:
        with conn.transaction():
            take_ingest_lock(conn, table.table)
            return max(conn.execute(query, {"rows": Jsonb(rows)}).rowcount, 0)
    except (psycopg.IntegrityError, psycopg.DataError) as error:
        told = str(error).splitlines()[0]
        raise DefinitionError(
            f"The seed {path.name} has a row that {table.table} refuses: {told}"
        ) from error


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a seed; each has the first one's columns."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows: Any = list(csv.DictReader(file)) if path.suffix == ".csv" else json.load(file)
    except ValueError as error:
        raise DefinitionError(f"The seed {path.name} cannot be read: {error}.") from error
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise DefinitionError(f"The seed {path.name} must be a list of rows, each an object.")
    for number, row in enumerate(rows, start=1):
        if row.keys() != rows[0].keys() or None in row:
            raise DefinitionError(
                f"Row {number} of the seed {path.name} has other columns than the first one."
            )
    return rows
