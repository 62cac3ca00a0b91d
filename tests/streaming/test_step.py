"""One step in this process: every live version, refused rows, fences, and what stays pending."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo

import psycopg
import pytest
from feast import FeatureView, Field
from feast.types import Array, Int64
from pyarrow import Table

from extensions.asof.computation import FeatureColumn
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.watermarks import read_watermark
from extensions.errors import SkewlessError
from extensions.failure_classification import outage
from extensions.stores.values import future_rows
from streaming.kafka.dead_letters import DeadLetterWriter
from streaming.kafka.message_decoder import JsonDecoder, Message
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
        self.stepper = Stepper(
            settings, JsonDecoder(), DeadLetterWriter(settings), views, publisher, self.metrics,
            lambda _: None,
        )  # fmt: skip
        self.conn = open_store(settings.postgres_url, "test")
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
            sweep(worker.conn, settings, view, publisher)
        after = marks(worker.conn, stream.views)
        assert after[view.computation.name] == before[view.computation.name] < held
        for other in others:
            assert after[other.computation.name] > before[other.computation.name]
            assert served(stream, other, user) in (1, 0.25)
        assert served(stream, view, user) == 0

        publisher.refuses = None
        sweep(worker.conn, settings, view, publisher)
        assert served(stream, view, user) in (1, 0.25)
        assert (
            marks(worker.conn, stream.views)[view.computation.name] > before[view.computation.name]
        )
        assert worker.conn.execute("SELECT FROM stream_refusals").fetchall() == []


def test_metrics_and_status_say_what_a_step_did(worker: OneWorker, settings: Settings) -> None:
    # Feast sets Prometheus to values that all of a process share: what was there is taken off.
    before: dict[str, float] = {}

    def value(name: str, **labels: str) -> float:
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
        ("ARRAY[1 / (count(*) - 1)]", "division by zero"),
        ("ARRAY[count(*) * 9223372036854775807::bigint]", "bigint out of range"),
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
    worker.step(event(5), event(5) if "out of range" in said else event(6))
    assert value_of(worker, failures) == before + 1
    assert "View user_watch_numbers.v1 fell behind: " in caplog.text
    assert said in caplog.text
    assert served(stream, first, 5) == (2 if "out of range" in said else 1)
    for _ in range(2):
        sweep_all(worker, [first])
        mended = pytest.raises((SkewlessError, psycopg.Error), match=said)
        with mended as caught:
            sweep(worker.conn, settings, broken, publisher)
        # The same again would fail the same way: it is nobody's outage.
        assert outage(caught.value) is None
    found = marks(worker.conn, [first, broken])
    assert found[first.computation.name] > found[broken.computation.name]
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
    return worker.metrics.registry.get_sample_value(name, labels) or 0.0


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
    assert under_way_since(worker.conn) == position.pending[0]
    worker.stepper.recover(worker.conn, position)
    counts = view_of(stream, "user_watch_stats")
    assert [served(stream, counts, user) for user in (1, 7, 8)] == [1, 1, 1]
    assert under_way_since(worker.conn) is None
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
            done = sweep(worker.conn, settings, view, worker.publisher)
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
        sweep(worker.conn, worker.settings, view, worker.publisher)


def marks(conn: psycopg.Connection, views: Sequence[LiveView]) -> dict[str, datetime]:
    """Each view's watermark, the earliest moment where it has none."""
    found = {}
    for view in views:
        mark = read_watermark(conn, view.computation)
        found[view.computation.name] = (
            mark.processed_through if mark else datetime.min.replace(tzinfo=UTC)
        )
    return found
