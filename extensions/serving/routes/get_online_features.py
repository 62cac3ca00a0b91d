"""Feast's `/get-online-features` answered from our plans, byte for byte as Feast answers it.

Requests out of the ordinary (a view by other join keys, a type that Feast's JSON treats specially,
a wrong value, a NaN) raise `NeedsFeastError`: Feast's own code answers them, or reports the error.
"""

import asyncio
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from feast import FeatureStore, ValueType
from feast.feature_view import DUMMY_ENTITY_ID

from extensions.feature_types import BITS, JSON_TYPES, NUMPY_COLUMNS
from extensions.serving.features.entity_ids import EVERYBODY, EntityIds
from extensions.serving.features.feature_reader import FeatureReader, ViewRows
from extensions.serving.features.redis_connection import UnavailableError
from extensions.serving.features.request_plan import Plan, Plans, compile_plan
from extensions.serving.http import responses
from extensions.serving.http.request_validation import (
    RefusedError,
    check_range,
    id_column,
    single_id,
)
from extensions.serving.http.responses import FeatureRows
from extensions.serving.lru_byte_cache import ByteCache
from extensions.stores.online_codec.coded_columns import Coded, Values
from extensions.stores.request_fields import RequestField

ROUTE = "/get-online-features"
REQUEST_FIELDS = {"feature_service", "features", "entities", "full_feature_names"}
# Bytes of cached plans for references; the estimated size of a reference in the key, and how many
# times larger than its key a plan is.
MAX_PLAN_BYTES, PER_REFERENCE, PLAN_SHARE = 32_000_000, 100, 8
# Plans being compiled at a time; further requests for new plans are answered 503.
MAX_COMPILING = 16

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PRESENT, _NOT_FOUND, _NO_TIME = b'"PRESENT"', b'"NOT_FOUND"', b'"1970-01-01T00:00:00Z"'


class NeedsFeastError(Exception):
    """The request has to be answered by Feast's own code."""


class OnlineFeaturesRoute:
    """Answers the route; caches plans for references until the registry changes.

    Plans are compiled in a thread of their own, one at a time. References that make no plan are
    cached separately, so that made-up ones evict no plan.
    """

    def __init__(self, store: FeatureStore, reader: FeatureReader) -> None:
        self._store, self._reader = store, reader
        self._of: Plans | None = None
        self._plans: ByteCache[tuple[str, ...], Plan] = ByteCache(MAX_PLAN_BYTES)
        self._not_plannable: ByteCache[tuple[str, ...], bool] = ByteCache(MAX_PLAN_BYTES // 8)
        self._compiling: dict[tuple[str, ...], asyncio.Future[Plan | None]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plans")

    async def plan(self, read: Mapping[str, Any], plans: Plans, by_reference: bool) -> Plan:
        """The plan for a request.

        Args:
            read: the parsed JSON body.
            plans: the current plans of services.
            by_reference: whether references may be answered here; where each view needs a
                permission, Feast's own code checks it.

        Raises:
            NeedsFeastError: there is no plan for it.
        """
        if not set(read) <= REQUEST_FIELDS:
            raise NeedsFeastError
        service, features = read.get("feature_service"), read.get("features") or []
        plan: Plan | str | None
        if isinstance(service, str) and service and not features:
            plan = plans.by_service.get(service)
        elif not service and isinstance(features, list) and by_reference:
            key = self._key(features, plans)
            plan = self._plans.get(key) or await self._compile(key, plans)
        else:
            raise NeedsFeastError
        if not isinstance(plan, Plan) or not plan.feast_equivalent:
            raise NeedsFeastError
        return plan

    async def answer(
        self, plan: Plan, read: Mapping[str, Any], now: int
    ) -> tuple[bytes, FeatureRows, "ParsedRequest"]:
        """Answer a request from its plan: the response's body, the served rows, the parsed request.

        Raises:
            NeedsFeastError: Feast's own code has to answer it.
            RefusedError: a request field is out of its range, or a transform failed.
        """
        parsed = _parsed(plan, read)
        rows = await self._reader.read(plan, parsed.axes, now)
        served = responses.apply_transforms(plan, rows, parsed.request, parsed.rows)
        return _body(parsed, served), served, parsed

    def _key(self, features: list[Any], plans: Plans) -> tuple[str, ...]:
        """The cache key of the plan for these references."""
        if self._of is not plans:
            self._of = plans
            self._compiling = {}
            self._plans.clear()
            self._not_plannable.clear()
        if not features or any(
            not isinstance(reference, str) or reference.count(":") != 1 or "@" in reference
            for reference in features
        ):
            raise NeedsFeastError
        return tuple(features)

    async def _compile(self, key: tuple[str, ...], plans: Plans) -> Plan | None:
        if self._not_plannable.get(key) or len(set(key)) < len(key):
            return None
        future = self._compiling.get(key)
        if future is None:
            if len(self._compiling) >= MAX_COMPILING:
                raise UnavailableError("The server is busy.")
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._thread, self._compiled, list(key), plans.number)
            self._compiling[key] = future
            future.add_done_callback(lambda done: self._remember(key, plans, done))
        # A request that is cancelled does not cancel it for the others.
        return await asyncio.shield(future)

    def _compiled(self, features: list[str], number: int) -> Plan | None:
        try:
            return compile_plan(self._store, features, number)
        except Exception:  # noqa: BLE001 - Feast reports the error
            return None

    def _remember(
        self, key: tuple[str, ...], plans: Plans, done: "asyncio.Future[Plan | None]"
    ) -> None:
        if self._of is not plans:  # the registry has changed meanwhile
            return
        self._compiling.pop(key, None)
        if done.cancelled():
            return
        size = sum(map(len, key)) + PER_REFERENCE * len(key)
        plan = done.result()
        if plan is None:
            self._not_plannable.put(key, True, size)
        else:
            self._plans.put(key, plan, size * PLAN_SHARE)


@dataclass(frozen=True)
class ParsedRequest:
    """A checked request, in columns. ``full``: features are named with their view."""

    entities: Mapping[str, list[Any]]
    axes: Mapping[str, EntityIds]
    request: Mapping[str, Values]
    rows: int
    full: bool


def _parsed(plan: Plan, read: Mapping[str, Any]) -> ParsedRequest:
    """Check a request and take its columns apart."""
    entities, full = read.get("entities"), read.get("full_feature_names", False)
    if not isinstance(entities, dict) or not isinstance(full, bool):
        raise NeedsFeastError
    if set(entities) != {*plan.own_keys, *plan.request}:
        raise NeedsFeastError
    columns = list(entities.values())
    n = len(columns[0]) if columns and isinstance(columns[0], list) else 0
    if not n or any(not isinstance(column, list) or len(column) != n for column in columns):
        raise NeedsFeastError
    axes = {name: _ids(entities[name], plan.key_types[name]) for name in plan.own_keys}
    held = {name: entities[name] for name in entities if name in axes}
    if DUMMY_ENTITY_ID in plan.key_types:
        axes[DUMMY_ENTITY_ID] = EVERYBODY
    request = {name: _request_column(entities[name], field) for name, field in plan.request.items()}
    return ParsedRequest(held, axes, request, n, full)


def _body(parsed: ParsedRequest, served: FeatureRows) -> bytes:
    """Write Feast's response: entities, each view's features, outputs of transforms."""
    n, full = parsed.rows, parsed.full
    all_present, no_times = _repeated(_PRESENT, n), _repeated(_NO_TIME, n)
    found = [
        (name, responses.dumps(ids), all_present, no_times) for name, ids in parsed.entities.items()
    ]
    for rows in served.rows:
        about = _statuses_and_times(rows, n) if rows.view.features else (b"", b"")
        for feature in rows.view.features:
            name = f"{rows.view.alias}__{feature}" if full else feature
            found.append((name, _values(rows.columns[feature], n), *about))
    for transform in served.plan.transforms:
        alias = transform.view.projection.name_alias or transform.name
        for feature in transform.features:
            name = f"{alias}__{feature}" if full else feature
            found.append((name, _values(served.transformed[feature], n), all_present, no_times))
    results = [
        b'{"values":%b,"statuses":%b,"event_timestamps":%b}' % (values, statuses, times)
        for _, values, statuses, times in found
    ]
    names = responses.dumps([name for name, *_ in found])
    return b'{"results":[%b],"metadata":{"feature_names":%b}}' % (b",".join(results), names)


def _ids(values: list[Any], kind: ValueType) -> EntityIds:
    """Check ids; a single one where all rows have the same."""
    held = set(map(type, values))
    if not held <= ({str, int} if kind == ValueType.INT64 else {int} if kind in BITS else {str}):
        raise NeedsFeastError
    try:
        if values.count(values[0]) == len(values):
            return single_id(values[0], kind, "")
        return id_column(values, kind, "", texts=str in held)
    except (RefusedError, OverflowError):
        raise NeedsFeastError from None


def _request_column(values: list[Any], field: RequestField) -> Values:
    """Check a column of a request field."""
    kind = field.value_type
    wanted = JSON_TYPES.get(kind)
    if wanted is None or not set(map(type, values)) <= set(wanted):
        raise NeedsFeastError
    check_range(field, values)
    column: Values = values
    if kind != ValueType.STRING:
        try:
            column = np.array(values, NUMPY_COLUMNS[kind])
        except OverflowError:
            raise NeedsFeastError from None
    return column[:1] if values.count(values[0]) == len(values) else column


def _statuses_and_times(rows: ViewRows, n: int) -> tuple[bytes, bytes]:
    """A view's statuses and event timestamps as JSON."""
    there, at = rows.unique_present.tolist(), rows.unique_events.tolist()
    times = [_timestamp(event) if held else _NO_TIME for event, held in zip(at, there, strict=True)]
    where = None if rows.inverse is None else rows.inverse.tolist()
    if where is not None:
        times = list(map(times.__getitem__, where))
    stamps = _repeated(times[0], n) if len(times) == 1 else b"[" + b",".join(times) + b"]"
    if rows.view.decoder.filled:
        return _repeated(_PRESENT, n), stamps
    statuses = [_PRESENT if held else _NOT_FOUND for held in there]
    if where is not None:
        statuses = list(map(statuses.__getitem__, where))
    if len(statuses) == 1:
        return _repeated(statuses[0], n), stamps
    return b"[" + b",".join(statuses) + b"]", stamps


def _values(column: Values, n: int) -> bytes:
    """A column as JSON; a float32 is written as the equal double, as Feast does."""
    if isinstance(column, np.ndarray) and column.dtype != object and len(column) == n:
        if column.dtype.kind == "f":
            if not np.isfinite(column).all():
                raise NeedsFeastError
            column = column.astype(np.float64)
        return responses.dumps(column)
    if isinstance(column, Coded):
        return b"[" + b",".join(responses.tokens(column, n)) + b"]"
    texts = [responses.dumps(_as_double(value)) for value in column]
    return b"[" + b",".join(texts * n if len(texts) == 1 else texts) + b"]"


def _as_double(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            return value
        if not np.isfinite(value).all():
            raise NeedsFeastError
        return value.astype(np.float64)
    if isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            raise NeedsFeastError
        return float(value)
    return value


@lru_cache(maxsize=128)
def _repeated(token: bytes, n: int) -> bytes:
    """A JSON array that repeats a token. The cache is small: each entry is as long as a request."""
    return b"[" + b",".join([token] * n) + b"]"


@lru_cache(maxsize=4096)
def _timestamp(micros: int) -> bytes:
    """A timestamp in protobuf's JSON form: 0, 3 or 6 digits of a second."""
    seconds, rest = divmod(micros, 1_000_000)
    whole = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()
    if not rest:
        return b'"%bZ"' % whole.encode()
    digits = b"%03d" % (rest // 1000) if rest % 1000 == 0 else b"%06d" % rest
    return b'"%b.%bZ"' % (whole.encode(), digits)
