"""Random samples of entities: from the history, from the log and from the online store.

Neither the serving log nor an index is needed: random blocks of a table find any entity, its last
blocks those whose rows were stored last, whatever arrival time they claim. Entities with rows in
the future are always in the sample.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.refused_entities import not_refused
from extensions.database.connection import identifiers, table_exists

Key = tuple[Any, ...]

# Blocks of 8 KiB that are read of a table, and of the end of each of its partitions.
RANDOM_BLOCKS = 96
LAST_BLOCKS = 2
# Rows of the future that are looked at one by one.
SUSPECTS = 20
_BLOCK = 8192


@dataclass
class EntitySample:
    """Distinct entities in the order they were taken, and how many came from where."""

    size: int
    keys: dict[Key, str] = field(default_factory=dict)

    @property
    def origins(self) -> dict[str, int]:
        """Entities by origin."""
        found: dict[str, int] = {}
        for origin in self.keys.values():
            found[origin] = found.get(origin, 0) + 1
        return found

    def force(self, keys: Iterable[Key], origin: str) -> None:
        """Add suspects, beyond the size if necessary."""
        for key in keys:
            self.keys.setdefault(key, origin)

    def fill(self, origins: Sequence[tuple[str, Sequence[Key]]]) -> None:
        """Take entities from the origins in turn until there are ``size`` of them or no more."""
        rest = [(origin, iter(keys)) for origin, keys in origins]
        while rest and len(self.keys) < self.size:
            for turn in list(rest):
                origin, keys = turn
                key = next((one for one in keys if one not in self.keys), None)
                if key is None:
                    rest.remove(turn)
                elif len(self.keys) < self.size:
                    self.keys[key] = origin


def history_entities(conn: psycopg.Connection, computation: Computation, size: int) -> list[Key]:
    """Entities of the primary source: at random, and of the rows that were stored last."""
    return _entities(conn, computation, computation.reads[0].table, size)


def log_entities(conn: psycopg.Connection, computation: Computation, size: int) -> list[Key]:
    """Entities of the log, whether active or not."""
    return _entities(conn, computation, computation.log_table, size)


def future_entities(conn: psycopg.Connection, computation: Computation) -> list[Key]:
    """Entities with a log row whose event time is later than the database's clock."""
    if not table_exists(conn, computation.log_table):
        return []
    return conn.execute(
        sql.SQL(
            "SELECT DISTINCT {keys} FROM (SELECT {keys} FROM {log} "
            "WHERE event_timestamp > clock_timestamp() + interval '1 second' LIMIT {most}) AS f"
        ).format(
            keys=identifiers(computation.join_keys),
            log=sql.Identifier(computation.log_table),
            most=sql.Literal(SUSPECTS),
        )
    ).fetchall()


def _entities(
    conn: psycopg.Connection, computation: Computation, table: str, size: int
) -> list[Key]:
    keys = identifiers(computation.join_keys)
    conditions = [
        sql.SQL("{} IS NOT NULL").format(sql.Identifier(key)) for key in computation.join_keys
    ]
    # What cannot be computed cannot be compared.
    held = sql.SQL(" AND ").join([*conditions, not_refused(computation, "r")])
    found: dict[Key, None] = {}
    for rows in _row_samples(conn, table):
        query = sql.SQL(
            "SELECT {keys} FROM (SELECT DISTINCT {keys} FROM {rows} AS r WHERE {held}) AS e "
            "ORDER BY random() LIMIT {size}"
        ).format(keys=keys, rows=rows, held=held, size=sql.Literal(size))
        found.update(dict.fromkeys(conn.execute(query).fetchall()))
    return list(found)


def _row_samples(conn: psycopg.Connection, table: str) -> list[sql.Composable]:
    """FROM items: the last blocks of each partition, then random blocks of the whole."""
    leaves = conn.execute(
        "SELECT p.relid::regclass::text, pg_relation_size(p.relid) / %s "
        "FROM pg_partition_tree(to_regclass(%s)) AS p WHERE p.isleaf",
        [_BLOCK, sql.Identifier(table).as_string(None)],
    ).fetchall()
    blocks = sum(count for _, count in leaves)
    if not leaves:  # a view has no blocks: whatever comes first
        return (
            [sql.SQL("(SELECT * FROM {} LIMIT 10000)").format(sql.Identifier(table))]
            if table_exists(conn, table)
            else []
        )
    if not blocks:
        return []
    last = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT * FROM {} WHERE ctid >= {}::tid").format(
            sql.SQL(leaf), sql.Literal(f"({max(0, count - LAST_BLOCKS)},0)")
        )
        for leaf, count in leaves
        if count
    )
    share = min(100.0, 100.0 * RANDOM_BLOCKS / blocks)
    return [
        sql.SQL("({})").format(last),
        sql.SQL("(SELECT * FROM {} TABLESAMPLE SYSTEM ({}))").format(
            sql.Identifier(table), sql.Literal(share)
        ),
    ]
