"""What requests were answered with is in the table, exactly, and serving never waits for it."""

import math
import struct
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.types import Float32, Float64, Int64

from extensions.errors import SkewlessError
from extensions.serving.observability import serving_log
from extensions.serving.observability.serving_log import ServingLog, bound, log_shares, request_hash
from extensions.stores.offline.writes import serving_log_table
from extensions.stores.offline.writes.feature_logging import ServedFeaturesDestination
from tests.served import ask, logged, wait_for

VECTOR = "user_preferences__user_genre_preferences"


def test_what_was_served_is_logged_bit_for_bit(
    http: httpx.Client, conn: psycopg.Connection
) -> None:
    before = logged(conn)
    body = {"userId": 7, "itemIds": [3, 5, 3, 900], "context": {"requestHour": 9}}
    ranked = http.post("/v1/features/rank?include=meta", json=body).json()
    single = http.get("/v1/features/user/7?include=meta").json()
    wait_for(lambda: logged(conn) == before + 5)

    rows = conn.execute(
        "SELECT user_id, item_id, row_number, request__request_hour, item_profile__item_genre, "
        "item_stats__item_popularity_score, ranking_signals__user_item_affinity, "
        "item_stats__as_of, item_stats__version, user_habits__version, "
        "user_watch_stats__user_watch_count_7d, request_id "
        f"FROM served_features WHERE service = 'ranking' AND {VECTOR} IS NOT NULL "
        "OR service = 'ranking' ORDER BY served_at DESC, row_number LIMIT 4"
    ).fetchall()
    assert [row[1] for row in rows] == [3, 5, 3, 900]
    assert {row[0] for row in rows} == {7}
    assert [row[2] for row in rows] == [0, 1, 2, 3]
    assert {row[3] for row in rows} == {9}
    assert len({row[11] for row in rows}) == 1
    for row, item in zip(rows, ranked["items"], strict=True):
        assert row[4] == item["itemFeatures"]["item_genre"]
        assert bits(row[5]) == bits(item["itemFeatures"]["item_popularity_score"])
        assert bits(row[6]) == bits(item["interactionFeatures"]["user_item_affinity"])
        assert row[8] == 1
    as_of = ranked["meta"]["item_stats"]["asOf"]
    assert [row[7] and row[7].isoformat().replace("+00:00", "Z") for row in rows] == as_of
    assert rows[3][7] is None  # item 900 has no row: a default
    # What is the same in all rows of an answer stands in the first one.
    assert [row[9] for row in rows] == [1, None, None, None]
    assert rows[0][10] == ranked["userFeatures"]["user_watch_count_7d"]

    [(vector, mean)] = conn.execute(
        f"SELECT {VECTOR}, user_habits__user_avg_watch_duration_min FROM served_features "
        "WHERE service = 'home_page' ORDER BY served_at DESC LIMIT 1"
    ).fetchall()
    served = single["features"]
    assert (
        np.array(vector, np.float32).tobytes()
        == np.array(served["user_genre_preferences"], np.float32).tobytes()
    )
    assert bits(mean) == bits(served["user_avg_watch_duration_min"])


def test_feasts_own_route_is_logged_too(http: httpx.Client, conn: psycopg.Connection) -> None:
    before = logged(conn)
    entities = {"user_id": [7, 7, 8], "item_id": [3, 900, 3], "request_hour": [9, 10, 11]}
    body = {"feature_service": "ranking", "entities": entities}
    answer = http.post("/get-online-features", json=body).json()
    one = {"features": ["user_habits:user_preferred_hour"], "entities": {"user_id": [7]}}
    assert http.post("/get-online-features", json=one).status_code == 200
    wait_for(lambda: logged(conn) >= before + 3)
    time.sleep(0.5)
    assert logged(conn) == before + 3  # references belong to no service

    held = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
    rows = conn.execute(
        "SELECT user_id, item_id, request__request_hour, item_stats__item_popularity_score, "
        "ranking_signals__hour_closeness, item_stats__as_of IS NOT NULL, row_number "
        "FROM served_features WHERE service = 'ranking' ORDER BY served_at DESC, row_number LIMIT 3"
    ).fetchall()
    assert [row[:3] for row in rows] == list(zip(*entities.values(), strict=True))
    assert [row[5] for row in rows] == [True, False, True]
    for place, name in ((3, "item_popularity_score"), (4, "hour_closeness")):
        served = [bits(one) for one in held[name]["values"]]
        assert [bits(row[place]) for row in rows] == served


def bits(value: float) -> bytes:
    return struct.pack("<f", value)


def test_a_sample_is_decided_by_the_request_alone() -> None:
    hashes = [
        request_hash("ranking", [[b"%d" % n], [b"1", b"2"]], 1_700_000_000_000_000 + n)
        for n in range(20_000)
    ]
    assert hashes[5] == request_hash("ranking", [[b"5"], [b"1", b"2"]], 1_700_000_000_000_005)
    small = {h for h in hashes if h < bound(0.01)}
    large = {h for h in hashes if h < bound(0.05)}
    assert small <= large
    # Binomial: within five standard deviations.
    assert abs(len(small) - 200) < 5 * math.sqrt(200)
    assert all(h < bound(1.0) for h in hashes)
    assert not any(h < bound(0.0) for h in hashes)


def test_the_share_is_the_servers_or_the_services_own() -> None:
    log = ServingLog("postgresql://nobody", {"a": 0.5}, 0.02)
    plan = SimpleNamespace(service="a", resource=SimpleNamespace(logging_config=None))
    assert log.rate_of(plan) == 0.5
    plan.service = "b"
    assert log.rate_of(plan) == 0.02
    plan.resource.logging_config = LoggingConfig(ServedFeaturesDestination(), 0.3)
    assert log.rate_of(plan) == 0.3
    assert log_shares(["0.1", "ranking=1"]) == {"log_rate": 0.1, "log_rates": {"ranking": 1.0}}
    for wrong in ("2", "ranking=x", "ranking=-1"):
        with pytest.raises(SkewlessError):
            log_shares([wrong])


def test_a_full_queue_sheds_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_log, "MOST_WAITING", 250)
    log = ServingLog("postgresql://nobody", rate=1.0)
    plan = SimpleNamespace(service="s", resource=SimpleNamespace(logging_config=None))
    start = time.perf_counter()
    for now in range(1000):
        log.offer(SimpleNamespace(plan=plan), {"k": [b"1"]}, {}, 100, now, {})
    assert time.perf_counter() - start < 1
    assert log.waiting == 200
    assert log.outcomes["shed"] == 998 * 100


def test_a_database_that_is_away_costs_rows_and_nothing_else(
    http: httpx.Client, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute("ALTER TABLE served_features RENAME TO elsewhere")
    try:
        ask(http, 3)
        wait_for(
            lambda: 'skewless_served_log_rows_total{outcome="shed"}' in http.get("/metrics").text
        )
    finally:
        conn.execute("ALTER TABLE elsewhere RENAME TO served_features")
    before = logged(conn)
    ask(http, 2)
    wait_for(lambda: logged(conn) >= before + 42)


def test_serving_does_not_wait_for_a_slow_log(http: httpx.Client, conn: psycopg.Connection) -> None:
    """The table is locked for a second: requests are answered all the same, and then logged."""
    before = logged(conn)
    released = threading.Event()
    with psycopg.connect(conn.info.dsn, password=conn.info.password) as other:
        other.execute("LOCK TABLE served_features IN ACCESS EXCLUSIVE MODE")
        slowest = 0.0
        for number in range(30):
            start = time.perf_counter()
            assert http.get(f"/v1/features/user/{number % 40 + 1}").status_code == 200
            slowest = max(slowest, time.perf_counter() - start)
        released.set()
    assert slowest < 1
    wait_for(lambda: logged(conn) >= before + 30)


def test_days_are_partitions_and_old_ones_go(fresh_database: str) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    with psycopg.connect(fresh_database, autocommit=True) as conn:
        serving_log_table.ensure_partitions(conn, day, day + timedelta(days=2, hours=1))
        serving_log_table.ensure_partitions(conn, day, day)
        for hours in (1, 30, 60, 24 * 20):
            conn.execute(
                "INSERT INTO served_features VALUES (%s, 's', 1, 0)", [day + timedelta(hours=hours)]
            )
        assert serving_log_table.prune(conn, day + timedelta(days=2)) == [
            "served_features_2026_03_01", "served_features_2026_03_02",
        ]  # fmt: skip
        assert logged(conn) == 2
        assert serving_log_table.prune(conn, day + timedelta(days=40)) == [
            "served_features_2026_03_03"
        ]
        assert logged(conn) == 0


def test_a_feature_that_changes_its_type_gets_a_column_of_its_own(fresh_database: str) -> None:
    with psycopg.connect(fresh_database, autocommit=True) as conn:
        assert serving_log_table.ensure_columns(conn, {"v__f": Int64}) == {"v__f": "v__f"}
        other = serving_log_table.ensure_columns(conn, {"v__f": Float32})
        assert other == {"v__f": "v__f__real"}
        assert serving_log_table.ensure_columns(conn, {"v__f": Float32}) == other
        present = serving_log_table.present_columns(conn)
        assert serving_log_table.resolve(present, "v__f", Int64) == "v__f"
        assert serving_log_table.resolve(present, "v__f", Float32) == "v__f__real"
        assert serving_log_table.resolve(present, "v__f", Float64) is None
        long = "v" * 50 + "__" + "f" * 50
        [name] = serving_log_table.ensure_columns(
            conn, {serving_log_table.column_name("v" * 50, "f" * 50): Int64}
        ).values()
        assert len(name) <= 63
        assert name != long[:63]


def test_feasts_own_logging_writes_the_same_table(
    feast_store: FeatureStore, conn: psycopg.Connection, repo_root: Path
) -> None:
    """And plain `feast` commands still read a service that names the destination."""
    service = feast_store.get_feature_service("home_page")
    logging = FeatureService(
        name="logged_by_feast",
        features=service._features or [],
        logging_config=LoggingConfig(ServedFeaturesDestination(), sample_rate=0.25),
    )
    logging.feature_view_projections = service.feature_view_projections
    feast_store.apply(logging)
    config = feast_store.get_feature_service("logged_by_feast").logging_config
    assert config is not None
    assert config.sample_rate == 0.25
    assert isinstance(config.destination, ServedFeaturesDestination)

    schema = _schema_of_feast(feast_store, logging)
    moment = datetime(2026, 11, 1, 12, tzinfo=UTC)
    values = {
        "user_watch_count_7d": 11,
        "user_avg_watch_duration_min": 2.5,
        "user_preferred_hour": 20,
        "user_genre_preferences": [0.25] * 32,
    }
    row = {
        "user_id": 3,
        "__log_timestamp": moment,
        "__log_date": moment.date(),
        "__request_id": "5f0c6d1e-0000-4000-8000-000000000001",
    }
    for field in schema:
        if field.name.endswith("__timestamp") and field.name not in row:
            row[field.name] = moment - timedelta(minutes=2)
        elif field.name.endswith("__status"):
            row[field.name] = 2 if "habits" in field.name else 1
        elif (feature := field.name.rpartition("__")[2]) in values:
            row[field.name] = values[feature]
    feast_store.write_logged_features(pa.Table.from_pylist([row], schema=schema), logging)
    [found] = conn.execute(
        "SELECT source, user_id, user_watch_stats__user_watch_count_7d, user_watch_stats__version, "
        "user_watch_stats__as_of, user_habits__as_of, user_habits__user_preferred_hour "
        "FROM served_features WHERE service = 'logged_by_feast'"
    ).fetchall()
    assert found == ("feast", 3, 11, 1, moment - timedelta(minutes=2), None, 20)

    listed = subprocess.run(
        [Path(sys.executable).parent / "feast", "feature-services", "list"],
        cwd=repo_root, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert "logged_by_feast" in listed.stdout


def _schema_of_feast(store: FeatureStore, service: FeatureService) -> pa.Schema:
    return FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
