"""Traces of the stream: from the record in Kafka through the step to Redis.

Imported only where traces are switched on (`extensions.tracing`).

A step takes many records at once. Its spans (the step, its transaction, its computations, each
view's write to Redis) belong to the trace of the first record that carries one; every other trace
gets a span ``step`` of the same length, with a link to those spans.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg
import pyarrow as pa
from opentelemetry import context as current
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from extensions.tracing import remote_context
from streaming.kafka.message_decoder import Message
from streaming.kafka.subscription import Batch
from streaming.processing.offsets import Claim, Progress
from streaming.processing.realtime_views import LiveView
from streaming.processing.step import Decoded, SpinesOf, Stepper

# Traces of one step that get a span of their own.
MOST_TRACES = 100


class TracedStepper(Stepper):
    """The same step, with spans.

    ``tracer`` is set by whoever makes it, before the first step.
    """

    tracer: Tracer
    _context: Context | None = None

    def step(self, conn: psycopg.Connection, batch: Batch) -> dict[int, int]:
        """As `Stepper.step`."""
        with self._step_span("step", batch):
            return super().step(conn, batch)

    def store_only(self, conn: psycopg.Connection, batch: Batch) -> dict[int, int]:
        """As `Stepper.store_only`."""
        with self._step_span("store", batch):
            return super().store_only(conn, batch)

    @contextmanager
    def _step_span(self, name: str, batch: Batch) -> Iterator[None]:
        records = [message for part in batch.messages.values() for message in part]
        traces = _traces(records)
        first, others = next(iter(traces.values()), Context()), list(traces.values())[1:]
        began = time.time_ns()
        with self.tracer.start_as_current_span(
            name, context=first, kind=SpanKind.CONSUMER, attributes=_attributes(self, records),
            start_time=began,
        ) as span:  # fmt: skip
            # The views' half that is computed in another thread belongs here, too.
            self._context = current.get_current()
            try:
                yield
            except BaseException:
                self._end_others(name, others, span.get_span_context(), began, failed=True)
                raise
            finally:
                self._context = None
        self._end_others(name, others, span.get_span_context(), began)

    def _end_others(
        self,
        name: str,
        others: Sequence[Context],
        whole: SpanContext,
        began: int,
        *,
        failed: bool = False,
    ) -> None:
        for context in others[: MOST_TRACES - 1]:
            span = self.tracer.start_span(
                name, context, SpanKind.CONSUMER, links=[Link(whole)], start_time=began
            )
            if failed:
                span.set_status(StatusCode.ERROR)
            span.end()

    def _store(
        self, conn: psycopg.Connection, decoded: Decoded, moves: Sequence[Progress]
    ) -> tuple[Decoded, int]:
        with self._part("postgresql", "store events", rows=len(decoded.rows)):
            return super()._store(conn, decoded, moves)

    def _compute(
        self, conn: psycopg.Connection, moment: datetime, held: Claim, spines_of: SpinesOf
    ) -> None:
        with self._part("postgresql", "compute and publish"):
            super()._compute(conn, moment, held, spines_of)

    def _publish(self, view: LiveView, rows: pa.Table) -> None:
        name = view.computation.name
        with self._part("redis", f"publish {name}", rows=rows.num_rows):
            super()._publish(view, rows)

    @contextmanager
    def _part(self, system: str, name: str, **counts: int) -> Iterator[None]:
        """A span below the step's, in whichever thread; none where no step is on."""
        if self._context is None:
            yield
            return
        attributes: dict[str, Any] = {"db.system.name": system}
        attributes |= {f"skewless.{what}": count for what, count in counts.items()}
        here = get_current_span()
        below = set_span_in_context(here) if here.get_span_context().is_valid else self._context
        with self.tracer.start_as_current_span(name, below, SpanKind.CLIENT, attributes=attributes):
            yield


def _traces(records: Sequence[Message]) -> dict[int, Context]:
    """The trace contexts that the records carry, by trace, in the order of the records."""
    found: dict[int, Context] = {}
    for message in records:
        if not message.headers:
            continue
        carrier = {
            name: value.decode("latin-1")
            for name, value in message.headers
            if value is not None and name in ("traceparent", "tracestate")
        }
        if carrier:
            context = remote_context(carrier)
            told = get_current_span(context).get_span_context()
            if told.is_valid:
                found.setdefault(told.trace_id, context)
    return found


def _attributes(stepper: Stepper, records: Sequence[Message]) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": "kafka",
        "messaging.destination.name": stepper.settings.topic,
        "messaging.consumer.group.name": stepper.settings.group,
        "messaging.batch.message_count": len(records),
    }
    if records:
        attributes["messaging.destination.partition.id"] = str(records[0].partition)
        attributes["messaging.kafka.offset"] = records[0].offset
    return attributes
