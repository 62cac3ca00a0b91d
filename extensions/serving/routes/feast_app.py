"""Feast's own application behind ours: its routes, with errors that say whose mistake they are."""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, cast

import pandas as pd
import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from feast import FeatureStore
from feast.errors import FeastError
from feast.feature_server import get_app
from feast.feature_view_utils import get_feature_view_from_feature_store
from feast.online_response import OnlineResponse
from feast.permissions.server.rest import inject_user_details
from feast.utils import _get_feature_views_to_use
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import WebSocketRoute

from extensions.errors import SkewlessError
from extensions.feast_internals import redis_client, redis_client_async
from extensions.serving.auth.authorization import Guard
from extensions.serving.features.request_fields import request_fields
from extensions.serving.http.openapi import Subject
from extensions.serving.http.openapi_feast import whole_document
from extensions.serving.http.request_validation import RefusedError, check_range
from extensions.serving.settings import Settings
from extensions.stores.publish_log import online_store
from extensions.stores.values.join_keys import of_json

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# What Feast raises of requests that it cannot make sense of.
MISTAKES = (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError)
FAILED = "The server made a mistake; its log says more."
# Routes that may take as long as they take: they compute.
LONG = ("/materialize", "/materialize-incremental")
# How many times fewer of Feast's requests than of ours may be at work: they are that much slower.
SLOWER = 8
# Computations at a time: each takes one of Feast's threads for as long as it takes.
MOST_LONG = 4
# What Feast's application brings and this server does not: its pages of documentation, which load
# their scripts from other hosts (ours are in `routes.pages`). Web sockets are not spoken at all.
NOT_SERVED = ("/docs", "/redoc", "/docs/oauth2-redirect", "/openapi.json")
# Seconds that a write waits for Redis, twice at most; reads have the server's own deadline.
WRITE_DEADLINE, CONNECT_DEADLINE = 1.0, 0.5


class Behind:
    """Feast's application, in which no more than ``most`` requests are at work at a time. ASGI.

    Whoever calls it has admitted the caller and read the whole body: a request that is at work
    waits for nobody's network.
    """

    def __init__(self, app: FastAPI, store: FeatureStore, most: int) -> None:
        self.app, self._store, self._most = app, store, most
        self.working = self._long = 0

    def document(self, subject: Subject) -> dict[str, Any]:
        """The OpenAPI document of these routes and ours."""
        return whole_document(self.app, self._store, subject)

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """Between its startup and its shutdown."""
        async with self.app.router.lifespan_context(self.app):
            settings = self._store.config.online_store
            online: Any = online_store(self._store)
            for client in (
                redis_client(online, settings),
                await redis_client_async(online, settings),
            ):
                _bound(client)
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, admitted and whole; at work until its reply begins."""
        long = scope.get("path", "") in LONG
        if self._long >= MOST_LONG if long else self.working >= self._most:
            await _busy(scope, receive, send)
            return
        at_work = True
        self._count(long, 1)

        async def replied(message: MutableMapping[str, Any]) -> None:
            # A client that does not read its reply takes nobody's place.
            nonlocal at_work
            if at_work:
                at_work = False
                self._count(long, -1)
            await send(message)

        try:
            await self.app(scope, receive, replied)
        except Exception:  # its cause was logged where it was answered
            if at_work:  # nothing was answered
                logger.exception("A request to %s failed.", scope.get("path"))
                await _refusal(500, FAILED)(scope, receive, replied)
        finally:
            if at_work:
                self._count(long, -1)

    def _count(self, long: bool, more: int) -> None:
        if long:
            self._long += more
        else:
            self.working += more


class StoreOverHttp:
    """The store as Feast's application sees it: ids are those of JSON.

    Feast's remote online store names the times ``event_timestamp`` and ``created``, whatever
    the view's source calls them; Feast's server would look for the source's names in vain.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_online_features(self, **asked: Any) -> OnlineResponse:
        """As Feast's, with request fields within their declared bounds."""
        self._check_ranges(asked["features"], asked["entity_rows"])
        with of_json():
            return self._store.get_online_features(**asked)

    async def get_online_features_async(self, **asked: Any) -> OnlineResponse:
        """As Feast's, with request fields within their declared bounds."""
        self._check_ranges(asked["features"], asked["entity_rows"])
        with of_json():
            return await self._store.get_online_features_async(**asked)

    def _check_ranges(self, features: Any, columns: Any) -> None:
        """Check request fields against their declared bounds.

        Raises:
            RefusedError: 422, a value lies outside.
        """
        try:
            _, on_demand = _get_feature_views_to_use(
                self._store.registry, self._store.project, features, allow_cache=True
            )
            fields = request_fields(on_demand)
        except Exception:  # noqa: BLE001 - Feast reports it in its own words
            return
        for name, field in fields.items():
            values = columns.get(name) if isinstance(columns, dict) else None
            if isinstance(values, list):
                check_range(field, values)

    def push(self, **pushed: Any) -> None:
        """As Feast's."""
        with of_json():
            self._store.push(**pushed)

    async def push_async(self, **pushed: Any) -> None:
        """As Feast's."""
        with of_json():
            await self._store.push_async(**pushed)

    def write_to_online_store(self, feature_view_name: str, df: pd.DataFrame, **more: Any) -> None:
        """As Feast's, with the times under their names."""
        view = get_feature_view_from_feature_store(self._store, feature_view_name)
        if source := getattr(view, "batch_source", None):
            names = {
                "event_timestamp": source.timestamp_field,
                "created": source.created_timestamp_column,
            }
            features = {field.name for field in view.features}
            df = df.rename(
                columns={
                    sent: known
                    for sent, known in names.items()
                    if known and known not in df and sent in df and sent not in features
                }
            )
        with of_json():
            self._store.write_to_online_store(feature_view_name, df=df, **more)


def feast_app(store: FeatureStore, guard: Guard, settings: Settings) -> Behind:
    """Feast's routes. The registry is refreshed by our watcher, so Feast's own timer is off."""
    app: FastAPI = get_app(cast("FeatureStore", StoreOverHttp(store)), registry_ttl_sec=0)
    app.router.routes[:] = [
        route
        for route in app.router.routes
        if not isinstance(route, WebSocketRoute) and getattr(route, "path", "") not in NOT_SERVED
    ]
    app.dependency_overrides[inject_user_details] = guard.inject
    for mistake in MISTAKES:
        app.add_exception_handler(mistake, _client_error)
    for away in (RedisError, RedisClusterException, OSError):
        app.add_exception_handler(away, _redis_error)
    for failure in (psycopg.Error, DBAPIError):
        app.add_exception_handler(failure, _database_error)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(FeastError, _feast_error)
    app.add_exception_handler(SkewlessError, _client_error)
    app.add_exception_handler(NotImplementedError, _client_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _body_error)
    app.add_exception_handler(Exception, _other_error)
    if settings.gzip_bytes:
        app.add_middleware(GZipMiddleware, minimum_size=settings.gzip_bytes, compresslevel=1)
    online_store(store).read_deadline = settings.redis_deadline_ms / 1000
    return Behind(app, store, max(1, settings.max_waiting // SLOWER))


def _bound(client: Any) -> None:
    """No thread and no request waits for a Redis that does not answer longer than it must."""
    if not hasattr(client, "connection_pool"):
        return  # a cluster's nodes take socket_timeout from the connection string only
    client.set_retry(Retry(NoBackoff(), 1))
    limits = client.connection_pool.connection_kwargs
    limits["socket_timeout"] = limits.get("socket_timeout") or WRITE_DEADLINE
    limits["socket_connect_timeout"] = limits.get("socket_connect_timeout") or CONNECT_DEADLINE


def _refusal(status: int, message: str, field: str | None = None) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else None
    said = {"message": message, **({"field": field} if field else {})}
    return JSONResponse({"error": said}, status, headers=headers)


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    await _refusal(503, "The server is busy.")(scope, receive, send)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return _refusal(error.status, str(error), error.field)


async def _client_error(request: Request, error: Exception) -> JSONResponse:
    # The message may hold ids, and stays between the server and who asked.
    logger.info("Refused a request to %s: %s.", request.url.path, type(error).__name__)
    return _refusal(422, str(error) or type(error).__name__)


async def _feast_error(_: Request, error: Exception) -> JSONResponse:
    status = error.http_status_code() if isinstance(error, FeastError) else 500
    return _refusal(422 if status == 500 else status, str(error) or type(error).__name__)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    """What FastAPI refuses by itself: no such route, another method (with ``Allow``)."""
    assert isinstance(error, HTTPException)
    refused = _refusal(error.status_code, str(error.detail))
    refused.headers.update(error.headers or {})
    return refused


async def _body_error(_: Request, error: Exception) -> JSONResponse:
    """A body that is not what its route takes: the first field at fault, and why."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"][1:]))
    return _refusal(422, f"{field or 'The body'}: {first['msg']}.", field or None)


async def _other_error(request: Request, error: Exception) -> JSONResponse:
    """A user's transform that fails, and whatever else nobody foresaw."""
    logger.error("A request to %s failed.", request.url.path, exc_info=error)
    return _refusal(500, FAILED)


async def _redis_error(request: Request, error: Exception) -> JSONResponse:
    logger.warning("%s: Redis does not answer (%s).", request.url.path, type(error).__name__)
    return _refusal(503, "Redis does not answer.")


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    """PostgreSQL away is ours to say; a value that it does not take is the client's."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, (psycopg.DataError, psycopg.IntegrityError)):
        return _refusal(422, str(cause).splitlines()[0])
    logger.warning("%s: PostgreSQL failed (%s).", request.url.path, type(cause).__name__)
    return _refusal(503, "PostgreSQL does not answer.")
