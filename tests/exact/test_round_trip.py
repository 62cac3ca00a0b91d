"""Every PostgreSQL type as every Feast type comes back as it is, or is refused by its column.

Three ways: into a training set, into Redis and out again, and the reading that both share. What
is right is PostgreSQL's own text of the value (`tests/exact/catalogue.py`); nothing here knows
how columns are read.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore, FeatureView, Field
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from feast.types import Array, Int64
from psycopg import sql

from extensions.errors import SkewlessError
from extensions.stores.offline.arrow_session import arrow_session
from extensions.stores.offline.exact_rows import read_exactly
from tests.exact.catalogue import (
    ARRAYS,
    NESTED,
    PRIMITIVES,
    SETS,
    Held,
    held_values,
    is_right,
    known_types,
    values_of,
)
from tests.exact.conftest import user

AT = datetime(2026, 1, 1, tzinfo=UTC)
NUMBER = itertools.count()
# Pairs of types that go all the way in one run; the shared reading meets every pair each time.
SAMPLE = int(os.environ.get("EXAMPLES", "40"))


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield connection


@pytest.fixture(scope="module")
def tables(conn: psycopg.Connection) -> dict[str, tuple[str, bool]]:
    """A table for each type and for its arrays: its name, and whether ``x`` is an array."""
    made: dict[str, tuple[str, bool]] = {}
    without = []
    for kind in known_types(conn):
        texts = values_of(conn, kind)
        if not texts:
            without.append(kind)
            continue
        made[kind] = (_table(conn, kind, [[text] for text in texts], array=False), False)
        rows = [texts[:2], texts[-1:], [], [texts[0], None, texts[-1]]]
        made[kind + "[]"] = (_table(conn, kind, rows, array=True), True)
        shaped = _table(conn, kind, [[texts[0], texts[-1]] * 2], array=True, shape="[2][2]")
        made[kind + "[][]"] = (shaped, True)
    # What no text can make: internal types, which a user's column cannot be filled with either.
    assert set(without) <= INTERNAL
    return made


INTERNAL = {
    "gtsvector", "pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_ddl_command",
    "pg_dependencies", "pg_mcv_list", "pg_ndistinct", "pg_node_tree", "regconfig",
    "regdictionary", "regoper", "regoperator", "regproc", "regprocedure", "regrole",
    "regcollation", "regnamespace", "pg_snapshot", "txid_snapshot", "aclitem", "refcursor",
    "xml",  # of a build without libxml, as the embedded one
}  # fmt: skip


def _table(
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


def test_every_type_as_every_type(
    store: FeatureStore, conn: psycopg.Connection, tables: dict[str, tuple[str, bool]]
) -> None:
    """The reading that training and materialization share, row by row: one refusal is one row's."""
    wrong: list[str] = []
    exact = refused = 0
    with arrow_session(store.config, "reading") as session:

        def read(table: str, dtype: Any, where: str) -> list[Any] | SkewlessError:
            query = sql.SQL("SELECT user_id, x FROM {} WHERE {} ORDER BY user_id")
            query = query.format(sql.Identifier(table), sql.SQL(where))
            try:
                pieces = list(read_exactly(session, query, {"x": dtype, "user_id": Int64}))
            except SkewlessError as error:
                return error
            return [value for piece in pieces for value in piece["x"].to_pylist()]

        for kind, (table, array) in tables.items():
            all_held = held_values(conn, table, array=array)
            for dtype in declared_types():
                some = random.Random(kind).sample(sorted(all_held), min(8, len(all_held)))
                rows = ["FALSE", *(f"user_id = {number}" for number in some)]
                whole = read(table, dtype, "TRUE")
                if isinstance(whole, list):
                    answers = [[], *([value] for value in whole)]
                    some = list(all_held)
                else:  # all of the type, or one row of it
                    first = read(table, dtype, rows[0])
                    if isinstance(first, SkewlessError):
                        rows, answers = rows[:1], [first]
                    else:
                        answers = [first, *(read(table, dtype, row) for row in rows[1:])]
                for held, answer in zip(
                    [None, *(all_held[number] for number in some)], answers, strict=False
                ):
                    if isinstance(answer, SkewlessError):
                        refused += 1
                        if "x" not in str(answer).split() or "PostgreSQL refused" in str(answer):
                            wrong.append(f"{kind} as {dtype}: {held}: {answer}")
                        continue
                    exact += len(answer)
                    wrong += [
                        f"{kind} as {dtype}: {held}: {got!r}"
                        for got in answer
                        if not _right(got, held, dtype, online=False)
                    ]
    assert not wrong, "\n".join(wrong[:40])
    # A reading that refuses everything would be exact as well.
    assert exact > 2_000
    assert refused > 2_000


def test_through_both_stores(
    store: FeatureStore, conn: psycopg.Connection, tables: dict[str, tuple[str, bool]]
) -> None:
    """Training sets and Redis hold what the table holds, for what each declares; or both refuse."""
    pairs = list(itertools.product(tables.items(), declared_types()))
    random.Random(5).shuffle(pairs)
    done = 0
    for (kind, (table, array)), dtype in pairs:
        if done >= SAMPLE:
            break
        all_held = held_values(conn, table, array=array)
        view = view_of(table, dtype)
        labels = pd.DataFrame(
            {"user_id": list(all_held), "event_timestamp": [AT + timedelta(days=1)] * len(all_held)}
        )
        trained = tried(lambda: trained_values(store, view, labels))  # noqa: B023 - called here
        if isinstance(trained, str):
            assert f"x of {table}" in trained, (kind, dtype, trained)
            with pytest.raises(SkewlessError, match=r"\bx\b"):
                materialize(store, view)
            continue
        done += 1
        for held, got in zip(all_held.values(), trained, strict=True):
            assert _right(got, held, dtype, online=False), (kind, dtype, held, got)
        refusal = tried(lambda: materialize(store, view))  # noqa: B023 - called here
        if refusal is not None:  # no wire type of Feast's holds a null within a list
            assert "x" in refusal.split(), (kind, dtype, refusal)
            continue
        for held, got in zip(all_held.values(), online_values(store, view, all_held), strict=True):
            assert _right(got, held, dtype, online=True), (kind, dtype, held, got)
    assert done == SAMPLE


def tried(step: Callable[[], Any]) -> Any:
    """What the step returns, or its refusal as a text."""
    try:
        return step()
    except SkewlessError as error:
        return str(error)


def trained_values(store: FeatureStore, view: FeatureView, labels: pd.DataFrame) -> list[Any]:
    provider: Any = store._get_provider()
    job = provider.offline_store.get_historical_features(
        store.config, [view], [f"{view.name}:x"], labels, store.registry, store.project
    )
    values: list[Any] = job.to_arrow()["x"].to_pylist()
    return values


def materialize(store: FeatureStore, view: FeatureView) -> None:
    engine = store._get_provider().batch_engine  # type: ignore[attr-defined]
    task = MaterializationTask(
        store.project, view, AT - timedelta(1), AT + timedelta(1), only_latest=True
    )
    [job] = engine.materialize(store.registry, task)
    if job.error() is not None:
        raise job.error()


def online_values(store: FeatureStore, view: FeatureView, users: Any) -> list[Any]:
    keys = [EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=one)]) for one in users]
    provider: Any = store._get_provider()
    rows = provider.online_store.online_read(store.config, view, keys)
    return [
        feast_value_type_to_python_type(values["x"], view.features[0].dtype.to_value_type())
        for _, values in rows
    ]


def _right(got: Any, held: Held | None, dtype: Any, *, online: bool) -> bool:
    try:
        return is_right(got, held, dtype, online=online)
    except (ValueError, ArithmeticError, TypeError, KeyError):
        return False


def test_a_null_within_an_array_is_refused_online(
    store: FeatureStore, conn: psycopg.Connection
) -> None:
    """It was served as other numbers; as floats it is NaN, as Feast makes it."""
    table = _table(conn, "bigint", [["1", None, "3"]], array=True)
    view = view_of(table, Array(Int64))
    labels = pd.DataFrame({"user_id": [0], "event_timestamp": [AT + timedelta(days=1)]})
    assert trained_values(store, view, labels) == [[1, None, 3]]
    with pytest.raises(SkewlessError, match="column x holds an array with a null inside"):
        materialize(store, view)
