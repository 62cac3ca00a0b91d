"""Switching versions under load, and a rollback beside stock Feast's.

`python -m benchmarks.versions [--quick] [--json FILE]`, from the repository. Rankings of 100 items
run on eight connections over two workers, each of which has some, while two views are promoted and
rolled back; every reply is compared with what the versions that it names serve. In stock Feast a
rollback is: edit the source, `feast apply`, recompute, `feast materialize`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psycopg

from benchmarks.report import Row, arguments, publish
from benchmarks.switching import Load, State, Switch
from benchmarks.versions_setup import (
    ITEMS,
    REPO,
    SCORE,
    Ours,
    Stock,
    history,
    running,
    until_ready,
)
from extensions import addresses
from extensions.asof.watermarks import read_watermark
from extensions.database import connect
from extensions.local import postgres, valkey
from extensions.local.ports import free_port
from extensions.operations.database_setup import prepare_database
from extensions.stores.registry.version_store import published
from extensions.versions.promotion import promote, rollback

CONNECTIONS, WORKERS = 8, 2
# During a rollback from the command line both sides are asked some 50 times a second.
ASKING, BETWEEN = 4, 0.08
# Seconds; stock's server reads its registry again every two.
READ_AGAIN = 2.5
SERVE = """
import sys
from pathlib import Path
from extensions.serving.server import run
from extensions.serving.settings import Settings
run(Settings(repo=Path.cwd(), port=int(sys.argv[1]), workers=int(sys.argv[2]),
             redis_deadline_ms=2000))
"""
# `skewless rollback item_stats` in the copy of the repository.
COMMAND = """
from extensions.cli import main
main()
"""
MOVES: list[tuple[bool, str, State]] = [
    (True, "item_stats", (1, 2)),
    (True, "user_watch_stats", (2, 2)),
    (False, "item_stats", (2, 1)),
    (False, "user_watch_stats", (1, 1)),
]


def main() -> None:
    args = arguments(__doc__ or "")
    switches = 12 if args.quick else 50
    rollbacks = 1 if args.quick else 3
    users, items, events = (200, 150, 5_000) if args.quick else (2_000, 1_000, 60_000)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = postgres.start(folder / "postgres", durable=False)
        stack.callback(database.stop)
        cache = valkey.start(folder / "valkey", durable=False)
        stack.callback(cache.stop)
        os.environ[addresses.POSTGRES_VARIABLE] = database.url
        os.environ[addresses.REDIS_VARIABLE] = cache.url
        conn = stack.enter_context(connect(database.url, autocommit=True))
        ours = Ours(folder / "ours", database.url)
        prepare_database(database.url, REPO)
        history(conn, users, items, events)
        ours.publish_first(conn)
        filled = ours.publish_second(conn)
        rows = [_fill_row(conn, filled)]
        stock = Stock(folder / "stock", database.url, cache.url.rpartition("/")[0] + "/1")
        port, other = free_port(), free_port()
        argv = [sys.executable, "-c", SERVE, str(port), str(WORKERS)]
        with stock.serving(2, other) as stock_is_ready:
            with running(argv, ours.root) as server:
                until_ready(server, port, "/ready")
                # Nothing else is at work while answers are timed.
                stock_is_ready()
                rows += _switching(conn, ours, port, server.pid, switches)
                mine = [_our_rollback(conn, ours, port, server.pid) for _ in range(rollbacks)]
            theirs = [_stock_rollback(stock, other, again=i > 0) for i in range(rollbacks)]
        rows.append(
            Row(
                "roll item_stats back", "command to the last old answer", "s", "lower",
                statistics.median(mine), statistics.median(theirs), runs=rollbacks,
                spread=(min(mine), max(mine)), equal=True,
                why="both from the start of the command's process, asked about 50 times a second; "
                "stock edits, applies and materializes 1 view",
            )
        )  # fmt: skip
    publish("versions", rows, args)


def _fill_row(conn: psycopg.Connection, seconds: float) -> Row:
    counted = 0
    for one in published(conn):
        if one.version == 2 and read_watermark(conn, one.definition.computation()):
            row = conn.execute(f"SELECT count(*) FROM {one.log_table}").fetchone()
            counted += row[0] if row else 0
    return Row("publish two second versions", "apply: backfilled and online", "s", "lower", seconds,
               why=f"{counted:,} rows of log")  # fmt: skip


def _switching(
    conn: psycopg.Connection, ours: Ours, port: int, server: int, switches: int
) -> list[Row]:
    """Promote and roll back under load."""
    done: list[Switch] = []
    with Load(port, ours.asked(), CONNECTIONS) as load:
        load.until((1, 1))
        held = load.cover(server)
        for i in range(switches):
            forward, view, to = MOVES[i % len(MOVES)]
            done.append(load.switch(lambda f=forward, v=view: _move(conn, v, forward=f), to))  # type: ignore[misc]
        for i in range(switches, switches + (-switches) % len(MOVES)):
            forward, view, to = MOVES[i % len(MOVES)]
            load.switch(lambda f=forward, v=view: _move(conn, v, forward=f), to)  # type: ignore[misc]
    assert len(held) == WORKERS
    seen = [seconds * 1000 for switch in done for seconds in switch.seen]
    work = f"{switches} switches, {CONNECTIONS} connections, {WORKERS} workers"
    if load.failed:
        sys.stderr.write(f"{load.failed[0]}\n")
    old = [switch.old_until * 1000 for switch in done]
    return [
        Row(work, "failed of all answers", "answers", "lower", float(len(load.failed)),
            equal=not load.failed, why=f"{load.answered:,} answers"),
        Row(work, "mixed answers", "answers", "lower", float(load.mixed), equal=not load.mixed,
            why="a value that is not of the version named"),
        Row(work, "commit to the first new answer, p50", "ms", "lower",
            float(np.percentile(seen, 50)), runs=len(seen), spread=(min(seen), max(seen)),
            why="on every connection; by worker " + " and ".join(map(str, held))),
        Row(work, "commit to the first new answer, p99", "ms", "lower",
            float(np.percentile(seen, 99)), runs=len(seen)),
        Row(work, "commit to the last old answer, p99", "ms", "lower",
            float(np.percentile(old, 99)), runs=len(old)),
    ]  # fmt: skip


def _move(conn: psycopg.Connection, view: str, *, forward: bool) -> None:
    if forward:
        promote(conn, "skewless", view, 2)
    else:
        rollback(conn, "skewless", view)


def _our_rollback(conn: psycopg.Connection, ours: Ours, port: int, server: int) -> float:
    """Seconds from the start of `skewless rollback` to the last old answer."""
    promote(conn, "skewless", "item_stats", 2)
    with Load(port, ours.asked(), ASKING, BETWEEN) as load:
        load.until((1, 2))
        load.cover(server)
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", COMMAND, "rollback", "item_stats"],
            cwd=ours.root, check=True, capture_output=True,
        )  # fmt: skip
        load.until((1, 1))
    last = max(
        reply.answered
        for each in load.connections
        for reply in each.replies
        if reply.state == (1, 2)
    )
    assert not load.failed, load.failed
    assert not load.mixed
    return last - began


def _stock_rollback(stock: Stock, port: int, *, again: bool) -> float:
    """The same with stock Feast: seconds from the first command to the last old answer."""
    if again:
        stock.point_at(2)
        time.sleep(READ_AGAIN)
    old = _stock_scores(port)
    last, stop = [time.monotonic()], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            if _stock_scores(port) == old:
                last[0] = time.monotonic()
            time.sleep(0.02)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    began = time.monotonic()
    stock.point_at(1)
    time.sleep(READ_AGAIN)
    stop.set()
    asking.join(10)
    assert _stock_scores(port) != old, "stock serves the new version still"
    return last[0] - began


def _stock_scores(port: int) -> list[float]:
    body = {"features": [f"item_stats:{SCORE}"], "entities": {"item_id": ITEMS}}
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/get-online-features", json.dumps(body).encode(),
        {"content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(asked, timeout=30) as reply:
        found: list[float] = json.load(reply)["results"][1]["values"]
    return found


if __name__ == "__main__":
    main()
