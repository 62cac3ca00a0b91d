"""Feast's own application, served behind ours, with bounded concurrency and mapped errors."""

import contextlib
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
)
from typing import Any, cast

import pandas as pd
import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from feast import FeatureStore, FeatureView
from feast.errors import FeastError
from feast.feature_server import get_app
from feast.feature_view_utils import get_feature_view_from_feature_store
from feast.online_response import OnlineResponse
from feast.permissions.server.rest import inject_user_details
from feast.types import Int64
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import WebSocketRoute

from extensions.errors import SkewlessError
from extensions.feast_internals import feature_views_to_use, redis_client, redis_client_async
from extensions.serving.auth.authorization import Guard
from extensions.serving.http.openapi import Subject
from extensions.serving.http.openapi_feast import whole_document
from extensions.serving.http.request_validation import RefusedError, check_range
from extensions.serving.settings import Settings
from extensions.stores.log_publishing import online_store
from extensions.stores.request_fields import request_fields
from extensions.stores.values.canonical_keys import integer_of
from extensions.stores.values.key_value_casts import json_ids

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Exceptions that Feast raises for invalid requests.
CLIENT_ERRORS = (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError)
SERVER_ERROR = "The server made a mistake; its log says more."
# Routes that compute and have no time limit.
COMPUTING_ROUTES = ("/materialize", "/materialize-incremental")
# Feast's requests are about this many times slower than ours: fewer may be active at a time.
FEAST_SLOWDOWN = 8
# Computations at a time: each occupies one of Feast's threads.
MAX_COMPUTING = 4
# What Feast's application brings and this server does not: its pages of documentation, which load
# their scripts from other hosts (ours are in `routes.pages`). Web sockets are not spoken at all.
NOT_SERVED = ("/docs", "/redoc", "/docs/oauth2-redirect", "/openapi.json")
# Seconds that a write waits for Redis, with one retry; reads have the server's own deadline.
WRITE_DEADLINE, CONNECT_DEADLINE = 1.0, 0.5


class FeastApp:
    """ASGI wrapper of Feast's application with at most ``most`` active requests.

    Callers have authorised the request and read its whole body before: an active request does not
    wait for its client.
    """

    def __init__(self, app: FastAPI, store: FeatureStore, most: int) -> None:
        self.app, self._store, self._most = app, store, most
        self.active = self._computing = 0

    def document(self, subject: Subject) -> dict[str, Any]:
        """The OpenAPI document of these routes and ours."""
        return whole_document(self.app, self._store, subject)

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Run the application's lifespan: startup on entry, shutdown on exit."""
        async with self.app.router.lifespan_context(self.app):
            settings = self._store.config.online_store
            online: Any = online_store(self._store)
            for client in (
                redis_client(online, settings),
                await redis_client_async(online, settings),
            ):
                _set_timeouts(client)
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; it counts as active until its response begins."""
        computes = scope.get("path", "") in COMPUTING_ROUTES
        if self._computing >= MAX_COMPUTING if computes else self.active >= self._most:
            await _busy(scope, receive, send)
            return
        active = True
        self._count(computes, 1)

        async def send_and_release(message: MutableMapping[str, Any]) -> None:
            # A client that reads its response slowly does not block others.
            nonlocal active
            if active:
                active = False
                self._count(computes, -1)
            await send(message)

        try:
            await self.app(scope, receive, send_and_release)
        except Exception:  # already logged if an error response was sent
            if active:  # no response was begun
                logger.exception("A request to %s failed.", scope.get("path"))
                await _error_response(500, SERVER_ERROR)(scope, receive, send_and_release)
        finally:
            if active:
                self._count(computes, -1)

    def _count(self, computes: bool, change: int) -> None:
        if computes:
            self._computing += change
        else:
            self.active += change


class StoreOverHttp:
    """The feature store as passed to Feast's application: ids follow the rules of JSON.

    Feast's remote online store names the times ``event_timestamp`` and ``created``, whatever the
    view's source calls them; they are renamed to the source's columns here.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_online_features(self, **arguments: Any) -> OnlineResponse:
        """As Feast's, with request fields within their bounds and ids that come back as sent."""
        rows = self._checked(arguments["features"], arguments["entity_rows"])
        with json_ids():
            found = self._store.get_online_features(**{**arguments, "entity_rows": rows})
        return _echoed(found, arguments["entity_rows"], rows)

    async def get_online_features_async(self, **arguments: Any) -> OnlineResponse:
        """As `get_online_features`."""
        rows = self._checked(arguments["features"], arguments["entity_rows"])
        with json_ids():
            found = await self._store.get_online_features_async(
                **{**arguments, "entity_rows": rows}
            )
        return _echoed(found, arguments["entity_rows"], rows)

    def _checked(self, features: Any, columns: Any) -> Any:
        """The columns of a request, with numbers for 64-bit ids that came as their texts.

        Raises:
            RefusedError: 422, a request field's value lies outside its declared bounds.
        """
        if not isinstance(columns, dict):
            return columns
        try:
            views, on_demand = feature_views_to_use(
                self._store.registry, self._store.project, features, allow_cache=True
            )
            fields = request_fields(on_demand)
            whole = self._whole_keys(views)
        except Exception:  # noqa: BLE001 - Feast reports it in its own words
            return columns
        for name, field in fields.items():
            values = columns.get(name)
            if isinstance(values, list):
                check_range(field, values)
        return {
            name: _numbers(values) if name in whole and isinstance(values, list) else values
            for name, values in columns.items()
        }

    def _whole_keys(self, views: Iterable[FeatureView]) -> set[str]:
        """The names that a request may give 64-bit integer keys."""
        names = set()
        for view in views:
            renamed = view.projection.join_key_map
            own = [column.name for column in view.entity_columns if column.dtype == Int64]
            names |= {renamed.get(name, name) for name in own}
            # Feast takes the entity's name for its join key's.
            for entity in self._store.registry.list_entities(self._store.project, allow_cache=True):
                if entity.join_key in own:
                    names.add(entity.name)
        return names

    def push(self, **arguments: Any) -> None:
        """As Feast's."""
        with json_ids():
            self._store.push(**arguments)

    async def push_async(self, **arguments: Any) -> None:
        """As Feast's."""
        with json_ids():
            await self._store.push_async(**arguments)

    def write_to_online_store(
        self, feature_view_name: str, df: pd.DataFrame, **options: Any
    ) -> None:
        """As Feast's, with the time columns renamed to the source's."""
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
        with json_ids():
            self._store.write_to_online_store(feature_view_name, df=df, **options)


def feast_app(store: FeatureStore, guard: Guard, settings: Settings) -> FeastApp:
    """Feast's application with our stores, errors and limits.

    The registry is refreshed by our watcher, so Feast's own timer is off.
    """
    app: FastAPI = get_app(cast("FeatureStore", StoreOverHttp(store)), registry_ttl_sec=0)
    app.router.routes[:] = [
        route
        for route in app.router.routes
        if not isinstance(route, WebSocketRoute) and getattr(route, "path", "") not in NOT_SERVED
    ]
    app.dependency_overrides[inject_user_details] = guard.inject
    for client_error in CLIENT_ERRORS:
        app.add_exception_handler(client_error, _client_error)
    for unavailable in (RedisError, RedisClusterException, OSError):
        app.add_exception_handler(unavailable, _redis_error)
    for database_error in (psycopg.Error, DBAPIError):
        app.add_exception_handler(database_error, _database_error)
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
    return FeastApp(app, store, max(1, settings.max_waiting // FEAST_SLOWDOWN))


def _numbers(values: list[Any]) -> list[Any]:
    """Ids with a number for each that is a number's canonical text."""
    found = []
    for each in values:
        number = integer_of(each) if isinstance(each, str) else None
        found.append(each if number is None else number)
    return found


def _echoed(
    found: OnlineResponse, sent: Mapping[str, list[Any]], read: Mapping[str, list[Any]]
) -> OnlineResponse:
    """The response with ids as they were sent, where they were read as numbers."""
    if sent is not read:
        for name, column in zip(
            found.proto.metadata.feature_names.val, found.proto.results, strict=True
        ):
            if name in sent and sent[name] != read[name]:
                for value, each in zip(column.values, sent[name], strict=True):
                    if isinstance(each, str):
                        value.string_val = each
    return found


def _set_timeouts(client: Any) -> None:
    """Bound how long Feast's Redis client waits for a server that does not reply."""
    if not hasattr(client, "connection_pool"):
        return  # a cluster's nodes take socket_timeout from the connection string only
    client.set_retry(Retry(NoBackoff(), 1))
    limits = client.connection_pool.connection_kwargs
    limits["socket_timeout"] = limits.get("socket_timeout") or WRITE_DEADLINE
    limits["socket_connect_timeout"] = limits.get("socket_connect_timeout") or CONNECT_DEADLINE


def _error_response(status: int, message: str, field: str | None = None) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else None
    error_body = {"message": message, **({"field": field} if field else {})}
    return JSONResponse({"error": error_body}, status, headers=headers)


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    await _error_response(503, "The server is busy.")(scope, receive, send)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return _error_response(error.status, str(error), error.field)


async def _client_error(request: Request, error: Exception) -> JSONResponse:
    # The message may contain ids: it goes to the client and not into the log.
    logger.info("Refused a request to %s: %s.", request.url.path, type(error).__name__)
    return _error_response(422, str(error) or type(error).__name__)


async def _feast_error(_: Request, error: Exception) -> JSONResponse:
    status = error.http_status_code() if isinstance(error, FeastError) else 500
    return _error_response(422 if status == 500 else status, str(error) or type(error).__name__)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    """Errors of FastAPI itself: an unknown route, a wrong method (with ``Allow``)."""
    assert isinstance(error, HTTPException)
    refused = _error_response(error.status_code, str(error.detail))
    refused.headers.update(error.headers or {})
    return refused


async def _body_error(_: Request, error: Exception) -> JSONResponse:
    """A body that fails validation: the first field at fault and the reason."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"][1:]))
    return _error_response(422, f"{field or 'The body'}: {first['msg']}.", field or None)


async def _other_error(request: Request, error: Exception) -> JSONResponse:
    """Unexpected errors, those of a user's transform among them."""
    logger.error("A request to %s failed.", request.url.path, exc_info=error)
    return _error_response(500, SERVER_ERROR)


async def _redis_error(request: Request, error: Exception) -> JSONResponse:
    logger.warning("%s: Redis does not answer (%s).", request.url.path, type(error).__name__)
    return _error_response(503, "Redis does not answer.")


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    """503 where PostgreSQL is unreachable; 422 for a value that it rejects."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, (psycopg.DataError, psycopg.IntegrityError)):
        return _error_response(422, str(cause).splitlines()[0])
    logger.warning("%s: PostgreSQL failed (%s).", request.url.path, type(cause).__name__)
    return _error_response(503, "PostgreSQL does not answer.")
