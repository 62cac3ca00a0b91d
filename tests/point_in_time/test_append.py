"""Pushes append to the log: all chunks, in UTC, once however often; refused whole or not at all."""

from datetime import UTC, datetime

import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from feast import FeatureStore

from extensions.errors import SkewlessError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def rows(count: int, **columns: object) -> pa.Table:
    return pa.table(
        {
            "name": [f"n{i}" for i in range(count)],
            "event_timestamp": pa.array([NOON.replace(tzinfo=None)] * count, pa.timestamp("ns")),
            "created_timestamp": pa.array([NOON] * count, pa.timestamp("us", "Asia/Kolkata")),
            "rank": pa.array(range(count), pa.int64()),
            "weight": pa.array([0.1] * count, pa.float32()),
            "flag": pa.array([None] * count, pa.bool_()),
            **columns,
        }
    )


def append(store: FeatureStore, table: pa.Table) -> None:
    view = store.get_feature_view("names")
    store._get_provider().ingest_df_to_offline_store(view, table)  # type: ignore[attr-defined]


def count(conn: psycopg.Connection) -> int:
    [(number,)] = conn.execute("SELECT count(*) FROM names_log").fetchall()
    return int(number)


def test_all_chunks_once(ours: FeatureStore, conn: psycopg.Connection) -> None:
    whole = rows(200)
    chunks = pa.concat_tables([whole.slice(0, 100), whole.slice(100)])
    assert chunks.column(0).num_chunks == 2
    append(ours, chunks)
    append(ours, chunks)
    assert count(conn) == 200
    [row] = conn.execute("SELECT * FROM names_log WHERE name = 'n7'").fetchall()
    assert row[:4] == ("n7", NOON, NOON, 7)


def test_through_feast(ours: FeatureStore, conn: psycopg.Connection) -> None:
    ours.write_to_offline_store("names", rows(3).to_pandas())
    assert count(conn) == 3


def test_a_missing_created_time_is_the_clock(ours: FeatureStore, conn: psycopg.Connection) -> None:
    append(ours, rows(1, created_timestamp=pa.nulls(1, pa.timestamp("us", "UTC"))))
    [(recent,)] = conn.execute(
        "SELECT created_timestamp > clock_timestamp() - interval '1 minute' FROM names_log"
    ).fetchall()
    assert recent


def test_times_may_be_text_as_http_brings_them(
    ours: FeatureStore, conn: psycopg.Connection
) -> None:
    texts = ["2026-03-01T12:00:00Z", "2026-03-01T17:30:00.000001+05:30", "2026-03-01 12:00:00.5"]
    append(ours, rows(3, event_timestamp=texts, created_timestamp=[*texts[:2], None]))
    found = conn.execute("SELECT event_timestamp FROM names_log ORDER BY name").fetchall()
    later = [NOON.replace(microsecond=micros) for micros in (0, 1, 500_000)]
    assert [at for (at,) in found] == later


@pytest.mark.parametrize(
    "bad",
    [
        {"name": pa.array(["a", None])},
        {"rank": pa.array([1, 2**40])},
        {"rank": pa.array([1, 1.5])},
        {"event_timestamp": pa.nulls(2, pa.timestamp("us"))},
        {"event_timestamp": pa.array(["2026-03-01T12:00:00Z", "yesterday"])},
    ],
    ids=["no key", "too large", "fraction", "no time", "no date"],
)
def test_a_bad_row_refuses_the_whole_batch(
    ours: FeatureStore, conn: psycopg.Connection, bad: dict[str, pa.Array]
) -> None:
    with pytest.raises(SkewlessError, match="none of the"):
        append(ours, rows(2, **bad))
    assert count(conn) == 0


def test_nothing_to_append(ours: FeatureStore, conn: psycopg.Connection) -> None:
    append(ours, rows(0))
    ours.write_to_offline_store("names", pd.DataFrame(rows(0).to_pandas()))
    assert count(conn) == 0


@pytest.mark.parametrize(
    ("change", "back", "column"),
    [
        ("ADD CONSTRAINT light CHECK (weight > 1)", "DROP CONSTRAINT light", "weight"),
        ("ALTER rank TYPE below_zero", "ALTER rank TYPE bigint", "rank"),
        ("ALTER flag SET NOT NULL", "ALTER flag DROP NOT NULL", "flag"),
    ],
    ids=["check", "domain", "not null"],
)
def test_what_a_constraint_refuses_is_named_by_its_column(
    ours: FeatureStore, conn: psycopg.Connection, change: str, back: str, column: str
) -> None:
    """PostgreSQL says no more than the constraint's name, of a domain not even the table."""
    conn.execute("DROP DOMAIN IF EXISTS below_zero CASCADE")
    conn.execute("CREATE DOMAIN below_zero AS bigint CHECK (VALUE < 0)")
    conn.execute(f"ALTER TABLE names_log {change}")
    try:
        with pytest.raises(SkewlessError, match=rf"\b{column}\b"):
            append(ours, rows(1))
    finally:
        conn.execute(f"ALTER TABLE names_log {back}")
    assert count(conn) == 0
