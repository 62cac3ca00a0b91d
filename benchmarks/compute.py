"""What computing costs: ticks against full recomputation, sets against entity by entity, rates.

The other side of a tick is the batch job that recomputes every active user; the other side of
one as-of query for many users is the same question asked user by user.
"""

import argparse
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv

from benchmarks.report import Row, Timing, arguments, publish, timed
from extensions.asof import Computation, Spine, active, load_computations
from extensions.asof.backfill import backfill
from extensions.asof.engine import answers
from extensions.asof.tick import tick
from extensions.database import connect
from extensions.history.bulk_load import load
from extensions.history.declared_tables import declared_sources
from extensions.history.file_import import import_file
from extensions.local import postgres
from extensions.operations.database_setup import prepare_database
from extensions.repository import repo_root
from feature_repo.simulator import Platform, Simulation, history

SHARES = (0.01, 0.10, 1.00)


def main() -> None:
    """Run all parts on one history."""
    args = arguments(__doc__.splitlines()[0])
    simulation = Simulation(
        users=2_000 if args.quick else 20_000,
        items=500 if args.quick else 5_000,
        days=60,
        events=100_000 if args.quick else 1_000_000,
        seed=1,
    )
    runs = 3
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        server = postgres.start(Path(folder) / "postgres", durable=False)
        try:
            prepare_database(server.url)
            rows += rates(server.url, simulation, Path(folder))
            computations = load_computations(repo_root())
            with connect(server.url, autocommit=True) as conn:
                conn.execute("VACUUM ANALYZE")
                rows += ticks(conn, computations["user_habits.v1"], simulation, runs)
                rows += sets(conn, computations, simulation, runs, args)
                rows += backfills(conn, computations)
        finally:
            server.stop()
    publish("compute", rows, args)


def rates(url: str, simulation: Simulation, folder: Path) -> list[Row]:
    """Events per second: made, loaded, and imported from a CSV of the same columns."""
    start = perf_counter()
    world = Platform(simulation)
    batches = list(history(simulation, platform=world))
    made = perf_counter() - start
    count = sum(batch.num_rows for batch in batches)
    sources = declared_sources(url, repo_root())
    load(url, sources.table("items"), [world.item_history()])
    loaded = load(url, sources.table("watch_events"), batches)
    again = folder / "events.csv"
    table = pa.Table.from_batches(batches)
    # Ids of their own, so that the import inserts what the load inserted already.
    ids = pa.compute.binary_join_element_wise("csv", table["event_id"].cast(pa.string()), "-")
    table = table.set_column(table.schema.get_field_index("event_id"), "event_id", ids)
    with connect(url, autocommit=True) as conn:
        before = _count(conn)
        conn.execute("TRUNCATE watch_events, watch_events_ids")
    pyarrow.csv.write_csv(table, again)
    start = perf_counter()
    imported = import_file(url, sources.table("watch_events"), again)
    import_seconds = perf_counter() - start
    with connect(url, autocommit=True) as conn:
        after = _count(conn)
    rate: dict[str, Any] = {"unit": "events/s", "better": "higher", "metric": "rate"}
    size = f"{count:,} events"
    return [
        Row(f"simulate {size}", ours=count / made, **rate),
        Row(f"load {size} by COPY, unique by id", ours=loaded.rows_per_second, **rate),
        Row(
            f"import {size} from CSV, validated",
            ours=imported.read / import_seconds,
            equal=before == after,
            why="equal: the import ends with the load's rows",
            **rate,
        ),
    ]


def ticks(
    conn: psycopg.Connection, computation: Computation, simulation: Simulation, runs: int
) -> list[Row]:
    """A tick after 1 %, 10 % and all users watched something, beside recomputing everyone."""
    tick(conn, computation)
    rows = []
    for share in SHARES:
        ours, full, rows_ours, equal = [], [], 0, True
        for _ in range(runs):
            _watch(conn, simulation, share)
            done, seconds = _clocked(lambda: tick(conn, computation))
            ours.append(seconds)
            rows_ours = done.rows
            everyone = active(computation, done.at)
            recomputed, seconds = _clocked(lambda: _recompute(conn, computation, everyone))  # noqa: B023
            full.append(seconds)
            equal &= recomputed == _latest(conn, computation, done.at)
        timing = Timing(tuple(ours))
        rows.append(
            Row(
                f"tick of {computation.view}, {share:.0%} of {simulation.users:,} users active "
                f"({rows_ours:,} rows); stock: recompute everyone",
                metric="wall",
                unit="s",
                better="lower",
                ours=timing.median,
                stock=Timing(tuple(full)).median,
                runs=runs,
                spread=timing.spread,
                equal=equal,
            )
        )
    return rows


def sets(
    conn: psycopg.Connection,
    computations: dict[str, Computation],
    simulation: Simulation,
    runs: int,
    args: argparse.Namespace,
) -> list[Row]:
    """A batch of users in one as-of query, beside one query per user."""
    now = datetime.now(UTC)
    users = random.Random(1).sample(range(simulation.users), 200 if args.quick else 1_000)
    rows = []
    for name in ("user_watch_stats.v1", "user_habits.v1", "user_preferences.v1"):
        computation = computations[name]
        spine = Spine.of([(user, now) for user in users], computation)
        ours, together = timed(lambda: _ask(conn, computation, spine), runs)  # noqa: B023
        stock, one_by_one = timed(
            lambda: [
                row
                for user in users
                for row in _ask(conn, computation, Spine.of([(user, now)], computation))  # noqa: B023
            ],
            runs,
        )
        rows.append(
            Row(
                f"{computation.view} of {len(users):,} users; stock: a query per user",
                metric="wall",
                unit="s",
                better="lower",
                ours=ours.median,
                stock=stock.median,
                runs=runs,
                spread=ours.spread,
                equal=sorted(together) == sorted(one_by_one),
            )
        )
    return rows


def backfills(conn: psycopg.Connection, computations: dict[str, Computation]) -> list[Row]:
    """Log rows per second of a one-day backfill, the state at its start included."""
    rows = []
    end = datetime.now(UTC) - timedelta(days=1)
    for computation in computations.values():
        conn.execute("DELETE FROM watermarks WHERE view_name = %s", [computation.view])
        done, seconds = _clocked(
            lambda: backfill(conn, computation, end - timedelta(days=1), end)  # noqa: B023
        )
        rows.append(
            Row(
                f"backfill {computation.view}, one day ({done.rows:,} rows)",
                metric="rate",
                unit="rows/s",
                better="higher",
                ours=done.rows / seconds,
            )
        )
    return rows


def _watch(conn: psycopg.Connection, simulation: Simulation, share: float) -> None:
    """Let ``share`` of the users watch one item now."""
    conn.execute(
        "INSERT INTO watch_events (event_id, user_id, item_id, watched_at, duration_ms, progress) "
        "SELECT gen_random_uuid()::text, u, (u * 7919) %% %s, now(), 1000 + u %% 5000000, 0.5 "
        "FROM generate_series(0, %s - 1) AS u WHERE random() < %s",
        [simulation.items, simulation.users, share],
    )


def _ask(conn: psycopg.Connection, computation: Computation, spine: Spine) -> list[Any]:
    query = psycopg.sql.SQL("{} SELECT * FROM answered").format(answers(computation, spine))
    return conn.execute(query).fetchall()


def _recompute(conn: psycopg.Connection, computation: Computation, spine: Spine) -> list[Any]:
    """Everyone's value into a table, as a batch job does; returns it sorted by user."""
    with _scratch(conn, computation) as table:
        conn.execute(
            psycopg.sql.SQL("INSERT INTO {} {} SELECT * FROM answered").format(
                psycopg.sql.Identifier(table), answers(computation, spine)
            )
        )
        return _sorted(
            conn.execute(
                psycopg.sql.SQL("SELECT * FROM {}").format(psycopg.sql.Identifier(table))
            ).fetchall()
        )


def _latest(conn: psycopg.Connection, computation: Computation, at: datetime) -> list[Any]:
    """What the log says of everyone who is active at ``at``: the ticks' side."""
    everyone = active(computation, at)
    return _sorted(
        conn.execute(
            psycopg.sql.SQL(
                "SELECT s.user_id, s.as_of, l.user_avg_watch_duration_min, l.user_preferred_hour "
                "FROM ({}) AS s CROSS JOIN LATERAL (SELECT * FROM user_habits_v1 AS l "
                "WHERE l.user_id = s.user_id AND l.event_timestamp <= s.as_of "
                "ORDER BY l.event_timestamp DESC LIMIT 1) AS l"
            ).format(everyone.query)
        ).fetchall()
    )


@contextmanager
def _scratch(conn: psycopg.Connection, computation: Computation) -> Iterator[str]:
    table = f"scratch_{computation.view}"
    conn.execute(
        f"CREATE TEMP TABLE {table} (user_id bigint, as_of timestamptz, "
        "user_avg_watch_duration_min real, user_preferred_hour bigint)"
    )
    try:
        yield table
    finally:
        conn.execute(f"DROP TABLE {table}")


def _sorted(rows: list[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: row[0])


def _clocked(work: Any) -> tuple[Any, float]:
    start = perf_counter()
    result = work()
    return result, perf_counter() - start


def _count(conn: psycopg.Connection) -> int:
    row = conn.execute("SELECT count(*) FROM watch_events").fetchone()
    assert row is not None  # count always returns a row
    return int(row[0])


if __name__ == "__main__":
    main()
