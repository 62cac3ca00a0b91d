"""One step of the worker: a batch of messages becomes events, values and watermarks.

The order of the numbered lines is the guarantee. A step that ends anywhere, by a crash, an outage
or a rebalance, is abandoned whole: what it had not committed is read from Kafka again, and what
it had committed without having computed it is *pending* and computed by `recover`.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa

from extensions.asof import Spine
from extensions.asof.spine import arrivals, entities
from extensions.database import connect
from extensions.database.scalars import clock
from extensions.errors import SkewlessError
from extensions.failpoints import point
from extensions.failure_classification import first_line, outage
from streaming.failpoints import Fault
from streaming.kafka.dead_letters import DeadLetterWriter
from streaming.kafka.message_decoder import Decoder, Message, Reason, RejectedError, WatchEvent
from streaming.kafka.subscription import Batch
from streaming.processing.event_transaction import ensure_months, months_of, store
from streaming.processing.feature_computation import log_values, moment_after
from streaming.processing.offsets import Position, Progress, mark_processed
from streaming.processing.online_write_retries import note_refused
from streaming.processing.online_writer import Publisher
from streaming.processing.realtime_views import LiveView
from streaming.settings import Settings
from streaming.worker_metrics import OBSERVED_PER_STEP, WorkerMetrics

logger = logging.getLogger(__name__)

_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_000
_SETTLING_PATIENCE = 60.0

# A view's SQL, its rows, and what the online store says of them.
_FAULTS_OF_A_VIEW = (psycopg.Error, pa.ArrowException, SkewlessError)

SpinesOf = Callable[[LiveView, datetime], Sequence[Spine]]

# More entities of a view than this are asked about in two halves, at the same time.
_WHOLE = 1_000


@dataclass
class Stepper:
    """What a step needs. ``commit`` tells Kafka the next offset of each partition."""

    settings: Settings
    decoder: Decoder
    letters: DeadLetterWriter
    views: Sequence[LiveView]
    publisher: Publisher
    metrics: WorkerMetrics
    commit: Callable[[dict[int, int]], None]

    def __post_init__(self) -> None:
        self._beside = ThreadPoolExecutor(1, "views")
        self._second: psycopg.Connection | None = None
        self._months: set[datetime] = set()

    def step(self, conn: psycopg.Connection, batch: Batch) -> dict[int, int]:
        """Take a batch all the way; returns the next offset of each of its partitions.

        Raises:
            FencedError: a partition is another worker's by now.
            Exception: a server is away (`extensions.failure_classification`), or a mistake of ours.
        """
        began = time.monotonic()
        point(Fault.POLLED)

        # 1. Decode and validate; nothing outside this process has changed yet. What lies in the
        #    future is the database's to say: this machine's clock may have been set.
        now = clock(conn)
        events, messages, rejected = self._decode(batch, now)
        point(Fault.DECODED)

        # 2. Dead letters are with the broker before the offsets pass them. A crash after this
        #    line sends them again: the same letters, by their position.
        self.letters.send(rejected)
        point(Fault.DEAD_LETTERED)

        # 3. One transaction: the events, each id once, and the offsets, if they are still ours.
        #    From here on Kafka is not needed any more for this batch.
        moves = _moves(batch)
        self._ensure_months(conn, events, now)
        stored = store(conn, self.settings, events, moves)
        point(Fault.EVENTS_COMMITTED)

        # 4. The moment asked about: after the commit, and with no open transaction before it.
        moment = moment_after(conn, clock(conn), _SETTLING_PATIENCE)
        point(Fault.MOMENT_TAKEN)

        # 5. and 6. Per view: values into the log, then into Redis, where the newest wins.
        if events:
            self._compute(conn, moment, lambda view, at: _touched(view, events, at))

        # 7. The watermark: whoever reads it may count on all of the above.
        mark_processed(conn, self.settings, _processed(batch, moment), computed_through=moment)
        point(Fault.WATERMARK_MOVED)

        # 8. Kafka's own copy of the offsets, for its tools.
        offsets = {move.partition: move.next_offset for move in moves}
        self.commit(offsets)
        point(Fault.KAFKA_COMMITTED)

        self._count(batch, events, messages, rejected, stored, time.monotonic() - began)
        return offsets

    def recover(self, conn: psycopg.Connection, position: Position) -> None:
        """Compute what a cut-short step had stored in this partition, as of now.

        The bounds are times of arrival, so other partitions' events in them are computed too:
        their values are true, and newest wins.
        """
        if position.pending is None:
            return
        after, through = position.pending
        moment = moment_after(conn, clock(conn), _SETTLING_PATIENCE)
        self._compute(
            conn, moment, lambda view, at: [arrivals(view.computation, after, through, at)]
        )
        mark_processed(
            conn,
            self.settings,
            [Progress(position.partition, position.next_offset, position.next_offset)],
            computed_through=moment,
        )
        point(Fault.RECOVERED)

    def _decode(
        self, batch: Batch, now: datetime
    ) -> tuple[list[WatchEvent], list[Message], list[tuple[Message, RejectedError]]]:
        """Events with their messages, and the messages that are none."""
        decode = self.decoder.decode
        events, messages, rejected = [], [], []
        for part in batch.messages.values():
            for message in part:
                try:
                    events.append(decode(message, now))
                    messages.append(message)
                except RejectedError as error:
                    rejected.append((message, _alone(error)))
                except Exception as error:  # noqa: BLE001 - a decoder's fault is the message's end
                    name = type(error).__name__
                    rejected.append((message, RejectedError(Reason.DECODER, f"failed by {name}")))
        return events, messages, rejected

    def _ensure_months(
        self, conn: psycopg.Connection, events: Sequence[WatchEvent], now: datetime
    ) -> None:
        missing = months_of(events, now) - self._months
        if missing:
            ensure_months(conn, missing)
            self._months |= missing

    def _compute(self, conn: psycopg.Connection, moment: datetime, spines_of: SpinesOf) -> None:
        """Log and publish every view; one that fails is left to the sweep and stops no other.

        Half of the work is done on a connection beside ``conn``, at the same time. No write is
        under way any more when this returns or raises.
        """
        due = [
            (view, spine)
            for view in self.views
            if view.follows_events
            for spine in spines_of(view, moment)
        ]
        beside = self._beside.submit(self._take_beside, due[1::2], moment) if due[1:] else None
        try:
            self._take(conn, due[::2], moment)
        finally:
            if beside is not None:
                wait([beside])
        if beside is not None:
            beside.result()
        point(Fault.VALUES_PUBLISHED)

    def _take_beside(self, due: Sequence[tuple[LiveView, Spine]], moment: datetime) -> None:
        if self._second is None or self._second.closed:
            url = self.settings.postgres_url
            self._second = connect(url, autocommit=True, name="skewless ingest")
        self._take(self._second, due, moment)

    def _take(
        self, conn: psycopg.Connection, due: Sequence[tuple[LiveView, Spine]], moment: datetime
    ) -> None:
        """View by view: values into the log, then into Redis."""
        for view, spine in due:
            rows: pa.Table | None = None
            with guarded(self.metrics, view):
                rows = log_values(conn, view.computation, spine)
            point(Fault.VALUES_LOGGED)
            if rows is not None:
                with self._refusable(conn, view, moment):
                    self._publish(view, rows)

    def close(self) -> None:
        """Let go of the connection beside the worker's."""
        self._beside.shutdown()
        if self._second is not None:
            self._second.close()

    def _publish(self, view: LiveView, rows: pa.Table) -> None:
        self.publisher.publish(view, rows)
        self.metrics.values.labels(view.computation.name).inc(rows.num_rows)

    @contextmanager
    def _refusable(
        self, conn: psycopg.Connection, view: LiveView, moment: datetime
    ) -> Iterator[None]:
        """Rows that the online store refuses are in the log: the sweep must try them again."""
        with guarded(self.metrics, view):
            try:
                yield
            except SkewlessError:
                note_refused(conn, view.computation, moment)
                raise

    def _count(
        self,
        batch: Batch,
        events: Sequence[WatchEvent],
        messages: Sequence[Message],
        rejected: Sequence[tuple[Message, RejectedError]],
        stored: int,
        seconds: float,
    ) -> None:
        metrics = self.metrics
        sample = slice(None, None, max(1, len(events) // OBSERVED_PER_STEP))
        metrics.fresh(
            time.time(),
            [message.timestamp_ms / 1000 for message in messages[sample]],
            [event.watched_at.timestamp() for event in events[sample]],
        )
        metrics.events.inc(stored)
        metrics.duplicates.inc(len(messages) - stored)
        for _, error in rejected:
            metrics.dead_letters.labels(error.reason.value).inc()
        metrics.batch.observe(batch.size)
        metrics.step_seconds.observe(seconds)
        metrics.steps.inc()


class guarded:  # noqa: N801 - reads as a verb
    """A view whose own computation or row is at fault is counted and skipped, not retried."""

    def __init__(self, metrics: WorkerMetrics, view: LiveView) -> None:
        self._metrics, self._view = metrics, view

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Swallow what the view itself did wrong; outages and our own mistakes pass."""
        if not isinstance(error, _FAULTS_OF_A_VIEW) or outage(error):
            return False
        name = self._view.computation.name
        self._metrics.view_failures.labels(name).inc()
        logger.error("View %s fell behind: %s", name, first_line(error))
        return True


def _alone(error: RejectedError) -> RejectedError:
    """The error without the frames that it passed through.

    They hold the list that it is put into: a circle, which keeps the messages of each step until
    Python collects its oldest generation.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def _touched(view: LiveView, events: Sequence[WatchEvent], moment: datetime) -> list[Spine]:
    """The entities that the events name, as of ``moment``, in one part or two."""
    named = sorted(view.entities(events))
    half = len(named) if len(named) <= _WHOLE else len(named) // 2
    parts = (named[:half], named[half:])
    return [entities(view.computation, part, moment) for part in parts if part]


def _moves(batch: Batch) -> list[Progress]:
    return [
        Progress(number, batch.placed[number].next_offset, messages[-1].offset + 1)
        for number, messages in batch.messages.items()
    ]


def _processed(batch: Batch, moment: datetime) -> list[Progress]:
    """After the step: everything up to each partition's last message is online."""
    return [
        Progress(
            number,
            messages[-1].offset + 1,
            messages[-1].offset + 1,
            # Before the moment anyway where a producer's clock is beyond what a datetime counts.
            min(moment, _EPOCH + min(max(messages[-1].timestamp_ms, 0), _LAST_MS) * _MILLISECOND),
        )
        for number, messages in batch.messages.items()
    ]
