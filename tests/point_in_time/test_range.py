"""Retrieval by a range of time, without labels: over views whose columns have other names."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.types import Int64, String

from extensions.errors import SkewlessError

DAY = timedelta(days=1)
AT = datetime(2026, 1, 1, tzinfo=UTC)
NUMBER = itertools.count()
person = Entity(name="person", join_keys=["user_id"], value_type=ValueType.INT64)

# Quoted, with capitals, a percent sign and a space; no column has the name that Feast knows.
TABLES = """
CREATE TABLE IF NOT EXISTS ranged_spent (
    "USERID" bigint, "Happened at" timestamptz, "LOADED" timestamptz, "Spent 100%" bigint
);
CREATE TABLE IF NOT EXISTS ranged_words ("USERID" bigint, "TIME" timestamptz, "Word" text);
TRUNCATE ranged_spent, ranged_words;
INSERT INTO ranged_spent VALUES
    (1, '2026-01-01Z', '2026-01-01Z', 4), (1, '2026-01-01Z', '2026-01-02Z', 5),
    (2, '2026-01-05Z', '2026-01-05Z', 6), (3, '2025-12-01Z', '2025-12-01Z', 7);
INSERT INTO ranged_words VALUES (1, '2026-01-02Z', 'b'), (1, '2026-01-04Z', 'c');
"""
SPENT = {
    "USERID": "user_id",
    "Happened at": "happened",
    "LOADED": "loaded",
    "Spent 100%": "spent",
}
WORDS = {"USERID": "user_id", "TIME": "at", "Word": "word"}


@pytest.fixture(scope="module", autouse=True)
def tables(logs: str) -> None:
    with psycopg.connect(logs, autocommit=True) as conn:
        conn.execute(TABLES)


def spent(name: str, ttl: timedelta = timedelta(0), **source: Any) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[person],
        ttl=ttl,
        schema=[Field(name="user_id", dtype=Int64), Field(name="spent", dtype=Int64)],
        source=PostgreSQLSource(
            name=f"{name}_source",
            timestamp_field="happened",
            created_timestamp_column="loaded",
            field_mapping=SPENT,
            **(source or {"table": "ranged_spent"}),
        ),
    )


def words(name: str, ttl: timedelta = timedelta(0)) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[person],
        ttl=ttl,
        schema=[Field(name="user_id", dtype=Int64), Field(name="word", dtype=String)],
        source=PostgreSQLSource(
            name=f"{name}_source",
            table="ranged_words",
            timestamp_field="at",
            field_mapping=WORDS,
        ),
    )


def rows(store: FeatureStore, views: list[FeatureView], features: list[str], **how: Any) -> Any:
    store.apply([person, *views])
    how = {"start_date": AT - DAY, "end_date": AT + 6 * DAY} | how
    return store.get_historical_features(features=features, **how).to_arrow().to_pylist()


@pytest.mark.parametrize(
    "source", [{}, {"query": 'SELECT * FROM ranged_spent WHERE "USERID" < 9'}], ids=str
)
def test_mapped_columns(ours: FeatureStore, source: dict[str, str]) -> None:
    """The statement asked the table for the names of the view, which it does not have."""
    name = f"ranged_{next(NUMBER)}"
    found = rows(ours, [spent(name, **source)], [f"{name}:spent"])
    assert sorted((row["user_id"], row["spent"], row["created_timestamp"]) for row in found) == [
        (1, 4, AT),
        (1, 5, AT + DAY),
        (2, 6, AT + 4 * DAY),
    ]
    assert {row["event_timestamp"] for row in found} == {AT, AT + 4 * DAY}


def test_full_names_and_the_bounds_of_the_range(ours: FeatureStore) -> None:
    name = f"ranged_{next(NUMBER)}"
    view = spent(name, ttl=DAY)
    how: dict[str, Any] = {"full_feature_names": True, "end_date": AT}
    found = rows(ours, [view], [f"{name}:spent"], **how)
    assert sorted((row["user_id"], row[f"{name}__spent"]) for row in found) == [(1, 4), (1, 5)]


def test_several_views_and_a_correction(ours: FeatureStore) -> None:
    """Of two rows of one time the one that was created last counts, at each of the times."""
    one, two = (f"ranged_{next(NUMBER)}" for _ in range(2))
    views = [spent(one, ttl=2 * DAY), words(two)]
    found = rows(ours, views, [f"{one}:spent", f"{two}:word"])
    assert [(r["event_timestamp"], r["user_id"], r["spent"], r["word"]) for r in found] == [
        (AT, 1, 5, None),
        (AT + DAY, 1, 5, "b"),
        (AT + 3 * DAY, 1, None, "c"),  # the spent of the first is older than two days
        (AT + 4 * DAY, 2, 6, None),
    ]


def test_a_mapped_join_key_of_a_projection(ours: FeatureStore) -> None:
    name = f"ranged_{next(NUMBER)}"
    view = spent(name)
    ours.apply([person, view])
    chosen = ours.get_feature_view(name).with_join_key_map({"user_id": "friend"})
    provider: Any = ours._get_provider()
    job = provider.offline_store.get_historical_features(
        ours.config, [chosen], [f"{name}:spent"], None, ours.registry, ours.project,
        start_date=AT - DAY, end_date=AT,
    )  # fmt: skip
    assert sorted((r["friend"], r["spent"]) for r in job.to_arrow().to_pylist()) == [(1, 4), (1, 5)]


def test_a_view_of_everybody(ours: FeatureStore) -> None:
    name = f"ranged_{next(NUMBER)}"
    view = FeatureView(
        name=name,
        entities=[],
        ttl=timedelta(0),
        schema=[Field(name="spent", dtype=Int64)],
        source=spent(name).batch_source,
    )
    found = rows(ours, [view], [f"{name}:spent"])
    assert sorted(row["spent"] for row in found) == [4, 5, 6]
    assert set(found[0]) == {"event_timestamp", "created_timestamp", "spent"}


def test_views_of_other_keys_are_refused(ours: FeatureStore) -> None:
    """Feast's statement would put the ids of the one beneath those of the other."""
    one, two = (f"ranged_{next(NUMBER)}" for _ in range(2))
    thing = Entity(name="thing", join_keys=["thing_id"], value_type=ValueType.INT64)
    other = FeatureView(
        name=two,
        entities=[thing],
        ttl=timedelta(0),
        schema=[Field(name="thing_id", dtype=Int64), Field(name="word", dtype=String)],
        source=words(two).batch_source,
    )
    ours.apply([thing])
    with pytest.raises(SkewlessError, match="have other keys"):
        rows(ours, [spent(one), other], [f"{one}:spent", f"{two}:word"])


@pytest.mark.parametrize("full", [True, False])
def test_names_that_postgresql_would_cut(ours: FeatureStore, full: bool) -> None:
    """Cut to 63 bytes, two views were one, and so were their features."""
    start = "ranged_" + "x" * 60
    one, two = (f"{start}_{next(NUMBER)}" for _ in range(2))
    views = [spent(one), words(two)]
    found = rows(ours, views, [f"{one}:spent", f"{two}:word"], full_feature_names=full)
    names = (f"{one}__spent", f"{two}__word") if full else ("spent", "word")
    assert set(found[0]) == {"event_timestamp", "user_id", *names}
    assert [tuple(row[name] for name in names) for row in found] == [
        (5, None), (5, "b"), (5, "c"), (6, None),
    ]  # fmt: skip
