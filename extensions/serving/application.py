"""The ASGI application: admits every request, answers hot routes, passes the others to Feast.

Each request goes the same way, whoever answers it: path and promised size, who asks, the body,
and only then a place among the requests in hand (see `extensions.serving.http.request_admission`).
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
from extensions.serving.http import openapi, responses
from extensions.serving.http.bounded_http_protocol import Sweep
from extensions.serving.http.content_encoding import accepts_gzip, compress
from extensions.serving.http.request_admission import (
    DOCUMENTS,
    OTHER,
    STATUS,
    Bodies,
    DisconnectedError,
    check_amounts,
    replay,
    route_of,
)
from extensions.serving.http.request_validation import RefusedError, RequestParser
from extensions.serving.near_cache.cached_views import NearCache
from extensions.serving.near_cache.invalidation import InvalidationListener, connections
from extensions.serving.observability.prometheus_metrics import Metrics
from extensions.serving.observability.serving_log import ServedLog
from extensions.serving.observability.watermark_watcher import Watcher
from extensions.serving.routes import get_online_features
from extensions.serving.routes.feast_app import FAILED, Receive, Scope, Send, feast_app
from extensions.serving.routes.feature_routes import ANY, RANK, USER, Answer, Hot, refusal, refused
from extensions.serving.routes.pages import PAGES, Pages
from extensions.serving.settings import Settings
from extensions.stores.offline.connection_settings import url_of
from extensions.stores.online.prefix_claims import PROJECT, see_owner
from extensions.stores.online_codec.redis_keys import aside
from extensions.stores.publish_log import online_store
from extensions.thread_supervision import LastingTask, Living

logger = logging.getLogger(__name__)

WARM_UP = 30
# Methods whose requests have a body that is read.
WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
# Seconds between two looks at the figures that others count.
FIGURES_SECONDS = 1.0
# Routes answered here, all others under /v1/features among them.
OURS = frozenset((USER, RANK, ANY, "/v1"))
# Routes that metrics know by name; what strangers make up is one label.
OPEN = STATUS | DOCUMENTS | PAGES
LABELS = OURS | OPEN | {get_online_features.ROUTE}
# Seconds that the first load of near copies may keep the server from being ready.
NEAR_PATIENCE = 5.0


class Application:
    """One worker. ASGI."""

    def __init__(self, settings: Settings, store: FeatureStore) -> None:
        self.settings, self.store = settings, store
        self.watcher = Watcher(store, settings.poll, self._swapped)
        self.near = NearCache(settings.near_megabytes * 1_000_000)
        self.link = redis_connection(
            online_store(store), store.config.online_store, settings.redis_deadline_ms / 1000
        )
        # Ends overdue connections, where the HTTP server lets us see them.
        self.sweep: Sweep | None = None
        self.reader = FeatureReader(self.link, self.near, self._alone)
        self.as_feast = get_online_features.FeastRoute(store, self.reader)
        self.metrics = Metrics(several=settings.workers > 1)
        self.log = ServedLog(
            url_of(store.config), settings.log_rates, settings.log_rate, self.metrics.registry
        )
        self.guard = Guard(store, settings)
        self.unguarded = self.guard.open_to_all
        self.hot = Hot(
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
        self.bodies = Bodies(settings)
        self._pages = Pages()
        # The OpenAPI documents by path, and the number of the plans that they describe.
        self._documents: dict[str, bytes] = {}
        self._documented = -1
        self._waiting = 0
        # All that must live as long as this worker, once it has begun.
        self.threads: list[Living] = []
        self._warm = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        started = time.perf_counter()
        label = OTHER
        try:
            route = route_of(scope)
            label = route if route in LABELS else OTHER
            if route in OPEN:
                answer = self._open(scope, route)
            else:
                headers = dict(scope["headers"])
                self.bodies.check(headers)
                ours = route in OURS
                if not self.unguarded:
                    await self.guard.admit(scope, by_key=ours)
                with self.bodies.room() as room:
                    body = b""
                    if scope["method"] in WITH_BODY:
                        body = await room.read(receive)
                    if ours:
                        answer = await self._answer(scope, headers, route, body, started)
                    else:
                        found = await self._of_feast(scope, route, body)
                        if found is None:
                            if scope["method"] in WITH_BODY:
                                receive = replay(body, receive)
                            await self.feast(scope, receive, send)
                            return
                        answer = found
        except RefusedError as error:
            answer = refused(error)
        except DisconnectedError:
            return
        await self._send(scope, send, label, answer, started)

    def _compressed(self, scope: Scope, answer: Answer) -> Answer:
        """The reply as gzip, where it is large and the client accepts it.

        The event loop waits meanwhile: a thread would let replies pile up without a bound.
        """
        if any(name == b"vary" for name, _ in answer.headers):  # it was compressed before
            return answer
        body, headers = answer.body, (*answer.headers, (b"vary", b"Accept-Encoding"))
        if len(body) >= self.settings.gzip_bytes and accepts_gzip(dict(scope["headers"])):
            body, headers = compress(body), (*headers, (b"content-encoding", b"gzip"))
        return answer._replace(body=body, headers=headers)

    async def _send(
        self, scope: Scope, send: Send, route: str, answer: Answer, started: float
    ) -> None:
        if self.settings.gzip_bytes:
            answer = self._compressed(scope, answer)
        took = time.perf_counter() - started
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (b"content-type", answer.kind),
                    (b"content-length", b"%d" % len(answer.body)),
                    (b"x-feature-latency-ms", b"%.3f" % (took * 1000)),
                    *answer.headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": answer.body})
        if route not in OPEN:
            self.metrics.answer(route, answer.status, took)
        if answer.note is not None:
            answer.note()

    def _alone(self) -> bool:
        """Whether the worker has no other request in hand than the one that asks."""
        return self._waiting == 1 and not self.feast.working

    async def _answer(  # noqa: PLR0911 - each way out is one answer
        self, scope: Scope, headers: Mapping[bytes, bytes], route: str, body: bytes, started: float
    ) -> Answer:
        if self._waiting >= self.settings.max_waiting:
            return refusal(503, "The server is busy.", None)
        self._waiting += 1
        try:
            if route == USER:
                _method(scope, "GET")
                return await self.hot.user(scope, headers, scope["path"], started)
            _method(scope, "POST")
            if route == RANK:
                return await self.hot.rank(scope, headers, body, started)
            return await self.hot.batch(scope, headers, body, started)
        except RefusedError as error:
            return refused(error)
        except UnavailableError as error:
            return refusal(503, str(error), None)
        except Exception:
            logger.exception("A request to %s failed.", route)
            return refusal(500, FAILED, None)
        finally:
            self._waiting -= 1

    async def _of_feast(self, scope: Scope, route: str, body: bytes) -> Answer | None:
        """Feast's own route where it can be answered here; None: Feast's application must.

        Raises:
            RefusedError: the request asks for too much.
        """
        asked = check_amounts(route, body, self.settings) if body else None
        if (
            route == get_online_features.ROUTE
            and scope["method"] == "POST"
            and isinstance(asked, dict)
            and self._waiting < self.settings.max_waiting
        ):
            self._waiting += 1
            try:
                return await self._by_plan(scope, asked)
            finally:
                self._waiting -= 1
        return None

    async def _by_plan(self, scope: Scope, asked: dict[str, Any]) -> Answer | None:
        """The answer from a plan; None where Feast's own code has to give it."""
        try:
            plan = await self.as_feast.plan(asked, self.watcher.plans, self.guard.open)
            if plan.resource is not None:
                self.guard.permit(scope, plan.resource)
            now = time.time_ns() // 1000
            text, served, read = await self.as_feast.answer(plan, asked, now)
            note = self.hot.note(
                get_online_features.ROUTE, served, read.axes, read.request, read.rows, now
            )
            return Answer(200, responses.JSON, text, note=note)
        except get_online_features.UnusualError:
            return None
        except RefusedError as error:
            return refused(error)
        except UnavailableError as error:
            return refusal(503, str(error), None)
        except Exception:  # a mistake of ours: Feast's own code can still answer
            logger.exception("A plan could not answer %s.", get_online_features.ROUTE)
            return None

    def _open(self, scope: Scope, route: str) -> Answer:
        """A route that is open to everybody.

        Raises:
            RefusedError: 405 for another method than GET or HEAD; 404 where it is turned off.
        """
        if route not in STATUS and not self.settings.docs:
            raise RefusedError(404, "There is no such route.")
        if scope["method"] not in ("GET", "HEAD"):
            raise RefusedError(405, "This route takes GET.", allow="GET, HEAD")
        if route in STATUS:
            return self._status(route)
        if route in DOCUMENTS:
            return Answer(200, responses.JSON, self._document(route))
        plans = self.watcher.plans.by_service
        kind, body, headers = self._pages.page(route, dict(scope["headers"]), plans)
        return Answer(200, kind, body, headers)

    def _document(self, route: str) -> bytes:
        """An OpenAPI document, written again when the feature services have changed."""
        plans = self.watcher.plans
        if self._documented != plans.number:
            self._documented = plans.number
            self._documents.clear()
        if route not in self._documents:
            subject = openapi.Subject(
                self.settings,
                plans.by_service,
                self.guard.security(by_key=True),
                self.guard.security(by_key=False),
            )
            whole = route == "/openapi.json"
            found = self.feast.document(subject) if whole else openapi.document(subject)
            self._documents[route] = responses.dumps(found)
        return self._documents[route]

    def _status(self, route: str) -> Answer:
        if route == "/health":
            dead = [thread.name for thread in self.threads if not thread.is_alive()]
            status = f"ended: {', '.join(dead)}" if dead else "ok"
            return Answer(503 if dead else 200, responses.JSON, responses.dumps({"status": status}))
        if route == "/metrics":
            self._figures()
            return Answer(200, b"text/plain; version=0.0.4; charset=utf-8", self.metrics.text())
        states = {
            "redis": self.link.connected,
            "plan": isinstance(self._found(self.settings.user_service), Plan),
            "registry": self.watcher.lag < 60,
            "warm": self._warm,
        }
        # Serving goes on without PostgreSQL: an old registry is said, and is no reason to stop.
        ready = states["redis"] and states["plan"] and states["warm"]
        body = {"ready": ready, **states, "registryLagSeconds": round(self.watcher.lag, 1)}
        return Answer(200 if ready else 503, responses.JSON, responses.dumps(body))

    def _found(self, service: str) -> Plan | str | None:
        return self.watcher.plans.by_service.get(service)

    def _figures(self) -> None:
        """Take over what others count, in each worker: only one of them is asked for metrics."""
        trips = getattr(self.link, "round_trips", 0)
        self.metrics.follow(trips, self.watcher.plans.number, self.near)
        self.metrics.see(self.threads)

    async def _keep_figures(self) -> None:
        while True:
            await asyncio.sleep(FIGURES_SECONDS)
            self._figures()

    async def _live(self, receive: Receive, send: Send) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await receive()
            self._loop = asyncio.get_running_loop()
            try:
                self.guard.start()
                stack.callback(self.guard.stop)
                await stack.enter_async_context(self.feast.living())
                self.watcher.start()
                stack.callback(self.watcher.stop)
                await self.link.start()
                stack.push_async_callback(self.link.close)
                await self._see_owner()
                follower = self._follow()
                stack.callback(follower.stop)
                await self.near.loaded(NEAR_PATIENCE)
                await self._warm_up()
                self.log.start()
                stack.callback(self.log.stop)
                if self.sweep:
                    self.sweep.start()
                    stack.callback(self.sweep.stop)
                if self.settings.workers > 1:
                    figures = LastingTask("figures", self._keep_figures)
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

    async def _see_owner(self) -> None:
        """See that the keys are this project's; a Redis that is away is waited for, as ever."""
        with contextlib.suppress(UnavailableError):
            [owner] = await self.link.run([("GET", aside(self.store.config, PROJECT))])
            see_owner(self.store.config, owner)

    def _follow(self) -> InvalidationListener:
        """Begin to hold near copies, on connections of their own."""
        self.near.want(self.watcher.plans)
        config = self.store.config.online_store
        own = type(online_store(self.store))()
        follower = InvalidationListener(self.near, lambda: connections(own, config), self._loop)
        follower.start()
        return follower

    def _swapped(self, plans: Plans) -> None:
        self._loop.call_soon_threadsafe(self.near.want, plans)

    async def _warm_up(self) -> None:
        """Run the hot routes, then take all that lives by now out of the collector's sight.

        What a server asks of itself is nobody's request: it is neither counted nor logged.
        """
        requests = [("GET", f"{USER}1", b"")] + [
            ("POST", RANK, b'{"userId":1,"itemIds":[%s]}' % b",".join(b"%d" % i for i in range(n)))
            for n in (1, 100)
        ]
        for _ in range(WARM_UP):
            for method, path, body in requests:
                scope = {"method": method, "path": path, "headers": [], "query_string": b"",
                         "type": "http", "raw_path": path.encode(), TRUSTED: True}  # fmt: skip
                await self._answer(scope, {}, route_of(scope), body, time.perf_counter())
            await asyncio.sleep(0)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        self._warm = True


def _method(scope: Scope, wanted: str) -> None:
    if scope["path"].startswith(USER) or scope["path"] in (RANK, ANY):
        if scope["method"] != wanted:
            raise RefusedError(405, f"This route takes {wanted}.", allow=wanted)
        return
    raise RefusedError(404, "There is no such route.")
