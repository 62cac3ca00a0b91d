"""Training sets: our offline store beside stock Feast's, on one PostgreSQL and the same logs."""

import contextlib
import gc
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
from feast.repo_operations import parse_repo

from benchmarks.report import Row, arguments, publish, timed
from benchmarks.training_materialize import materialize_log, materialize_users
from benchmarks.training_setup import (
    FULL,
    INDEX,
    QUICK,
    REPO,
    Size,
    Stores,
    asked,
    fill_log,
    fresh,
    open_stores,
    question,
    quiet,
    random_labels,
    same,
    sparse,
    user,
    watched,
)
from extensions.asof import load_computations
from extensions.asof.backfill import backfill
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.database import connect_arrow
from extensions.history.declared_tables import declared_sources
from extensions.history.simulate import simulate
from extensions.local import postgres, valkey
from extensions.stores.offline.retrieval_queries import PointInTimeRequest
from feature_repo.genres import PLACES
from feature_repo.simulator import Simulation


def one_view(stores: Stores, view: str, users: int, size: Size) -> tuple[Row, float, pd.DataFrame]:
    """One view beside stock; also the median and the labels."""
    features = [f"{view}:seen"]
    labels = random_labels(size.labels, users)
    asked(stores.ours, labels[:10], features)
    ours, answer = timed(lambda: asked(stores.ours, labels, features), size.runs)
    stock, theirs = timed(lambda: asked(stores.stock, labels, features), size.stock_runs)
    relaxed = asked(stores.relaxed, labels, features)
    late = int((answer["seen"].fillna(-1) != relaxed["seen"].fillna(-1)).sum())
    row = Row(
        f"{len(labels):,} labels, one view, {size.log_rows:,} log rows of {users:,} users, "
        "30-day TTL",
        "end to end to pandas",
        "s",
        "lower",
        ours.median,
        stock.median,
        runs=size.stock_runs,
        spread=ours.spread,
        equal=same(relaxed, theirs, ["user_id", "event_timestamp"]),
        why=f"compared without arrival; {late} rows were not yet published at their label's "
        f"time and stock returns them; the log has a {INDEX}",
    )
    return row, ours.median, labels


def many_labels(stores: Stores, size: Size, fewer: float, count: int) -> Row:
    """Ten times the labels: the time per label, and the memory above the result's own."""
    labels = random_labels(size.many_labels, size.users, seed=2)
    asked(stores.ours, labels[:10_000], ["watched:seen"])
    gc.collect()
    before = _peak_from_here()
    start = time.perf_counter()
    answer = asked(stores.ours, labels, ["watched:seen"])
    took = time.perf_counter() - start
    peak = _mebibytes("VmHWM")
    own = int(answer.memory_usage(deep=True).sum()) / 2**20
    factor = took / fewer / (len(labels) / count)
    return Row(
        f"{len(labels):,} labels, one view",
        "end to end to pandas",
        "s",
        "lower",
        took,
        spread=(took, took),
        why=f"{factor:.2f}x the time per label of {count:,}; peak memory "
        f"{peak - before - own:,.0f} MiB above the result's own {own:,.0f}",
    )


def _peak_from_here() -> float:
    """Let the kernel begin its high-water mark anew; the process' memory now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _mebibytes("VmRSS")


def _mebibytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(one for one in lines if one.startswith(f"{name}:")).split()[1]) / 1024


def limit(stores: Stores, labels: pd.DataFrame, size: Size) -> Row:
    """The same join in DuckDB's memory; time in the database only, arrival not asked."""
    with connect_arrow(stores.url) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT user_id, event_timestamp, seen FROM watched_v1")
        log = cursor.fetch_arrow_table()
    duck = duckdb.connect()
    duck.execute("SET threads = 2")
    duck.execute("SET enable_progress_bar = false")
    duck.register("log_arrow", log)
    duck.register("labels_arrow", pa.Table.from_pandas(labels))
    duck.execute("CREATE TABLE log AS SELECT * FROM log_arrow")
    duck.execute(
        "CREATE TABLE labels AS SELECT user_id, event_timestamp::TIMESTAMPTZ AS "
        "event_timestamp FROM labels_arrow"
    )
    asof = (
        "SELECT count(seen), sum(seen) FROM (SELECT CASE WHEN l.event_timestamp >= "
        "e.event_timestamp - INTERVAL 30 DAY THEN l.seen END AS seen FROM labels AS e "
        "ASOF LEFT JOIN log AS l ON e.user_id = l.user_id "
        "AND e.event_timestamp >= l.event_timestamp)"
    )
    theirs, found = timed(lambda: duck.execute(asof).fetchone(), size.runs)
    job = question(stores.relaxed, labels, ["watched:seen"])
    with psycopg.connect(stores.url, options="-c timezone=UTC -c jit=off") as pg:
        assert isinstance(job.request, PointInTimeRequest)
        name = job.request.labels.name
        pg.execute(f'CREATE TEMP TABLE "{name}" (_ordinal bigint, _at timestamptz, key_0 bigint)')
        ordered = labels.sort_values(["user_id", "event_timestamp"])
        with pg.cursor().copy(f'COPY "{name}" FROM STDIN') as copy:
            for row in ordered.itertuples():
                copy.write_row((row.Index, row.event_timestamp, row.user_id))
        pg.execute(f'ANALYZE "{name}"')
        query = f"SELECT count(seen), sum(seen) FROM ({job.to_sql()}) AS answer"
        ours, mine = timed(lambda: pg.execute(query).fetchone(), size.runs)
    assert found is not None
    return Row(
        f"{len(labels):,} labels against DuckDB's ASOF JOIN",
        "time in the database",
        "s",
        "lower",
        ours.median,
        limit=theirs.median,
        runs=size.runs,
        spread=ours.spread,
        equal=mine is not None and [int(v or 0) for v in mine] == [int(v or 0) for v in found],
        why=f"{ours.median / theirs.median:.1f}x DuckDB, all in its memory, 2 threads; ours on one",
    )


def whole_service(url: str, redis: str, folder: Path, size: Size) -> tuple[Row, Stores]:
    """All views and the transforms of the ranking service, on the demo's kind of history."""
    with contextlib.chdir(REPO):
        contents = parse_repo(REPO)
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    with psycopg.connect(url, autocommit=True) as conn, quiet():
        ensure_log_tables(conn, load_computations(REPO).values())
        simulate(url, demo_history(size, until), declared_sources(url, REPO))
        with conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO genres (genre, embedding, ingested_at) VALUES (%s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                [
                    (genre, place.tolist(), until - timedelta(days=90))
                    for genre, place in PLACES.items()
                ],
            )
        for computation in load_computations(REPO).values():
            backfill(conn, computation, until - timedelta(days=1), until)
        conn.execute("VACUUM ANALYZE")
        pairs = conn.execute(
            "SELECT user_id, item_id FROM watch_events ORDER BY event_id LIMIT %s",
            [4 * size.service_labels],
        ).fetchall()
    stores = open_stores(
        url,
        redis,
        folder,
        [
            *contents.entities,
            *contents.data_sources,
            *contents.feature_views,
            *contents.on_demand_feature_views,
            *contents.feature_services,
        ],
    )
    random = np.random.default_rng(3)
    labels = pd.DataFrame(pairs, columns=["user_id", "item_id"])
    labels["event_timestamp"] = pd.Timestamp(until) - pd.to_timedelta(
        random.integers(0, 86_000_000_000, len(labels)), unit="us"
    )
    labels["request_hour"] = labels["event_timestamp"].dt.hour
    labels = labels.drop_duplicates(["user_id", "item_id", "event_timestamp"], ignore_index=True)
    features = [
        f"{p.name}:{f.name}"
        for p in stores.ours.get_feature_service("ranking").feature_view_projections
        for f in p.features
    ]
    # Stock fills no defaults, and the transforms fail on its nulls: labels known to every view.
    job = question(stores.ours, labels, features)
    details = job.in_full().to_df()
    found = [name for name in details.columns if name.endswith("__found")]
    labels = labels[details[found].all(axis=1)].head(size.service_labels).reset_index(drop=True)
    ours, answer = timed(lambda: asked(stores.ours, labels, features), size.runs)
    stock, theirs = timed(lambda: asked(stores.stock, labels, features), size.stock_runs)
    equal = same(answer, theirs[answer.columns], ["user_id", "item_id", "event_timestamp"])
    row = Row(
        f"{len(labels):,} labels, the whole ranking service with its transforms",
        "end to end to pandas",
        "s",
        "lower",
        ours.median,
        stock.median,
        runs=size.stock_runs,
        spread=ours.spread,
        equal=equal,
        why=f"{len(answer.columns)} columns; labels for which every view has a row",
    )
    return row, stores


def demo_history(size: Size, until: datetime) -> Simulation:
    """The demo's world, at the benchmark's size."""
    return Simulation(
        users=max(200, size.events // 50),
        items=max(100, size.events // 200),
        events=size.events,
        until=until,
    )


def main() -> None:
    """Start the servers, measure, stop them."""
    args = arguments(__doc__ or "")
    size = QUICK if args.quick else FULL
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = postgres.start(folder / "postgres")
        stack.callback(server.stop)
        redis = valkey.start(folder / "valkey")
        stack.callback(redis.stop)
        log_url = fresh(server.url, "log")
        fill_log(log_url, "watched_v1", size.users, size)
        fill_log(log_url, "sparse_v1", size.many_users, size)
        (folder / "log").mkdir()
        (folder / "demo").mkdir()
        stores = open_stores(log_url, redis.url, folder / "log", [user, watched, sparse])
        dense, median, labels = one_view(stores, "watched", size.users, size)
        wide, _, _ = one_view(stores, "sparse", size.many_users, size)
        rows = [
            many_labels(stores, size, median, len(labels)),
            limit(stores, labels, size),
            *materialize_log(stores),
        ]
        for users in size.materialized:
            rows += materialize_users(log_url, redis.url, folder, users, size)
        service, _ = whole_service(fresh(server.url, "demo"), redis.url, folder / "demo", size)
        publish("training", [dense, wide, service, *rows], args)


if __name__ == "__main__":
    main()
