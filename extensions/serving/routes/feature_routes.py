"""The routes under /v1/features: a user's features, a ranking, any feature service."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from extensions.serving.auth.authorization import Guard
from extensions.serving.features.entity_ids import EntityIds
from extensions.serving.features.feature_reader import FeatureReader
from extensions.serving.features.request_plan import Plan
from extensions.serving.http import request_validation, responses
from extensions.serving.http.request_validation import RefusedError, RequestParser
from extensions.serving.near_cache.cached_views import NearCache
from extensions.serving.observability.prometheus_metrics import Metrics
from extensions.serving.observability.registry_and_watermark_watcher import RegistryWatcher
from extensions.serving.observability.serving_log import ServingLog
from extensions.serving.routes.feast_app import Scope
from extensions.serving.settings import Settings
from extensions.stores.online_codec.coded_columns import spread

USER = "/v1/features/user/"
RANK = "/v1/features/rank"
ANY = "/v1/features"


class Response(NamedTuple):
    """An HTTP response. ``kind``: its content type.

    ``after_send``: callback run after the response is sent; updates metrics and the serving log.
    """

    status: int
    kind: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    after_send: Callable[[], None] | None = None


@dataclass
class FeatureRoutes:
    """Answers the routes from plans and rows."""

    settings: Settings
    watcher: RegistryWatcher
    near: NearCache
    reader: FeatureReader
    metrics: Metrics
    log: ServingLog
    guard: Guard
    parser: RequestParser

    async def user(
        self, scope: Scope, headers: Mapping[bytes, bytes], path: str, started: float
    ) -> Response:
        """``GET /v1/features/user/{id}``: a user's features.

        Raises:
            RefusedError: the request is invalid or not permitted.
            UnavailableError: Redis did not answer in time.
        """
        wants_meta = _wants_meta(scope)
        plan = self.plan(self.settings.user_service)
        if len(plan.join_keys) != 1:
            raise RefusedError(404, f"The service {plan.service} is not of one entity.")
        [(name, kind)] = plan.key_types.items()
        raw_path = scope.get("raw_path", path.encode()).split(b"?")[0].decode("ascii", "replace")
        user, raw = request_validation.user_in_path(raw_path.split(USER, 1)[-1], kind)
        self.guard.permit(scope, plan.resource)
        now = self.watcher.now()
        axes = {name: EntityIds([user], None, [raw])}
        rows = await self.reader.read(plan, axes, now)
        request = self.parser.without_context(plan)
        served = responses.apply_transforms(plan, rows, request, 1)
        after_send = self.after_send(USER, served, axes, request, 1, now)
        shape = {"userId": user, "features": served.single((name,))}
        if wants_meta:
            shape |= self._extra(served, now)
        if headers.get(b"accept") == responses.ARROW:
            columns = {**served.columns((name,)), **served.transformed}
            aside = {k: v for k, v in shape.items() if k != "features"}
            return Response(
                200, responses.ARROW, responses.to_arrow(columns, 1, aside), after_send=after_send
            )
        shape["latencyMs"] = _milliseconds(started)
        return _written(headers, shape, after_send)

    async def rank(
        self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes, started: float
    ) -> Response:
        """``POST /v1/features/rank``: features of a user and of items, in the requested order.

        Raises:
            RefusedError: the request is invalid or not permitted.
            UnavailableError: Redis did not answer in time.
        """
        wants_meta = _wants_meta(scope)
        plan = self.plan(self.settings.rank_service)
        parsed = self.parser.ranking(body, plan)
        self.guard.permit(scope, plan.resource)
        user_key, item_key = request_validation.ranking_keys(plan)
        n, now = len(parsed.items), self.watcher.now()
        rows = await self.reader.read(plan, parsed.axes, now)
        served = responses.apply_transforms(plan, rows, parsed.request, n)
        after_send = self.after_send(RANK, served, parsed.axes, parsed.request, n, now)
        both = {(user_key, item_key), (item_key, user_key)}
        head = {"userId": parsed.user, "userFeatures": served.user((user_key,))}
        extra = self._extra(served, now) if wants_meta else {}
        accept = headers.get(b"accept")
        if parsed.columns or accept in (responses.ARROW, responses.MSGPACK):
            items = {k: spread(v, n) for k, v in served.columns((item_key,)).items()}
            mixed = [served.columns(keys) for keys in both]
            pairs = {
                k: spread(v, n) for part in (*mixed, served.transformed) for k, v in part.items()
            }
            if accept == responses.ARROW:
                columns = {"itemId": parsed.items, **items, **pairs}
                sent = responses.to_arrow(columns, n, {**head, **extra})
                return Response(200, responses.ARROW, sent, after_send=after_send)
            shape = {
                **head,
                "itemIds": parsed.items,
                "itemFeatures": items,
                "interactionFeatures": pairs,
                **extra,
                "latencyMs": _milliseconds(started),
            }
            return _written(headers, shape, after_send)
        listed = responses.ranked_rows(served, parsed.axes[item_key], (item_key,), both)
        tail = b"," + responses.dumps(extra)[1:-1] if extra else b""
        tail += b',"latencyMs":%.3f}' % _milliseconds(started)
        # Joined once, so that a large response is not copied for each of its parts.
        whole = b"".join([responses.dumps(head)[:-1], b',"items":', *listed, tail])
        return Response(200, responses.JSON, whole, after_send=after_send)

    async def batch(
        self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes, started: float
    ) -> Response:
        """``POST /v1/features``: features of any service for entity rows.

        Raises:
            RefusedError: the request is invalid or not permitted.
            UnavailableError: Redis did not answer in time.
        """
        wants_meta = _wants_meta(scope)
        parsed, plan = self.parser.batch(body, self.plan)
        self.guard.permit(scope, plan.resource)
        now, n = self.watcher.now(), parsed.rows
        after_send: Callable[[], None] = partial(self.metrics.count_entities, ANY, n)
        columns: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        if n:
            rows = await self.reader.read(plan, parsed.axes, now)
            served = responses.apply_transforms(plan, rows, parsed.request, n)
            after_send = self.after_send(ANY, served, parsed.axes, parsed.request, n, now)
            for view_rows in rows:
                for name, feature in zip(
                    view_rows.view.names, view_rows.view.features, strict=True
                ):
                    columns[name] = spread(view_rows.columns[feature], n)
            columns |= served.transformed
            extra = self._extra(served, now) if wants_meta else {}
        if headers.get(b"accept") == responses.ARROW:
            aside = {"service": plan.service, **extra}
            sent = responses.to_arrow({**parsed.entities, **columns}, n, aside)
            return Response(200, responses.ARROW, sent, after_send=after_send)
        shape: dict[str, Any] = {"service": plan.service}
        if parsed.columns:
            features = columns or {name: [] for name in plan.feature_names}
            shape |= {"entities": parsed.entities, "features": features}
        else:
            names, held = list(columns), [list(column) for column in columns.values()]
            shape["results"] = [
                {
                    "entity": {name: parsed.entities[name][i] for name in parsed.entities},
                    "features": {name: held[j][i] for j, name in enumerate(names)},
                }
                for i in range(n)
            ]
        return _written(
            headers, {**shape, **extra, "latencyMs": _milliseconds(started)}, after_send
        )

    def plan(self, service: str) -> Plan:
        """The plan of a service.

        Raises:
            RefusedError: 404, there is no such service; 409, it cannot be served here.
        """
        found = self.watcher.plans.by_service.get(service)
        if found is None:
            raise RefusedError(404, f"There is no feature service {service[:100]}.", "service")
        if isinstance(found, str):
            raise RefusedError(409, found, "service")
        return found

    def after_send(
        self,
        route: str,
        served: responses.FeatureRows,
        ids: Mapping[str, Sequence[bytes]],
        request: Mapping[str, Any],
        n: int,
        now: int,
    ) -> Callable[[], None]:
        """The callback for after the response: metrics, and the serving log."""
        watermarks = self.watcher.watermarks
        through = watermarks.through

        def after() -> None:
            if route != USER:  # always one
                self.metrics.count_entities(route, n)
            self.metrics.count(served.rows, watermarks, now)
            if (
                n and served.plan.service
            ):  # requests by reference belong to no service and are not logged
                self.log.offer(served, ids, request, n, now, through)

        return after

    def _extra(self, served: responses.FeatureRows, now: int) -> dict[str, Any]:
        """The fields that `?include=meta` adds."""
        meta = responses.meta(served, self.watcher.watermarks, now, self.near)
        return {"meta": meta, "plan": served.plan.number}


def _written(
    headers: Mapping[bytes, bytes], shape: Mapping[str, Any], after_send: Callable[[], None]
) -> Response:
    if headers.get(b"accept") == responses.MSGPACK:
        return Response(200, responses.MSGPACK, responses.to_msgpack(shape), after_send=after_send)
    return Response(200, responses.JSON, responses.dumps(shape), after_send=after_send)


def _wants_meta(scope: Scope) -> bool:
    """Whether the query says ``include=meta``.

    Raises:
        RefusedError: 422, it includes something else.
    """
    query = scope["query_string"]
    if not query:
        return False
    parameters = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True)
    included = parameters.get("include", [])
    if unknown := sorted(set(included) - {"meta"}):
        raise RefusedError(
            422, f"There is no {unknown[0][:100]!r} to include: say include=meta.", "include"
        )
    return bool(included)


def _milliseconds(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def refused_response(error: RefusedError) -> Response:
    """The error response for an exception, with ``Allow`` where it has one."""
    answer = error_response(error.status, str(error), error.field)
    if error.allow is None:
        return answer
    return answer._replace(headers=(*answer.headers, (b"allow", error.allow.encode())))


def error_response(status: int, message: str, field: str | None) -> Response:
    """An error response: a JSON body with the message and the field at fault."""
    named = {} if field is None else {"field": field}
    error = {**named, "message": message}
    headers = ((b"retry-after", b"1"),) if status == 503 else ()
    return Response(status, responses.JSON, responses.dumps({"error": error}), headers)
