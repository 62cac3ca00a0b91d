"""The online store: packed rows in Redis, newest wins, declared defaults for who has none."""

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import (
    _get_entity_key_protos,
    _get_unique_entities,
    _populate_response_from_feature_data,
    make_tzaware,
)
from pydantic import Field, model_validator
from redis.exceptions import RedisError

from extensions.addresses import connection_string_of, redis_parts, redis_url
from extensions.errors import SkewlessError
from extensions.stores.defaults import default_values
from extensions.stores.online.arrow_rows import ids, pack_rows
from extensions.stores.online.exact_ingestion import use_exact_conversion
from extensions.stores.online.exchange import Expiry, Reads, drop, scan, write, write_async
from extensions.stores.online.keys import Place, aside, place_of
from extensions.stores.online.layout import AnotherLayoutError, Layout

Row = tuple[datetime | None, dict[str, Value] | None]
WriteRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
NEVER = datetime.fromtimestamp(0, tz=UTC)
MICROSECOND = timedelta(microseconds=1)
# Versions of a view whose sections a delete takes out.
VERSIONS = 256


use_exact_conversion()


class SkewlessRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Redis' address may be left out: see extensions/addresses.py.

    ``key_prefix``: what keys begin with instead of the project's name; a short one saves memory.
    """

    key_prefix: str | None = Field(default=None, min_length=1)

    type: Literal["extensions.stores.online.store.SkewlessRedisOnlineStore"] = (
        "extensions.stores.online.store.SkewlessRedisOnlineStore"  # type: ignore[assignment]
    )

    @model_validator(mode="before")
    @classmethod
    def _find_address(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "connection_string" in values:
            return values
        return {"connection_string": connection_string_of(redis_url()), **values}


class SkewlessRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis connections with another layout; `docs/online-layout.md` has every byte."""

    # Seconds after which an asynchronous read fails; a server sets it (extensions/serving).
    read_deadline: float | None = None

    @staticmethod
    def _parse_connection_string(
        connection_string: str,
    ) -> tuple[list[dict[str, str]], dict[str, Any]]:
        """Feast's form, or a URL, which can say more."""
        return redis_parts(connection_string)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[WriteRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows; each only if no newer one of its entity is there."""
        where, addresses, packed = self._packed(config, table, data)
        client = self._get_client(config.online_store)
        write(client, where, addresses, packed, self._expiry(config, table))
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[WriteRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """As `online_write_batch`."""
        where, addresses, packed = self._packed(config, table, data)
        client = await self._get_client_async(config.online_store)
        await write_async(client, where, addresses, packed, self._expiry(config, table))
        if progress:
            progress(len(data))

    def write_arrow(self, config: RepoConfig, table: FeatureView, rows: pa.Table) -> int:
        """Write an Arrow table as the view's source returns it; returns the rows that were newer.

        ``rows`` has the join keys, every feature, and the source's event and created time.

        Raises:
            SkewlessError: a column is missing or does not fit, an id or event time is null.
        """
        layout = layout_of(config, table)
        where = place_of(config, table, layout.view)
        source = table.batch_source
        event = source.timestamp_field if source else "event_timestamp"
        created = (source.created_timestamp_column if source else "") or "created_timestamp"
        types = {field.name: field.dtype.to_value_type() for field in table.entity_columns}
        client, expiry = self._get_client(config.online_store), self._expiry(config, table)
        written = at = 0
        for packed in pack_rows(layout, rows, event, created, sections=not where.composite):
            part = rows.slice(at, len(packed))
            at += len(packed)
            columns = [ids(part, name, types[name]) for name in where.join_keys]
            addresses = [where.of_ids(one) for one in zip(*columns, strict=True)]
            written += write(client, where, addresses, packed, expiry)
        return written

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """One row per entity key, in order; (epoch, defaults) where Redis holds none."""
        reads, layout = Reads(), layout_of(config, table)
        taken = reads.add(layout, self._place(config, table, entity_keys), entity_keys)
        found = taken(reads.fetch(self._get_client(config.online_store)))
        return _unpacked(layout, table, requested_features, found)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """As `online_read`."""
        reads, layout = Reads(), layout_of(config, table)
        taken = reads.add(layout, self._place(config, table, entity_keys), entity_keys)
        found = taken(await reads.fetch_async(await self._get_client_async(config.online_store)))
        return _unpacked(layout, table, requested_features, found)

    def _read_features_per_fv(self, config: RepoConfig, *request: Any) -> None:
        """All views of a request in one round trip."""
        reads, views = self._collect(config, *request)
        _answer(reads.fetch(self._get_client(config.online_store)), views, *request[3:])

    async def _read_features_per_fv_async(self, config: RepoConfig, *request: Any) -> None:
        reads, views = self._collect(config, *request)
        client = await self._get_client_async(config.online_store)
        async with asyncio.timeout(self.read_deadline):
            found = await reads.fetch_async(client)
        _answer(found, views, *request[3:])

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Take out the rows of this version of the view; other views' rows stay."""
        self._delete(config, table, [layout_of(config, table).view])

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],  # noqa: ARG002
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Take out the rows, of all versions, of views that are no more.

        Raises:
            SkewlessError: the keys' prefix is another project's.
        """
        self._claim(config)
        if config.online_store.full_scan_for_deletion:
            for table in tables_to_delete:
                self._delete(config, table, _versions(table))

    def teardown(
        self,
        config: RepoConfig,
        tables: Sequence[FeatureView],
        entities: Sequence[Entity],  # noqa: ARG002
    ) -> None:
        """Take out the rows of these views, of all versions, and nothing else."""
        for table in tables:
            self._delete(config, table, _versions(table))
        if config.online_store.key_prefix:
            self._get_client(config.online_store).delete(aside(config, "project"))

    def _claim(self, config: RepoConfig) -> None:
        """See to it that a prefix which is no project's name is one project's alone."""
        if not config.online_store.key_prefix:
            return
        name = aside(config, "project")
        client = self._get_client(config.online_store)
        try:
            client.set(name, config.project, nx=True)
            owner = client.get(name)
        except RedisError:  # Redis is not needed to apply definitions
            return
        if owner is not None and owner.decode() != config.project:
            raise SkewlessError(
                f"The key_prefix {config.online_store.key_prefix!r} is the project "
                f"{owner.decode()}'s in this Redis: choose another in feature_store.yaml."
            )

    def _delete(self, config: RepoConfig, table: FeatureView, views: list[str]) -> None:
        client = self._get_client(config.online_store)
        where = place_of(config, table, views[0])
        if where.composite:
            # The view's name is part of the key: what the pattern finds goes as a whole.
            stem = re.escape(where.prefix.removesuffix(views[0].encode() + b":"))
            names = b"|".join(re.escape(view.encode()) for view in views)
            own = re.compile(stem + b"(?:" + names + b"):", re.DOTALL)
            pattern = where.prefix if len(views) == 1 else where.prefix.removesuffix(b":")
            for keys in scan(client, pattern):
                for key in filter(own.match, keys):
                    client.unlink(key)
            return
        tags = [Layout(view, ()).tag for view in views]
        for keys in scan(client, where.prefix):
            drop(client, keys, tags)

    def _packed(
        self, config: RepoConfig, table: FeatureView, data: list[WriteRow]
    ) -> tuple[Place, list[tuple[bytes, bytes | None]], list[bytes]]:
        layout = layout_of(config, table)
        where = self._place(config, table, [key for key, *_ in data[:1]])
        rows = []
        for _, values, at, created_at in data:
            event, created = _micros(at), _micros(created_at)
            if event is None:
                raise SkewlessError(f"A row for {layout.view} has no event time: give each one.")
            rows.append(layout.pack(values, event, created))
        if not where.composite:
            rows = [layout.header(len(row)) + row for row in rows]
        return where, [where.address(key) for key, *_ in data], rows

    def _place(self, config: RepoConfig, table: FeatureView, entities: list[EntityKey]) -> Place:
        return place_of(config, table, layout_of(config, table).view, entities)

    def _expiry(self, config: RepoConfig, table: FeatureView) -> Expiry:
        if ttl := getattr(table, "ttl", None):
            return Expiry("event", int(ttl.total_seconds() * 1000))
        if seconds := config.online_store.key_ttl_seconds:
            return Expiry("age", seconds * 1000)
        return Expiry()

    def _collect(
        self,
        config: RepoConfig,
        grouped_refs: Any,
        join_key_values: Any,
        join_keys_of: Any,
        *_: Any,
    ) -> tuple[Reads, list[Any]]:
        reads, views = Reads(), []
        for table, requested in grouped_refs:
            unique, indexes, length = _get_unique_entities(table, join_key_values, join_keys_of)
            entities = _get_entity_key_protos(unique)
            layout = layout_of(config, table)
            taken = reads.add(layout, self._place(config, table, entities), entities)
            views.append((layout, table, requested, taken, indexes, length))
        return reads, views


def layout_of(config: RepoConfig, table: Any) -> Layout:
    """The layout of a view's rows under this configuration's versioning."""
    return Layout.of(table, versioning=config.registry.enable_online_feature_view_versioning)


def oldest(table: Any) -> int | None:
    """Event times before this count as missing, in microseconds; None where age is no matter."""
    ttl = getattr(table, "ttl", None)
    return _micros(datetime.now(UTC) - ttl) if ttl else None


def _answer(
    found: Any,
    views: Iterable[Any],
    response: Any,
    full_feature_names: bool,
    include_versions: bool = False,
) -> None:
    for layout, table, requested, taken, indexes, length in views:
        read = _unpacked(layout, table, requested, taken(found))
        _populate_response_from_feature_data(
            requested, read, indexes, response, full_feature_names, table, length, include_versions
        )


def _unpacked(
    layout: Layout, table: FeatureView, requested: list[str] | None, found: list[bytes | None]
) -> list[Row]:
    wanted = requested or [field.name for field in table.features]
    defaults = default_values(table)
    complete = all(name in defaults for name in wanted)
    missing: Row = (NEVER, {name: defaults[name] for name in wanted}) if complete else (None, None)
    too_old = oldest(table)
    rows = []
    for packed in found:
        row = missing
        if packed is not None:
            try:
                event, _, _ = layout.times(packed)
                if too_old is None or event >= too_old:
                    values = layout.unpack(packed)
                    row = (_datetime(event), {name: values[name] for name in wanted})
            except AnotherLayoutError:
                layout.refuse()
        rows.append(row)
    return rows


def _versions(table: FeatureView) -> list[str]:
    return [table.name, *(f"{table.name}_v{number}" for number in range(1, VERSIONS))]


def _micros(at: datetime | None) -> int | None:
    if at is None or pd.isna(at):
        return None
    return (make_tzaware(at) - NEVER) // MICROSECOND


def _datetime(micros: int) -> datetime:
    return NEVER + timedelta(microseconds=micros)
