"""Traces of requests: a span for each, and below it one for each round trip to Redis.

Imported only where traces are switched on (`extensions.tracing`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer

from extensions.serving.features.redis_connection import Command, RedisConnection
from extensions.tracing import remote_context

ASGI = Callable[..., Awaitable[None]]


class TracedRequests:
    """The application, with a span for each request that goes on with its caller's trace.

    Args:
        app: The application.
        tracer: Makes the spans.
        route_of: The name of a request's route, in which no id stands.
        untraced: Routes that probes and scrapers ask all the time.
    """

    def __init__(
        self,
        app: ASGI,
        tracer: Tracer,
        route_of: Callable[[Any], str],
        untraced: Collection[str] = (),
    ) -> None:
        self._app, self._tracer = app, tracer
        self._route_of, self._untraced = route_of, frozenset(untraced)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer; the span ends when the response is sent."""
        if scope["type"] != "http" or (route := self._route_of(scope)) in self._untraced:
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        with self._tracer.start_as_current_span(
            f"{method} {route}",
            context=remote_context(_carrier(scope["headers"])),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        ) as span:

            async def sending(message: Any) -> None:
                if message["type"] == "http.response.start":
                    _note_status(span, message["status"])
                await send(message)

            await self._app(scope, receive, sending)


def _carrier(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in headers
        if name in (b"traceparent", b"tracestate")
    }


def _note_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_status(StatusCode.ERROR)


class TracedRedis:
    """A connection to Redis with a span for each round trip."""

    def __init__(self, connection: RedisConnection, tracer: Tracer) -> None:
        self._connection, self._tracer = connection, tracer
        self._open: dict[asyncio.Future[list[Any]], Span] = {}

    def __getattr__(self, name: str) -> Any:
        """All else is the connection's own."""
        return getattr(self._connection, name)

    def run(self, commands: Sequence[Command]) -> Awaitable[list[Any]]:
        """As the connection's; the span ends with the last reply."""
        replies = asyncio.ensure_future(self._connection.run(commands))
        self._open[replies] = self._tracer.start_span(
            "redis",
            kind=SpanKind.CLIENT,
            attributes={"db.system.name": "redis", "db.operation.batch.size": len(commands)},
        )
        replies.add_done_callback(self._end)
        return replies

    def busy_poll(self) -> bool:
        """As the connection's; a request that is answered by it ends before any callback runs."""
        arrived = self._connection.busy_poll()
        for replies in [each for each in self._open if each.done()]:
            self._end(replies)
        return arrived

    def _end(self, replies: "asyncio.Future[list[Any]]") -> None:
        if (span := self._open.pop(replies, None)) is None:
            return
        if replies.cancelled() or replies.exception() is not None:
            span.set_status(StatusCode.ERROR)
        span.end()
