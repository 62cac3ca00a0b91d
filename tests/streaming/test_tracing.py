"""Traces of the stream: from a record's own context through the step to Redis."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from streaming.decoding import RowDecoder
from streaming.kafka.dead_letters import DeadLetterWriter
from streaming.kafka.message_decoder import Message
from streaming.kafka.subscription import Batch, Placed
from streaming.processing.event_transaction import open_store
from streaming.processing.offsets import begin
from streaming.processing.online_writer import Publisher
from streaming.processing.traced_step import TracedStepper
from streaming.settings import Settings
from streaming.worker_metrics import WorkerMetrics
from tests.asof.loading import watch_events_stream
from tests.streaming.test_worker import event
from tests.streaming.truth import Stream

FIRST, SECOND = f"{1:032x}", f"{2:032x}"
PARENT = f"{7:016x}"


class Traced:
    """A traced worker's step without its broker, and the spans that it makes."""

    def __init__(self, settings: Settings, stream: Stream) -> None:
        self.settings, self.exporter = settings, InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        declared = watch_events_stream(settings.postgres_url)
        self.stepper = TracedStepper(
            settings, declared.table, RowDecoder(declared), DeadLetterWriter(settings),
            list(stream.views), Publisher(stream.store), WorkerMetrics(), lambda _: None,
        )  # fmt: skip
        self.stepper.tracer = provider.get_tracer("test")
        self.conn = open_store(settings.postgres_url, "test", self.stepper.batches)
        begin(self.conn, settings, 0, 0, None)

    def step(self, *traces: str | None) -> list[ReadableSpan]:
        """One event for each trace; returns all spans that ended."""
        stamp = int(datetime.now(UTC).timestamp() * 1000)
        messages = [
            Message(
                self.settings.topic, 0, offset, stamp, None, event(user=offset + 1),
                headers=() if trace is None else (
                    ("traceparent", f"00-{trace}-{PARENT}-01".encode()), ("other", None)),
            )
            for offset, trace in enumerate(traces)
        ]  # fmt: skip
        self.stepper.step(self.conn, Batch({0: messages}, {0: Placed(0, 0)}))
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def traced(settings: Settings) -> Iterator[Traced]:
    made = Traced(settings, Stream(settings))
    yield made
    made.stepper.close()
    made.conn.close()


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def test_a_records_trace_goes_on_to_redis(traced: Traced) -> None:
    spans = traced.step(None, FIRST, FIRST)
    assert {trace_of(span) for span in spans} == {FIRST}
    by_id = {span.context.span_id: span for span in spans}
    [step] = [span for span in spans if span.name == "step"]
    assert step.parent is not None
    assert f"{step.parent.span_id:016x}" == PARENT
    assert step.kind is SpanKind.CONSUMER
    assert step.attributes is not None
    assert step.attributes["messaging.batch.message_count"] == 3
    names = {span.name for span in spans}
    assert {"store events", "compute and publish"} <= names
    published = [span for span in spans if span.name.startswith("publish ")]
    assert len(published) == len(traced.stepper.views)  # some by the thread beside
    for span in published:
        assert span.attributes is not None
        assert span.attributes["db.system.name"] == "redis"
        above = span
        while above is not step:
            assert above.parent is not None
            above = by_id[above.parent.span_id]
        assert step.end_time is not None
        assert span.end_time is not None
        assert span.end_time <= step.end_time


def test_each_other_trace_has_the_step_with_a_link_to_it(traced: Traced) -> None:
    spans = traced.step(FIRST, SECOND, FIRST)
    [whole] = [span for span in spans if span.name == "step" and trace_of(span) == FIRST]
    [other] = [span for span in spans if trace_of(span) == SECOND]
    assert other.name == "step"
    assert other.parent is not None
    assert f"{other.parent.span_id:016x}" == PARENT
    assert [link.context.span_id for link in other.links] == [whole.context.span_id]
    assert other.start_time == whole.start_time


def test_without_a_context_a_trace_begins_here(traced: Traced) -> None:
    spans = traced.step(None)
    [step] = [span for span in spans if span.name == "step"]
    assert step.parent is None
    assert {trace_of(span) for span in spans} == {trace_of(step)}


def test_a_step_that_fails_is_marked(traced: Traced) -> None:
    def fails(_offsets: dict[int, int]) -> None:
        raise RuntimeError

    traced.stepper.commit = fails
    with pytest.raises(RuntimeError):
        traced.step(FIRST, SECOND)
    steps = [span for span in traced.exporter.get_finished_spans() if span.name == "step"]
    assert {trace_of(span) for span in steps} == {FIRST, SECOND}
    assert all(span.status.status_code is StatusCode.ERROR for span in steps)
