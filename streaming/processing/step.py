"""One step of the worker: a batch of messages becomes events, values and watermarks.

The order of the numbered lines is the guarantee. A step that ends anywhere, by a crash, an outage
or a rebalance, is abandoned whole: what it had not committed is read from Kafka again, and what
it had committed without having computed it is *pending* and computed by `recover`.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pyarrow as pa

from extensions.asof import Spine
from extensions.asof.spine import arrived, entities
from extensions.asof.unpublished_ranges import note_unpublished
from extensions.database import connect
from extensions.database.scalars import clock
from extensions.errors import SkewlessError
from extensions.failpoints import point
from extensions.failure_classification import first_line, outage
from extensions.sources import HistoryTable
from extensions.sources.ingest import BatchTable, refuses_a_row
from streaming.failpoints import Fault
from streaming.kafka.dead_letters import DeadLetterWriter
from streaming.kafka.message_decoder import Decoder, Message, Reason, RejectedError
from streaming.kafka.subscription import Batch
from streaming.processing.event_transaction import Partitions, open_store, store
from streaming.processing.feature_computation import TICK, SettlingError, log_values, moment_after
from streaming.processing.offsets import Claim, Position, Progress, claim, mark_processed
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
# How long views wait for tables that are not this stream's.
_OTHERS_PATIENCE = 0.25

# A view's SQL, its rows, and what the online store says of them.
_FAULTS_OF_A_VIEW = (psycopg.Error, pa.ArrowException, SkewlessError)

SpinesOf = Callable[[LiveView, datetime], Sequence[Spine]]

# More entities of a view than this are asked about in two halves, at the same time.
_WHOLE = 1_000
# No more are asked about at once: what is computed passes through memory.
_LARGEST = 10_000


@dataclass(frozen=True)
class Decoded:
    """A batch as rows of the table, each with its message, and the messages that are none."""

    rows: list[tuple[Any, ...]]
    messages: list[Message]
    rejected: list[tuple[Message, RejectedError]]

    def without(self, refused: Mapping[int, RejectedError]) -> "Decoded":
        """Without the messages of the rows at these indexes, which become rejected ones."""
        gone = {self.messages[index].position: error for index, error in refused.items()}
        kept = [i for i, message in enumerate(self.messages) if message.position not in gone]
        refused_messages = {m.position: m for m in self.messages if m.position in gone}
        return Decoded(
            [self.rows[i] for i in kept],
            [self.messages[i] for i in kept],
            [(message, gone[position]) for position, message in refused_messages.items()],
        )


@dataclass
class Stepper:
    """What a step needs. ``commit`` tells Kafka the next offset of each partition."""

    settings: Settings
    table: HistoryTable
    decoder: Decoder
    letters: DeadLetterWriter
    views: Sequence[LiveView]
    publisher: Publisher
    metrics: WorkerMetrics
    commit: Callable[[dict[int, int]], None]

    def __post_init__(self) -> None:
        self._beside = ThreadPoolExecutor(1, "views")
        self._second: psycopg.Connection | None = None
        self._storer: psycopg.Connection | None = None
        self._storing: Future[None] | None = None
        self.batches = BatchTable(self.table)
        self._partitions = Partitions(self.table)
        self._time = self.decoder.columns.index(self.table.time)

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
        decoded = self._decode(batch, now)
        point(Fault.DECODED)

        # 2. Dead letters are with the broker before the offsets pass them. A crash after this
        #    line sends them again: the same letters, by their position.
        self.letters.send(decoded.rejected)
        point(Fault.DEAD_LETTERED)

        # 3. One transaction: the events, each id once, and the offsets, if they are still ours.
        #    From here on Kafka is not needed any more for this batch.
        moves = _moves(batch)
        self._partitions.ensure(conn, [row[self._time] for row in decoded.rows], now)
        decoded, stored = self._store(conn, decoded, moves)
        point(Fault.EVENTS_COMMITTED)
        offsets = {move.partition: move.next_offset for move in moves}

        # 4. The moment asked about: after the commit, and with no open transaction before it.
        moment = self._moment(conn)
        point(Fault.MOMENT_TAKEN)

        # 5. and 6. Per view: values into the log, then into Redis, where the newest wins.
        if decoded.rows:
            held = claim(self.settings, offsets)
            self._compute(conn, moment, held, lambda v, at: self._touched(v, decoded.rows, at))

        # 7. The watermark: whoever reads it may count on all of the above.
        mark_processed(conn, self.settings, _processed(batch, moment), computed_through=moment)
        point(Fault.WATERMARK_MOVED)

        # 8. Kafka's own copy of the offsets, for its tools.
        self.commit(offsets)
        point(Fault.KAFKA_COMMITTED)

        self._count(batch, decoded, stored, time.monotonic() - began)
        return offsets

    def store_only(self, conn: psycopg.Connection, batch: Batch) -> dict[int, int]:
        """Lines 1 to 3 of a step, the third beside the caller, who may read the next batch.

        What the events change is then pending, for `recover`. Returns the next offset of each
        partition, which holds once `wait_for_storing` has returned.

        Raises:
            Exception: as `step`, of this batch or of the one before.
        """
        began = time.monotonic()
        point(Fault.POLLED)
        now = clock(conn)
        decoded = self._decode(batch, now)
        point(Fault.DECODED)
        moves = _moves(batch)
        self.wait_for_storing()
        self._storing = self._beside.submit(self._store_beside, batch, decoded, moves, now, began)
        return {move.partition: move.next_offset for move in moves}

    def wait_for_storing(self) -> None:
        """Wait for what `store_only` has begun.

        Raises:
            Exception: as `step`.
        """
        storing, self._storing = self._storing, None
        if storing is not None:
            storing.result()

    def abandon(self) -> None:
        """Wait for what `store_only` has begun, however it ends."""
        storing, self._storing = self._storing, None
        if storing is not None:
            wait([storing])

    def _store_beside(
        self,
        batch: Batch,
        decoded: Decoded,
        moves: Sequence[Progress],
        now: datetime,
        began: float,
    ) -> None:
        if self._storer is None or self._storer.closed:
            url = self.settings.postgres_url
            self._storer = open_store(url, "skewless ingest", self.batches)
        conn = self._storer
        self.letters.send(decoded.rejected)
        point(Fault.DEAD_LETTERED)
        self._partitions.ensure(conn, [row[self._time] for row in decoded.rows], now)
        decoded, stored = self._store(conn, decoded, moves)
        point(Fault.EVENTS_COMMITTED)
        self._count(batch, decoded, stored, time.monotonic() - began)

    def recover(self, conn: psycopg.Connection, positions: Sequence[Position]) -> None:
        """Compute, as of now, what was stored in these partitions without being computed.

        The bounds are times of arrival, so other partitions' events in them are computed too:
        their values are true, and newest wins. What a worker logged that did not live to publish
        it need not be among them (an event that came twice does not arrive): the sweep publishes
        all that was logged since.
        """
        pending = [position.pending for position in positions if position.pending is not None]
        if not pending:
            return
        after = min(begin for begin, _ in pending)
        through = max(end for _, end in pending)
        held = claim(
            self.settings, {p.partition: p.next_offset for p in positions if p.pending is not None}
        )
        moment = self._moment(conn)
        self._compute(
            conn, moment, held, lambda view, at: self._arrived(conn, view, after, through, at)
        )
        with conn.transaction():
            mark_processed(
                conn,
                self.settings,
                [Progress(p.partition, p.next_offset, p.next_offset) for p in positions],
                computed_through=moment,
            )
            self._note_logged(conn, after, moment)
        point(Fault.RECOVERED)

    def _note_logged(self, conn: psycopg.Connection, after: datetime, moment: datetime) -> None:
        """What others logged since ``after`` may not be online: the sweep publishes it.

        The partitions are marked as computed, so who lost them logs no more from here on; what was
        logged as of ``moment`` is online.
        """
        now = clock(conn)
        for view in self.views:
            if view.source(self.table) is not None:
                note_unpublished(conn, view.computation, after, moment - TICK)
                note_unpublished(conn, view.computation, moment + TICK, now)

    def _decode(self, batch: Batch, now: datetime) -> Decoded:
        """Rows with their messages, and the messages that are none."""
        decode = self.decoder.decode
        rows: list[tuple[Any, ...]] = []
        messages: list[Message] = []
        rejected: list[tuple[Message, RejectedError]] = []
        for part in batch.messages.values():
            for message in part:
                try:
                    found = decode(message, now)
                except RejectedError as error:
                    rejected.append((message, _alone(error)))
                except Exception as error:
                    if outage(error):
                        raise
                    name = type(error).__name__
                    rejected.append((message, RejectedError(Reason.DECODER, f"failed by {name}")))
                else:
                    rows += found
                    messages += [message] * len(found)
        return Decoded(rows, messages, rejected)

    def _store(
        self, conn: psycopg.Connection, decoded: Decoded, moves: Sequence[Progress]
    ) -> tuple[Decoded, int]:
        """Store what the table takes; a message whose row it refuses is a dead letter."""
        columns = self.decoder.columns
        events = self.batches.batch(columns, decoded.rows)
        try:
            return decoded, store(conn, self.settings, self.batches, events, moves)
        except psycopg.Error as error:
            if not refuses_a_row(error):
                raise
            refused = self.batches.refused(conn, events)
            if not refused:
                raise
        kept = decoded.without(
            {each.index: RejectedError(Reason.REFUSED, each.why) for each in refused}
        )
        self.letters.send(kept.rejected)
        point(Fault.DEAD_LETTERED)
        events = self.batches.batch(columns, kept.rows)
        stored = store(conn, self.settings, self.batches, events, moves)
        return Decoded(kept.rows, kept.messages, decoded.rejected + kept.rejected), stored

    def _touched(
        self, view: LiveView, rows: Sequence[tuple[Any, ...]], moment: datetime
    ) -> list[Spine]:
        """The entities that the rows name, as of ``moment``, in one part or two."""
        return _parts(view, sorted(view.entities(self.decoder.columns, rows)), moment)

    def _arrived(
        self,
        conn: psycopg.Connection,
        view: LiveView,
        after: datetime,
        through: datetime,
        moment: datetime,
    ) -> list[Spine]:
        """The entities of the table's rows that arrived in ``(after, through]``."""
        source = view.source(self.table)
        if source is None:
            return []
        return _parts(view, arrived(conn, view.computation, source, after, through), moment)

    def _moment(self, conn: psycopg.Connection) -> datetime:
        """A moment from now on, as of which this table's rows are settled."""
        return moment_after(conn, [self.table.table], clock(conn), _SETTLING_PATIENCE)

    def _compute(
        self, conn: psycopg.Connection, moment: datetime, held: Claim, spines_of: SpinesOf
    ) -> None:
        """Log and publish every view; one that fails is left to the sweep and stops no other.

        ``moment``: as of which this table is settled. A view that reads others too has a moment of
        its own; where one of those is being written to for long, it is left to the sweep.
        """
        grouped: dict[frozenset[str], list[LiveView]] = {}
        for view in self.views:
            if view.source(self.table) is not None:
                grouped.setdefault(frozenset(view.computation.tables), []).append(view)
        # The views of this table alone come first: they wait for nobody.
        for tables in sorted(grouped, key=len):
            at = moment
            if len(tables) > 1:
                try:
                    at = moment_after(conn, tables, moment - TICK, _OTHERS_PATIENCE)
                except SettlingError:
                    continue
            due = [(view, spine) for view in grouped[tables] for spine in spines_of(view, at)]
            self._compute_at(conn, at, held, due)
        point(Fault.VALUES_PUBLISHED)

    def _compute_at(
        self,
        conn: psycopg.Connection,
        moment: datetime,
        held: Claim,
        due: Sequence[tuple[LiveView, Spine]],
    ) -> None:
        """Half of the work is done on a connection beside ``conn``, at the same time.

        No write is under way any more when this returns or raises.
        """
        beside = None
        if due[1:]:
            beside = self._beside.submit(self._take_beside, due[1::2], moment, held)
        try:
            self._take(conn, due[::2], moment, held)
        finally:
            if beside is not None:
                wait([beside])
        if beside is not None:
            beside.result()

    def _take_beside(
        self, due: Sequence[tuple[LiveView, Spine]], moment: datetime, held: Claim
    ) -> None:
        if self._second is None or self._second.closed:
            url = self.settings.postgres_url
            self._second = connect(url, autocommit=True, name="skewless ingest")
        self._take(self._second, due, moment, held)

    def _take(
        self,
        conn: psycopg.Connection,
        due: Sequence[tuple[LiveView, Spine]],
        moment: datetime,
        held: Claim,
    ) -> None:
        """View by view: values into the log, then into Redis."""
        for view, spine in due:
            rows: pa.Table | None = None
            with guarded(self.metrics, view):
                rows = log_values(conn, view.computation, spine, held)
            point(Fault.VALUES_LOGGED)
            if rows is not None:
                with self._refusable(conn, view, moment):
                    self._publish(view, rows)

    def close(self) -> None:
        """Let go of the connections beside the worker's."""
        self._beside.shutdown()
        for conn in (self._second, self._storer):
            if conn is not None:
                conn.close()

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
        decoded: Decoded,
        stored: int,
        seconds: float,
    ) -> None:
        metrics, rows = self.metrics, decoded.rows
        sample = slice(None, None, max(1, len(rows) // OBSERVED_PER_STEP))
        times = [row[self._time] for row in rows[sample]]
        metrics.fresh(
            time.time(),
            [message.timestamp_ms / 1000 for message in decoded.messages[sample]],
            [at.timestamp() for at in times if at is not None],
        )
        metrics.events.inc(stored)
        metrics.duplicates.inc(len(rows) - stored)
        for _, error in decoded.rejected:
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


def _parts(view: LiveView, named: Sequence[tuple[Any, ...]], moment: datetime) -> list[Spine]:
    """The entities ``named`` as of ``moment``, in parts of bounded size; many are two at least."""
    if not named:
        return []
    count = max(1 if len(named) <= _WHOLE else 2, -(-len(named) // _LARGEST))
    size = -(-len(named) // count)
    return [
        entities(view.computation, named[begin : begin + size], moment)
        for begin in range(0, len(named), size)
    ]


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
