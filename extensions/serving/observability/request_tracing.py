"""Whether a server's requests are traced: decided once, when it is built."""

from typing import TYPE_CHECKING, Any, cast

from extensions import tracing
from extensions.serving.features.redis_connection import RedisConnection
from extensions.serving.http.request_body_limits import STATUS, UNKNOWN_ROUTE
from extensions.serving.http.request_validation import RefusedError
from extensions.serving.routes.router import route_of

if TYPE_CHECKING:
    from extensions.serving.application import Application


def traced_application(application: "Application") -> Any:
    """The application, with a span for each request where traces are switched on."""
    if not tracing.switched_on():
        return application
    from extensions.serving.application import LABELS  # noqa: PLC0415 - it imports this module
    from extensions.serving.observability.traced_requests import TracedRequests  # noqa: PLC0415

    def name(scope: Any) -> str:
        try:
            route = route_of(scope, application.watcher.plans)
        except RefusedError:
            return UNKNOWN_ROUTE
        known = route.method is not None or route.name in LABELS
        return route.name if known else UNKNOWN_ROUTE

    return TracedRequests(application, tracing.tracer(), name, untraced=STATUS)


def traced_redis(connection: RedisConnection) -> RedisConnection:
    """The connection, with a span for each round trip where traces are switched on."""
    if not tracing.switched_on():
        return connection
    from extensions.serving.observability.traced_requests import TracedRedis  # noqa: PLC0415

    return cast("RedisConnection", TracedRedis(connection, tracing.tracer()))
