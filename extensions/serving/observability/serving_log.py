"""The serving log: a sample of requests with the features served, written in the background.

A request that is in the sample costs the event loop one hash and one append to a bounded queue.
A thread makes Arrow columns of what waits and copies them into ``served_features``; what it
cannot keep up with is shed and counted. Serving never waits for it.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from feast import ValueType
from feast.types import Bool, FeastType, Int32, Int64, String, UnixTimestamp, from_value_type
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Metric

from extensions.database import connect, connect_arrow
from extensions.errors import InputError, SkewlessError
from extensions.failure_classification import first_line, of_a_server, outage
from extensions.feature_types import BITS
from extensions.serving.features.entity_ids import EntityIds
from extensions.serving.features.request_plan import Plan
from extensions.serving.http.responses import FeatureRows
from extensions.stores.offline.writes import serving_log_table
from extensions.stores.offline.writes.serving_log_table import column_name
from extensions.stores.online_codec.coded_columns import Values, spread
from extensions.thread_supervision import Lasting, Living

logger = logging.getLogger(__name__)

DEFAULT_RATE = 0.01
# Rows in the queue at most; a ranking of 500 items is 500 rows.
MOST_WAITING = 100_000
EVERY_SECONDS = 0.5
ROWS_PER_BATCH = 20_000
RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class _Entry:
    """One request and its response. ``ids`` by join key: one value for all rows, or n."""

    served_at: int
    request_id: int
    served: FeatureRows
    ids: Mapping[str, Sequence[bytes]]
    request: Mapping[str, Any]
    rows: int
    through: Mapping[tuple[str, int], int]


class ServingLog:
    """The serving log of one worker. ``rates``: by service; ``rate``: of all others.

    ``outcomes`` counts rows: ``written``, and ``shed`` where the queue was full or the database
    refused them.
    """

    def __init__(
        self,
        url: str,
        rates: Mapping[str, float] | None = None,
        rate: float = DEFAULT_RATE,
        registry: CollectorRegistry | None = None,
    ) -> None:
        if any(not 0 <= share <= 1 for share in (rate, *(rates or {}).values())):
            raise InputError("A share of requests to log lies between 0 and 1.")
        self.outcomes: Counter[str] = Counter()
        self._counted: Metric | None = None
        if registry is not None:
            what = "Rows of the served log: written or shed."
            self._counted = Metric("skewless_served_log_rows", what, ["outcome"], registry=registry)
        self._silent = False
        self._url, self._rates, self._rate = url, dict(rates or {}), rate
        self._bounds: dict[str, tuple[Plan, int]] = {}
        self._queue: deque[_Entry] = deque()
        self._waiting = 0
        self._columns: dict[tuple[str, FeastType], str] = {}
        self._days: set[int] = set()
        self._conn: Any = None
        self._stop = threading.Event()
        self._thread: Lasting | None = None

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._waiting

    @property
    def threads(self) -> list[Living]:
        """The writing thread."""
        return [self._thread] if self._thread is not None else []

    def start(self) -> None:
        """Start the writing thread, in the worker's own process."""
        self._thread = Lasting("served log", self._run, self._stop)
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Write queued rows for at most ``seconds``, then end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=seconds)

    def offer(
        self,
        served: FeatureRows,
        ids: Mapping[str, Sequence[bytes]],
        request: Mapping[str, Any],
        rows: int,
        now: int,
        through: Mapping[tuple[str, int], int],
    ) -> None:
        """Queue a response if it is in the sample; never blocks, never raises.

        ``ids``: by join key as they stand in keys. ``request``: the request's own fields, a value
        or a column. ``now``: microseconds since 1970, as of when
        rows were read. ``through``: the watermarks as they are known now.
        """
        plan = served.plan
        held = self._bounds.get(plan.service)
        if held is None or held[0] is not plan:
            held = self._bounds[plan.service] = (plan, bound(self.rate_of(plan)))
        if not held[1]:
            return
        number = request_hash(plan.service, ids.values(), now)
        if number >= held[1]:
            return
        if self._waiting + rows > MOST_WAITING:
            self._count("shed", rows)
            return
        self._waiting += rows
        signed = number - (1 << 64) if number >= 1 << 63 else number
        self._queue.append(_Entry(now, signed, served, ids, request, rows, through))

    def rate_of(self, plan: Plan) -> float:
        """The sampling rate: from the settings, the service's `LoggingConfig`, or the default."""
        if plan.service in self._rates:
            return self._rates[plan.service]
        config = getattr(plan.resource, "logging_config", None)
        return float(config.sample_rate) if config is not None else self._rate

    def _run(self) -> None:
        while True:
            stopping = self._stop.wait(EVERY_SECONDS)
            while self._queue:
                if not self._write(self._next()) and not stopping:
                    self._stop.wait(RETRY_SECONDS)
            if stopping:
                self._disconnect()
                return

    def _next(self) -> list[_Entry]:
        """Take queued entries of one plan, which have the same columns."""
        first = self._queue.popleft()
        batch, rows = [first], first.rows
        while self._queue and rows < ROWS_PER_BATCH:
            if self._queue[0].served.plan is not first.served.plan:
                break
            batch.append(self._queue.popleft())
            rows += batch[-1].rows
        return batch

    def _write(self, batch: list[_Entry]) -> bool:
        rows = sum(entry.rows for entry in batch)
        try:
            try:
                self._copy(batch)
            except Exception as error:
                if not outage(error):
                    raise
                # The connection may have been closed meanwhile: retry once.
                self._disconnect()
                self._copy(batch)
            self._count("written", rows)
            self._silent = False
        except Exception as error:
            self._shed(rows)
            if not (isinstance(error, SkewlessError) or of_a_server(error)):
                logger.exception("%d rows of the served log are lost.", rows)
                return False
            if not self._silent:
                logger.warning("Rows of the served log are lost: %s", first_line(error))
            self._silent = True
            return False
        finally:
            self._waiting -= rows
        return True

    def _copy(self, batch: list[_Entry]) -> None:
        table, types = columns_of(batch)
        named = self._prepare(types, batch)
        self._append(table.rename_columns([named[name] for name in table.column_names]))

    def _count(self, outcome: str, rows: int) -> None:
        self.outcomes[outcome] += rows
        if self._counted is not None:
            self._counted.labels(outcome).inc(rows)

    def _shed(self, rows: int) -> None:
        self._count("shed", rows)
        self._disconnect()

    def _prepare(self, types: Mapping[str, FeastType], batch: list[_Entry]) -> dict[str, str]:
        days = {entry.served_at // 86_400_000_000 for entry in batch} - self._days
        wanted = {n: t for n, t in types.items() if (n, t) not in self._columns}
        if days or wanted:
            with connect(self._url, autocommit=True, name="skewless served log") as conn:
                if days:
                    moments = [datetime.fromtimestamp(e.served_at / 1e6, UTC) for e in batch]
                    serving_log_table.ensure_partitions(conn, min(moments), max(moments))
                    self._days |= days
                if wanted:
                    found = serving_log_table.ensure_columns(conn, wanted)
                    self._columns |= {(n, types[n]): column for n, column in found.items()}
        return {name: self._columns[name, dtype] for name, dtype in types.items()}

    def _append(self, table: pa.Table) -> None:
        if self._conn is None:
            self._conn = connect_arrow(self._url)
        serving_log_table.append_rows(self._conn, table)

    def _disconnect(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            try:
                conn.close()
            except Exception:  # noqa: BLE001 - it was broken
                logger.debug("The served log's connection could not be closed.")


def log_shares(options: Sequence[str]) -> dict[str, Any]:
    """``["0.05", "ranking=1"]`` as the settings ``log_rate`` and ``log_rates``.

    Raises:
        InputError: a share is not a number between 0 and 1.
    """
    shares: dict[str, float] = {}
    for option in options:
        service, _, share = option.rpartition("=")
        try:
            shares[service] = float(share)
        except ValueError:
            shares[service] = -1.0
        if not 0 <= shares[service] <= 1:
            raise InputError(f"--log {option}: a share lies between 0 and 1, as in ranking=0.05.")
    return {"log_rate": shares.pop("", DEFAULT_RATE), "log_rates": shares}


def request_hash(service: str, ids: Iterable[Sequence[bytes]], served_at: int) -> int:
    """64 bits of BLAKE2b over service, ids and time, which decide about the sample."""
    text = blake2b(service.encode(), digest_size=8)
    for entity_ids in ids:
        # No encoded id is empty or holds NUL, so that no two lists of ids give the same bytes.
        text.update(
            b"\0\0"
            + (
                entity_ids.hash_bytes
                if isinstance(entity_ids, EntityIds)
                else b"\0".join(entity_ids)
            )
        )
    text.update(b"\0%d" % served_at)
    return int.from_bytes(text.digest(), "big")


def bound(rate: float) -> int:
    """The hash below which a request is sampled: a larger sample contains every smaller one."""
    return round(rate * (1 << 64))


def columns_of(batch: Sequence[_Entry]) -> tuple[pa.Table, dict[str, FeastType]]:
    """The rows of requests of one plan, and each column's type."""
    plan = batch[0].served.plan
    sizes = np.array([entry.rows for entry in batch])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    total = int(sizes.sum())
    types: dict[str, FeastType] = {
        "served_at": UnixTimestamp, "service": String, "request_id": Int64, "row_number": Int32,
    }  # fmt: skip
    columns: dict[str, Any] = {
        "served_at": np.repeat([entry.served_at for entry in batch], sizes),
        "service": pa.array([plan.service]).take(pa.array(np.zeros(total, np.int64))),
        "request_id": np.repeat([entry.request_id for entry in batch], sizes),
        "row_number": (np.arange(total) - np.repeat(starts, sizes)).astype(np.int32),
    }
    for name, kind in plan.key_types.items():
        types[name] = from_value_type(kind)
        columns[name] = [
            value
            for entry in batch
            for value in spread([_id(raw, kind) for raw in entry.ids[name]], entry.rows)
        ]
    for name, field in plan.request.items():
        column = column_name("request", name)
        types[column] = from_value_type(field.value_type)
        columns[column] = [
            value
            for entry in batch
            for value in _request_values(entry.request.get(name), entry.rows)
        ]
    for place, view in enumerate(plan.views):
        parts = [entry.served.rows[place] for entry in batch]
        if not view.features:
            continue
        where = _row_indices([len(part.present) for part in parts], starts, total)
        present = np.concatenate([part.present for part in parts])
        events = np.concatenate([part.events for part in parts])
        through = np.concatenate(
            [
                np.full(len(part.present), entry.through.get((view.name, view.version), 0))
                for part, entry in zip(parts, batch, strict=True)
            ]
        )
        now = np.concatenate(
            [np.full(len(p.present), e.served_at) for p, e in zip(parts, batch, strict=True)]
        )
        budget = np.inf if view.budget is None else view.budget.total_seconds() * 1e6
        about: dict[str, tuple[FeastType, Any]] = {
            "version": (Int32, np.full(len(present), view.version, np.int32)),
            "as_of": (UnixTimestamp, pa.array(events, pa.timestamp("us", "UTC"), mask=~present)),
            "stale": (Bool, present & (now - np.maximum(events, through) > budget)),
        }
        for name, (dtype, values) in about.items():
            column = column_name(view.name, name)
            types[column], columns[column] = dtype, _aligned(values, dtype, where)
        held = {c.name: c.value_type for c in view.decoder.layout.columns}
        for feature in view.features:
            column = column_name(view.name, feature)
            types[column] = dtype = from_value_type(held[feature])
            columns[column] = _aligned(
                _concatenated([part.columns[feature] for part in parts]), dtype, where
            )
    for transform in plan.transforms:
        for feature, named in zip(transform.features, transform.types, strict=True):
            column = column_name(transform.name, feature)
            made = [entry.served.transformed[feature] for entry in batch]
            types[column] = dtype = from_value_type(ValueType[named])
            columns[column] = _aligned(
                _concatenated(made),
                dtype,
                _row_indices([len(column) for column in made], starts, total),
            )
        # Release the interpreter lock between columns, so that requests wait for one at most.
        time.sleep(0)
    schema = serving_log_table.arrow_schema(types)
    return (
        pa.table([_array(columns[field.name], field.type) for field in schema], schema=schema),
        types,
    )


def _row_indices(lengths: list[int], starts: Any, total: int) -> pa.Array:
    """For each row the place of its value among those served; null where it was served above."""
    where = np.full(total, -1, np.int64)
    at = 0
    for length, start in zip(lengths, starts, strict=True):
        where[start : start + length] = np.arange(at, at + length)
        at += length
    time.sleep(0)
    return pa.array(where, mask=where < 0)


def _aligned(values: Any, dtype: FeastType, where: pa.Array) -> pa.Array:
    [field] = serving_log_table.arrow_schema({"one": dtype})
    return _array(values, field.type).take(where)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values.cast(kind)
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    if isinstance(values, list):
        values = [list(value) if isinstance(value, set) else value for value in values]
    return pa.array(values, kind)


def _concatenated(parts: Sequence[Values]) -> Any:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [value for part in parts for value in part]


def _request_values(value: Any, n: int) -> Values:
    """A request field for ``n`` rows, from one value for all or one for each."""
    return spread(value, n) if isinstance(value, (list, np.ndarray)) else [value] * n


def _id(raw: bytes, kind: ValueType) -> Any:
    return int(raw) if kind in BITS else raw[1:].decode()
