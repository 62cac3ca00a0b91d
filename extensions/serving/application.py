"""The ASGI application: admits every request, answers our routes, passes the others to Feast.

Every request takes the same steps, whichever route answers it: path and declared size,
authorisation, the body, and only then a place among the requests in progress (see
`extensions.serving.http.request_body_limits`).
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Mapping
from typing import Any

from feast import FeatureStore

from extensions.serving.auth.authorization import TRUSTED, Guard
from extensions.serving.features.feature_reader import FeatureReader
from extensions.serving.features.redis_connection import UnavailableError, redis_connection
from extensions.serving.features.request_plan import Plan, Plans
from extensions.serving.http import responses
from extensions.serving.http.bounded_http_protocol import ConnectionSweep
from extensions.serving.http.content_encoding import accepts_gzip, compress
from extensions.serving.http.request_body_limits import (
    DOCUMENTS,
    STATUS,
    UNKNOWN_ROUTE,
    BodyLimiter,
    DisconnectedError,
    check_feast_body,
    replay,
)
from extensions.serving.http.request_validation import RefusedError, RequestParser
from extensions.serving.near_cache.cached_views import NearCache
from extensions.serving.near_cache.invalidation import InvalidationListener, connections
from extensions.serving.observability.prometheus_metrics import Metrics
from extensions.serving.observability.registry_and_watermark_watcher import RegistryWatcher
from extensions.serving.observability.request_tracing import traced_redis
from extensions.serving.observability.serving_log import ServingLog
from extensions.serving.routes import get_online_features
from extensions.serving.routes.documentation import Documentation
from extensions.serving.routes.feast_app import SERVER_ERROR, Receive, Scope, Send, feast_app
from extensions.serving.routes.feature_routes import (
    FeatureRoutes,
    Response,
    error_response,
    refused_response,
)
from extensions.serving.routes.index_and_docs_pages import PAGES
from extensions.serving.routes.router import Route, route_of
from extensions.serving.routes.warm_up import example_requests
from extensions.serving.settings import Settings
from extensions.stores.log_publishing import online_store
from extensions.stores.offline.feast_source_connections import url_of
from extensions.stores.online.prefix_claims import PROJECT, check_owner
from extensions.stores.online_codec.redis_keys import control_key
from extensions.thread_supervision import LastingTask, Living

logger = logging.getLogger(__name__)

WARM_UP = 30
# Methods whose request body is read.
METHODS_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
# Seconds between two collections of metrics from other components.
METRICS_SECONDS = 1.0
# Open to everybody.
OPEN = STATUS | DOCUMENTS | PAGES
# Paths that are labels of metrics, as feature routes are; all others share one label.
LABELS = OPEN | {get_online_features.ROUTE}
# Seconds that startup waits for the first load of the near cache.
NEAR_LOAD_SECONDS = 5.0


class Application:
    """The ASGI application of one worker."""

    def __init__(self, settings: Settings, store: FeatureStore) -> None:
        self.settings, self.store = settings, store
        self.watcher = RegistryWatcher(store, settings.poll, self._plans_swapped)
        self.near = NearCache(settings.near_megabytes * 1_000_000)
        deadline = settings.redis_deadline_ms / 1000
        self.redis = traced_redis(
            redis_connection(online_store(store), store.config.online_store, deadline)
        )
        # Ends overdue connections; set by `server.http_server`.
        self.sweep: ConnectionSweep | None = None
        self.reader = FeatureReader(self.redis, self.near, self._is_only_request)
        self.online_features = get_online_features.OnlineFeaturesRoute(store, self.reader)
        self.metrics = Metrics(several=settings.workers > 1)
        self.log = ServingLog(
            url_of(store.config), settings.log_rates, settings.log_rate, self.metrics.registry
        )
        self.guard = Guard(store, settings)
        self.unguarded = self.guard.open_to_all
        self.routes = FeatureRoutes(
            settings,
            self.watcher,
            self.near,
            self.reader,
            self.metrics,
            self.log,
            self.guard,
            RequestParser(settings.max_items),
        )
        self.feast = feast_app(store, self.guard, settings)
        self.documentation = Documentation(settings, self.watcher, self.guard, self.feast)
        self.bodies = BodyLimiter(settings)
        self._in_progress = 0
        # Threads and tasks that must be alive while this worker serves.
        self.threads: list[Living] = []
        self._warm = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        started = time.perf_counter()
        label = UNKNOWN_ROUTE
        try:
            route = route_of(scope, self.watcher.plans)
            is_feature_route = route.method is not None
            label = route.name if is_feature_route or route.name in LABELS else UNKNOWN_ROUTE
            if label in OPEN:
                response = self._open(scope, label)
            else:
                headers = dict(scope["headers"])
                self.bodies.check(headers)
                if not self.unguarded:
                    await self.guard.admit(scope, by_key=is_feature_route)
                with self.bodies.room() as room:
                    body = b""
                    if scope["method"] in METHODS_WITH_BODY:
                        body = await room.read(receive)
                    if is_feature_route:
                        response = await self._answer_feature_route(
                            scope, headers, route, body, started
                        )
                    else:
                        found = await self._answer_feast_route(scope, route.name, body)
                        if found is None:
                            if scope["method"] in METHODS_WITH_BODY:
                                receive = replay(body, receive)
                            await self.feast(scope, receive, send)
                            return
                        response = found
        except RefusedError as error:
            response = refused_response(error)
        except DisconnectedError:
            return
        await self._send(scope, send, label, response, started)

    def _compressed(self, scope: Scope, response: Response) -> Response:
        """The reply as gzip, where it is large and the client accepts it.

        The event loop waits meanwhile: a thread would let replies pile up without a bound.
        """
        if any(name == b"vary" for name, _ in response.headers):  # it was compressed before
            return response
        body, headers = response.body, (*response.headers, (b"vary", b"Accept-Encoding"))
        if len(body) >= self.settings.gzip_bytes and accepts_gzip(dict(scope["headers"])):
            body, headers = compress(body), (*headers, (b"content-encoding", b"gzip"))
        return response._replace(body=body, headers=headers)

    async def _send(
        self, scope: Scope, send: Send, route: str, response: Response, started: float
    ) -> None:
        if self.settings.gzip_bytes:
            response = self._compressed(scope, response)
        took = time.perf_counter() - started
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [
                    (b"content-type", response.kind),
                    (b"content-length", b"%d" % len(response.body)),
                    (b"x-feature-latency-ms", b"%.3f" % (took * 1000)),
                    *response.headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": response.body})
        if route not in OPEN:
            self.metrics.count_response(route, response.status, took)
        if response.after_send is not None:
            response.after_send()

    def _is_only_request(self) -> bool:
        """Whether the worker has exactly one request in progress."""
        return self._in_progress == 1 and not self.feast.active

    async def _answer_feature_route(  # noqa: PLR0911 - each way out is one answer
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        route: Route,
        body: bytes,
        started: float,
    ) -> Response:
        if self._in_progress >= self.settings.max_waiting:
            return error_response(503, "The server is busy.", None)
        self._in_progress += 1
        try:
            if not route.method:
                raise RefusedError(404, "There is no such route.")
            if scope["method"] != route.method:
                raise RefusedError(405, f"This route takes {route.method}.", allow=route.method)
            if route.method == "GET":
                return await self.routes.single(scope, headers, route, started)
            if route.service is not None:
                return await self.routes.rank(scope, headers, route, body, started)
            return await self.routes.batch(scope, headers, body, started)
        except RefusedError as error:
            return refused_response(error)
        except UnavailableError as error:
            return error_response(503, str(error), None)
        except Exception:
            logger.exception("A request to %s failed.", route.name)
            return error_response(500, SERVER_ERROR, None)
        finally:
            self._in_progress -= 1

    async def _answer_feast_route(self, scope: Scope, route: str, body: bytes) -> Response | None:
        """Answer a route of Feast's from a plan; None where Feast's application has to.

        Raises:
            RefusedError: 422, the request asks for too much.
        """
        asked = check_feast_body(route, body, self.settings) if body else None
        if (
            route == get_online_features.ROUTE
            and scope["method"] == "POST"
            and isinstance(asked, dict)
            and self._in_progress < self.settings.max_waiting
        ):
            self._in_progress += 1
            try:
                return await self._answer_from_plan(scope, asked)
            finally:
                self._in_progress -= 1
        return None

    async def _answer_from_plan(self, scope: Scope, asked: dict[str, Any]) -> Response | None:
        """Answer /get-online-features from a plan; None where Feast's own code has to."""
        try:
            plan = await self.online_features.plan(asked, self.watcher.plans, self.guard.open)
            if plan.resource is not None:
                self.guard.permit(scope, plan.resource)
            now = self.watcher.now()
            text, served, read = await self.online_features.answer(plan, asked, now)
            after_send = self.routes.after_send(
                get_online_features.ROUTE, served, read.axes, read.request, read.rows, now
            )
            return Response(200, responses.JSON, text, after_send=after_send)
        except get_online_features.NeedsFeastError:
            return None
        except RefusedError as error:
            return refused_response(error)
        except UnavailableError as error:
            return error_response(503, str(error), None)
        except Exception:  # a bug of ours: Feast's own code can still answer
            logger.exception("A plan could not answer %s.", get_online_features.ROUTE)
            return None

    def _open(self, scope: Scope, route: str) -> Response:
        """Answer a route that is open to everybody.

        Raises:
            RefusedError: 405 for another method than GET or HEAD; 404 where it is turned off.
        """
        if route not in STATUS and not self.settings.docs:
            raise RefusedError(404, "There is no such route.")
        if scope["method"] not in ("GET", "HEAD"):
            raise RefusedError(405, "This route takes GET.", allow="GET, HEAD")
        return self._status(route) if route in STATUS else self.documentation.answer(scope, route)

    def _status(self, route: str) -> Response:
        if route == "/health":
            dead = [thread.name for thread in self.threads if not thread.is_alive()]
            status = f"ended: {', '.join(dead)}" if dead else "ok"
            return Response(
                503 if dead else 200, responses.JSON, responses.dumps({"status": status})
            )
        if route == "/metrics":
            self._collect_metrics()
            return Response(200, b"text/plain; version=0.0.4; charset=utf-8", self.metrics.text())
        states = {
            "redis": self.redis.connected,
            "plan": self._has_plans(),
            "registry": self.watcher.lag < 60,
            "warm": self._warm,
        }
        # Serving continues without PostgreSQL: a stale registry is reported, but not as unready.
        ready = states["redis"] and states["plan"] and states["warm"]
        body = {"ready": ready, **states, "registryLagSeconds": round(self.watcher.lag, 1)}
        return Response(200 if ready else 503, responses.JSON, responses.dumps(body))

    def _has_plans(self) -> bool:
        """Whether a service with a route of its own has a plan; without such, any service.

        One that cannot be served, as it was applied, does not stop the others.
        """
        plans = self.watcher.plans
        wanted = [route.service for route in plans.routes] or list(plans.by_service)
        return any(isinstance(plans.by_service.get(service), Plan) for service in wanted)

    def _collect_metrics(self) -> None:
        """Collect metrics from other components; in each worker, since any may be scraped."""
        trips = getattr(self.redis, "round_trips", 0)
        self.metrics.collect(trips, self.watcher.plans.number, self.near)
        self.metrics.collect_threads(self.threads)

    async def _collect_metrics_forever(self) -> None:
        while True:
            await asyncio.sleep(METRICS_SECONDS)
            self._collect_metrics()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await receive()
            self._loop = asyncio.get_running_loop()
            try:
                self.guard.start()
                stack.callback(self.guard.stop)
                await stack.enter_async_context(self.feast.lifespan())
                self.watcher.start()
                stack.callback(self.watcher.stop)
                await self.redis.start()
                stack.push_async_callback(self.redis.close)
                await self._check_key_owner()
                follower = self._start_near_cache()
                stack.callback(follower.stop)
                await self.near.loaded(NEAR_LOAD_SECONDS)
                await self._warm_up()
                self.log.start()
                stack.callback(self.log.stop)
                if self.sweep:
                    self.sweep.start()
                    stack.callback(self.sweep.stop)
                    self.threads += self.sweep.threads
                if self.settings.workers > 1:
                    figures = LastingTask("figures", self._collect_metrics_forever)
                    stack.callback(figures.cancel)
                    self.threads.append(figures)
                for part in (self.guard, self.watcher, follower, self.log):
                    self.threads += part.threads
                stack.callback(self.threads.clear)
            except Exception as error:
                logger.exception("The server could not start.")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _check_key_owner(self) -> None:
        """Check that the Redis keys belong to this project; skipped while Redis is unreachable."""
        with contextlib.suppress(UnavailableError):
            [owner] = await self.redis.run([("GET", control_key(self.store.config, PROJECT))])
            check_owner(self.store.config, owner)

    def _start_near_cache(self) -> InvalidationListener:
        """Start the near cache, on Redis connections of its own."""
        self.near.want(self.watcher.plans)
        config = self.store.config.online_store
        own = type(online_store(self.store))()
        follower = InvalidationListener(self.near, lambda: connections(own, config), self._loop)
        follower.start()
        return follower

    def _plans_swapped(self, plans: Plans) -> None:
        self._loop.call_soon_threadsafe(self.near.want, plans)

    async def _warm_up(self) -> None:
        """Run the feature routes, then exempt all live objects from garbage collection.

        Warm-up requests are neither counted nor logged.
        """
        for _ in range(WARM_UP):
            for method, path, body in example_requests(self.watcher.plans):
                scope = {"method": method, "path": path, "headers": [], "query_string": b"",
                         "type": "http", "raw_path": path.encode(), TRUSTED: True}  # fmt: skip
                route = route_of(scope, self.watcher.plans)
                await self._answer_feature_route(scope, {}, route, body, time.perf_counter())
            await asyncio.sleep(0)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        self._warm = True
