"""The sweep: changes that come by time alone reach the log and Redis within seconds.

An idle user's count falls when an event leaves the window, and an event of the near future counts
when its moment comes. The sweep finds these, and any change that no step saw (an import, a
worker that is gone), because the log has no row since. One worker sweeps a view at a time; the
others pass by. It also moves the view's watermark: the least of its own and the partitions'.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa

from extensions.asof import Computation, Spine, append, everyone
from extensions.asof.history_changes import affected, changes_of
from extensions.asof.refused_entities import refused_entities, retry_refused, without_refused
from extensions.asof.safe_time import settled_now
from extensions.asof.spine_changes import unanswered
from extensions.asof.unpublished_ranges import unpublished
from extensions.asof.watermarks import (
    advance_processed,
    advance_published,
    alone_on,
    read_watermark,
)
from extensions.database import connect
from extensions.errors import SkewlessError
from extensions.failpoints import point
from extensions.failure_classification import outage
from extensions.stores.log_publishing import publish as publish_log
from extensions.stores.rebuild import reconcile
from extensions.stores.restore_detection import check, publishing
from extensions.thread_supervision import Vital
from streaming.failpoints import Fault
from streaming.processing.feature_computation import (
    log_values,
    logged_values,
    retried_values,
)
from streaming.processing.offsets import stream_watermark, under_way_since
from streaming.processing.online_write_retries import publish_refused
from streaming.processing.online_writer import Publisher
from streaming.processing.realtime_views import LiveView
from streaming.processing.step import guarded
from streaming.settings import Settings
from streaming.worker_metrics import WorkerMetrics

logger = logging.getLogger(__name__)

# Beyond this, what changed need not fit into memory: it goes to the log without passing here,
# and is read back in parts.
_LARGE = timedelta(minutes=10)
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Swept:
    """One sweep of one view: ``rows`` values as of ``through``; ``after`` None: all active ones."""

    view: str
    version: int
    after: datetime | None
    through: datetime
    rows: int


def sweep(conn: psycopg.Connection, view: LiveView, publisher: Publisher) -> Swept | None:
    """Bring one view up to now; None when another worker is on it. ``conn`` is in autocommit."""
    computation = view.computation
    with ExitStack() as stack:
        try:
            stack.enter_context(alone_on(conn, computation))
        except SkewlessError:
            return None
        # 0. Where PostgreSQL or Redis was restored without the other, Redis is made anew first.
        verdict, mended = reconcile(publisher.feast_store, conn, computation)
        if mended is not None:
            logger.warning("%s %d rows were written again, %d taken out.",
                           verdict.why, mended.written, mended.removed)  # fmt: skip
            verdict = check(conn, publisher.feast_store, computation)
        stack.enter_context(publishing(conn, publisher.feast_store, computation, verdict))
        # Read before anything else: what a step had logged and could not publish was noted
        # before the step moved these.
        partitions = stream_watermark(conn, view.streams)
        logged, published = _marks(conn, computation)

        # 1. What an earlier sweep logged and did not live to publish, and what was refused.
        publish_refused(conn, view, publisher)
        if logged is not None and (published is None or published < logged):
            for rows in logged_values(conn, computation, logged):
                publisher.publish(view, rows)

        mark = read_watermark(conn, computation)
        behind = mark is not None and (mark.published_through or _NEVER) < mark.processed_through
        if behind or unpublished(conn, computation):
            # A backfill's rows, or those of a refresh or a step that did not live to publish
            # them: whoever moves the mark past them must have published them.
            publish_log(publisher.feast_store, conn, computation)

        # 2. One transaction: values as of now, and how far they go.
        through = settled_now(conn, computation.tables)
        # What a step is computing is not computed here too.
        through = min(through, under_way_since(conn, view.streams) or through)
        after = logged or (mark.processed_through if mark else None)
        if after is not None and through <= after:
            return None
        count, tables = _log(conn, computation, after, through)
        point(Fault.SWEEP_LOGGED)

        # 3. Redis.
        for rows in tables:
            publisher.publish(view, rows)
        point(Fault.SWEEP_PUBLISHED)

        # 4. The watermark: the stream's and this one's, whichever is behind.
        with conn.transaction():
            conn.execute(
                "UPDATE stream_sweeps SET published_through = %s "
                "WHERE view_name = %s AND version = %s",
                [through, computation.view, computation.version],
            )
            if partitions is not None or not view.streams:
                to = through if partitions is None else min(through, partitions)
                advance_processed(conn, computation, to)
                advance_published(conn, computation, to)
        return Swept(computation.view, computation.version, after, through, count)


def _marks(
    conn: psycopg.Connection, computation: Computation
) -> tuple[datetime | None, datetime | None]:
    row = conn.execute(
        "SELECT logged_through, published_through FROM stream_sweeps "
        "WHERE view_name = %s AND version = %s",
        [computation.view, computation.version],
    ).fetchone()
    return (row[0], row[1]) if row else (None, None)


def _log(
    conn: psycopg.Connection, computation: Computation, after: datetime | None, through: datetime
) -> tuple[int, Iterator[pa.Table]]:
    """Append to the log and note ``through``; returns the number of rows, and the rows."""
    with conn.transaction():
        conn.execute(
            "INSERT INTO stream_sweeps (view_name, version, logged_through) VALUES (%s, %s, %s) "
            "ON CONFLICT (view_name, version) DO UPDATE "
            "SET logged_through = excluded.logged_through",
            [computation.view, computation.version, through],
        )
        changed = [] if after is None else changes_of(conn, computation, after, through)
        if after is not None and through - after < _LARGE and not changed:
            rows = log_values(conn, computation, unanswered(computation, after, through))
            again = retried_values(conn, computation, through)
            return rows.num_rows + again.num_rows, iter([rows, again])
        if after is None:
            spine = everyone(computation, through)
        elif changed:
            # Rows that claim an earlier arrival: what was logged since did not know of them.
            spine = affected(computation, changed, after, through)
        else:
            spine = unanswered(computation, after, through)

        def take(part: Spine) -> int:
            return append(conn, computation, part)

        count = sum(without_refused(conn, computation, spine, take))
        count += sum(retry_refused(conn, computation, through, take))
    return count, logged_values(conn, computation, through)


class Sweeper(Vital):
    """Sweeps every view, every ``sweep_every`` seconds, beside the worker's steps."""

    def __init__(
        self,
        settings: Settings,
        views: Sequence[LiveView],
        publisher: Publisher,
        metrics: WorkerMetrics,
    ) -> None:
        super().__init__("sweeper")
        self._settings = settings
        self._views = views
        self._publisher = publisher
        self._metrics = metrics
        self._stopping = threading.Event()

    def body(self) -> None:
        """Until `stop`; an outage is waited out."""
        conn: psycopg.Connection | None = None
        while not self._stopping.wait(self._settings.sweep_every):
            try:
                if conn is None or conn.closed:
                    conn = connect(
                        self._settings.postgres_url, autocommit=True, name="skewless sweep"
                    )
                for view in self._views:
                    self._sweep(conn, view)
                refused = refused_entities(conn)
                for view in self._views:
                    version = (view.computation.view, view.computation.version)
                    self._metrics.refused.labels(view.computation.name).set(
                        len(refused.get(version, ()))
                    )
                self._metrics.worked("sweep")
            except Exception as error:
                if not outage(error):
                    raise
                self._metrics.retries.labels("sweep").inc()
                logger.warning("A sweep was cut short (%s); the next one makes up for it.",
                               type(error).__name__)  # fmt: skip
                if conn is not None:
                    conn.close()
        if conn is not None:
            conn.close()

    def stop(self) -> None:
        """Finish the sweep that is on, and end."""
        self._stopping.set()
        self.join(timeout=30)

    def _sweep(self, conn: psycopg.Connection, view: LiveView) -> None:
        if self._stopping.is_set():
            return
        with guarded(self._metrics, view):
            swept = sweep(conn, view, self._publisher)
            if swept is not None:
                self._metrics.values.labels(view.computation.name).inc(swept.rows)
