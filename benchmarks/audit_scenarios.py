"""Ways in which history, log and Redis come apart: what the product makes of each, and the audit.

Each scenario happens twice. First with the product as it is: after its own handling the audit must
find nothing. Then the same state is made behind its back, as it would be without what handles it:
the audit must name view, entity and cause, and what it advises must mend it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
from feast.data_source import PushMode

from benchmarks.audit_worlds import BACKFILLED, DAY, Servers, World, told
from benchmarks.report import Row
from benchmarks.versions_setup import REPO
from extensions.asof.backfill import backfill
from extensions.asof.log_coverage import coverage
from extensions.asof.unpublished_ranges import unpublished
from extensions.consistency import consistency_report as causes
from extensions.errors import SkewlessError
from extensions.exit_codes import WRONG
from extensions.history.declared_tables import declared_sources
from extensions.history.file_import import ImportOptions, import_file
from extensions.stores.rebuild import rebuild_online
from extensions.stores.values import future_rows

STATS, PAIRS, HABITS = "user_watch_stats.v1", "user_item_progress.v1", "user_habits.v1"
COUNT = "user_watch_count_7d"
MINUTE = timedelta(minutes=1)
YEAR_2100 = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Apart:
    """A difference that the audit must tell: of which view and entity, and why."""

    view: str
    entity: str
    cause: str


@dataclass
class Outcome:
    """What came of one scenario. ``right``, ``mended``: findings of the product as it is."""

    what: str
    handled: str
    right: int
    entities: int
    expected: list[Apart] = field(default_factory=list)
    named: list[Apart] = field(default_factory=list)
    mended: int = 0

    def rows(self) -> list[Row]:
        """One for each half."""
        missed = [one for one in self.expected if one not in self.named]
        said = "; ".join(f"{one.view} {one.entity}: {one.cause}" for one in self.expected)
        if missed:
            said = f"not named: {missed}; expected {said}"
        return [
            Row(f"{self.what}: the product as it is", "bugs and other findings", "entities",
                "lower", float(self.right), equal=self.right == 0,
                why=f"{self.entities:,} entities compared; {self.handled}"),
            Row(f"{self.what}: put in behind its back", "named with view, entity and cause",
                "differences", "higher", float(len(self.expected) - len(missed)),
                equal=not missed and self.mended == 0,
                why=f"of {len(self.expected)}: {said}; mended as advised: {self.mended} left"),
        ]  # fmt: skip


Spoil = Callable[[World], Sequence[Apart]]
Step = Callable[[World], object]


def outcomes(servers: Servers, folder: Path, most: int | None = None) -> Iterator[Outcome]:
    """All scenarios, or the first few, each on two stores of its own."""
    scenarios: list[tuple[str, str, Step, Spoil, Step]] = [
        ("history imported without a note", "`backfill --again` after it",
         lambda world: _import(world, folder), _claimed, _again),
        ("a gap behind a backfill", "the gap that it tells of, backfilled",
         _fill_the_gap, _leave_a_gap, _backfill_gaps),
        ("what a backfill logged and nobody published", "noted, and published by a refresh",
         _publish_noted, _forget_to_publish, _rebuild),
        ("imports of the last hour, and --again beside pushed rows",
         "counted from their import on; what was pushed is kept",
         lambda world: _last_hour(world, folder), _without_arrivals, _again),
        ("rows from the future", "refused on every way in",
         _refused, _future_rows, _without_future_rows),
        ("PostgreSQL restored from an earlier dump", "noticed and mended by a refresh",
         _older_database, _lost_in_database, _rebuild),
        ("Redis restored from an older copy", "noticed and mended by a refresh",
         _older_redis, _lost_in_redis, _rebuild),
    ]  # fmt: skip
    for what, handled, right, spoil, mend in scenarios[:most]:
        yield _outcome(servers, what, handled, right, spoil, mend)


def _outcome(
    servers: Servers, what: str, handled: str, right: Step, spoil: Spoil, mend: Step
) -> Outcome:
    with servers.world() as world:
        right(world)
        report = world.audit()
        found = Outcome(what, handled, report.bugs + report.apart + report.overdue, report.entities)
    with servers.world() as world:
        found.expected = list(spoil(world))
        report = world.audit()
        assert report.exit_code == WRONG, f"{what}: the audit found nothing"
        found.named = [Apart(one.name, one.entity, one.cause) for one in told(report.views)]
        mend(world)
        report = world.audit()
        found.mended = report.bugs + report.apart + report.overdue
    return found


def _import(world: World, folder: Path) -> None:
    """A file of days ago, with arrivals that it claims and without any."""
    rows = [(900, "2 days"), (1, "1 day"), (2, "3 hours")]
    for name, claimed in (("claimed", True), ("new", False)):
        _import_file(world, folder / f"{name}.csv", name, rows, claimed=claimed)
    _again(world)


def _again(world: World) -> None:
    """What an import says comes next: labels of the past see what it claims, and so do values."""
    now = datetime.now(UTC)
    world.refresh(full=True)
    for computation in world.computations.values():
        backfill(world.conn, computation, now - BACKFILLED, now, again=True)


def _import_file(
    world: World, path: Path, name: str, rows: Sequence[tuple[int, str]], *, claimed: bool = False
) -> None:
    now = pd.Timestamp.now("UTC")
    frame = pd.DataFrame(
        {
            "event_id": [f"{name} {place}" for place in range(len(rows))],
            "user_id": [user for user, _ in rows],
            "item_id": 1,
            "watched_at": [(now - pd.Timedelta(ago)).isoformat() for _, ago in rows],
        }
    )
    frame.to_csv(path, index=False)
    table = declared_sources(world.url, REPO).table("watch_events")
    options = ImportOptions(known_at_event_time=claimed)
    assert import_file(world.url, table, path, options).inserted == len(rows)


def _claimed(world: World) -> list[Apart]:
    now = datetime.now(UTC)
    world.claim("of a new user", 900, now - DAY)
    world.claim("of a known user", 1, now - DAY)
    return [
        Apart(STATS, "user_id=900", causes.NOT_COMPUTED),
        Apart(STATS, "user_id=1", causes.CLAIMED_ARRIVAL),
    ]


def _early_backfill(world: World) -> None:
    """A user who watched long ago, and a backfill that ends while that still counts."""
    now = datetime.now(UTC)
    world.watch("long ago", 902, now - 100 * DAY, now - 100 * DAY)
    backfill(world.conn, world.computations[STATS], now - 120 * DAY, now - 95 * DAY)


def _fill_the_gap(world: World) -> None:
    _early_backfill(world)
    _backfill_gaps(world)


def _leave_a_gap(world: World) -> list[Apart]:
    _early_backfill(world)
    world.refresh()
    return [Apart(STATS, "user_id=902", causes.LOG_GAP)]


def _backfill_gaps(world: World) -> None:
    counts = world.computations[STATS]
    gaps = coverage(world.conn, counts).gaps
    assert gaps, "the product does not know of the gap"
    for gap in gaps:
        backfill(world.conn, counts, gap.start, gap.end)
    world.refresh()


def _log_by_backfill(world: World) -> None:
    now = datetime.now(UTC)
    world.claim("of long ago", 903, now - 80 * DAY)
    progress = world.computations[PAIRS]
    backfill(world.conn, progress, now - 90 * DAY, now - 70 * DAY)
    assert unpublished(world.conn, progress), "the backfill left no note"


def _publish_noted(world: World) -> None:
    _log_by_backfill(world)
    world.refresh()


def _forget_to_publish(world: World) -> list[Apart]:
    _log_by_backfill(world)
    world.conn.execute("TRUNCATE unpublished_rows")
    return [Apart(PAIRS, "user_id=903, item_id=1", causes.NOT_PUBLISHED)]


def _rebuild(world: World) -> None:
    rebuild_online(world.store)


def _push_the_truth(world: World, user: int) -> datetime:
    """An event of now, and its count as a user's own program would push it: both times equal."""
    held = world.conn.execute(
        f"SELECT {COUNT} FROM user_watch_stats_v1 WHERE user_id = %s "
        "ORDER BY event_timestamp DESC, created_timestamp DESC LIMIT 1",
        [user],
    ).fetchone()
    world.watch("of now", user, datetime.now(UTC))
    at = datetime.now(UTC)
    frame = {
        "user_id": [user], COUNT: [(held[0] if held else 0) + 1],
        "event_timestamp": [at], "created_timestamp": [at],
    }  # fmt: skip
    world.store.push("user_watch_stats_push", pd.DataFrame(frame), to=PushMode.ONLINE_AND_OFFLINE)
    return at


def _last_hour(world: World, folder: Path) -> None:
    at = _push_the_truth(world, 5)
    _import_file(world, folder / "hour.csv", "hour", [(904, "50 min"), (1, "30 min"), (2, "5 min")])
    now = datetime.now(UTC)
    backfill(world.conn, world.computations[STATS], now - 3 * DAY, now, again=True)
    kept = world.conn.execute(
        "SELECT count(*) FROM user_watch_stats_v1 WHERE event_timestamp = %s", [at]
    ).fetchone()
    assert kept == (1,), "--again took a pushed row with it"
    world.refresh()


def _without_arrivals(world: World) -> list[Apart]:
    """The import that took the time of watching for the arrival, and the --again by times alone."""
    now = datetime.now(UTC)
    world.claim("hour 0", 904, now - 50 * MINUTE)
    world.claim("hour 1", 1, now - 30 * MINUTE)
    at = _push_the_truth(world, 5)
    world.conn.execute("DELETE FROM user_watch_stats_v1 WHERE event_timestamp = %s", [at])
    return [
        Apart(STATS, "user_id=904", causes.NOT_COMPUTED),
        Apart(STATS, "user_id=1", causes.CLAIMED_ARRIVAL),
        Apart(STATS, "user_id=5", causes.ONLINE_AHEAD),
    ]


def _ways_in(world: World) -> list[Callable[[], Any]]:
    frame = pd.DataFrame(
        {"user_id": [4], COUNT: [1], "event_timestamp": [YEAR_2100],
         "created_timestamp": [datetime.now(UTC)]}
    )  # fmt: skip
    store = world.store
    pushes = [
        lambda mode=mode: store.push("user_watch_stats_push", frame, to=mode) for mode in PushMode
    ]
    return [
        *pushes,
        lambda: store.write_to_online_store("user_watch_stats", frame),
        lambda: store.write_to_offline_store("user_watch_stats", frame),
    ]


def _refused(world: World) -> None:
    for write in _ways_in(world):
        with contextlib.suppress(SkewlessError):
            write()
            raise AssertionError("a row from the future was let in")
    # Another tool's row in the log: materialization passes it over, and its owner takes it out.
    world.conn.execute(_FUTURE_HABIT)
    now = datetime.now(UTC)
    world.store.materialize(now - DAY, now, ["user_habits"])
    world.conn.execute("DELETE FROM user_habits_v1 WHERE event_timestamp > now() + '1 hour'")


_FUTURE_HABIT = (
    "INSERT INTO user_habits_v1 (user_id, event_timestamp, created_timestamp, "
    "user_avg_watch_duration_min, user_preferred_hour) VALUES (4, '2100-01-01', now(), 1, 1)"
)


def _future_rows(world: World) -> list[Apart]:
    """Into the log past every check; into Redis by a push whose check is taken out."""
    world.conn.execute(_FUTURE_HABIT)
    everything = datetime.max.replace(tzinfo=UTC)
    with mock.patch.object(future_rows, "latest_time", return_value=everything):
        _ways_in(world)[0]()
    return [
        Apart(HABITS, "user_id=4", causes.FUTURE_ROW),
        Apart(STATS, "user_id=4", causes.FUTURE_ROW),
    ]


def _without_future_rows(world: World) -> None:
    for table in ("user_habits_v1", "user_watch_stats_v1"):
        world.conn.execute(f"DELETE FROM {table} WHERE event_timestamp > now() + '1 hour'")
    _rebuild(world)


def _go_on(world: World, users: Sequence[int] = (6, 7, 905)) -> None:
    for user in users:
        world.watch(f"since {user}", user, datetime.now(UTC))
    world.refresh()


def _older_database(world: World) -> None:
    world.dump("earlier")
    _go_on(world)
    world.restore("earlier")
    world.refresh()


def _lost_in_database(world: World) -> list[Apart]:
    world.dump("earlier")
    _go_on(world)
    world.restore("earlier")
    return [
        Apart(view, f"user_id={user}{item}", causes.ONLINE_AHEAD)
        for view, item in ((STATS, ""), (PAIRS, ", item_id=1"))
        for user in (6, 7, 905)
    ]


def _older_redis(world: World) -> None:
    world.servers.copy_redis("earlier")
    _go_on(world)
    world.servers.put_redis_back("earlier")
    world.refresh()


def _lost_in_redis(world: World) -> list[Apart]:
    world.servers.copy_redis("earlier")
    _go_on(world)
    world.servers.put_redis_back("earlier")
    return [
        Apart(view, f"user_id={user}{item}", causes.ONLINE_BEHIND)
        for view, item in ((STATS, ""), (PAIRS, ", item_id=1"))
        for user in (6, 7, 905)
    ]
