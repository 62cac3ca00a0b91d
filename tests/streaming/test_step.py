"""One step in this process: every live version, refused rows, fences, and what stays pending."""

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo

import psycopg
import pytest
from feast import FeatureView, Field
from feast.types import Array, Int64
from pyarrow import Table

from extensions.asof.computation import FeatureColumn, HistorySource
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.refused_entities import refused_entities
from extensions.asof.watermarks import read_watermark
from extensions.database import connect
from extensions.database.event_ingest import take_ingest_lock
from extensions.errors import SkewlessError
from extensions.failure_classification import outage
from extensions.stores.values import future_rows
from streaming.decoding import RowDecoder
from streaming.kafka.dead_letters import DeadLetterWriter
from streaming.kafka.message_decoder import Message
from streaming.kafka.subscription import Batch, Placed
from streaming.processing import step
from streaming.processing.event_transaction import open_store
from streaming.processing.offsets import FencedError, begin, read_position, under_way_since
from streaming.processing.online_writer import Publisher
from streaming.processing.realtime_views import LiveView
from streaming.processing.step import Stepper
from streaming.processing.time_sweep import sweep
from streaming.settings import Settings
from streaming.stream_status import status
from streaming.worker_metrics import WorkerMetrics
from tests.asof.loading import watch_events_stream
from tests.streaming.test_worker import event
from tests.streaming.truth import Stream


class Fickle(Publisher):
    """Refuses the rows of some views, as the online store refuses what does not fit."""

    refuses: str | None = None

    def publish(self, view: LiveView, rows: Table) -> None:
        self._refuse(view)
        super().publish(view, rows)

    def publish_logged(self, view: LiveView, since: datetime) -> int:
        self._refuse(view)
        return super().publish_logged(view, since)

    def _refuse(self, view: LiveView) -> None:
        if view.computation.view == self.refuses:
            raise SkewlessError("A column does not fit.")


class OneWorker:
    """A worker's step without its broker: batches are handed to it."""

    def __init__(self, settings: Settings, views: list[LiveView], publisher: Publisher) -> None:
        self.settings, self.publisher = settings, publisher
        self.metrics = WorkerMetrics()
        stream = watch_events_stream(settings.postgres_url)
        self.stepper = Stepper(
            settings, stream.table, RowDecoder(stream),
            DeadLetterWriter(settings), views, publisher, self.metrics, lambda _: None,
        )  # fmt: skip
        self.conn = open_store(settings.postgres_url, "test", self.stepper.batches)
        begin(self.conn, settings, 0, 0, None)
        self.next_offset = 0

    def step(self, *values: bytes, at: int | None = None) -> None:
        first = self.next_offset if at is None else at
        stamp = int(datetime.now(UTC).timestamp() * 1000)
        messages = [
            Message(self.settings.topic, 0, first + number, stamp, None, value)
            for number, value in enumerate(values)
        ]
        [(_, self.next_offset)] = self.stepper.step(
            self.conn, Batch({0: messages}, {0: Placed(first, 0)})
        ).items()


@pytest.fixture
def stream(settings: Settings) -> Stream:
    return Stream(settings)


@pytest.fixture
def publisher(stream: Stream) -> Fickle:
    return Fickle(stream.store)


@pytest.fixture
def worker(settings: Settings, stream: Stream, publisher: Fickle) -> Iterator[OneWorker]:
    made = OneWorker(settings, list(stream.views), publisher)
    yield made
    made.conn.close()


def test_every_live_version_is_logged_and_online(
    settings: Settings, stream: Stream, publisher: Fickle
) -> None:
    first = view_of(stream, "user_watch_stats")
    feature_view = copy.copy(first.feature_view)
    feature_view.projection = copy.copy(feature_view.projection)
    feature_view.projection.version_tag = feature_view.current_version_number = 2
    second = LiveView(
        replace(
            first.computation,
            version=2,
            sql=first.computation.sql.replace("count(*)", "10 * count(*)"),
        ),
        feature_view,
    )
    worker = OneWorker(settings, [first, second], publisher)
    ensure_log_tables(worker.conn, [second.computation])
    worker.step(event(5), event(5), event(6))
    for view, value in ((first, 2), (second, 20)):
        [(logged,)] = worker.conn.execute(
            f"SELECT user_watch_count_7d FROM {view.computation.log_table} WHERE user_id = 5"
        ).fetchall()
        assert stream.online(view, [(5,)])[(5,)][1] == logged == value
    worker.conn.close()


def test_refused_rows_hold_the_watermark_and_come_back(
    worker: OneWorker, stream: Stream, publisher: Fickle, settings: Settings
) -> None:
    """Whatever the order of views, and across a restart: the refusal is in PostgreSQL."""
    for number, view in enumerate(stream.views):
        others = [other for other in stream.views if other is not view]
        sweep_all(worker, stream.views)
        publisher.refuses = view.computation.view
        before = marks(worker.conn, stream.views)
        user = 20 + number
        worker.step(event(user, progress=0.25))
        held = datetime.now(UTC)
        sweep_all(worker, others)
        with pytest.raises(SkewlessError):
            sweep(worker.conn, view, publisher)
        after = marks(worker.conn, stream.views)
        assert after[view.computation.name] == before[view.computation.name] < held
        for other in others:
            assert after[other.computation.name] > before[other.computation.name]
            assert served(stream, other, user) in (1, 0.25)
        assert served(stream, view, user) == 0

        publisher.refuses = None
        sweep(worker.conn, view, publisher)
        assert served(stream, view, user) in (1, 0.25)
        assert (
            marks(worker.conn, stream.views)[view.computation.name] > before[view.computation.name]
        )
        assert worker.conn.execute("SELECT FROM stream_refusals").fetchall() == []


def test_metrics_and_status_say_what_a_step_did(worker: OneWorker, settings: Settings) -> None:
    # Feast sets Prometheus to values that all of a process share: what was there is taken off.
    before: dict[str, float] = {}

    def value(name: str, **labels: str) -> float:
        labels["stream"] = ""
        found = worker.metrics.registry.get_sample_value(f"skewless_stream_{name}", labels) or 0
        return found - before.setdefault(name, found)

    def look() -> list[float]:
        return [
            value("events_total"),
            value("duplicates_total"),
            value("dead_letters_total", reason="not-json"),
            value("batch_records_count"),
            value("batch_records_sum"),
            value("freshness_seconds_count"),
        ]

    assert look() == [0] * 6
    assert value("freshness_seconds_sum") == value("event_age_seconds_sum") == 0
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    worker.step(event(1, eventId="a"), event(1, eventId="a"), event(2, watchedAt=hour_ago))
    worker.step(b"{")
    assert look() == [2, 1, 1, 2, 4, 3]
    # Measured: three events were produced just now, and one of them was watched an hour ago.
    assert 0 < value("freshness_seconds_sum") < 60
    assert 3600 <= value("event_age_seconds_sum") < 3720
    worker.metrics.report(worker.conn, settings, [0])
    [row] = status(settings).workers
    assert row.events == before["events_total"] + 2
    assert row.steps > 0
    assert row.records_per_step is not None
    assert row.freshness_p99_ms is not None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("ARRAY[1, NULL, count(*)]", "numbers holds an array with a null inside"),
        ("ARRAY[nosuch(count(*))]", "function nosuch(bigint) does not exist"),
    ],
)
def test_a_computation_that_fails_is_named_and_holds_up_no_other_view(
    settings: Settings, stream: Stream, publisher: Fickle, caplog: pytest.LogCaptureFixture,
    answer: str, said: str,
) -> None:  # fmt: skip
    first = view_of(stream, "user_watch_stats")
    broken = array_view(first, f"SELECT s.user_id, s.as_of, (SELECT {answer} FROM watch_events AS "
                        "e WHERE e.user_id = s.user_id) AS numbers FROM spine AS s")  # fmt: skip
    worker = OneWorker(settings, [broken, first], publisher)
    ensure_log_tables(worker.conn, [broken.computation])
    failures = {"view": broken.computation.name}
    worker.metrics.view_failures.labels(broken.computation.name)
    before = value_of(worker, failures)
    worker.step(event(5), event(6))
    assert value_of(worker, failures) == before + 1
    assert "View user_watch_numbers.v1 fell behind: " in caplog.text
    assert said in caplog.text
    assert served(stream, first, 5) == 1
    for _ in range(2):
        sweep_all(worker, [first])
        mended = pytest.raises((SkewlessError, psycopg.Error), match=re.escape(said))
        with mended as caught:
            sweep(worker.conn, broken, publisher)
        # The same again would fail the same way: it is nobody's outage.
        assert outage(caught.value) is None
    found = marks(worker.conn, [first, broken])
    assert found[first.computation.name] > found[broken.computation.name]
    worker.conn.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("SELECT ARRAY[1 / (2 - count(*))]", "division by zero (22012)"),
        ("SELECT ARRAY[count(*) / 2 * 9223372036854775807 * 2]", "bigint out of range (22003)"),
        ("SELECT ARRAY[e.user_id]",
         "more than one row returned by a subquery used as an expression (21000)"),
    ],
)  # fmt: skip
def test_one_entity_that_fails_is_refused_alone(
    settings: Settings, stream: Stream, publisher: Fickle, answer: str, why: str
) -> None:
    """In a step and in a sweep: its view's watermark moves on, and metrics count it."""
    first = view_of(stream, "user_watch_stats")
    view = array_view(first, f"SELECT s.user_id, s.as_of, ({answer} FROM watch_events AS "
                      "e WHERE e.user_id = s.user_id) AS numbers FROM spine AS s")  # fmt: skip
    worker = OneWorker(settings, [view], publisher)
    ensure_log_tables(worker.conn, [view.computation])
    worker.step(event(5), event(6), event(6), event(7))
    log = "SELECT user_id FROM user_watch_numbers_v1 ORDER BY user_id"
    assert worker.conn.execute(log).fetchall() == [(5,), (7,)]
    assert all(at for at, _ in stream.online(view, [(5,), (7,)]).values())
    refused = refused_entities(worker.conn)[("user_watch_numbers", 1)]
    assert refused == {("6",): why}
    before = marks(worker.conn, [view])[view.computation.name]
    sweep_all(worker, [view])
    worker.conn.execute("UPDATE stream_offsets SET processed_through = clock_timestamp()")
    sweep_all(worker, [view])
    assert marks(worker.conn, [view])[view.computation.name] > before
    # Mended by its next event, and tried again by a sweep.
    worker.conn.execute("UPDATE refused_entities SET refused_at = now() - interval '2 minutes'")
    worker.conn.execute("DELETE FROM watch_events WHERE user_id = 6")
    worker.conn.execute("UPDATE stream_offsets SET processed_through = clock_timestamp()")
    sweep_all(worker, [view])
    assert refused_entities(worker.conn) == {}
    assert (6,) in worker.conn.execute(log).fetchall()
    worker.conn.close()


def array_view(first: LiveView, text: str) -> LiveView:
    """A view of whole numbers of a user, computed by ``text``."""
    feature_view = FeatureView(
        name="user_watch_numbers", entities=[], schema=[Field(name="numbers", dtype=Array(Int64))],
        source=first.feature_view.batch_source, ttl=timedelta(0),
    )  # fmt: skip
    feature_view.entities = first.feature_view.entities
    feature_view.entity_columns = first.feature_view.entity_columns
    feature_view.current_version_number = 1
    computation = replace(
        first.computation, view="user_watch_numbers", version=1, sql=text,
        features=(FeatureColumn("numbers", "bigint[]", []),),
    )  # fmt: skip
    return LiveView(computation, feature_view)


def value_of(worker: OneWorker, labels: dict[str, str]) -> float:
    name = "skewless_stream_view_failures_total"
    return worker.metrics.registry.get_sample_value(name, {"stream": "", **labels}) or 0.0


@pytest.mark.parametrize("hours", [-1, 1])
def test_the_databases_clock_says_what_lies_in_the_future(
    worker: OneWorker, stream: Stream, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """This machine's clock is an hour off: events of now are stored, of the future they are not."""

    class Off(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=hours)

    now = datetime.now(UTC)
    for module in (step, future_rows):
        monkeypatch.setattr(module, "datetime", Off)
    ahead = (now + timedelta(minutes=30)).isoformat()
    worker.step(event(5, watchedAt=now.isoformat()), event(6, watchedAt=ahead))
    assert stream.stored() == 1
    monkeypatch.undo()  # a reader's clock is another matter
    assert served(stream, view_of(stream, "user_watch_stats"), 5) == 1
    assert worker.conn.execute("SELECT FROM stream_refusals").fetchall() == []


def test_a_late_step_is_fenced_and_leaves_nothing(worker: OneWorker, stream: Stream) -> None:
    worker.step(event(1))
    with pytest.raises(FencedError):
        worker.step(event(1), event(2), at=0)
    assert stream.stored() == 1
    assert served(stream, view_of(stream, "user_watch_stats"), 2) == 0
    assert worker.conn.execute("SELECT FROM user_watch_stats_v1 WHERE user_id = 2").rowcount == 0


def test_what_a_cut_short_step_stored_is_pending_and_computed_once_by_recovery(
    worker: OneWorker, stream: Stream, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [(settings.group, settings.topic)]
    worker.step(event(1))

    def away(*_: object) -> None:
        raise psycopg.OperationalError("the server went away")

    monkeypatch.setattr(worker.stepper, "_compute", away)
    began = datetime.now(UTC)
    with pytest.raises(psycopg.OperationalError):
        worker.step(event(7), event(8))
    monkeypatch.undo()
    position = read_position(worker.conn, settings, 0)
    assert position is not None
    assert position.pending is not None
    # The bounds hold what this step stored and nothing older, so the sweep may pass it by.
    assert position.pending[0] >= began - timedelta(seconds=1)
    assert under_way_since(worker.conn, own) == position.pending[0]
    assert under_way_since(worker.conn, [("another", settings.topic)]) is None
    worker.stepper.recover(worker.conn, [position])
    counts = view_of(stream, "user_watch_stats")
    assert [served(stream, counts, user) for user in (1, 7, 8)] == [1, 1, 1]
    assert under_way_since(worker.conn, own) is None
    rows = worker.conn.execute("SELECT user_id FROM user_watch_stats_v1 ORDER BY 1").fetchall()
    assert rows == [(1,), (7,), (8,)]


def test_the_sweep_leaves_to_a_step_what_it_is_computing(
    worker: OneWorker, stream: Stream, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.step(event(1))
    sweep_all(worker, stream.views)
    compute = worker.stepper._compute
    swept: list[int] = []

    def meanwhile(*arguments: object) -> None:
        for view in stream.views:
            done = sweep(worker.conn, view, worker.publisher)
            swept.append(done.rows if done else 0)
        compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(worker.stepper, "_compute", meanwhile)
    worker.step(event(3), event(4))
    assert swept == [0] * len(stream.views)
    assert served(stream, view_of(stream, "user_watch_stats"), 3) == 1


def view_of(stream: Stream, name: str) -> LiveView:
    [found] = [view for view in stream.views if view.computation.view == name]
    return found


def served(stream: Stream, view: LiveView, user: int) -> float:
    """The view's value for the user, and for item 1 where it has items."""
    keys = (user, 1)[: len(view.computation.join_keys)]
    return float(stream.online(view, [keys])[keys][1])


def sweep_all(worker: OneWorker, views: Sequence[LiveView]) -> None:
    for view in views:
        sweep(worker.conn, view, worker.publisher)


def marks(conn: psycopg.Connection, views: Sequence[LiveView]) -> dict[str, datetime]:
    """Each view's watermark, the earliest moment where it has none."""
    found = {}
    for view in views:
        mark = read_watermark(conn, view.computation)
        found[view.computation.name] = (
            mark.processed_through if mark else datetime.min.replace(tzinfo=UTC)
        )
    return found


def test_a_view_waits_for_other_tables_that_it_reads_and_others_do_not(
    worker: OneWorker, stream: Stream, publisher: Fickle, settings: Settings
) -> None:
    """An import into another table stays open: who reads it is left to the sweep, for then."""
    alone, view = view_of(stream, "user_item_progress"), view_of(stream, "user_watch_stats")
    items = HistorySource("items", ("item_id",), "valid_from", "ingested_at")
    reads = (*view.computation.reads, items)
    waiting = replace(view, computation=replace(view.computation, reads=reads))
    worker.stepper.views = [waiting, alone]
    sweep_all(worker, [waiting, alone])
    before = marks(worker.conn, [waiting, alone])
    with connect(settings.postgres_url) as other:
        take_ingest_lock(other, "items")
        worker.step(event(7, progress=0.5))
        sweep_all(worker, [waiting, alone])
        assert served(stream, alone, 7) == 0.5
        assert served(stream, waiting, 7) == 0
        held = marks(worker.conn, [waiting, alone])
    assert held[alone.computation.name] > before[alone.computation.name]
    sweep_all(worker, [waiting, alone])
    assert served(stream, waiting, 7) == 1
    after = marks(worker.conn, [waiting, alone])
    assert after[waiting.computation.name] > held[waiting.computation.name]
    worker.step(event(7, progress=0.75))
    assert served(stream, waiting, 7) == 2


def test_a_step_of_another_stream_does_not_hold_a_view_up(
    worker: OneWorker, stream: Stream
) -> None:
    """Another stream stores a backlog first: what reads this one alone is swept meanwhile."""
    view = view_of(stream, "user_watch_stats")
    worker.step(event(9))
    sweep_all(worker, [view])
    before = marks(worker.conn, [view])[view.computation.name]
    worker.conn.execute(
        "INSERT INTO stream_offsets (consumer_group, topic, kafka_partition, next_offset, "
        "processed_through, stored_through, computed_through) "
        "VALUES ('another', 'orders', 0, 5, %(long_ago)s, clock_timestamp(), %(long_ago)s)",
        {"long_ago": before - timedelta(minutes=1)},
    )
    worker.step(event(9))
    sweep_all(worker, [view])
    assert marks(worker.conn, [view])[view.computation.name] > before
