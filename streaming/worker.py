"""The worker: a member of the consumer group that turns events into fresh features.

Run as many as there are partitions. A worker holds no state that a crash could lose: its place is
in PostgreSQL, and `streaming.processing.step` says in which order things happen.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from time import monotonic, sleep
from typing import Any

import psycopg
from feast import FeatureStore
from kafka import TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError

from extensions.asof.computation_loading import read_repository
from extensions.asof.safe_time import settled_now
from extensions.database import connect
from extensions.database.project_claim import check_project
from extensions.errors import SkewlessError
from extensions.failpoints import point
from extensions.failure_classification import first_line, of_a_server, outage
from extensions.sources import load_sources
from extensions.thread_supervision import Vital
from streaming.declaration_watch import DeclarationWatch
from streaming.declared_streams import NoStreamError, one_stream, settings_of
from streaming.decoding import RowDecoder
from streaming.failpoints import Fault
from streaming.kafka.bounded_decompression import UnreadableBatchError
from streaming.kafka.dead_letters import DeadLetterWriter
from streaming.kafka.message_decoder import Decoder
from streaming.kafka.stopped_partitions import record_stop
from streaming.kafka.subscription import Batch, Placed, Subscription
from streaming.kafka.topics import Bounds, bounds, ensure_topics, topic_id
from streaming.processing.event_transaction import open_store
from streaming.processing.offsets import (
    FencedError,
    Position,
    Progress,
    begin,
    mark_processed,
    read_position,
    restart,
)
from streaming.processing.online_writer import Publisher
from streaming.processing.realtime_views import live_views
from streaming.processing.step_tracing import stepper_class
from streaming.processing.time_sweep import Sweeper
from streaming.settings import Settings
from streaming.watchdog import Watchdog
from streaming.worker_metrics import MetricFamilies, WorkerMetrics

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


def run(settings: Settings, *, decoder: Decoder | None = None) -> bool:
    """Run one worker of each stream until SIGTERM or SIGINT; steps that are on are finished first.

    A stream that must stop for an operator's decision does not stop the others. Where none is
    declared it waits for the first.

    Returns:
        Whether it ended because the declared streams have changed: run it again, in a new process.

    Raises:
        SkewlessError: a server cannot be reached at the start, a view is not registered, Kafka no
            longer holds the next offset and the policy is to stop, or a thread has ended.
    """
    stopping = threading.Event()
    families = MetricFamilies()
    watch = DeclarationWatch(settings, stopping)
    workers = [
        Worker(each, decoder, WorkerMetrics(each.stream, families), watch.unchanged)
        for each in _declared(settings)
    ]
    families.serve(settings)
    with _stopped_by_signals(stopping):
        watch.start()
        if not workers:
            stopping.wait()
        elif len(workers) == 1:
            workers[0].run(stopping)
        else:
            _run_beside(workers, stopping)
    stopping.set()
    watch.join()
    return watch.changed


def _declared(settings: Settings) -> list[Settings]:
    """The streams to be run; none where the repository has none yet and none was asked for."""
    try:
        return settings_of(settings)
    except NoStreamError:
        if settings.stream:
            raise
        logger.warning("The repository declares no stream: waiting until one is applied.")
        return []


class _StreamThread(Vital):
    """A worker in a thread of its own."""

    def __init__(self, worker: "Worker", stopping: threading.Event) -> None:
        super().__init__(f"stream {worker.settings.stream}")
        self._worker, self._stopping = worker, stopping
        self.stopped: SkewlessError | None = None

    def body(self) -> None:
        """Run the worker; what an operator must decide is kept for the end."""
        try:
            self._worker.run(self._stopping)
        except SkewlessError as error:
            logger.exception("The stream %s stops.", self._worker.settings.stream)
            self.stopped = error


def _run_beside(workers: Sequence["Worker"], stopping: threading.Event) -> None:
    """Run the workers of several streams in one process."""
    threads = [_StreamThread(worker, stopping) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        while not stopping.wait(_POLL_SECONDS) and any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.check()
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    for thread in threads:
        if thread.stopped is not None:
            raise thread.stopped


class Worker:
    """One worker of one stream; `run` returns when ``stopping`` is set.

    ``declared_as_read``: whether the stream is still declared as it was when this was made; while
    it is not, nothing is taken from it.
    """

    def __init__(
        self,
        settings: Settings,
        decoder: Decoder | None = None,
        metrics: WorkerMetrics | None = None,
        declared_as_read: Callable[[], bool] = lambda: True,
    ) -> None:
        self._declared_as_read = declared_as_read
        self.settings = settings = one_stream(settings)
        self.metrics = metrics or WorkerMetrics(settings.stream)
        store = FeatureStore(str(settings.repo_root))
        self._project = str(store.project)
        contents = read_repository(settings.repo_root)
        with connect(settings.postgres_url, name="skewless ingest") as conn:
            sources = load_sources(contents, conn, self._project)
        self.stream = sources.stream(settings.stream)
        if settings.max_future is not None:
            ahead = timedelta(seconds=settings.max_future)
            self.stream = replace(self.stream, max_future=ahead)
        self._views = live_views(settings, store)
        self._publisher = Publisher(store)
        self._decoder = decoder or RowDecoder(self.stream, max_bytes=settings.max_message_bytes)
        self._letters = DeadLetterWriter(settings)
        self._conn: psycopg.Connection | None = None
        self._refused: dict[TopicPartition, int] = {}
        # Stops that are in PostgreSQL, and when each is tried again.
        self._stops: dict[UnreadableBatchError, float] = {}
        self._limit = settings.batch_records
        self._draining_since: float | None = None

    def run(self, stopping: threading.Event) -> None:
        """Poll and step until ``stopping``; wait out what is away."""
        settings = self.settings
        self._stepper = stepper_class()(
            settings, self.stream.table, self._decoder, self._letters, self._views,
            self._publisher, self.metrics, self._commit,
        )  # fmt: skip
        self._connection()
        ensure_topics(settings)
        self._topic_id = topic_id(settings)
        self._subscription = Subscription(settings)
        self._idle_at = self._report_at = monotonic()
        sweeper = Sweeper(settings, self._views, self._publisher, self.metrics)
        sweeper.start()
        self._watchdog = Watchdog(settings.poll_patience, settings.worker)
        self._watchdog.start()
        threads: list[Vital] = [sweeper, self._watchdog]
        for thread in threads:
            self.metrics.watch(thread.name, thread.is_alive)
        pause = settings.outage_pause
        try:
            while not stopping.is_set():
                for thread in threads:
                    thread.check()
                try:
                    self._turn()
                    self.metrics.worked("turn")
                    pause = settings.outage_pause
                except FencedError:
                    self._abandon("fenced")
                except Exception as error:
                    if not outage(error):
                        raise
                    self._abandon(type(error).__name__, first_line(error))
                    self._wait(pause, stopping)
                    pause = min(pause * 2, settings.longest_outage_pause)
        finally:
            sweeper.stop()
            self._leave()
            self._watchdog.stop()

    def _commit(self, offsets: dict[int, int]) -> None:
        self._subscription.commit(offsets)

    def _turn(self) -> None:
        """Place what is new, take one batch all the way, and now and then look around."""
        conn = self._connection()
        for partition in self._subscription.unplaced():
            self._place(conn, partition)
        try:
            with self._watchdog.watching():
                batch = self._subscription.poll(_POLL_SECONDS, self._limit)
        except OffsetOutOfRangeError as error:
            # Kafka's answer to an offset before its log's start or behind its end.
            [self._refused] = error.args or ({},)
            self._subscription.unplace()
            return
        if self._must_be_left(batch):
            self._subscription.unplace()
            return
        if batch.messages:
            if self._drains():
                self._subscription.moved(self._stepper.store_only(conn, batch))
            else:
                self._stepper.wait_for_storing()
                self._subscription.moved(self._stepper.step(conn, batch))
        if self._draining_since is not None and not self._drains():
            self._compute_pending(conn)
        self._note_stops(conn)
        if self._draining_since is None:
            self._limit = _next_limit(self.settings, self._limit, batch.size)
        else:
            self._limit = self.settings.drain_records
        now = monotonic()
        if now >= self._idle_at:
            self._stepper.wait_for_storing()
            self._look_around(conn)
            self._idle_at = now + self.settings.idle_every
        if now >= self._report_at:
            held = self._subscription.placed().keys() | self._subscription.stopped().keys()
            self.metrics.report(conn, self.settings, held)
            self._report_at = now + self.settings.report_every

    def _drains(self) -> bool:
        """Whether the worker is so far behind that it stores only, for now."""
        settings = self.settings
        consumer, now = self._subscription.consumer, monotonic()
        behind = 0
        for number, at in self._subscription.placed().items():
            end = consumer.highwater(TopicPartition(settings.topic, number)) or 0
            behind += max(0, end - at.next_offset)
        if behind <= settings.drain_above:
            return False
        if self._draining_since is None:
            self._draining_since = now
        return now - self._draining_since < settings.drain_seconds

    def _compute_pending(self, conn: psycopg.Connection) -> None:
        """The end of a drain: compute each entity that was touched, once."""
        self._stepper.wait_for_storing()
        self._draining_since = None
        positions = [
            read_position(conn, self.settings, number) for number in self._subscription.placed()
        ]
        self._stepper.recover(conn, [each for each in positions if each is not None])

    def _must_be_left(self, batch: Batch) -> bool:
        """Whether the batch was read at offsets of an old topic, or is another declaration's.

        The latter stays in Kafka until this worker has started again, by the new declaration.
        """
        if self._topic_was_made_anew():
            return True
        if not batch.messages or self._declared_as_read():
            return False
        self._stepper.wait_for_storing()
        sleep(_POLL_SECONDS)
        return True

    def _topic_was_made_anew(self) -> bool:
        """Whether the topic of this name is another one than before; notes which it is now."""
        identity = self._subscription.topic_id()
        if identity is None or identity == self._topic_id:
            return False
        self._topic_id = identity
        return True

    def _place(self, conn: psycopg.Connection, partition: TopicPartition) -> None:
        """Take a partition over: where PostgreSQL says, with what was left pending computed."""
        number = partition.partition
        held = bounds(self._subscription.consumer, partition, self._topic_id)
        position = read_position(conn, self.settings, number)
        if position is None:
            begin(conn, self.settings, number, held.earliest, held.topic_id)
            position = read_position(conn, self.settings, number)
            assert position is not None  # begun above, by this worker or another
        refused = self._refused.pop(partition, None) == position.next_offset
        if (why := _lost(position, held, refused=refused)) is not None:
            position = self._go_on_elsewhere(conn, position, held, why)
        self._stepper.recover(conn, [position])
        self._subscription.place(partition, Placed(position.next_offset, position.incarnation))
        point(Fault.PLACED)

    def _go_on_elsewhere(
        self, conn: psycopg.Connection, position: Position, held: Bounds, why: str
    ) -> Position:
        """The operator's policy for an offset that Kafka no longer holds; never a silent jump."""
        name = f"{self.settings.topic}/{position.partition}"
        if self.settings.on_lost == "stop":
            raise SkewlessError(
                f"Partition {name} cannot be read on at offset {position.next_offset}: {why} "
                f"Run `skewless ingest --on-lost earliest` to go on from offset {held.earliest}; "
                "`skewless replay` brings back events that you have elsewhere."
            )
        logger.warning("%s: %s Going on from offset %s.", name, why, held.earliest)
        restart(conn, self.settings, position, held.earliest, held.topic_id)
        again = read_position(conn, self.settings, position.partition)
        assert again is not None  # positions are never deleted
        return again

    def _note_stops(self, conn: psycopg.Connection) -> None:
        """Record the partitions that stand still, once each."""
        stopped = set(self._subscription.stopped().values())
        for error in stopped - self._stops.keys():
            logger.error(
                "Partition %s/%s stands still at offset %s: %s. `skewless stream skip %s/%s/%s` "
                "leaves the batch out.",
                *(error.partition.topic, error.partition.partition, error.offset, error.why),
                *(error.partition.topic, error.partition.partition, error.offset),
            )
            record_stop(conn, self.settings, error)
            self.metrics.stopped.labels(str(error.partition.partition)).set(1)
            self._stops[error] = monotonic() + self.settings.retry_stopped
        for error in self._stops.keys() - stopped:
            self.metrics.stopped.labels(str(error.partition.partition)).set(0)
            del self._stops[error]

    def _look_at_stops(self, conn: psycopg.Connection) -> None:
        """Go on where an operator skipped the batch, or once more; else show the lag."""
        for number, error in self._subscription.stopped().items():
            position = read_position(conn, self.settings, number)
            moved = position is None or position.next_offset != error.offset
            if moved or monotonic() > self._stops.get(error, 0.0):
                self._subscription.go_on(number)
                continue
            end = self._subscription.consumer.end_offsets([error.partition])[error.partition]
            progress = Progress(number, error.offset, error.offset, None, end)
            mark_processed(conn, self.settings, [progress])
            self.metrics.lag.labels(str(number)).set(max(0, end - error.offset))

    def _look_around(self, conn: psycopg.Connection) -> None:
        """Move the watermarks of partitions that are read to their end; note lag.

        The clock is read first, then the ends are asked of the broker: all that was produced by
        then lies before these ends. An unreachable broker moves no watermark.
        """
        self._look_at_stops(conn)
        placed = self._subscription.placed()
        if not placed:
            return
        consumer = self._subscription.consumer
        moment = settled_now(conn, [self.stream.table.table])
        partitions = [TopicPartition(self.settings.topic, number) for number in placed]
        ends = consumer.end_offsets(partitions)
        progress = []
        for partition in partitions:
            number = partition.partition
            expected = placed[number].next_offset
            # Markers of transactions are passed without a message.
            position = max(expected, consumer.position(partition, timeout_ms=1_000) or 0)
            end = max(ends[partition], consumer.highwater(partition) or 0)
            caught_up = position >= end
            progress.append(
                Progress(number, expected, position, moment if caught_up else None, end)
            )
            label = str(number)
            self.metrics.lag.labels(label).set(max(0, end - position))
            if caught_up:
                self.metrics.watermark.labels(label).set(moment.timestamp())
        mark_processed(conn, self.settings, progress)
        self._subscription.moved({each.partition: each.next_offset for each in progress})

    def _abandon(self, cause: str, detail: str = "") -> None:
        """Give the step up: the next turn places every partition again, where PostgreSQL says."""
        logger.warning("A step was cut short (%s %.200s); it is taken up again.", cause, detail)
        self.metrics.retries.labels(cause).inc()
        self._stepper.abandon()
        self._subscription.unplace()
        self._draining_since = None
        self._letters.close()
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _wait(self, seconds: float, stopping: threading.Event) -> None:
        """Back off, still a member of the group."""
        until = monotonic() + seconds
        while (left := until - monotonic()) > 0 and not stopping.is_set():
            try:
                self._subscription.keep_alive(min(left, _POLL_SECONDS))
            except KafkaError:
                stopping.wait(min(left, _POLL_SECONDS))

    def _connection(self) -> psycopg.Connection:
        if self._conn is None or self._conn.closed:
            self._conn = open_store(
                self.settings.postgres_url, "skewless ingest", self._stepper.batches
            )
            check_project(self._conn, self._project)
        return self._conn

    def _leave(self) -> None:
        """Everything is committed: leave the group, so that others take over at once."""
        for farewell in (
            self._stepper.abandon, self._subscription.close, self._letters.close,
            self._stepper.close, self._forget,
        ):  # fmt: skip
            try:
                farewell()
            except Exception as error:
                if not (isinstance(error, SkewlessError) or of_a_server(error)):
                    raise
                logger.info("While stopping: %s", type(error).__name__)

    def _forget(self) -> None:
        if self._conn is not None and not self._conn.closed:
            self.metrics.forget(self._conn, self.settings)
            self._conn.close()


def _next_limit(settings: Settings, limit: int, taken: int) -> int:
    """How many messages the next step may take: more while steps come back full."""
    if taken < settings.batch_records:
        return settings.batch_records
    return max(settings.batch_records, min(2 * limit, settings.catch_up_records))


def _lost(position: Position, held: Bounds, *, refused: bool) -> str | None:
    """Why the position cannot be read on; None when it can. ``refused``: Kafka said so itself."""
    if None not in (position.topic_id, held.topic_id) and position.topic_id != held.topic_id:
        return "the topic was deleted and made anew."
    if position.next_offset < held.earliest:
        missing = held.earliest - position.next_offset
        return f"retention has removed {missing} records that were not read yet."
    if refused:
        return "the partition ends before it, so its log was cut short."
    return None


@contextmanager
def _stopped_by_signals(stopping: threading.Event) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:  # noqa: ARG001
        stopping.set()

    previous: list[tuple[int, Callable[..., Any] | int | None]] = [
        (number, signal.signal(number, stop)) for number in (signal.SIGTERM, signal.SIGINT)
    ]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
