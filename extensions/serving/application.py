"""The application: hot routes answered here, as thin as ASGI allows; all others by Feast."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from feast import FeatureStore

from extensions.serving import feast_route, openapi, replies
from extensions.serving.asking import RefusedError
from extensions.serving.auth import TRUSTED, Guard
from extensions.serving.behind import Receive, Scope, Send, feast_app
from extensions.serving.following import Follower, connections
from extensions.serving.freshness import Watcher
from extensions.serving.hot import ANY, RANK, USER, Answer, Hot, refusal
from extensions.serving.link import UnavailableError, link_to
from extensions.serving.metrics import Metrics
from extensions.serving.near import NearCopies
from extensions.serving.plan import Plan, Plans
from extensions.serving.reading import Reader
from extensions.serving.served_log import ServedLog
from extensions.serving.settings import Settings
from extensions.stores.offline.address import url_of
from extensions.stores.online.claims import PROJECT, see_owner
from extensions.stores.online.keys import aside
from extensions.stores.publish import online_store

logger = logging.getLogger(__name__)

ABOUT = ("/health", "/ready", "/metrics", "/v1/openapi.json")
WARM_UP = 30
# Seconds that the first load of near copies may keep the server from being ready.
NEAR_PATIENCE = 5.0

Headers = list[tuple[bytes, bytes]]


class Application:
    """One worker. ASGI."""

    def __init__(self, settings: Settings, store: FeatureStore) -> None:
        self.settings, self.store = settings, store
        self.watcher = Watcher(store, settings.poll, self._swapped)
        self.near = NearCopies(settings.near_megabytes * 1_000_000)
        self.link = link_to(
            online_store(store), store.config.online_store, settings.redis_deadline_ms / 1000
        )
        # The requests in hand, where the HTTP server lets us see them.
        self.in_hand: Collection[Any] | None = None
        self.reader = Reader(self.link, self.near, self._alone)
        self.as_feast = feast_route.FeastRoute(store, self.reader)
        self.metrics = Metrics(several=settings.workers > 1)
        self.log = ServedLog(
            url_of(store.config), settings.log_rates, settings.log_rate, self.metrics.registry
        )
        self.guard = Guard(store, settings.api_key, settings.poll)
        self.hot = Hot(
            settings, self.watcher, self.near, self.reader, self.metrics, self.log, self.guard
        )
        self.feast = feast_app(store, self.guard, settings)
        self._waiting = 0
        self._warm = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path = scope.get("path", "")
        if path == feast_route.ROUTE and scope.get("method") == "POST":
            receive, answered = await self._as_feast(scope, receive, send)
            if answered:
                return
        if scope["type"] != "http" or not self._ours(path):
            await self.feast(scope, receive, send)
            return
        started = time.perf_counter()
        route = _route(path)
        if self._waiting >= self.settings.max_waiting:
            answer = refusal(503, "The server is busy.", None)
        else:
            self._waiting += 1
            try:
                answer = await self._answer(scope, receive, path, route, started)
            finally:
                self._waiting -= 1
        await self._send(send, route, answer, started)

    async def _send(self, send: Send, route: str, answer: Answer, started: float) -> None:
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
        if route not in ABOUT:
            self.metrics.answer(route, answer.status, took)
        if answer.note is not None:
            answer.note()

    def _alone(self) -> bool:
        """Whether the worker has no other request in hand than the one that asks."""
        return self.in_hand is not None and len(self.in_hand) == 1

    async def _answer(  # noqa: PLR0911 - each way out is one answer
        self, scope: Scope, receive: Receive, path: str, route: str, started: float
    ) -> Answer:
        try:
            if route in ABOUT:
                return self._about(route)
            headers = dict(scope["headers"])
            await self.guard.admit(scope)
            body = await self._body(receive, headers) if scope["method"] == "POST" else b""
            if route == USER:
                _method(scope, "GET")
                return await self.hot.user(scope, headers, path, started)
            _method(scope, "POST")
            if route == RANK:
                return await self.hot.rank(scope, headers, body, started)
            return await self.hot.batch(scope, headers, body, started)
        except RefusedError as error:
            return refusal(error.status, str(error), error.field)
        except UnavailableError as error:
            return refusal(503, str(error), None)
        except Exception:
            logger.exception("A request to %s failed.", route)
            return refusal(500, "The server made a mistake; its log says more.", None)

    async def _as_feast(self, scope: Scope, receive: Receive, send: Send) -> tuple[Receive, bool]:
        """Answer Feast's own route where our plans can; else what has been read, to read again."""
        started = time.perf_counter()
        again, body = await read_again(receive, self.settings.max_body)
        if body is None or self._waiting >= self.settings.max_waiting:
            return again, False
        self._waiting += 1
        try:
            plan, asked = self.as_feast.plan(body, self.watcher.plans)
            await self.guard.admit(scope, by_key=False)
            if plan.resource is not None:
                self.guard.permit(scope, plan.resource)
            elif not self.guard.open:
                return again, False
            now = time.time_ns() // 1000
            text, served, read = await self.as_feast.answer(plan, asked, now)
            note = self.hot.note(feast_route.ROUTE, served, read.axes, read.request, read.rows, now)
            answer = Answer(200, replies.JSON, text, note=note)
        except (feast_route.UnusualError, RefusedError):
            return again, False
        except UnavailableError as error:
            answer = refusal(503, str(error), None)
        except Exception:  # a mistake of ours: Feast's own code can still answer
            logger.exception("A plan could not answer %s.", feast_route.ROUTE)
            return again, False
        finally:
            self._waiting -= 1
        await self._send(send, feast_route.ROUTE, answer, started)
        return again, True

    def _about(self, route: str) -> Answer:
        if route == "/health":
            return Answer(200, replies.JSON, b'{"status":"ok"}')
        if route == "/metrics":
            self.metrics.follow(
                getattr(self.link, "round_trips", 0), self.watcher.plans.number, self.near
            )
            return Answer(200, b"text/plain; version=0.0.4; charset=utf-8", self.metrics.text())
        if route == "/v1/openapi.json":
            return Answer(200, replies.JSON, replies.dumps(openapi.document(self.settings)))
        states = {
            "redis": self.link.connected,
            "plan": isinstance(self._found(self.settings.user_service), Plan),
            "registry": self.watcher.lag < 60,
            "warm": self._warm,
        }
        # Serving goes on without PostgreSQL: an old registry is said, and is no reason to stop.
        ready = states["redis"] and states["plan"] and states["warm"]
        body = {"ready": ready, **states, "registryLagSeconds": round(self.watcher.lag, 1)}
        return Answer(200 if ready else 503, replies.JSON, replies.dumps(body))

    def _found(self, service: str) -> Plan | str | None:
        return self.watcher.plans.by_service.get(service)

    async def _body(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        most = self.settings.max_body
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise RefusedError(413, f"A body may have at most {most} bytes.")
        message = await receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
            if len(body) > most:
                raise RefusedError(413, f"A body may have at most {most} bytes.")
        return body

    @staticmethod
    def _ours(path: str) -> bool:
        return path.startswith(ANY) or path in ABOUT

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
                stack.callback(self._follow().stop)
                await self.near.loaded(NEAR_PATIENCE)
                await self._warm_up()
                self.log.start()
                stack.callback(self.log.stop)
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

    def _follow(self) -> Follower:
        """Begin to hold near copies, on connections of their own."""
        self.near.want(self.watcher.plans)
        config = self.store.config.online_store
        own = type(online_store(self.store))()
        follower = Follower(self.near, lambda: connections(own, config), self._loop)
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

                async def receive(sent: bytes = body) -> dict[str, Any]:
                    return {"type": "http.request", "body": sent}

                await self._answer(scope, receive, path, _route(path), time.perf_counter())
            await asyncio.sleep(0)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        self._warm = True


async def read_again(receive: Receive, most: int) -> tuple[Receive, bytes | None]:
    """The whole body, None if it is longer; and a function that gives all of it once more."""
    messages: list[Any] = []
    body = b""
    while not messages or messages[-1].get("more_body"):
        messages.append(await receive())
        body += messages[-1].get("body", b"")
        if len(body) > most or messages[-1]["type"] != "http.request":
            break
    whole = messages[-1]["type"] == "http.request" and not messages[-1].get("more_body")

    async def again() -> Any:
        return messages.pop(0) if messages else await receive()

    return again, body if whole else None


def _route(path: str) -> str:
    if path.startswith(USER):
        return USER
    if path in (RANK, ANY):
        return path
    if path.startswith("/v1/features"):
        return "/v1"
    return path


def _method(scope: Scope, wanted: str) -> None:
    if scope["path"].startswith(USER) or scope["path"] in (RANK, ANY):
        if scope["method"] != wanted:
            raise RefusedError(405, f"This route takes {wanted}.")
        return
    raise RefusedError(404, "There is no such route.")
