"""What a retrieval job offers: SQL, batches, saved datasets, full answers, frozen knowledge."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from feast import FeatureStore
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    SavedDatasetPostgreSQLStorage,
)
from pyarrow import parquet

from extensions.errors import SkewlessError
from extensions.stores.offline.join import parallel_join
from extensions.stores.offline.writes.parquet_export import export
from tests.point_in_time.views import NAMES, OURS, PAIRS, store_at

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def two_rows(conn: psycopg.Connection) -> None:
    conn.execute(
        "INSERT INTO pairs_v1 VALUES (1, 2, %s, %s, 1, 1, 'a', '{1}'), "
        "(1, 2, %s, %s, 2, 2, 'b', '{2}')",
        [NOON, NOON, NOON + HOUR, NOON + 2 * HOUR],
    )


def frame(*hours: float) -> pd.DataFrame:
    return pd.DataFrame(
        {"user_id": 1, "item_id": 2, "event_timestamp": [NOON + HOUR * h for h in hours]}
    )


@pytest.mark.usefixtures("two_rows")
class TestAnswers:
    def test_full_says_age_and_presence(self, logs: str, registry: str) -> None:
        store = store_at(logs, registry, OURS, full=True)
        table = store.get_historical_features(frame(-1, 0.5, 3), ["pairs:seen"]).to_arrow()
        assert table["seen"].to_pylist() == [0, 1, 2]
        assert table["pairs__age_seconds"].to_pylist() == [None, 1800.0, 7200.0]
        assert table["pairs__found"].to_pylist() == [False, True, True]

    def test_known_at_freezes_what_was_known(self, ours: FeatureStore) -> None:
        job = ours.get_historical_features(frame(3), ["pairs:seen"])
        assert job.to_arrow()["seen"].to_pylist() == [2]
        assert job.as_known_at(NOON + HOUR).to_arrow()["seen"].to_pylist() == [1]
        assert job.as_known_at(NOON - HOUR).to_arrow()["seen"].to_pylist() == [0]

    def test_the_setting_relaxes_arrival(self, logs: str, registry: str) -> None:
        relaxed = store_at(logs, registry, OURS, bitemporal=False)
        ask = {"entity_df": frame(1.5), "features": ["pairs:seen"]}
        assert relaxed.get_historical_features(**ask).to_arrow()["seen"].to_pylist() == [2]
        strict = relaxed.get_historical_features(**ask, filter_by_created_timestamp=True)
        assert strict.to_arrow()["seen"].to_pylist() == [1]

    def test_full_names(self, ours: FeatureStore) -> None:
        table = ours.get_historical_features(frame(3), PAIRS, full_feature_names=True).to_arrow()
        assert table.column_names[3:] == [ref.replace(":", "__") for ref in PAIRS]

    def test_sql_of_a_query_runs_as_it_is(
        self, ours: FeatureStore, conn: psycopg.Connection
    ) -> None:
        query = (
            "SELECT 1 AS user_id, 2 AS item_id, timestamptz '2026-03-01 15:00Z' AS event_timestamp"
        )
        sql = ours.get_historical_features(query, ["pairs:seen"]).to_sql()
        assert conn.execute(sql).fetchall() == [(1, 1, 2, datetime(2026, 3, 1, 15, tzinfo=UTC), 2)]
        assert "pairs_v1" in ours.get_historical_features(frame(3), ["pairs:seen"]).to_sql()

    def test_a_saved_dataset_comes_back_as_it_was(self, ours: FeatureStore) -> None:
        job = ours.get_historical_features(frame(-1, 0.5, 3), PAIRS)
        storage = SavedDatasetPostgreSQLStorage("saved_once")
        saved = ours.create_saved_dataset(job, "saved_once", storage)
        table = saved.to_arrow() if hasattr(saved, "to_arrow") else None
        got = (table or pa.Table.from_pandas(saved.to_df())).sort_by("event_timestamp")
        assert got.select(["seen", "score", "word", "place"]).to_pylist() == (
            job.to_arrow().select(["seen", "score", "word", "place"]).to_pylist()
        )
        with pytest.raises(SkewlessError, match="saved_once exists"):
            job.persist(storage)
        job.persist(storage, allow_overwrite=True)

    def test_files_in_a_staging_location(self, logs: str, registry: str, tmp_path: Path) -> None:
        store = store_at(logs, registry, OURS, staging_location=str(tmp_path))
        job = store.get_historical_features(frame(-1, 0.5, 3), PAIRS)
        assert job.supports_remote_storage_export()
        assert parquet.read_table(job.to_remote_storage()) == job.to_arrow()
        assert job.to_remote_storage() != job.to_remote_storage()

    def test_without_a_staging_location_it_says_what_to_set(self, ours: FeatureStore) -> None:
        job = ours.get_historical_features(frame(3), PAIRS)
        assert not job.supports_remote_storage_export()
        with pytest.raises(SkewlessError, match="staging_location"):
            job.to_remote_storage()

    def test_a_range_without_labels(self, ours: FeatureStore) -> None:
        job = ours.get_historical_features(
            features=["pairs:seen"], start_date=NOON, end_date=NOON + HOUR
        )
        assert sorted(job.to_arrow()["seen"].to_pylist()) == [1, 2]


def test_batches_are_the_whole_in_order(ours: FeatureStore, conn: psycopg.Connection) -> None:
    conn.execute(
        "INSERT INTO pairs_v1 SELECT g, 1, %s, %s, g, g, repeat('x', 200), "
        "array_fill(g::real, ARRAY[64]) FROM generate_series(0, 999) AS g",
        [NOON, NOON],
    )
    count = 60_000
    labels = pd.DataFrame(
        {
            "user_id": [(i * 7919) % 1000 for i in range(count)],
            "item_id": 1,
            "event_timestamp": NOON,
        }
    )
    batches = list(ours.get_historical_features(labels, PAIRS).to_batches())
    assert len(batches) > 1
    whole = pa.concat_tables(batches)
    assert whole["user_id"].to_pylist() == labels["user_id"].tolist()
    assert whole["seen"].to_pylist() == labels["user_id"].tolist()


def test_an_export_is_whole_or_is_not_there(tmp_path: Path) -> None:
    pieces = [pa.table({"n": range(start, start + 1000)}) for start in (0, 1000, 2000)]
    files = export(iter(pieces), f"file://{tmp_path}", file_bytes=10_000)
    assert len(files) == 2
    read = [parquet.read_table(one.removeprefix("file://"))["n"].to_pylist() for one in files]
    assert [n for one in read for n in one] == list(range(3000))

    def torn() -> Iterator[pa.Table]:
        yield pieces[0]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        export(torn(), str(tmp_path / "torn"))
    assert not list((tmp_path / "torn").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(SkewlessError, match="Cannot write to the staging location"):
        export(iter(pieces), str(tmp_path / "file"))


@pytest.mark.parametrize("connections", [1, 2, 3])
def test_parts_are_the_whole_as_of_one_state(
    logs: str,
    registry: str,
    conn: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    connections: int,
) -> None:
    conn.execute(
        "INSERT INTO pairs_v1 SELECT g, 1, %s, %s, g FROM generate_series(0, 29) AS g", [NOON, NOON]
    )
    monkeypatch.setattr(parallel_join, "FEWEST", 7)
    monkeypatch.setattr(parallel_join, "MOST", 11)
    users = [(i * 13) % 30 for i in range(100)]
    labels = pd.DataFrame({"user_id": users, "item_id": 1, "event_timestamp": NOON + HOUR})
    store = store_at(logs, registry, OURS, connections=connections)
    found = []
    for piece in store.get_historical_features(labels, ["pairs:seen"]).to_batches():
        assert 0 < piece.num_rows <= 11
        if not found:
            # Of every user, dated back, while later parts are still to be asked about.
            conn.execute(
                "INSERT INTO pairs_v1 SELECT g, 1, %s, %s, -1 FROM generate_series(0, 29) AS g",
                [NOON + HOUR, NOON + HOUR],
            )
        found += piece["seen"].to_pylist()
    assert found == users
    after = store.get_historical_features(labels, ["pairs:seen"]).to_arrow()
    assert set(after["seen"].to_pylist()) == {-1}


def test_several_views_at_once(ours: FeatureStore, conn: psycopg.Connection) -> None:
    conn.execute("INSERT INTO pairs_v1 VALUES (1, 2, %s, %s, 5)", [NOON, NOON])
    conn.execute("INSERT INTO names_log VALUES ('a', %s, %s, 6, 0.5, true)", [NOON, NOON])
    labels = frame(0.5).assign(name="a")
    [row] = ours.get_historical_features(labels, [*PAIRS, *NAMES]).to_arrow().to_pylist()
    assert (row["seen"], row["rank"], row["weight"], row["flag"]) == (5, 6, 0.5, True)


def test_a_timeout_is_one_sentence(ours: FeatureStore) -> None:
    query = "SELECT pg_sleep(5)::text, 1 AS user_id, 2 AS item_id, now() AS event_timestamp"
    with pytest.raises(SkewlessError, match="longer than the timeout"):
        ours.get_historical_features(query, ["pairs:seen"]).to_arrow(timeout=1)
