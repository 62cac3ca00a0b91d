"""Look up the types of a source's columns in PostgreSQL's catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from extensions.stores.offline.arrow.adbc_session import ArrowSession

# For every column asked about: its type, a domain's base type, and an array's element.
_CATALOGUE = sql.SQL(
    """
WITH RECURSIVE asked AS ({asked}), unwrapped AS (
    SELECT a.source, a.place, a.type, a.type AS base FROM asked AS a
    UNION ALL
    SELECT u.source, u.place, u.type, t.typbasetype FROM unwrapped AS u
    INNER JOIN pg_type AS t ON t.oid = u.base WHERE t.typtype = 'd'
), element AS (
    SELECT u.source, u.place, u.type, u.base, e.oid AS item, e.oid AS item_base
    FROM unwrapped AS u
    INNER JOIN pg_type AS t ON t.oid = u.base AND t.typtype <> 'd'
    LEFT JOIN pg_type AS e ON e.oid = t.typelem AND e.typarray = t.oid
    UNION ALL
    SELECT e.source, e.place, e.type, e.base, e.item, t.typbasetype FROM element AS e
    INNER JOIN pg_type AS t ON t.oid = e.item_base WHERE t.typtype = 'd'
)
SELECT e.source, e.place, e.type <> e.base AS domain, format_type(e.base, -1) AS name,
    (t.typtype IN ('e', 'r', 'm') OR e.item IS NOT NULL OR EXISTS (
        SELECT FROM pg_opclass AS o INNER JOIN pg_am AS m ON m.oid = o.opcmethod
        WHERE m.amname = 'btree' AND o.opcdefault AND o.opcintype = e.base)) AS comparable,
    CASE WHEN e.item IS NOT NULL THEN format_type(e.item_base, -1) END AS element,
    e.item IS DISTINCT FROM e.item_base AS element_domain
FROM element AS e
INNER JOIN pg_type AS t ON t.oid = e.base
LEFT JOIN pg_type AS i ON i.oid = e.item_base
WHERE i.typtype IS DISTINCT FROM 'd'
ORDER BY e.source, e.place
"""
)


@dataclass(frozen=True)
class SourceType:
    """The PostgreSQL type of a column.

    Attributes:
        name: The type without a modifier: a cast to ``character(2)`` or ``numeric(5,2)`` would
            cut or round what is compared. Of a domain, the base type.
        domain: Whether the column's own type is a domain.
        comparable: Whether the type has a B-tree equality, which an index can serve.
        element: The type of an array's elements; None for other types.
    """

    name: str
    domain: bool = False
    comparable: bool = True
    element: "SourceType | None" = None


def column_types(
    session: ArrowSession, sources: Sequence[tuple[str, Sequence[str]]]
) -> list[dict[str, SourceType]]:
    """Look up the types of columns of several tables and queries, in one round trip.

    Args:
        session: The transaction to read in.
        sources: For each source what stands after FROM (a table, or a query in parentheses),
            and its columns.

    Returns:
        The types by column, for each source.
    """
    if not any(columns for _, columns in sources):
        return [{} for _ in sources]
    parts = [
        sql.SQL(
            "SELECT {source} AS source, t.place, t.type FROM (SELECT 1 AS n) AS one "
            "LEFT JOIN (SELECT {columns} FROM {table} AS s LIMIT 0) AS l ON TRUE "
            "CROSS JOIN LATERAL unnest(ARRAY[{types}]::oid[]) WITH ORDINALITY AS t (type, place)"
        ).format(
            source=sql.Literal(number),
            table=sql.SQL(table),
            columns=sql.SQL(", ").join(
                sql.SQL("s.{} AS {}").format(sql.Identifier(name), sql.Identifier(f"c{i}"))
                for i, name in enumerate(columns)
            ),
            types=sql.SQL(", ").join(
                sql.SQL("pg_typeof(l.{})").format(sql.Identifier(f"c{i}"))
                for i in range(len(columns))
            ),
        )
        for number, (table, columns) in enumerate(sources)
        if columns
    ]
    result: list[dict[str, SourceType]] = [{} for _ in sources]
    statement = _CATALOGUE.format(asked=sql.SQL(" UNION ALL ").join(parts))
    for row in session.table(statement).to_pylist():
        name = sources[row["source"]][1][row["place"] - 1]
        result[row["source"]][name] = _source_type(row)
    return result


def _source_type(row: Mapping[str, Any]) -> SourceType:
    element = row["element"]
    return SourceType(
        name=row["name"],
        domain=row["domain"],
        comparable=row["comparable"],
        element=None if element is None else SourceType(element, domain=row["element_domain"]),
    )
