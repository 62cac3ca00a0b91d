"""The skew audit of a live stream: late and repeated events, ticks, a rollback, a killed worker."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg

from benchmarks.report import Row, arguments, publish
from extensions import addresses
from extensions.asof import load_computations
from extensions.database import connect
from extensions.local.stack import Stack
from monitoring.audit import AuditReport, audit

USERS, ITEMS = 2_000, 500
RANKED = 100
# Values of one ranking of 100: 4 of the user, 2 of each item, 1 and 3 transforms of each pair.
VALUES = 4 + RANKED * 6


def main() -> None:
    """Stream and serve at once, then audit all that was served."""
    args = arguments(__doc__.splitlines()[0])
    wanted = 60_000 if args.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder, living(Path(folder)) as (stack, http):
        begun = datetime.now(UTC)
        stop = threading.Event()
        stream = threading.Thread(target=watch, args=(stack, stop), daemon=True)
        stream.start()
        with connect(stack.addresses.postgres, autocommit=True) as conn:
            _until(lambda: _streamed(conn), 120)
        happened = serve(http, wanted, seconds=20 if args.quick else 180)
        stop.set()
        stream.join(timeout=30)
        with connect(stack.addresses.postgres, autocommit=True) as conn:
            _settle(conn, happened["requests"])
            from feast import FeatureStore  # noqa: PLC0415 - it takes seconds

            from extensions.versions.live import live_computations  # noqa: PLC0415

            computations = live_computations(conn, load_computations(addresses.REPO_ROOT))
            start = time.perf_counter()
            report = audit(
                FeatureStore(str(addresses.REPO_ROOT)), computations, begun, datetime.now(UTC)
            )
            seconds = time.perf_counter() - start
    publish("audit", rows_of(report, seconds, happened), args)


def rows_of(report: AuditReport, seconds: float, happened: Mapping[str, Any]) -> list[Row]:
    """What was found, and what it took."""
    what = (
        f"{report.compared:,} served values of {report.requests:,} requests, beside "
        f"{happened['events']:,} events ({happened['late']:,} late, {happened['repeated']:,} "
        f"repeated), a killed worker and ticks"
    )
    classes = {
        name: sum(getattr(one, name) for one in report.features)
        for name in ("lag", "late", "version")
    }
    explained = ", ".join(f"{count:,} {name}" for name, count in classes.items())
    longest = max((one.longest_lag_seconds for one in report.features), default=0.0)
    return [
        Row(what, "unexplained differences", "values", "lower", ours=float(report.bugs),
            equal=report.bugs == 0, why=f"explained: {explained}"),
        Row(what, "equal bit for bit", "% of values", "higher",
            ours=100 * report.equal / max(1, report.compared)),
        Row(what, "longest lag", "s", "lower", ours=longest),
        Row(what, "values audited", "values/s", "higher", ours=report.compared / seconds),
    ]  # fmt: skip


@contextmanager
def living(folder: Path) -> Iterator[tuple[Stack, str]]:
    """A stack with history, two stream workers, the refresh loop and a server that logs all."""
    os.environ[addresses.HOME_VARIABLE] = str(folder)
    with Stack(home=folder, kafka="tansu") as stack:
        for name, variable in addresses.VARIABLES.items():
            os.environ[variable] = str(getattr(stack.addresses, name))
        from extensions.cli.stack import apply_definitions  # noqa: PLC0415

        apply_definitions(stack)
        run("simulate", "--users", str(USERS), "--items", str(ITEMS), "--events", "60000",
            "--until", (datetime.now(UTC) - timedelta(hours=1)).isoformat())  # fmt: skip
        run("refresh")
        port = "16566"
        programs = [
            start("refresh", "--due", "--every", "2"),
            start("serve", "--port", port, "--log", "1"),
            *(start("ingest") for _ in range(2)),
        ]
        PROGRAMS[:] = programs
        try:
            url = f"http://127.0.0.1:{port}"
            _until(lambda: _ready(url), 120)
            yield stack, url
        finally:
            for program in PROGRAMS:
                program.terminate()
            for program in PROGRAMS:
                program.wait(timeout=30)


PROGRAMS: list[subprocess.Popen[bytes]] = []
COUNTS = {"events": 0, "late": 0, "repeated": 0}


def watch(stack: Stack, stop: threading.Event) -> None:
    """Events now, some of them late by up to a day, some delivered twice."""
    from kafka import KafkaProducer  # noqa: PLC0415

    rng = random.Random(1)
    producer = KafkaProducer(bootstrap_servers=stack.addresses.kafka)
    while not stop.is_set():
        number = COUNTS["events"]
        late = rng.random() < 0.1
        back = timedelta(seconds=rng.randint(60, 86_400)) if late else timedelta(0)
        user = rng.randrange(USERS)
        event = {
            "eventId": f"audit-{number}", "userId": user, "itemId": rng.randrange(ITEMS),
            "watchDurationMin": rng.uniform(0.5, 90), "progress": rng.random(),
            "watchedAt": (datetime.now(UTC) - back).isoformat(),
        }  # fmt: skip
        times = 2 if rng.random() < 0.05 else 1
        for _ in range(times):
            producer.send("watch-events", key=str(user).encode(), value=json.dumps(event).encode())
        COUNTS["events"] += 1
        COUNTS["late"] += late
        COUNTS["repeated"] += times - 1
        time.sleep(0.01)
    producer.close()


def serve(url: str, wanted: int, seconds: float) -> dict[str, Any]:
    """Rankings over some time until so many values were served; half way a worker is killed."""
    rng = random.Random(2)
    requests, killed = wanted // VALUES + 1, False
    with httpx.Client(base_url=url, timeout=20) as http:
        for number in range(requests):
            body = {"userId": rng.randrange(USERS + 50),
                    "itemIds": rng.sample(range(ITEMS + 5), RANKED)}  # fmt: skip
            http.post("/v1/features/rank", json=body).raise_for_status()
            if number > requests // 2 and not killed:
                killed = True
                worker = PROGRAMS.pop()
                worker.send_signal(signal.SIGKILL)
                worker.wait()
                PROGRAMS.append(start("ingest"))
            time.sleep(seconds / requests)
    assert killed
    return {"requests": requests, **COUNTS}


def run(*arguments_: str) -> None:
    subprocess.run([_program(), *arguments_], check=True, stdout=subprocess.DEVNULL)


def start(*arguments_: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [_program(), *arguments_], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _program() -> str:
    return str(Path(sys.executable).parent / "skewless")


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _streamed(conn: psycopg.Connection) -> bool:
    """The workers have joined their group, and events arrive."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM watch_events WHERE event_id LIKE 'audit-%')"
    ).fetchone()
    return bool(row and row[0])


def _settle(conn: psycopg.Connection, requests: int) -> None:
    """Every request is in the log."""

    def logged() -> bool:
        row = conn.execute("SELECT count(*) FROM served_features WHERE row_number = 0").fetchone()
        return bool(row and row[0] >= requests)

    _until(logged, 60)


def _until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("The stack did not come so far in time.")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
