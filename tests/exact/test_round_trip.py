"""Every PostgreSQL type as every Feast type comes back as it is, or is refused by its column.

Three ways: into a training set, into Redis and out again, and the reading that both share. What
is right is PostgreSQL's own text of the value (`tests/exact/catalogue.py`); nothing here knows
how columns are read.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore, FeatureView
from feast.infra.common.materialization_job import MaterializationTask
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from feast.types import Array, Int64
from psycopg import sql

from extensions.errors import SkewlessError
from extensions.stores.offline.arrow.adbc_session import arrow_session
from extensions.stores.offline.arrow.query_rows import read_exactly
from tests.exact.catalogue import (
    Held,
    held_values,
    is_right,
)
from tests.exact.typed_tables import AT, declared_types, typed_table, typed_tables, view_of

# Pairs of types that go all the way in one run; the shared reading meets every pair each time.
SAMPLE = int(os.environ.get("EXAMPLES", "40"))


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield connection


@pytest.fixture(scope="module")
def tables(conn: psycopg.Connection) -> dict[str, tuple[str, bool]]:
    return typed_tables(conn)


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
    table = typed_table(conn, "bigint", [["1", None, "3"]], array=True)
    view = view_of(table, Array(Int64))
    labels = pd.DataFrame({"user_id": [0], "event_timestamp": [AT + timedelta(days=1)]})
    assert trained_values(store, view, labels) == [[1, None, 3]]
    with pytest.raises(SkewlessError, match="column x holds an array with a null inside"):
        materialize(store, view)
