"""The latest row of each entity among those that a condition admits, by the cheaper of two ways.

Where an entity has many rows, sorting them all to keep one is waste: hopping from key to key in
the log's own index and probing each reads next to nothing else. Where it has few, the planner's
sort is cheaper. Its estimate decides; both return the same rows.
"""

from collections.abc import Sequence

from psycopg import sql

from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.join.newest_row_rule import RowOrder, order_facts

# Rows per entity from which on two probes for each entity cost less than sorting.
MANY = 8


def latest_rows(
    session: ArrowSession,
    table: str,
    keys: Sequence[str],
    times: Sequence[str],
    columns: sql.Composable,
    condition: sql.Composable,
) -> sql.Composable:
    """The statement: one row per entity, the latest by ``times`` (event, created if there is one).

    Of rows that are equal in these, and of those without a created time, see `row_order`.

    ``columns`` and ``condition`` name the table's columns with the alias ``l``.
    """
    event, created = times[0], times[1] if len(times) > 1 else None
    facts = sql.SQL("SELECT {} AS is_unique, {} AS dated").format(
        *order_facts(table, keys, event, created)
    )
    [found] = session.table(facts).to_pylist()
    by = RowOrder(event, created, found["is_unique"], found["dated"])
    plain = sorted_rows(table, keys, by, columns, condition)
    if not keys or table.startswith("("):
        return plain
    order = _index_order(session, table, keys, event)
    if order is None:
        return plain
    # A probe looks into each partition's index.
    worth = MANY * _partitions(session, table)
    if _rows_per_entity(session, table, keys, condition) < worth:
        return plain
    return _hopping(table, order, by, columns, condition)


def sorted_rows(
    table: str,
    keys: Sequence[str],
    by: RowOrder,
    columns: sql.Composable,
    condition: sql.Composable,
) -> sql.Composed:
    """One pass over all rows that the condition admits."""
    names = [sql.Identifier("l", key) for key in keys]
    entity = sql.SQL("DISTINCT ON ({}) ").format(sql.SQL(", ").join(names))
    return sql.SQL(
        "SELECT {entity}{columns} FROM {table} AS l WHERE {condition} ORDER BY {order}{one}"
    ).format(
        entity=entity if keys else sql.SQL(""),
        columns=columns,
        table=sql.SQL(table),
        condition=condition,
        order=sql.SQL(", ").join([*names, *by.newest_first()]),
        one=sql.SQL("" if keys else " LIMIT 1"),
    )


def _hopping(
    table: str,
    keys: Sequence[str],
    by: RowOrder,
    columns: sql.Composable,
    condition: sql.Composable,
) -> sql.Composed:
    """From each key to the next greater one in the index, and for each its first row there."""
    own = sql.SQL(", ").join(sql.Identifier("l", key) for key in keys)
    held = sql.SQL(", ").join(sql.Identifier("entity", key) for key in keys)
    return sql.SQL(
        "WITH RECURSIVE entity AS ("
        "(SELECT {own} FROM {table} AS l ORDER BY {own} LIMIT 1) "
        "UNION ALL SELECT following.* FROM entity CROSS JOIN LATERAL (SELECT {own} "
        "FROM {table} AS l WHERE ({own}) > ({held}) ORDER BY {own} LIMIT 1) AS following) "
        "SELECT latest.* FROM entity CROSS JOIN LATERAL (SELECT {columns} FROM {table} AS l "
        "WHERE ({own}) = ({held}) AND {condition} ORDER BY {newest} LIMIT 1) AS latest"
    ).format(
        own=own,
        held=held,
        table=sql.SQL(table),
        columns=columns,
        condition=condition,
        newest=sql.SQL(", ").join(by.newest_first()),
    )


def _index_order(
    session: ArrowSession, table: str, keys: Sequence[str], event: str
) -> list[str] | None:
    """The keys in the order of an index that begins with them, then the event time.

    A key that may be null has no next greater one, so its log is not hopped through.
    """
    found = session.table(
        sql.SQL(
            "SELECT array_agg(a.attname::text ORDER BY c.place) AS columns, "
            "bool_and(a.attnotnull) AS held FROM pg_index AS i "
            "JOIN pg_class AS o ON o.oid = i.indexrelid "
            "JOIN pg_am AS m ON m.oid = o.relam AND m.amname = 'btree' "
            "CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS c (number, place) "
            "JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = c.number "
            "WHERE i.indrelid = to_regclass({table}) AND i.indisvalid AND i.indpred IS NULL "
            "AND i.indexprs IS NULL AND c.place <= {places} GROUP BY i.indexrelid"
        ).format(table=sql.Literal(table), places=sql.Literal(len(keys) + 1))
    )
    for index in found.to_pylist():
        first, then = index["columns"][: len(keys)], index["columns"][len(keys) :]
        if index["held"] and set(first) == set(keys) and then == [event]:
            return list(first)
    return None


def _partitions(session: ArrowSession, table: str) -> int:
    leaves = session.table(
        sql.SQL("SELECT count(*) AS n FROM pg_partition_tree(to_regclass({})) WHERE isleaf").format(
            sql.Literal(table)
        )
    )
    return max(1, int(leaves["n"][0].as_py()))


def _rows_per_entity(
    session: ArrowSession, table: str, keys: Sequence[str], condition: sql.Composable
) -> float:
    """What the planner expects: admitted rows for each entity of the whole table.

    Hopping visits every entity, also those without a row that the condition admits.
    """
    rows = sql.SQL("SELECT FROM {} AS l WHERE {}").format(sql.SQL(table), condition)
    names = sql.SQL(", ").join(sql.Identifier(key) for key in keys)
    entities = sql.SQL("SELECT DISTINCT {} FROM {}").format(names, sql.SQL(table))
    return float(session.plan(rows)["Plan Rows"]) / max(
        1.0, float(session.plan(entities)["Plan Rows"])
    )
