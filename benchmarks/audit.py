"""The skew audit of a live store: late events, ticks, versions, imports; and of spoilt stores."""

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from feast import FeatureStore

from benchmarks import audit_scenarios
from benchmarks.audit_cases import Case, cases, differences
from benchmarks.audit_platform import BESIDE, RANKED, VERSIONED, Store, Stream, living, wait_for
from benchmarks.audit_worlds import worlds
from benchmarks.report import Row, arguments, publish
from benchmarks.repositories import forget_definitions
from extensions.asof import load_computations
from extensions.versions.maintained_versions import live_computations
from monitoring.audit.skew_audit import AuditReport, audit

# Values of one ranking of 100 (4 of the user, 2 of each item, 1 and 3 transforms of each pair),
# and of one home page.
VALUES = 4 + RANKED * 6 + 4
# Requests of the span that differences are put into.
QUIET_REQUESTS = 20
# Scenarios of spoilt stores in the quick form: there is no time for all of them.
QUICK_SCENARIOS = 1


@dataclass(frozen=True)
class Happened:
    """What befell the store while it served; every figure is the database's or a process'."""

    seconds: float
    requests: int
    events: int
    late: int
    repeated: int
    ticks: int
    moves: int
    second_served: int
    killed: int
    imported: int


def main() -> None:
    """Stream and serve at once, then audit all that was served; then spoil stores."""
    args = arguments(__doc__.splitlines()[0])
    wanted, seconds = (30_000, 8.0) if args.quick else (1_000_000, 240.0)
    with living() as store:
        begun = datetime.now(UTC)
        happened = live(store, wanted, seconds, begun)
        forget_definitions()  # until here events were made and imported by this checkout's
        feast_store = FeatureStore(str(store.root))
        computations = live_computations(store.conn, load_computations(store.root))
        start = time.perf_counter()
        report = audit(feast_store, computations, begun, datetime.now(UTC))
        took = time.perf_counter() - start
        found = injected(store, feast_store, computations)
    rows = rows_of(report, took, happened, genuine=store.genuine)
    rows += [row_of(one) for one in found]
    forget_definitions()
    with worlds() as servers, tempfile.TemporaryDirectory() as folder:
        most = QUICK_SCENARIOS if args.quick else None
        for outcome in audit_scenarios.outcomes(servers, Path(folder), most):
            rows += outcome.rows()
    publish("audit", rows, args)


def live(store: Store, wanted: int, seconds: float, begun: datetime) -> Happened:
    """Serve until so many values were served, while everything happens that may happen."""
    stream = Stream(store.kafka)
    stream.start()
    wait_for(lambda: _streamed(store.conn), 120, "the first event is stored")
    requests, rng = wanted // VALUES + 1, random.Random(2)
    happenings: list[tuple[float, Callable[[], None]]] = [
        (0.15, store.load), (0.25, store.promote), (0.35, store.import_a_file),
        (0.45, store.kill_a_worker), (0.65, store.roll_back),
    ]  # fmt: skip
    start = time.monotonic()
    for number in range(requests):
        if happenings and number >= happenings[0][0] * requests:
            happenings.pop(0)[1]()
        store.rank(rng)
        # Behind the plan, no pause makes up for it.
        time.sleep(max(0.0, start + seconds * (number + 1) / requests - time.monotonic()))
    took = time.monotonic() - start
    stream.stop()
    wait_for(lambda: _all_stored(store, stream), 120, "every event is stored, once")
    wait_for(lambda: _all_logged(store, 2 * requests), 60, "every request is logged")
    programs = [*store.workers, store.ticks]
    assert all(one.is_alive() for one in programs), "a program ended by itself"
    happened = Happened(
        seconds=took,
        requests=2 * requests,
        events=stream.events,
        late=store.number(
            "SELECT count(*) FROM watch_events WHERE event_id LIKE 'audit-%%' "
            "AND ingested_at - watched_at > interval '50 seconds'"
        ),
        repeated=stream.repeated,
        ticks=store.number(
            "SELECT count(DISTINCT event_timestamp) FROM item_stats_v1 WHERE event_timestamp > %s",
            begun,
        ),
        moves=store.number(
            "SELECT count(*) FROM promotions WHERE kind <> 'first' AND moved_at > %s", begun
        ),
        second_served=store.number(
            "SELECT count(*) FROM served_features WHERE item_stats__version = 2"
        ),
        killed=store.killed.count(-9),
        imported=store.number("SELECT count(*) FROM watch_events WHERE event_id LIKE 'beside%%'"),
    )
    # A benchmark of what did not happen would be worth nothing.
    assert happened.late > 0.8 * stream.late, happened
    assert min(happened.repeated, happened.ticks, happened.second_served) > 0, happened
    assert happened.moves == 2 * len(VERSIONED), happened
    assert happened.killed == store.genuine, happened
    assert happened.imported == 2 * BESIDE, happened
    return happened


def injected(store: Store, feast_store: FeatureStore, computations: Any) -> list[Case]:
    """Requests of a quiet store, in which nothing differs until something is put in."""
    store.quiet()
    time.sleep(1)
    start, rng = datetime.now(UTC), random.Random(3)
    before = store.number("SELECT count(*) FROM served_features WHERE row_number = 0")
    for _ in range(QUIET_REQUESTS):
        store.rank(rng)
    wait_for(lambda: _all_logged(store, before + 2 * QUIET_REQUESTS), 60, "they are logged")
    until = datetime.now(UTC)

    def look(by: Any) -> AuditReport:
        return audit(feast_store, by, start, until)

    quiet = look(computations)
    worst = [one for feature in quiet.features for one in feature.worst]
    assert not any(differences(quiet).values()), f"the quiet store differs: {worst[:5]}"
    return list(cases(store.conn, feast_store, computations, start, look))


def rows_of(report: AuditReport, took: float, happened: Happened, *, genuine: bool) -> list[Row]:
    """What was found, and what it took."""
    killed = (
        f"{happened.killed} killed worker" if genuine else "no Apache Kafka to kill a worker of"
    )
    what = (
        f"{report.compared:,} served values of {report.requests:,} requests in "
        f"{happened.seconds:,.0f} s, beside {happened.events:,} events ({happened.late:,} late, "
        f"{happened.repeated:,} repeated), {happened.imported:,} events loaded and imported from a "
        f"file, {happened.ticks} ticks, 2 promotions and 2 rollbacks "
        f"({happened.second_served:,} rows of the second version), {killed}"
    )
    assert report.requests == happened.requests
    explained = ", ".join(f"{n:,} {kind}" for kind, n in differences(report).items())
    longest = max(one.longest_lag_seconds for one in report.features)
    if report.bugs:
        # All that a replay needs.
        explained += f"; {[one for feature in report.features for one in feature.worst[:2]]}"
    left_out = f"; left out: {' '.join(report.left_out)}" if report.left_out else ""
    return [
        Row(what, "unexplained differences", "values", "lower", float(report.bugs),
            equal=report.bugs == 0, why=explained + left_out),
        Row(what, "history, log and Redis apart, of a sample of all entities", "entities", "lower",
            float(report.apart), equal=report.apart == 0, why=f"of {report.entities:,} entities"),
        Row(what, "equal bit for bit", "% of values", "higher",
            100 * report.equal / max(1, report.compared)),
        Row(what, "longest lag", "s", "lower", longest),
        Row(what, "values audited", "values/s", "higher", report.compared / took),
    ]  # fmt: skip


def row_of(case: Case) -> Row:
    """One difference that was put in."""
    return Row(
        f"put in: {case.what}", f"named `{case.kind}`", "values", "higher", float(case.named),
        equal=case.right, why=f"of {case.injected} that were put in, and nothing else differs",
    )  # fmt: skip


def _streamed(conn: psycopg.Connection) -> bool:
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM watch_events WHERE event_id LIKE 'audit-%')"
    ).fetchone()
    return bool(row and row[0])


def _all_stored(store: Store, stream: Stream) -> bool:
    query = "SELECT count(*) FROM watch_events WHERE event_id LIKE 'audit-%%'"
    return store.number(query) == stream.events


def _all_logged(store: Store, requests: int) -> bool:
    query = "SELECT count(*) FROM served_features WHERE row_number = 0"
    return store.number(query) >= requests


if __name__ == "__main__":
    main()
