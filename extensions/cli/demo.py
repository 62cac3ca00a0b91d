"""`skewless demo`: load, compute, train, serve, stream and audit, on servers of its own."""

import importlib
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
from extensions.repository import import_definitions, repo_root
from extensions.version_names import DEFINITIONS

BACKFILLED = timedelta(days=1)
REQUESTS = 200
LIVE_EVENTS = 20
# Events of the file that is imported beside the stream.
IMPORTED = 400
FRESH_WITHIN_SECONDS = 30.0


class Demonstration:
    """Runs the steps in order; each adds its figures to the summary."""

    def __init__(self, parameters: dict[str, Any], kafka: KafkaChoice) -> None:
        # Imported here: a command line that only shows its help need not wait for numpy.
        from extensions.history.simulate import new_simulation

        self.simulation = new_simulation(repo_root(), **parameters)
        self.shown = _demo_module()
        self.kafka = kafka
        self.figures: dict[str, Any] = {}
        self.lines: list[tuple[str, str, str]] = []

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
        from extensions.history.declared_tables import declared_sources
        from extensions.history.simulate import simulate

        with self._step("load", "history loaded") as note, progress("Loading") as report:
            url = stack.addresses.postgres
            sources = declared_sources(url, repo_root())
            loaded = simulate(url, self.simulation, sources, progress=report).largest
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
                cursor.execute(self.shown.LABELS)
                labels = cursor.fetch_arrow_table().to_pandas()
            store = FeatureStore(str(repo_root()))
            start = time.perf_counter()
            frame = store.get_historical_features(
                entity_df=labels, features=store.get_feature_service(self.shown.SERVICE)
            ).to_df()
            seconds = time.perf_counter() - start
            if len(frame) != len(labels):
                raise SkewlessError(f"{len(labels)} labels gave {len(frame)} rows.")
            note(f"{len(frame):,} rows x {frame.shape[1]} columns in {seconds:.1f} s")
            self.figures |= {"training_rows": len(frame), "training_seconds": round(seconds, 2)}
            self.subject = self.shown.Demo(labels)

    def _serve(self, http: str) -> None:
        with self._step("serve", "features over HTTP") as note:
            _wait(lambda: _call(f"{http}/ready") is not None, "the HTTP server", 60)
            medians = {
                what: round(
                    statistics.median(_timed(f"{http}{path}", body) for _ in range(REQUESTS)), 2
                )
                for what, (path, body) in self.subject.requests().items()
            }
            self.figures["p50_ms"] = medians
            told = ", ".join(f"{what} {median:.2f} ms" for what, median in medians.items())
            note(f"{told} (p50, one Python client)")

    def _stream(self, stack: Stack, http: str) -> None:
        from kafka import KafkaProducer

        with self._step("stream", "live events change what is served") as note:
            producer = KafkaProducer(bootstrap_servers=stack.addresses.kafka)
            before = count = self._count(http)
            waits = []
            with progress("Sending events") as report:
                for number in range(LIVE_EVENTS):
                    key, value = self.subject.event(number)
                    start = time.perf_counter()
                    producer.send(self.subject.topic, key=key, value=value)
                    producer.flush()
                    _wait(lambda: self._count(http) > count, "the new value", FRESH_WITHIN_SECONDS)  # noqa: B023
                    waits.append(time.perf_counter() - start)
                    count = self._count(http)
                    report(number + 1, LIVE_EVENTS)
            producer.close()
            # The first event also waited for the worker to join its group.
            fresh = statistics.median(waits[1:]) * 1000
            note(
                f"{self.subject.value} went {before} -> {count}; event to readable value: "
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
                FeatureStore(str(repo_root())),
                load_computations(repo_root()),
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
        from extensions.history.declared_tables import declared_sources
        from extensions.history.file_import import import_file
        from extensions.operations.refresh import Refresher

        with self._step("import", "a file imported beside the running stream") as note:
            path = folder / "yesterday.csv"
            text, more = self.subject.file(IMPORTED)
            path.write_text(text)
            before = self._count(http)
            sources = declared_sources(addresses.postgres_url(), repo_root())
            done = import_file(addresses.postgres_url(), sources.table(self.subject.source), path)
            _wait(lambda: self._count(http) == before + more, "the imported events", 60)
            # What the refresh loop of `make up` does every ten seconds.
            with Refresher.open(online=True) as refresher:
                refresher.refresh(refresher.choose(None), None, due_only=True)
            note(
                f"{done.inserted:,} events; {self.subject.value} went {before} -> "
                f"{self._count(http)}"
            )
            self.figures["imported"] = done.inserted

    def _count(self, http: str) -> int:
        """The watched value as it is served now; -1 while nobody answers."""
        reply = _call(f"{http}{self.subject.page}")
        return -1 if reply is None else int(self.subject.count(reply))

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


def _demo_module() -> Any:
    """The repository's own part of the demo (``feature_repo/demo.py``).

    Raises:
        ConfigurationError: the repository has none.
    """
    import_definitions(repo_root())
    name = f"{DEFINITIONS}.demo"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigurationError(
            "This repository has no demo (feature_repo/demo.py): start its servers with "
            "`skewless up` instead."
        ) from error


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


def _wait(condition: Callable[[], bool], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise UnavailableError(f"Waited {seconds:.0f} s for {what}; the demo ends here.")
        time.sleep(0.005)
