"""Bulk loading: exact values, each id once, whole chunks, months made as they come."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from extensions.database.event_ingest import INGEST_LOCK
from extensions.errors import SkewlessError
from extensions.history.bulk_load import load
from extensions.history.declared_tables import declared_sources
from feature_repo.simulator import EVENT_SCHEMA, ITEM_SCHEMA, Simulation, history
from tests.asof.loading import media_sources
from tests.history.tables import count, empty, fetch, load_events, load_items

UNTIL = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
SIMULATION = Simulation(users=200, items=50, days=40, events=4_000, seed=1, until=UNTIL)


@pytest.fixture(autouse=True)
def _empty(database: str) -> None:
    empty(database)


def events(*rows: tuple) -> pa.RecordBatch:
    """Rows of (id, user, watched day of January 2025, arrival second)."""
    return pa.record_batch(
        [
            [row[0] for row in rows],
            [row[1] for row in rows],
            [7] * len(rows),
            [datetime(2025, 1, row[2], tzinfo=UTC) for row in rows],
            [datetime(2025, 2, 1, 0, 0, row[3], tzinfo=UTC) for row in rows],
            pa.array([1_000] * len(rows), pa.int32()),
            pa.array([0.25] * len(rows), pa.float32()),
        ],
        schema=EVENT_SCHEMA,
    )


def test_every_value_arrives_as_it_was(database: str) -> None:
    moments = ["1969-12-31T23:59:59.999999", "2000-02-29T00:00:00", "2025-12-31T23:59:59.123456"]
    micros = np.array(moments, "datetime64[us]").astype(np.int64)
    batch = pa.record_batch(
        [
            pa.array(["a", "ünï-😀", "x" * 190]),
            pa.array([-(2**63), 0, 2**63 - 1]),
            pa.array([1, 2, 3]),
            pa.array(micros).cast(EVENT_SCHEMA.field("watched_at").type),
            pa.array(micros[::-1].copy()).cast(EVENT_SCHEMA.field("ingested_at").type),
            pa.array([0, 86_400_000, 1], pa.int32()),
            pa.array([0.0, 1.0, 0.1], pa.float32()),
        ],
        schema=EVENT_SCHEMA,
    )
    load_events(database, [batch.slice(0, 1), batch.slice(1, 2)])
    found = fetch(
        database,
        "SELECT event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress"
        " FROM watch_events ORDER BY item_id",
    )
    expected = [tuple(row.values()) for row in batch.to_pylist()]
    assert [row[:6] for row in found] == [row[:6] for row in expected]
    assert [np.float32(row[6]) for row in found] == [np.float32(row[6]) for row in expected]


@pytest.mark.parametrize("chunk_rows", [10, 1_000, 1_000_000])
def test_the_first_arrival_of_an_id_wins(database: str, chunk_rows: int) -> None:
    first = [(f"id-{n}", n, 1 + n % 28, 0) for n in range(50)]
    later = [(f"id-{n}", -1, 1, 9) for n in range(0, 50, 3)]
    result = load_events(database, [events(*first, *later), events(*later)], chunk_rows=chunk_rows)
    assert (result.read, result.inserted, result.duplicates) == (84, 50, 34)
    assert fetch(database, "SELECT min(user_id), count(*) FROM watch_events") == [(0, 50)]


def test_ids_in_the_database_before_are_passed_by_and_the_rest_is_loaded(database: str) -> None:
    load_events(database, [events(("b", 1, 1, 0), ("d", 2, 1, 0))])
    result = load_events(database, [events(*((name, 3, 2, 1) for name in "abcde"))])
    assert (result.inserted, result.duplicates) == (3, 2)
    assert fetch(database, "SELECT event_id, user_id FROM watch_events ORDER BY 1") == [
        ("a", 3), ("b", 1), ("c", 3), ("d", 2), ("e", 3),
    ]  # fmt: skip


def test_an_interrupted_load_leaves_whole_chunks_and_goes_on_where_it_was(database: str) -> None:
    class InterruptionError(Exception):
        pass

    def interrupted() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(history(SIMULATION, rows=500)):
            if number == 5:
                raise InterruptionError
            yield batch

    with pytest.raises(InterruptionError):
        load_events(database, interrupted(), chunk_rows=1_000)
    assert count(database, "watch_events_ids") == count(database)
    kept = count(database)
    assert 1_900 < kept <= 2_000
    result = load_events(database, history(SIMULATION), chunk_rows=1_000)
    assert result.inserted == SIMULATION.events - kept
    assert count(database) == count(database, "watch_events_ids") == SIMULATION.events


def test_however_it_is_cut_the_same_rows_are_stored(database: str) -> None:
    digest = "SELECT md5(string_agg(e::text, '' ORDER BY event_id)) FROM watch_events AS e"
    digests = set()
    for chunk_rows in (333, 100_000):
        empty(database)
        load_events(database, history(SIMULATION, rows=100), chunk_rows=chunk_rows)
        digests.add(fetch(database, digest)[0][0])
    assert len(digests) == 1


def test_new_months_get_the_parents_indexes_and_rows_that_waited(database: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute(
            "INSERT INTO watch_events VALUES ('early', 1, 1, '2019-05-05Z', '2019-05-05Z', 1, 0.5)"
        )
    assert count(database, "watch_events_default") == 1
    batch = events(("new", 2, 3, 0))
    at = pa.array([datetime(2019, 5, 1, tzinfo=UTC)], EVENT_SCHEMA.field("watched_at").type)
    load_events(database, [batch.set_column(3, EVENT_SCHEMA.field("watched_at"), at)])
    assert count(database, "watch_events_default") == 0
    assert count(database, "watch_events_2019_05") == 2
    indexes = fetch(database, "SELECT count(*) FROM pg_indexes WHERE tablename = "
                    "'watch_events_2019_05'")  # fmt: skip
    parents = fetch(database, "SELECT count(*) FROM pg_indexes WHERE tablename = 'watch_events'")
    assert indexes == parents


def test_loading_holds_the_ingest_lock(database: str) -> None:
    held: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        yield events(("a", 1, 1, 0))
        yield events(("b", 1, 1, 0))

    def look(done: int, total: int | None) -> None:
        high, low = INGEST_LOCK >> 32, INGEST_LOCK & 0xFFFFFFFF
        held.append(
            fetch(
                database,
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                f" AND mode = 'ShareLock' AND classid = {high} AND objid = {low}",
            )[0][0]
        )

    load_events(database, batches(), chunk_rows=1, progress=look)
    assert held == [1, 1]


def test_two_loaders_of_the_same_events_store_each_once(database: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(
                lambda _: load_events(database, history(SIMULATION, rows=700), chunk_rows=700),
                range(2),
            )
        )
    assert sum(result.inserted for result in results) == count(database) == SIMULATION.events


def test_nothing_to_load_is_fine(database: str) -> None:
    assert load_events(database, []).to_json()["rows_per_second"] == 0
    empty_history = history(replace(SIMULATION, events=0))
    assert load_events(database, empty_history).read == 0


def test_items_keep_the_first_row_of_a_key_and_genres_their_embedding(database: str) -> None:
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    rows = pa.record_batch(
        [[1, 1, 2], ["drama", "comedy", "crime"], [moment] * 3, [moment] * 3], schema=ITEM_SCHEMA
    )
    first, again = load_items(database, [rows]), load_items(database, [rows])
    assert (first.inserted, first.duplicates, again.inserted) == (2, 1, 0)
    assert fetch(database, "SELECT genre FROM items ORDER BY item_id") == [("drama",), ("crime",)]


def test_a_database_without_tables_is_one_sentence(database: str, postgres_server: str) -> None:
    table = media_sources(database).table("watch_events")
    with pytest.raises(SkewlessError, match="skewless migrate"):
        load(postgres_server, table, [events(("a", 1, 1, 0))])
    with pytest.raises(SkewlessError, match="skewless migrate"):
        declared_sources(postgres_server, Path(__file__).parents[2])


def test_a_server_that_is_not_there_is_one_sentence(database: str) -> None:
    table = media_sources(database).table("watch_events")
    with pytest.raises(SkewlessError, match="does not answer"):
        load("postgresql://nobody:secret@127.0.0.1:9/x", table, [])
