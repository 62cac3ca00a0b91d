"""The application: hot routes answered here, as thin as ASGI allows; all others by Feast."""

import asyncio
import contextlib
import gc
import hmac
import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from feast import FeatureStore

from extensions.serving import asking, openapi, replies
from extensions.serving.asking import RefusedError
from extensions.serving.behind import Receive, Scope, Send, feast_app, permit
from extensions.serving.freshness import Watcher
from extensions.serving.link import UnavailableError, link_to
from extensions.serving.metrics import Metrics
from extensions.serving.plan import Plan
from extensions.serving.reading import Reader
from extensions.serving.settings import Settings
from extensions.stores.publish import online_store

logger = logging.getLogger(__name__)

USER = "/v1/features/user/"
RANK = "/v1/features/rank"
ANY = "/v1/features"
ABOUT = ("/health", "/ready", "/metrics", "/v1/openapi.json", "/v1/docs")
WARM_UP = 30

Headers = list[tuple[bytes, bytes]]


class Answer(NamedTuple):
    """What goes back."""

    status: int
    kind: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Application:
    """One worker. ASGI."""

    def __init__(self, settings: Settings, store: FeatureStore) -> None:
        self.settings, self.store = settings, store
        self.watcher = Watcher(store, settings.poll)
        self.link = link_to(
            online_store(store), store.config.online_store, settings.redis_deadline_ms / 1000
        )
        self.reader = Reader(self.link)
        self.metrics = Metrics(several=settings.workers > 1)
        self.feast = feast_app(store)
        self._waiting = 0
        self._warm = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path = scope.get("path", "")
        if scope["type"] != "http" or not self._ours(path):
            await self.feast(scope, receive, send)
            return
        started = time.perf_counter()
        route = _route(path)
        if self._waiting >= self.settings.max_waiting:
            answer = _refusal(503, "The server is busy.", None)
        else:
            self._waiting += 1
            try:
                answer = await self._answer(scope, receive, path, route, started)
            finally:
                self._waiting -= 1
        took = time.perf_counter() - started
        if route not in ABOUT:
            self.metrics.seconds.labels(route).observe(took)
            self.metrics.answers.labels(route, answer.status).inc()
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

    async def _answer(  # noqa: PLR0911 - each way out is one answer
        self, scope: Scope, receive: Receive, path: str, route: str, started: float
    ) -> Answer:
        try:
            if route in ABOUT:
                return self._about(route)
            headers = dict(scope["headers"])
            self._check_key(headers)
            body = await self._body(receive, headers) if scope["method"] == "POST" else b""
            if route == USER:
                _method(scope, "GET")
                return await self._user(scope, headers, path, started)
            _method(scope, "POST")
            if route == RANK:
                return await self._rank(scope, headers, body, started)
            return await self._batch(scope, headers, body, started)
        except RefusedError as error:
            return _refusal(error.status, str(error), error.field)
        except UnavailableError as error:
            return _refusal(503, str(error), None)
        except Exception:
            logger.exception("A request to %s failed.", route)
            return _refusal(500, "The server made a mistake; its log says more.", None)

    async def _user(
        self, scope: Scope, headers: Mapping[bytes, bytes], path: str, started: float
    ) -> Answer:
        plan = self._plan(self.settings.user_service)
        if len(plan.join_keys) != 1:
            raise RefusedError(404, f"The service {plan.service} is not of one entity.")
        [(name, kind)] = plan.key_types.items()
        raw_path = scope.get("raw_path", path.encode()).split(b"?")[0].decode("ascii", "replace")
        user, raw = asking.user_in_path(raw_path.split(USER, 1)[-1], kind)
        await permit(scope, plan.resource)
        now = time.time_ns() // 1000
        rows = await self.reader.read(plan, {name: [raw]}, now)
        self.metrics.count(rows, self.watcher.freshnesses, now)
        served = replies.serve(plan, rows, asking_context(plan), 1)
        columns = {**served.columns((name,)), **served.made}
        shape = {"userId": user, "features": replies.single(columns)}
        if _wants_meta(scope):
            shape["meta"] = self._meta(served, now)
        if headers.get(b"accept") == replies.ARROW:
            aside = {k: v for k, v in shape.items() if k != "features"}
            return Answer(200, replies.ARROW, replies.arrow(columns, 1, aside))
        shape["latencyMs"] = _milliseconds(started)
        return _written(headers, shape)

    async def _rank(
        self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes, started: float
    ) -> Answer:
        plan = self._plan(self.settings.rank_service)
        asked = asking.ranking(body, plan, self.settings.max_items)
        await permit(scope, plan.resource)
        user_key, item_key = asking.user_and_item(plan)
        n, now = len(asked.items), time.time_ns() // 1000
        rows = await self.reader.read(plan, asked.axes, now)
        self.metrics.items.labels(RANK).observe(n)
        self.metrics.count(rows, self.watcher.freshnesses, now)
        served = replies.serve(plan, rows, asked.request, n)
        user = replies.single(served.columns((user_key,)))
        items = served.columns((item_key,))
        pairs = {**served.columns((user_key, item_key)), **served.columns((item_key, user_key))}
        pairs |= served.made
        extra = {"meta": self._meta(served, now)} if _wants_meta(scope) else {}
        accept = headers.get(b"accept")
        if accept == replies.ARROW:
            columns = {"itemId": asked.items, **items, **pairs}
            aside = {"userId": asked.user, "userFeatures": user, **extra}
            return Answer(200, replies.ARROW, replies.arrow(columns, n, aside))
        head = {"userId": asked.user, "userFeatures": user}
        if asked.columns or accept == replies.MSGPACK:
            spread = {k: _spread(v, n) for k, v in items.items()}
            mixed = {k: _spread(v, n) for k, v in pairs.items()}
            shape = {
                **head,
                "itemIds": asked.items,
                "itemFeatures": spread,
                "interactionFeatures": mixed,
                **extra,
                "latencyMs": _milliseconds(started),
            }
            return _written(headers, shape)
        whole = (
            replies.dumps(head)[:-1] + b',"items":' + replies.ranked_rows(asked.items, items, pairs)
        )
        if extra:
            whole += b',"meta":' + replies.dumps(extra["meta"])
        return Answer(200, replies.JSON, whole + b',"latencyMs":%.3f}' % _milliseconds(started))

    async def _batch(
        self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes, started: float
    ) -> Answer:
        asked, plan = asking.batch(body, self._plan, self.settings.max_items)
        await permit(scope, plan.resource)
        now, n = time.time_ns() // 1000, asked.rows
        self.metrics.items.labels(ANY).observe(n)
        columns: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        if n:
            rows = await self.reader.read(plan, asked.axes, now)
            self.metrics.count(rows, self.watcher.freshnesses, now)
            served = replies.serve(plan, rows, asked.request, n)
            for one in rows:
                for name, feature in zip(one.view.names, one.view.features, strict=True):
                    columns[name] = _spread(one.columns[feature], n)
            columns |= served.made
            if _wants_meta(scope):
                extra["meta"] = self._meta(served, now)
        if headers.get(b"accept") == replies.ARROW:
            aside = {"service": plan.service, **extra}
            return Answer(
                200, replies.ARROW, replies.arrow({**asked.entities, **columns}, n, aside)
            )
        shape: dict[str, Any] = {"service": plan.service}
        if asked.columns:
            shape |= {"entities": asked.entities, "features": columns}
        else:
            names, held = list(columns), [list(column) for column in columns.values()]
            shape["results"] = [
                {
                    "entity": {name: asked.entities[name][i] for name in asked.entities},
                    "features": {name: held[j][i] for j, name in enumerate(names)},
                }
                for i in range(n)
            ]
        return _written(headers, {**shape, **extra, "latencyMs": _milliseconds(started)})

    def _about(self, route: str) -> Answer:
        if route == "/health":
            return Answer(200, replies.JSON, b'{"status":"ok"}')
        if route == "/metrics":
            self.metrics.follow(getattr(self.link, "round_trips", 0), self.watcher.plans.number)
            return Answer(200, b"text/plain; version=0.0.4; charset=utf-8", self.metrics.text())
        if route == "/v1/openapi.json":
            return Answer(200, replies.JSON, replies.dumps(openapi.document(self.settings)))
        if route == "/v1/docs":
            return Answer(200, b"text/html; charset=utf-8", openapi.PAGE)
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

    def _plan(self, service: str) -> Plan:
        found = self._found(service)
        if found is None:
            raise RefusedError(404, f"There is no feature service {service[:100]}.", "service")
        if isinstance(found, str):
            raise RefusedError(409, found, "service")
        return found

    def _meta(self, served: replies.Served, now: int) -> dict[str, Any]:
        return replies.meta(served, self.watcher.freshnesses, now)

    def _check_key(self, headers: Mapping[bytes, bytes]) -> None:
        if self.settings.api_key is None:
            return
        given = headers.get(b"x-api-key", b"")
        if not hmac.compare_digest(given, self.settings.api_key.encode()):
            raise RefusedError(401, "The header X-Api-Key is missing or wrong.", "X-Api-Key")

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
            try:
                await stack.enter_async_context(self.feast.router.lifespan_context(self.feast))
                self.watcher.start()
                stack.callback(self.watcher.stop)
                await self.link.start()
                stack.push_async_callback(self.link.close)
                await self._warm_up()
            except Exception as error:
                logger.exception("The server could not start.")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _warm_up(self) -> None:
        """Run the hot routes, then take all that lives by now out of the collector's sight."""
        requests = [("GET", f"{USER}1", b"")] + [
            ("POST", RANK, b'{"userId":1,"itemIds":[%s]}' % b",".join(b"%d" % i for i in range(n)))
            for n in (1, 100)
        ]
        for _ in range(WARM_UP):
            for method, path, body in requests:
                scope = {"method": method, "path": path, "headers": [], "query_string": b"",
                         "type": "http", "raw_path": path.encode()}  # fmt: skip

                async def receive(sent: bytes = body) -> dict[str, Any]:
                    return {"type": "http.request", "body": sent}

                await self._answer(scope, receive, path, _route(path), time.perf_counter())
            await asyncio.sleep(0)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        self._warm = True


def asking_context(plan: Plan) -> dict[str, Any]:
    """The request fields of a route that sends none."""
    return asking._context({}, plan)  # noqa: SLF001


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


def _written(headers: Mapping[bytes, bytes], shape: Mapping[str, Any]) -> Answer:
    if headers.get(b"accept") == replies.MSGPACK:
        return Answer(200, replies.MSGPACK, replies.packed(shape))
    return Answer(200, replies.JSON, replies.dumps(shape))


def _spread(column: Any, n: int) -> Any:
    return [column[0]] * n if len(column) == 1 and n != 1 else column


def _wants_meta(scope: Scope) -> bool:
    query = scope["query_string"]
    return bool(query) and "meta" in parse_qs(query.decode("ascii", "replace")).get("include", [])


def _milliseconds(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def _refusal(status: int, message: str, field: str | None) -> Answer:
    error = {"field": field, "message": message} if field else {"message": message}
    headers = ((b"retry-after", b"1"),) if status == 503 else ()
    return Answer(status, replies.JSON, replies.dumps({"error": error}), headers)
