"""Backfill of seven days, view by view: DuckDB over history read once against PostgreSQL.

CPU seconds are those of this process and of all of PostgreSQL's, so that reading the history and
appending to the log count on both sides. The logs of both are compared row by row.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from benchmarks.report import Row, arguments, publish
from extensions.asof import Computation, load_computations
from extensions.asof.backfill import backfill
from extensions.asof.backfill_chunks import Chunk, PostgreSQLChunks, spine_of
from extensions.asof.engine import answers
from extensions.asof.safe_time import settled_now
from extensions.database import connect
from extensions.engines.backfill import DuckDBChunks, duckdb_chunks
from extensions.history.bulk_load import load
from extensions.history.declared_tables import declared_sources
from extensions.local import postgres
from extensions.operations.database_setup import prepare_database
from extensions.repository import repo_root
from feature_repo.simulator import Platform, Simulation, history

DAYS = 7
DAY = timedelta(days=1)
# What each view is to gain, CPU of an answer.
GOALS = {
    "user_watch_stats": 5.0,
    "user_item_progress": 2.0,
    "user_habits": 1.5,
    "item_stats": 1.2,
    "user_preferences": 1.2,
}
CONTROL = "watermarks, backfills, backfill_chunks, unpublished_rows"


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock and of the processors."""

    wall: float
    cpu: float


def main() -> None:
    """One history, both engines, every view."""
    args = arguments(__doc__.splitlines()[0])
    users = 500 if args.quick else 5_000
    simulation = Simulation(users=users, items=users // 4, days=60, events=users * 50, seed=1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        server = postgres.start(Path(folder) / "postgres", durable=False)
        try:
            prepare_database(server.url)
            sources = declared_sources(server.url, repo_root())
            world = Platform(simulation)
            load(server.url, sources.table("items"), [world.item_history()])
            load(server.url, sources.table("watch_events"), history(simulation, platform=world))
            computations = load_computations(repo_root())
            with connect(server.url, autocommit=True) as conn:
                conn.execute("VACUUM ANALYZE")
                measured = _Measured(conn, server.url)
                for view in GOALS:
                    for row in measured.view(computations[f"{view}.v1"]):
                        print(f"{row.work}: {row.ratio:.2f} times ({row.metric})", flush=True)
                        rows.append(row)
        finally:
            server.stop()
    publish("backfill_engines", rows, args)


class _Measured:
    def __init__(self, conn: psycopg.Connection, url: str) -> None:
        self._conn, self._url = conn, url
        [[pid]] = conn.execute("SELECT pg_backend_pid()").fetchall()
        self._server = psutil.Process(pid).parent() or psutil.Process(pid)

    def view(self, computation: Computation) -> Iterator[Row]:
        """Answers alone, and the whole backfill with its log."""
        end = settled_now(self._conn, computation.tables)
        start = (end - DAYS * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
        asked, by_postgres = self._spent(lambda: self._ask_postgres(computation, start, end))
        with duckdb_chunks(self._url, computation) as engine:
            _, reading = self._spent(lambda: engine.begin(start, end))
            answered, by_duckdb = self._spent(lambda: _ask_duckdb(engine, start, end))
        name = f"{computation.view}, {DAYS} days, {asked:,} answers"
        equal = asked == answered
        yield from _rows(f"{name}, history read", by_duckdb, by_postgres, asked, equal=equal)
        whole = Spent(reading.wall + by_duckdb.wall, reading.cpu + by_duckdb.cpu)
        yield from _rows(f"{name}", whole, by_postgres, asked, equal=equal)
        self._clear(computation)
        _, by_postgres = self._spent(lambda: backfill(self._conn, computation, start, end))
        expected = self._content(computation)
        self._clear(computation)
        _, by_duckdb = self._spent(lambda: self._fill(computation, start, end))
        equal = self._content(computation) == expected
        self._clear(computation)
        count = expected[0]
        name = f"{computation.view}, {DAYS} days, {count:,} rows with their log"
        yield from _rows(name, by_duckdb, by_postgres, count, equal=equal)

    def _ask_postgres(self, computation: Computation, start: datetime, end: datetime) -> int:
        count, at, engine = 0, start, PostgreSQLChunks(computation)
        while at < end:
            through, _ = engine.cut(at, end)
            query = answers(computation, spine_of(computation, Chunk(at, through)))
            cells = sql.SQL(", ").join(
                sql.SQL("count({})").format(sql.Identifier(f.name)) for f in computation.features
            )
            [row] = self._conn.execute(
                sql.SQL("{} SELECT count(*), {} FROM answered").format(query, cells)
            ).fetchall()
            count, at = count + row[0], through
        return count

    def _fill(self, computation: Computation, start: datetime, end: datetime) -> int:
        with duckdb_chunks(self._url, computation) as engine:
            done = backfill(self._conn, computation, start, end, engine=engine)
            return done.rows

    def _content(self, computation: Computation) -> tuple[Any, ...]:
        query = sql.SQL(
            "SELECT count(*), bit_xor(hashtextextended(l::text, 0)), "
            "sum(hashtextextended(l::text, 1)::numeric) FROM {} AS l"
        ).format(sql.Identifier(computation.log_table))
        [row] = self._conn.execute(query).fetchall()
        return tuple(row)

    def _clear(self, computation: Computation) -> None:
        table = sql.Identifier(computation.log_table)
        self._conn.execute(sql.SQL("TRUNCATE {}").format(table))
        self._conn.execute(f"TRUNCATE {CONTROL}")

    def _spent(self, work: Callable[[], Any]) -> tuple[Any, Spent]:
        with self._clock() as spent:
            result = work()
        return result, spent[0]

    @contextmanager
    def _clock(self) -> Iterator[list[Spent]]:
        spent: list[Spent] = []
        wall, cpu = time.perf_counter(), self._cpu()
        yield spent
        spent.append(Spent(time.perf_counter() - wall, self._cpu() - cpu))

    def _cpu(self) -> float:
        """Of this process and of PostgreSQL's: those that run, and those that have ended."""
        mine = os.times()
        total = mine.user + mine.system
        for process in (self._server, *self._server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                total += used.user + used.system
                if process == self._server:
                    total += used.children_user + used.children_system
        return total


def _ask_duckdb(engine: DuckDBChunks, start: datetime, end: datetime) -> int:
    """Cut, build the spines and answer them; returns how many answers came out as Arrow."""
    count, at = 0, start
    while at < end:
        through, buckets = engine.cut(at, end)
        for bucket in range(buckets):
            chunk = Chunk(at, through, bucket, buckets)
            count += sum(batch.num_rows for batch in engine.answers(chunk))
        at = through
    return count


def _load() -> str:
    """What else the machine was doing: a clock means little then, and CPU more."""
    return f"load of the machine: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"


def _rows(name: str, ours: Spent, stock: Spent, count: int, *, equal: bool) -> Iterator[Row]:
    view = name.split(",", maxsplit=1)[0]
    for metric in ("cpu", "wall"):
        yield Row(
            name,
            metric=metric,
            unit=f"us of {metric} per row",
            better="lower",
            ours=getattr(ours, metric) / max(count, 1) * 1e6,
            stock=getattr(stock, metric) / max(count, 1) * 1e6,
            equal=equal,
            why=f"goal of answers alone, CPU: {GOALS[view]:g} times"
            if metric == "cpu"
            else _load(),
        )


if __name__ == "__main__":
    main()
