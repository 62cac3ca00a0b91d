"""Whoever reads a log that was cut reads both sides, or refuses what only the lake knows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
    SavedDatasetPostgreSQLStorage,
)
from feast.types import Int64

from extensions.asof import Computation
from extensions.asof.backfill import backfill
from extensions.asof.log_cuts import ColdRowsError
from extensions.database import connect
from extensions.errors import ConfigurationError, ConflictError, InputError, UnavailableError
from extensions.lake.catalog import open_catalog
from extensions.lake.cut import cut
from extensions.lake.export import export
from extensions.lake.lake_tables import log_in_lake
from extensions.lake.settings import read_settings
from extensions.stores.offline.arrow.adbc_session import arrow_session
from extensions.stores.offline.log_cut_checks import session_cuts
from extensions.stores.offline.retrieval_job import SkewlessRetrievalJob
from extensions.stores.offline.store import SkewlessPostgresOfflineStore
from extensions.stores.offline.writes import serving_log_table
from extensions.stores.offline.writes.log_append import append
from extensions.training import read_labels, take, take_again
from extensions.versions.plan import fill_range
from monitoring.audit.difference_classification import _logged_at
from monitoring.audit.reference_values import evidence
from monitoring.checks import serving_log_window
from tests.lake.logs import MONTHS, append_row, monthly
from tests.point_in_time.views import OURS, store_at

JAN, FEB, MAR, APR = MONTHS
DAY = timedelta(days=1)
PROJECT = "suite"  # as `store_at` has it
FEATURE = "user_watch_stats:user_watch_count_7d"
# Users, label times and what was known: before the first row, before the cut, after it.
ASKED = (
    (1, JAN, 0),
    (1, JAN + 3 * DAY, 12),
    (2, FEB, 21),
    (1, FEB + 2 * DAY, 13),
    (1, MAR - DAY, 14),
    (1, MAR, 14),
    (2, MAR + DAY, 21),
    (1, MAR + 6 * DAY, 16),
    (3, MAR + 6 * DAY, 0),
)


@dataclass(frozen=True)
class Place:
    """A log of three months of which PostgreSQL has March, and the rest is in the lake."""

    conn: psycopg.Connection
    url: str
    store: FeatureStore
    computation: Computation
    cut_again: Callable[[datetime], None]


@pytest.fixture(scope="module")
def place(
    database: str, computations: dict[str, Computation], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    computation = next(c for c in computations.values() if c.view == "user_watch_stats")
    folder = tmp_path_factory.mktemp("repository")
    (folder / "feature_store.yaml").write_text(f"project: {PROJECT}\nlake: {{warehouse: lake}}\n")
    store = store_at(database, str(folder / "registry.db"), OURS)
    store.config.repo_path = folder
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name="user_watch_stats",
        entities=[user],
        ttl=timedelta(0),
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="user_watch_count_7d", dtype=Int64, tags={"default": "0"}),
        ],
        source=PostgreSQLSource(
            name="log",
            table=computation.log_table,
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )
    store.apply([user, view, FeatureService(name="counts", features=[view])])
    with connect(database, autocommit=True) as conn:
        monthly(conn, computation.log_table)
        for user_id, at, value in (
            (1, JAN + DAY, 11),
            (1, JAN + 2 * DAY, 12),
            (2, JAN + 5 * DAY, 21),
            (1, FEB + DAY, 13),
            (1, FEB + 20 * DAY, 14),
            (1, MAR + DAY, 15),
            (1, MAR + 5 * DAY, 16),
        ):
            append_row(conn, computation, user_id, at, value)
        table = log_in_lake(conn, computation)

        def cut_again(before: datetime) -> None:
            with open_catalog(database, PROJECT, read_settings(folder)) as catalog:
                export(conn, database, catalog, PROJECT, table)
                cut(conn, database, catalog, PROJECT, table, before)

        cut_again(MAR)
        yield Place(conn, database, store, computation, cut_again)


def labels() -> pd.DataFrame:
    return pd.DataFrame(
        {"user_id": [who for who, _, _ in ASKED], "event_timestamp": [at for _, at, _ in ASKED]}
    )


def job(place: Place, **asked: object) -> SkewlessRetrievalJob:
    made = place.store.get_historical_features(features=[FEATURE], **asked)  # type: ignore[arg-type]
    assert isinstance(made, SkewlessRetrievalJob)
    return made


def log_source(place: Place) -> dict[str, object]:
    return {
        "config": place.store.config,
        "data_source": place.store.get_feature_view("user_watch_stats").batch_source,
        "join_key_columns": ["user_id"],
        "feature_name_columns": ["user_watch_count_7d"],
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created_timestamp",
    }


def test_labels_on_both_sides_are_joined_in_one_frame(place: Place) -> None:
    expected = [value for _, _, value in ASKED]
    left = place.conn.execute(f"SELECT count(*) FROM {place.computation.log_table}").fetchone()
    assert left == (4,)
    made = job(place, entity_df=labels())
    assert made.to_arrow()["user_watch_count_7d"].to_pylist() == expected
    again = made.in_full().to_arrow()
    assert again["user_watch_stats__found"].to_pylist() == [value > 0 for value in expected]
    # What was known in February only, of labels on both sides.
    known = made.as_known_at(FEB + 2 * DAY).to_arrow()["user_watch_count_7d"].to_pylist()
    assert known == [0, 12, 21, 13, 13, 13, 21, 13, 0]
    late = labels().iloc[[7]]
    alone = job(place, entity_df=late).as_known_at(FEB + 2 * DAY).to_arrow()
    assert alone["user_watch_count_7d"].to_pylist() == [13]


def test_a_large_join_uploads_what_each_part_needs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FEWEST", "MOST"):
        monkeypatch.setattr(f"extensions.stores.offline.join.parallel_join.{name}", 4)
    got = job(place, entity_df=pd.concat([labels()] * 3)).to_arrow()["user_watch_count_7d"]
    assert got.to_pylist() == [value for _, _, value in ASKED] * 3


def test_a_saved_dataset_holds_both_sides(place: Place) -> None:
    job(place, entity_df=labels()).persist(SavedDatasetPostgreSQLStorage("kept"))
    rows = place.conn.execute("SELECT user_watch_count_7d FROM kept").fetchall()
    assert sorted(value for (value,) in rows) == sorted(value for _, _, value in ASKED)


def test_without_a_repository_labels_before_the_cut_are_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.store.config, "repo_path", None)
    with pytest.raises(ConfigurationError, match="no repository that says where the lake is"):
        job(place, entity_df=labels()).to_arrow()
    later = labels().iloc[5:]
    assert job(place, entity_df=later).to_arrow().num_rows == len(later)


def test_a_range_of_rows_is_refused_before_the_cut(place: Place) -> None:
    with pytest.raises(ColdRowsError, match=r"Reading a range of rows needs user_watch_stats_v1"):
        job(place, start_date=JAN, end_date=APR).to_arrow()
    assert job(place, start_date=MAR, end_date=APR).to_arrow().num_rows == 2


def test_a_materialization_publishes_the_latest_rows_or_refuses(place: Place) -> None:
    pulled = SkewlessPostgresOfflineStore.pull_latest_from_table_or_query(
        **log_source(place),
        start_date=JAN,
        end_date=APR,  # type: ignore[arg-type]
    ).to_arrow()
    assert sorted(pulled["user_watch_count_7d"].to_pylist()) == [16, 21]
    with pytest.raises(ColdRowsError, match="A materialization needs user_watch_stats_v1"):
        SkewlessPostgresOfflineStore.pull_latest_from_table_or_query(
            **log_source(place),
            start_date=JAN,
            end_date=FEB,  # type: ignore[arg-type]
        ).to_arrow()
    for start, end in ((JAN, APR), (None, APR), (JAN, None)):
        with pytest.raises(ColdRowsError, match="as of 2024-01-0"):
            SkewlessPostgresOfflineStore.pull_all_from_table_or_query(
                **log_source(place),
                start_date=start,
                end_date=end,  # type: ignore[arg-type]
            ).to_arrow()


def test_the_sql_of_a_join_is_refused_before_the_cut(place: Place) -> None:
    with pytest.raises(ColdRowsError, match="The SQL of this join"):
        job(place, entity_df=labels()).to_sql()
    assert "user_watch_stats_v1" in job(place, entity_df=labels().iloc[5:]).to_sql()


def test_a_backfill_is_refused_before_the_cut(place: Place) -> None:
    with pytest.raises(ColdRowsError, match="A backfill needs user_watch_stats_v1 as of 2024-02-0"):
        backfill(place.conn, place.computation, FEB, APR)
    assert backfill(place.conn, place.computation, MAR, MAR + DAY).start == MAR
    place.conn.execute("DELETE FROM watermarks")


def test_the_audit_does_not_call_unlogged_what_was_cut(place: Place) -> None:
    with pytest.raises(ColdRowsError, match="The audit's search"):
        evidence(place.conn, place.computation, [[1]], [FEB], [JAN + DAY], [JAN + DAY])
    with pytest.raises(ColdRowsError, match=r"The audit's search .* as of 2024-01-03"):
        evidence(place.conn, place.computation, [[1]], [APR], [JAN + 2 * DAY], [MAR + DAY])
    found = evidence(place.conn, place.computation, [[1]], [APR], [FEB + 20 * DAY], [MAR + DAY])
    assert np.array_equal(found.logged, [True])
    with pytest.raises(ColdRowsError, match="The audit's search"):
        _logged_at(place.conn, place.computation, [((1,), JAN + DAY)])
    assert _logged_at(place.conn, place.computation, [((1,), MAR + DAY)]) == [MAR + DAY]


def test_drift_of_vectors_is_refused_before_the_cut(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.conn.execute(
        "CREATE TABLE served_here (service text, served_at timestamptz, source text, "
        "user_watch_stats__version integer)"
    )
    place.conn.execute(
        "INSERT INTO served_here VALUES ('counts', %s, 'http', 1), ('counts', %s, 'http', 1)",
        [FEB + DAY, MAR + DAY],
    )
    monkeypatch.setattr(serving_log_table, "TABLE", "served_here")
    feature = SimpleNamespace(view="user_watch_stats", name="user_watch_count_7d", keys=["user_id"])
    one: Any = SimpleNamespace(feature=feature, content={"anchors": [{"keys": [1]}]})
    present = {"user_watch_stats__version": "integer"}

    def anchors(start: datetime) -> Any:
        window = serving_log_window.Window("counts", start, start + 2 * DAY)
        return serving_log_window._anchors(place.conn, "anchors_here", one, present, window)

    with pytest.raises(ColdRowsError, match="The drift of a vector against its anchors"):
        anchors(FEB)
    assert anchors(MAR) is not None


def test_a_new_version_is_filled_from_where_the_log_began(place: Place) -> None:
    default: Any = SimpleNamespace(
        state="active", version=1, fill_from=None, log_table=place.computation.log_table
    )
    new: Any = SimpleNamespace(version=2)
    assert fill_range(place.conn, new, [default], None)[0] == JAN + DAY


def test_a_push_that_may_correct_what_was_cut_is_refused(place: Place) -> None:
    view = place.store.get_feature_view("user_watch_stats")
    rows = pd.DataFrame(
        {
            "user_id": [9],
            "event_timestamp": [FEB + DAY],
            "created_timestamp": [FEB + DAY],
            "user_watch_count_7d": [5],
        }
    )
    with pytest.raises(InputError, match=r"1 rows of a push to user_watch_stats_v1 are of times"):
        append(place.store.config, view, pa.Table.from_pandas(rows, preserve_index=False))
    now = rows.assign(created_timestamp=pd.Timestamp.now("UTC"))
    assert append(place.store.config, view, pa.Table.from_pandas(now, preserve_index=False)) == 1
    place.conn.execute(f"DELETE FROM {place.computation.log_table} WHERE user_id = 9")


def test_what_has_asked_for_a_cut_is_not_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extensions.asof.log_partitions._TRIES", 1)
    monkeypatch.setattr("extensions.asof.log_partitions.LOCK_TIMEOUT", "100ms")
    with arrow_session(place.store.config, "reading") as session:
        assert session_cuts(session, [place.computation.log_table])
        with pytest.raises(UnavailableError, match="was in use throughout"):
            place.cut_again(APR)


def test_a_training_set_says_which_snapshot_it_read_and_is_taken_again(
    place: Place, tmp_path: Path
) -> None:
    pq.write_table(pa.Table.from_pandas(labels()), tmp_path / "labels.parquet")
    made = take(
        place.store, "counts", read_labels(tmp_path / "labels.parquet"), tmp_path / "set.parquet"
    )
    assert list(made.manifest.lake) == [place.computation.log_table]
    got = pq.read_table(made.path)["user_watch_count_7d"].to_pylist()
    assert got == [value for _, _, value in ASKED]
    # Rows come, and March goes as well: the same set, of what the lake then holds.
    append_row(place.conn, None, 1, MAR + 4 * DAY, 99, log=place.computation.log_table)
    again = take_again(place.store, made.manifest_path, tmp_path / "again.parquet")
    assert again.manifest.lake == made.manifest.lake
    place.cut_again(APR)
    later = take_again(place.store, made.manifest_path, tmp_path / "later.parquet")
    assert later.manifest.sha256 == made.manifest.sha256
    assert later.manifest.lake != made.manifest.lake


def test_a_lake_that_lacks_what_was_cut_is_refused(place: Place) -> None:
    place.conn.execute("UPDATE log_cuts SET exported_through = now() + interval '1 day'")
    with pytest.raises(ConflictError, match="the lake does not hold what it held then"):
        job(place, entity_df=labels()).to_arrow()
