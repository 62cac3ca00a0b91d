"""A table for each PostgreSQL type, holding what the type takes, and views that declare it."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from feast import FeatureView, Field, PushSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Int64
from psycopg import sql

from tests.exact.catalogue import ARRAYS, NESTED, PRIMITIVES, SETS, known_types, values_of
from tests.exact.conftest import user

AT = datetime(2026, 1, 1, tzinfo=UTC)
NUMBER = itertools.count()

INTERNAL = {
    "gtsvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_ddl_command",
    "pg_dependencies", "pg_mcv_list", "pg_ndistinct", "pg_node_tree", "regconfig",
    "regdictionary", "regoper", "regoperator", "regproc", "regprocedure", "regrole",
    "regcollation", "regnamespace", "pg_snapshot", "txid_snapshot", "aclitem", "refcursor",
    "xml",  # of a build without libxml, as the embedded one
}  # fmt: skip


def typed_table(
    conn: psycopg.Connection, kind: str, rows: list[Any], *, array: bool, shape: str = ""
) -> str:
    name = f"exact_{next(NUMBER)}"
    conn.execute(
        f"CREATE TABLE {name} (user_id bigint, event_timestamp timestamptz, "
        f"created_timestamp timestamptz, x {kind}{'[]' if array else ''})"
    )
    for number, texts in enumerate([*rows, None]):
        value: sql.Composable = sql.NULL
        if texts is not None:
            items = [sql.SQL("{}::{}").format(sql.Literal(one), sql.SQL(kind)) for one in texts]
            value = items[0] if not array else _array(items, kind, shape)
        conn.execute(
            sql.SQL("INSERT INTO {} VALUES (%s, %s, %s, {})").format(sql.Identifier(name), value),
            [number, AT, AT],
        )
    return name


def _array(items: list[sql.Composed], kind: str, shape: str) -> sql.Composable:
    if shape:
        half = len(items) // 2
        rows = [sql.SQL(", ").join(part) for part in (items[:half], items[half:])]
        inner = sql.SQL("ARRAY[{}], ARRAY[{}]").format(*rows)
    else:
        inner = sql.SQL(", ").join(items)
    return sql.SQL("ARRAY[{}]::{}[]").format(inner, sql.SQL(kind))


def declared_types() -> list[Any]:
    return [*PRIMITIVES, *ARRAYS, *NESTED, *SETS]


def view_of(table: str, dtype: Any) -> FeatureView:
    return FeatureView(
        name=table,
        entities=[user],
        ttl=timedelta(0),
        schema=[Field(name="user_id", dtype=Int64), Field(name="x", dtype=dtype)],
        source=PostgreSQLSource(
            name=table,
            table=table,
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


def typed_tables(conn: psycopg.Connection) -> dict[str, tuple[str, bool]]:
    """A table for each type and for its arrays: its name, and whether ``x`` is an array."""
    made: dict[str, tuple[str, bool]] = {}
    without = []
    for kind in known_types(conn):
        texts = values_of(conn, kind)
        if not texts:
            without.append(kind)
            continue
        made[kind] = (typed_table(conn, kind, [[text] for text in texts], array=False), False)
        rows = [texts[:2], texts[-1:], [], [texts[0], None, texts[-1]]]
        made[kind + "[]"] = (typed_table(conn, kind, rows, array=True), True)
        shaped = typed_table(conn, kind, [[texts[0], texts[-1]] * 2], array=True, shape="[2][2]")
        made[kind + "[][]"] = (shaped, True)
    # What no text can make: internal types, which a user's column cannot be filled with either.
    assert set(without) <= INTERNAL
    return made


def pushed_view(name: str, table: str, dtype: Any) -> FeatureView:
    """As `view_of`, but that it can be pushed to; its push source is ``NAME_push``."""
    view = view_of(table, dtype)
    return FeatureView(
        name=name,
        entities=[user],
        ttl=timedelta(0),
        schema=[Field(name="user_id", dtype=Int64), Field(name="x", dtype=dtype)],
        source=PushSource(name=f"{name}_push", batch_source=view.batch_source),
    )
