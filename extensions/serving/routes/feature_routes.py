"""The feature routes under /v1: an entity's features, a ranking of a pair, any service's rows."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from extensions.service_routes import ReplyNames
from extensions.serving.auth.authorization import Guard
from extensions.serving.features.feature_reader import FeatureReader
from extensions.serving.features.request_plan import Plan
from extensions.serving.http import request_validation, responses
from extensions.serving.http.request_validation import RefusedError, RequestParser
from extensions.serving.near_cache.cached_views import NearCache
from extensions.serving.observability.prometheus_metrics import Metrics
from extensions.serving.observability.registry_and_watermark_watcher import RegistryWatcher
from extensions.serving.observability.serving_log import ServingLog
from extensions.serving.routes.feast_app import Scope
from extensions.serving.routes.router import ANY, Route
from extensions.serving.settings import Settings
from extensions.stores.online_codec.coded_columns import spread


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

    async def single(
        self, scope: Scope, headers: Mapping[bytes, bytes], route: Route, started: float
    ) -> Response:
        """``GET /v1/features/{service}/{id}``, or a declared route: an entity's features.

        Raises:
            RefusedError: the request is invalid or not permitted.
            UnavailableError: Redis did not answer in time.
        """
        wants_meta = _wants_meta(scope)
        plan = self.plan(route.service)
        if len(plan.own_keys) != 1 or len(plan.join_keys) != 1:
            raise RefusedError(
                404,
                f"The service {plan.service} is not of one entity ({', '.join(plan.join_keys)}): "
                f"ask POST {ANY} for it.",
            )
        [(name, kind)] = plan.key_types.items()
        names = _names(plan, route)
        ids = request_validation.id_in_path(route.encoded_id or "", kind, name)
        self.guard.permit(scope, plan.resource)
        now = self.watcher.now()
        axes = {name: ids}
        rows = await self.reader.read(plan, axes, now)
        request = self.parser.without_context(plan)
        served = responses.apply_transforms(plan, rows, request, 1)
        after_send = self.after_send(route.name, served, axes, request, 1, now, single=True)
        shape = {names.entity: ids.values[0], names.features: served.single((name,))}
        if wants_meta:
            shape |= self._extra(served, now)
        if headers.get(b"accept") == responses.ARROW:
            columns = {**served.columns((name,)), **served.transformed}
            aside = {k: v for k, v in shape.items() if k != names.features}
            return Response(
                200, responses.ARROW, responses.to_arrow(columns, 1, aside), after_send=after_send
            )
        shape["latencyMs"] = _milliseconds(started)
        return _written(headers, shape, after_send)

    async def rank(
        self,
        scope: Scope,
        headers: Mapping[bytes, bytes],
        route: Route,
        body: bytes,
        started: float,
    ) -> Response:
        """``POST /v1/rank/{service}``, or a declared route: an entity's features, and of each item.

        Items come in the requested order, with their own features and those of the pair.

        Raises:
            RefusedError: the request is invalid or not permitted.
            UnavailableError: Redis did not answer in time.
        """
        wants_meta = _wants_meta(scope)
        plan = self.plan(route.service)
        if len(plan.join_keys) != 2 or len(plan.own_keys) != 2:
            raise RefusedError(
                404,
                f"The service {plan.service} does not rank: it must have two join keys, and has "
                f"{', '.join(plan.own_keys) or 'none'}.",
            )
        names = _names(plan, route)
        parsed = self.parser.ranking(body, plan, names)
        self.guard.permit(scope, plan.resource)
        leading, other = plan.pair
        n, now = len(parsed.items), self.watcher.now()
        rows = await self.reader.read(plan, parsed.axes, now)
        served = responses.apply_transforms(plan, rows, parsed.request, n)
        after_send = self.after_send(route.name, served, parsed.axes, parsed.request, n, now)
        both = {(leading, other), (other, leading)}
        head = {names.entity: parsed.entity, names.features: served.entity((leading,))}
        extra = self._extra(served, now) if wants_meta else {}
        accept = headers.get(b"accept")
        if parsed.columns or accept in (responses.ARROW, responses.MSGPACK):
            items = {k: spread(v, n) for k, v in served.columns((other,)).items()}
            mixed = [served.columns(keys) for keys in both]
            pairs = {
                k: spread(v, n) for part in (*mixed, served.transformed) for k, v in part.items()
            }
            if accept == responses.ARROW:
                columns = {names.item: responses.id_values(parsed.axes[other]), **items, **pairs}
                sent = responses.to_arrow(columns, n, {**head, **extra})
                return Response(200, responses.ARROW, sent, after_send=after_send)
            shape = {
                **head,
                names.items: parsed.items,
                names.item_features: items,
                names.pair_features: pairs,
                **extra,
                "latencyMs": _milliseconds(started),
            }
            return _written(headers, shape, after_send)
        listed = responses.ranked_rows(served, parsed.axes[other], (other,), both, names)
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
            ids = {key: responses.id_values(parsed.axes[key]) for key in parsed.entities}
            sent = responses.to_arrow({**ids, **columns}, n, aside)
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

    def plan(self, service: str | None) -> Plan:
        """The plan of a service.

        Raises:
            RefusedError: 404, there is no such service; 409, it cannot be served here.
        """
        found = self.watcher.plans.by_service.get(service or "")
        if found is None:
            named = (service or "")[:100]
            raise RefusedError(404, f"There is no feature service {named}.", "service")
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
        *,
        single: bool = False,
    ) -> Callable[[], None]:
        """The callback for after the response: metrics, and the serving log.

        ``single``: the route is always of one entity, which is not counted.
        """
        watermarks = self.watcher.watermarks
        through = watermarks.through

        def after() -> None:
            if not single:
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


def _names(plan: Plan, route: Route) -> ReplyNames:
    """What ids and features are called on this route.

    Raises:
        RefusedError: 409, a join key has the name of something else in the replies.
    """
    if route.declared:
        assert plan.names is not None  # a route is declared with its names
        return plan.names
    names = plan.own_names
    if plan.own_clash:
        raise RefusedError(
            409,
            f"{plan.service} has a join key {plan.own_clash}, as this route calls something else: "
            f"ask POST {ANY} for it.",
        )
    return names


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
