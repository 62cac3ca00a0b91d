"""Sample of a version's rows in Redis, for consistency checks and size estimates."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from feast import FeatureStore
from psycopg import sql

from extensions.database import connect_arrow
from extensions.database.connection import identifiers
from extensions.feast_internals import redis_client
from extensions.stores.log_publishing import latest, online_store
from extensions.stores.offline.feast_source_connections import url_of
from extensions.stores.online.redis_io import scan
from extensions.stores.online.view_settings import layout_of
from extensions.stores.online_codec.column_format import AnotherLayoutError
from extensions.stores.online_codec.redis_keys import KeyLayout, key_layout_of
from extensions.stores.online_codec.row_encoder import ids
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.registry.version_store import Published
from extensions.versions.retirement import feast_view

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class OnlineRow:
    """An entity's packed row in Redis, and the event time of its newest row in the log."""

    logged: datetime
    row: bytes | None
    layout: Layout

    @property
    def current(self) -> bool:
        """Whether Redis has that row or a newer one, in the version's row format."""
        if self.row is None:
            return False
        try:
            event, _, _ = self.layout.times(self.row)
        except AnotherLayoutError:
            return False
        return _EPOCH + timedelta(microseconds=event) >= self.logged


def row_location(store: FeatureStore, one: Published) -> tuple[KeyLayout, Layout]:
    """The Redis keys and the row format of a version's rows."""
    view = feast_view(one)
    layout = layout_of(store.config, view)
    return key_layout_of(store.config, view, layout.view), layout


def sample(
    store: FeatureStore, conn: psycopg.Connection, one: Published, through: datetime, size: int
) -> list[OnlineRow]:
    """At most ``size`` entities of a version's log, as of ``through``, with their rows online."""
    computation = one.definition.computation()
    row = conn.execute(
        "SELECT sum(greatest(reltuples, 0))::float8 FROM pg_class WHERE relkind = 'r' AND ("
        "oid = to_regclass(%(log)s) "
        "OR oid IN (SELECT relid FROM pg_partition_tree(to_regclass(%(log)s))))",
        {"log": one.log_table},
    ).fetchone()
    rows = max(float(row[0] or 0.0) if row else 0.0, 1.0)
    # Sample random blocks instead of reading the whole log.
    percent = min(100.0, 100.0 * 20 * size / rows)
    keys = identifiers(computation.join_keys)
    chosen = sql.SQL(
        "event_timestamp <= {through} AND ({keys}) IN "
        "(SELECT {keys} FROM {log} TABLESAMPLE SYSTEM ({percent}))"
    ).format(
        through=sql.Literal(through),
        keys=keys,
        log=sql.Identifier(one.log_table),
        percent=sql.Literal(percent),
    )
    with connect_arrow(url_of(store.config)) as arrow, arrow.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        cursor.execute(latest(computation, chosen, size).as_string(None))
        table = cursor.fetch_arrow_table()
    if not table.num_rows:
        return []
    place, layout = row_location(store, one)
    types = {field.name: field.dtype.to_value_type() for field in feast_view(one).entity_columns}
    columns = [ids(table, name, types[name]) for name in place.join_keys]
    addresses = [place.of_ids(one_id) for one_id in zip(*columns, strict=True)]
    times = table["event_timestamp"].to_pylist()
    return [
        OnlineRow(at, row, layout)
        for at, row in zip(times, fetch(store, layout, addresses), strict=True)
    ]


def fetch(
    store: FeatureStore, layout: Layout, addresses: list[tuple[bytes, bytes | None]]
) -> Iterator[bytes | None]:
    """The rows at these addresses as Redis holds them, in order; None where there is none."""
    client: Any = redis_client(online_store(store), store.config.online_store)
    with client.pipeline(transaction=False) as pipe:
        for key, field in addresses:
            if field is None:
                pipe.get(key)
            else:
                pipe.hget(key, field)
        replies = pipe.execute()
    for (_, field), value in zip(addresses, replies, strict=True):
        yield layout.find(value) if value is not None and field is None else value


def leftovers(store: FeatureStore, one: Published, most_keys: int) -> int:
    """Rows of a version among the first ``most_keys`` keys of its entity; for one that is gone."""
    client: Any = redis_client(online_store(store), store.config.online_store)
    place, layout = row_location(store, one)
    looked = found = 0
    for keys in scan(client, place.prefix):
        if place.composite:
            return len(keys)
        for value in client.mget(keys) if keys else []:
            found += value is not None and layout.find(value) is not None
        looked += len(keys)
        if looked >= most_keys:
            break
    return found
