"""An entity's rows in a log, the newest first: those that a label of a time could be joined to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.engines.postgresql import fetched
from extensions.explain.report import LoggedRow

_MICROSECONDS = pa.timestamp("us", "UTC")


@dataclass(frozen=True)
class Log:
    """Where a view's rows are: columns by what they are called in the view.

    ``relation``: a table's quoted name, or a query in brackets. ``created``: None where rows do
    not say when they were logged.
    """

    relation: sql.Composable
    keys: Mapping[str, tuple[str, str]]
    features: Mapping[str, str]
    time: str
    created: str | None


@dataclass(frozen=True)
class LogRows:
    """Rows, the newest first; ``values``: a column a feature."""

    as_of: Sequence[datetime]
    created: Sequence[datetime | None]
    values: pa.Table

    def __len__(self) -> int:
        return len(self.as_of)

    def rows(self) -> list[LoggedRow]:
        """The same as Python values."""
        return [
            LoggedRow(at, created, values)
            for at, created, values in zip(
                self.as_of, self.created, self.values.to_pylist(), strict=True
            )
        ]


def read_log(
    conn: dbapi.Connection, log: Log, entity: Mapping[str, Any], at: datetime, most: int
) -> LogRows:
    """The newest ``most`` rows that had happened, and were known, by ``at``."""
    time, created = sql.Identifier("l", log.time), sql.Identifier("l", log.created or log.time)
    columns = [sql.SQL("{} AS skewless_time, {} AS skewless_created").format(time, created)]
    columns += [
        sql.SQL("{} AS {}").format(sql.Identifier("l", column), sql.Identifier(f"f{i}"))
        for i, column in enumerate(log.features.values())
    ]
    same = [
        sql.SQL("l.{} = {}::{}").format(
            sql.Identifier(column), sql.Literal(entity[key]), sql.SQL(kind)
        )
        for key, (column, kind) in log.keys.items()
    ]
    query = sql.SQL(
        "SELECT {columns} FROM {relation} AS l WHERE {same} AND {time} <= {at}::timestamptz "
        "AND {created} <= {at}::timestamptz ORDER BY {time} DESC, {created} DESC LIMIT {most}"
    ).format(
        columns=sql.SQL(", ").join(columns),
        relation=log.relation,
        same=sql.SQL(" AND ").join(same) if same else sql.SQL("TRUE"),
        time=time,
        created=created,
        at=sql.Literal(at),
        most=sql.Literal(most),
    )
    table = fetched(conn, query)
    names = list(log.features)
    values = [table[f"f{i}"].combine_chunks() for i in range(len(names))]
    known: Sequence[datetime | None] = table["skewless_created"].cast(_MICROSECONDS).to_pylist()
    return LogRows(
        table["skewless_time"].cast(_MICROSECONDS).to_pylist(),
        known if log.created else [None] * table.num_rows,
        pa.table(values, names=names),
    )
