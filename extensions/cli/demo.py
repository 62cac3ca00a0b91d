"""`skewless demo`: load, compute, train, serve, stream and audit, on servers of its own."""

import json
import os
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.table import Table

from extensions import addresses
from extensions.cli.console import err, out
from extensions.cli.progress import progress
from extensions.cli.stack_supervisor import Programs, apply_definitions, run_feast
from extensions.errors import ConfigurationError, SkewlessError, UnavailableError
from extensions.local.stack import KafkaChoice, Stack

BACKFILLED = timedelta(days=1)
LABELS = 10_000
RANKED_ITEMS = 100
REQUESTS = 200
LIVE_EVENTS = 20
# Events of the file that is imported beside the stream.
IMPORTED = 400
# Ids from here on are of users that the simulation has not.
NEW_USERS = 1_000_000_000
FRESH_WITHIN_SECONDS = 30.0


class Demonstration:
    """Runs the steps in order; each adds its figures to the summary."""

    def __init__(
        self, users: int, items: int, days: int, events: int, seed: int, kafka: KafkaChoice
    ) -> None:
        # Imported here: a command line that only shows its help need not wait for numpy.
        from extensions import addresses
        from extensions.history.simulate import new_simulation

        self.simulation = new_simulation(
            addresses.REPO_ROOT, users=users, items=items, days=days, events=events, seed=seed
        )
        self.kafka = kafka
        self.figures: dict[str, Any] = {}
        self.lines: list[tuple[str, str, str]] = []
        self.user = 0

    def run(self) -> None:
        """All steps, then the summary; whatever happens, servers and folder are gone after it."""
        started = time.perf_counter()
        # The demo never touches servers that somebody pointed the project at.
        for variable in addresses.VARIABLES.values():
            os.environ.pop(variable, None)
        if any(addresses.set_elsewhere(server) for server in addresses.VARIABLES):
            raise ConfigurationError(
                "feature_store.yaml names servers, which a demo must not touch: run it in a "
                "clone without them."
            )
        with tempfile.TemporaryDirectory(prefix="skewless-demo-") as folder:
            home = Path(folder)
            os.environ[addresses.HOME_VARIABLE] = folder
            with self._step("servers", "PostgreSQL, Redis and Kafka started"):
                stack = Stack(home, kafka=self.kafka, durable=False)
                stack.__enter__()
            try:
                os.environ.update(stack.environ())
                self._steps(stack)
            finally:
                stack.__exit__(*sys.exc_info())
        self.figures["seconds"] = round(time.perf_counter() - started, 1)
        self._summary()

    def _steps(self, stack: Stack) -> None:
        with self._step("apply", "tables made, definitions applied with `feast apply`"):
            apply_definitions(stack)
        self._load(stack)
        self._compute()
        with self._step("materialize", "`feast materialize-incremental`"):
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
            run_feast(stack, "materialize-incremental", now)
        self._train()
        programs = Programs(stack, only=("serve", "ingest"))
        self._serve(programs.http)
        self._stream(stack, programs.http)
        self._audit("audit", "what was served, trained and recomputed, compared")
        self._import(programs.http, Path(stack.home))
        self._audit("audit_again", "the same after the import")

    def _load(self, stack: Stack) -> None:
        from extensions.history.simulate import simulate

        with self._step("load", "watch history loaded") as note, progress("Loading") as report:
            loaded = simulate(stack.addresses.postgres, self.simulation, progress=report).events
            note(
                f"{loaded.inserted:,} events ({loaded.duplicates:,} duplicates recognised), "
                f"{loaded.rows_per_second:,.0f}/s"
            )
            self.figures["events"] = loaded.inserted
            self.figures["load_events_per_second"] = round(loaded.rows_per_second)

    def _compute(self) -> None:
        from extensions.asof.backfill import backfill
        from extensions.operations.refresh import Refresher

        now = datetime.now(UTC)
        with self._step("backfill", "the last day's log, as if the store had run") as note:
            rows = 0
            with Refresher.open(online=False) as refresher:
                for computation in refresher.choose(None, everything=True):
                    with progress(f"Backfilling {computation.view}") as report:
                        rows += backfill(
                            refresher.conn, computation, now - BACKFILLED, now, progress=report
                        ).rows
            note(f"{rows:,} rows in {len(refresher.computations)} views")
            self.figures["backfilled_rows"] = rows
        with self._step("refresh", "the tick: only what changed, logged and published") as note:
            with Refresher.open(online=True) as refresher, progress("Refreshing") as report:
                done = refresher.refresh(refresher.choose(None), None, progress=report)
            logged = sum(view.logged for view in done)
            published = sum(view.published for view in done)
            note(f"{logged:,} rows logged, {published:,} published to Redis")
            self.figures |= {"refreshed_rows": logged, "published_rows": published}

    def _train(self) -> None:
        from feast import FeatureStore

        from extensions.database import connect_arrow

        with self._step("train", "a point-in-time training set") as note:
            with connect_arrow(addresses.postgres_url()) as conn, conn.cursor() as cursor:
                cursor.execute(
                    "SELECT user_id, item_id, watched_at AS event_timestamp, "
                    "extract(hour FROM watched_at AT TIME ZONE 'UTC')::bigint AS request_hour, "
                    "(progress > 0.7)::int AS finished FROM watch_events "
                    f"WHERE watched_at > now() - interval '20 hours' LIMIT {LABELS}"
                )
                labels = cursor.fetch_arrow_table().to_pandas()
            store = FeatureStore(str(addresses.REPO_ROOT))
            start = time.perf_counter()
            frame = store.get_historical_features(
                entity_df=labels, features=store.get_feature_service("ranking")
            ).to_df()
            seconds = time.perf_counter() - start
            if len(frame) != len(labels):
                raise SkewlessError(f"{len(labels)} labels gave {len(frame)} rows.")
            note(f"{len(frame):,} rows x {frame.shape[1]} columns in {seconds:.1f} s")
            self.figures |= {"training_rows": len(frame), "training_seconds": round(seconds, 2)}
            self.user = int(labels["user_id"].mode()[0])
            self.items = [int(i) for i in labels["item_id"].unique()[:RANKED_ITEMS]]

    def _serve(self, http: str) -> None:
        with self._step("serve", "features over HTTP") as note:
            _wait(lambda: _call(f"{http}/ready") is not None, "the HTTP server", 60)
            body = {"userId": self.user, "itemIds": self.items, "context": {"requestHour": 21}}
            one = [_timed(f"{http}/v1/features/user/{self.user}") for _ in range(REQUESTS)]
            rank = [_timed(f"{http}/v1/features/rank", body) for _ in range(REQUESTS)]
            self.figures |= {
                "user_p50_ms": round(statistics.median(one), 2),
                "rank_p50_ms": round(statistics.median(rank), 2),
            }
            note(
                f"one user {statistics.median(one):.2f} ms, ranking {len(self.items)} items "
                f"{statistics.median(rank):.2f} ms (p50, one Python client)"
            )

    def _stream(self, stack: Stack, http: str) -> None:
        from kafka import KafkaProducer

        url = f"{http}/v1/features/user/{self.user}"
        with self._step("stream", "live watch events change what is served") as note:
            producer = KafkaProducer(bootstrap_servers=stack.addresses.kafka)
            before = count = _watch_count(url)
            waits = []
            with progress("Watching") as report:
                for number in range(LIVE_EVENTS):
                    event = {
                        "eventId": f"demo-{number}",
                        "userId": self.user,
                        "itemId": self.items[number % len(self.items)],
                        "watchDurationMin": 12.5,
                        "progress": 0.4,
                        "watchedAt": datetime.now(UTC).isoformat(),
                    }
                    start = time.perf_counter()
                    producer.send(
                        "watch-events",
                        key=str(self.user).encode(),
                        value=json.dumps(event).encode(),
                    )
                    producer.flush()
                    _wait(lambda: _watch_count(url) > count, "the new value", FRESH_WITHIN_SECONDS)  # noqa: B023
                    waits.append(time.perf_counter() - start)
                    count = _watch_count(url)
                    report(number + 1, LIVE_EVENTS)
            producer.close()
            # The first event also waited for the worker to join its group.
            fresh = statistics.median(waits[1:]) * 1000
            note(
                f"user_watch_count_7d went {before} -> {count}; event to readable value: "
                f"{fresh:.0f} ms (median), {max(waits[1:]) * 1000:.0f} ms (worst)"
            )
            self.figures |= {
                "count_before": before,
                "count_after": count,
                "freshness_p50_ms": round(fresh),
                "freshness_max_ms": round(max(waits[1:]) * 1000),
            }

    def _audit(self, key: str, title: str) -> None:
        """The promise itself, on the demo's own state; a broken one ends the demo."""
        from feast import FeatureStore

        from extensions.asof import load_computations
        from extensions.cli.output.monitoring_output import promise
        from monitoring.audit.skew_audit import audit

        with self._step(key, title) as note:
            until = datetime.now(UTC)
            found = audit(
                FeatureStore(str(addresses.REPO_ROOT)),
                load_computations(addresses.REPO_ROOT),
                until - BACKFILLED,
                until,
            )
            note(promise(found))
            self.figures |= {
                f"{key}_entities": found.entities,
                f"{key}_served_values": found.compared,
                f"{key}_differences": found.bugs + found.apart + found.overdue,
            }
        if found.bugs or found.apart:
            told = [one.sentence() for view in found.views for one in view.worst]
            raise SkewlessError(" ".join([promise(found), *told[:5]]))

    def _import(self, http: str, folder: Path) -> None:
        """A file of yesterday's events, beside the running stream: nobody is told to refresh."""
        from extensions.history.file_import import import_events
        from extensions.operations.refresh import Refresher

        url = f"{http}/v1/features/user/{self.user}"
        with self._step("import", "a file imported beside the running stream") as note:
            path = folder / "yesterday.csv"
            day_before = datetime.now(UTC) - BACKFILLED
            rows = [
                f"{self.user if n % 4 == 0 else NEW_USERS + n},{self.items[n % len(self.items)]},"
                f"{(day_before + timedelta(seconds=n)).isoformat()},30"
                for n in range(IMPORTED)
            ]
            path.write_text("\n".join(["user_id,item_id,watched_at,duration_min", *rows]) + "\n")
            before = _watch_count(url)
            done = import_events(addresses.postgres_url(), path)
            expected = before + sum(n % 4 == 0 for n in range(IMPORTED))
            _wait(lambda: _watch_count(url) == expected, "the imported events", 60)
            # What the refresh loop of `make up` does every ten seconds.
            with Refresher.open(online=True) as refresher:
                refresher.refresh(refresher.choose(None), None, due_only=True)
            note(
                f"{done.inserted:,} events; user_watch_count_7d went {before} -> "
                f"{_watch_count(url)}"
            )
            self.figures["imported"] = done.inserted

    @contextmanager
    def _step(self, key: str, title: str) -> Iterator[Callable[[str], None]]:
        notes: list[str] = []
        start = time.perf_counter()
        with err.status(title[0].upper() + title[1:]) if key in _WITHOUT_BAR else _nothing():
            yield notes.append
        seconds = time.perf_counter() - start
        self.figures[f"{key}_step_seconds"] = round(seconds, 1)
        self.lines.append((title, f"{seconds:.1f} s", notes[-1] if notes else ""))
        err.print(f"[green]✓[/green] {title} ({seconds:.1f} s)")

    def _summary(self) -> None:
        table = Table(box=None, title="The life of a feature", title_justify="left")
        for column in ("step", "took", "what came of it"):
            table.add_column(column)
        for line in self.lines:
            table.add_row(*line)
        table.add_row("all", f"{self.figures['seconds']} s", "nothing is left running")
        out.print(table)
        print("demo: " + json.dumps(self.figures))  # noqa: T201


_WITHOUT_BAR = (
    *("servers", "apply", "materialize", "train", "serve"),
    *("audit", "import", "audit_again"),
)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _call(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310
        url, data, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310
            return json.loads(reply.read() or b"null") or {}
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def _timed(url: str, body: Any = None) -> float:
    start = time.perf_counter()
    if _call(url, body) is None:
        raise UnavailableError(f"The HTTP server did not answer {url}.")
    return (time.perf_counter() - start) * 1000


def _watch_count(url: str) -> int:
    reply = _call(url)
    return -1 if reply is None else int(reply["features"]["user_watch_count_7d"])


def _wait(condition: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise UnavailableError(f"Waited {seconds:.0f} s for {what}; the demo ends here.")
        time.sleep(0.005)
