"""The online store: packed rows in Redis, newest wins, declared defaults for who has none."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig, ValueType
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from pydantic import Field, model_validator
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from extensions.addresses import connection_string_of, redis_parts, redis_url
from extensions.feast_internals import entity_key_protos, unique_entities
from extensions.stores import config_repository
from extensions.stores.online.exact_push_conversion import use_exact_conversion
from extensions.stores.online.feast_rows import (
    Row,
    WriteRow,
    pack_feast_rows,
    populate_response,
    to_messages,
    unpack_rows,
)
from extensions.stores.online.prefix_claims import (
    PROJECT,
    VIEWS,
    Claim,
    check_distinct,
    check_prefix_owner,
    check_prefix_owner_async,
    claim,
    claim_async,
    claim_of,
)
from extensions.stores.online.publish_marks import MARKS
from extensions.stores.online.redis_io import Expiry, Reads, write, write_async
from extensions.stores.online.requested_id_check import check_requested, requested
from extensions.stores.online.row_deletion import delete_entity, delete_rows, version_names
from extensions.stores.online.view_settings import (
    layout_of,
    lifetime_of,
    overwrite_policy_of,
)
from extensions.stores.online_codec.redis_keys import (
    KeyLayout,
    control_key,
    key_layout_of,
    key_prefix_of,
)
from extensions.stores.online_codec.row_encoder import columnar, ids, pack_rows
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.values.future_rows import (
    ALLOWANCE,
    refuse_future_rows,
)

use_exact_conversion()
config_repository.install()


class SkewlessRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """Redis' address may be left out: see extensions/addresses.py.

    ``key_prefix``: what keys begin with instead of the project's name; a short one saves memory.
    """

    key_prefix: str | None = Field(default=None, min_length=1)

    future_allowance_seconds: float = Field(default=ALLOWANCE.total_seconds(), ge=0)
    """How far the times of a row may be ahead of the clock: later ones are refused, and what is
    stored of them counts as missing."""

    serve_expired: bool = False
    """Serve a row however old it is, as Feast's own Redis store does: a view's ``ttl`` then counts
    for training alone, and what is served of an old row is not what is trained on."""

    type: Literal["extensions.stores.online.store.SkewlessRedisOnlineStore"] = (
        "extensions.stores.online.store.SkewlessRedisOnlineStore"  # type: ignore[assignment]
    )

    @model_validator(mode="before")
    @classmethod
    def _find_address(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "connection_string" in values:
            return values
        url = config_repository.found_or_later(redis_url)
        return {"connection_string": url and connection_string_of(url), **values}


class SkewlessRedisOnlineStore(RedisOnlineStore):
    """Feast's Redis connections with another layout; `docs/online-layout.md` has every byte."""

    # Seconds after which an asynchronous read fails; a server sets it (extensions/serving).
    read_deadline: float | None = None

    def __init__(self) -> None:
        super().__init__()
        # What this process has claimed, so that it is asked for at the start of its writing only.
        self._claimed: set[tuple[str, Claim]] = set()
        self._seen: set[str] = set()

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
        """Write rows; each only if no newer one of its entity is there.

        Raises:
            SkewlessError: a row has no event time or one from the future; nothing is written.
        """
        key_layout, addresses, packed = self._packed(config, table, data)
        client = self._get_client(config.online_store)
        layout = layout_of(config, table)
        if missing := self._unclaimed(config, table, layout, key_layout):
            claim(client, config, missing)
            self._note_claims(config, missing)
        policy = overwrite_policy_of(config, layout)
        write(client, key_layout, addresses, packed, self._expiry(config, table), policy)
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
        key_layout, addresses, packed = self._packed(config, table, data)
        client = await self._get_client_async(config.online_store)
        layout = layout_of(config, table)
        if missing := self._unclaimed(config, table, layout, key_layout):
            await claim_async(client, config, missing)
            self._note_claims(config, missing)
        policy = overwrite_policy_of(config, layout)
        await write_async(
            client, key_layout, addresses, packed, self._expiry(config, table), policy
        )
        if progress:
            progress(len(data))

    def write_arrow(
        self,
        config: RepoConfig,
        table: FeatureView,
        rows: pa.Table,
        *,
        before: int | None = None,
        checked: bool = False,
    ) -> int:
        """Write an Arrow table as the view's source returns it; returns the rows that were newer.

        Args:
            config: The repository's configuration.
            table: The view.
            rows: The join keys, every feature, and the source's event and created time.
            before: Stored rows whose event time (microseconds since 1970) is not later give way
                even to older ones: the rows are what is true, not only what is newer.
            checked: The database's clock has judged the rows' times: this machine's, which may
                be wrong, is not asked.

        Raises:
            SkewlessError: a column is missing or does not fit, an id or event time is null, or a
                time is from the future; nothing is written.
        """
        layout = layout_of(config, table)
        key_layout = key_layout_of(config, table, layout.view)
        source = table.batch_source
        event = source.timestamp_field if source else "event_timestamp"
        created = (source.created_timestamp_column if source else "") or "created_timestamp"
        types = {field.name: field.dtype.to_value_type() for field in table.entity_columns}
        if not checked:
            refuse_future_rows(config, layout.view, rows, [event, created])
        client, expiry = self._get_client(config.online_store), self._expiry(config, table)
        missing = self._unclaimed(config, table, layout, key_layout)
        if missing or before is not None:  # a repair finds a Redis that may have lost its claims
            claim(client, config, [claim_of(table.name, layout, key_layout)])
            self._note_claims(config, missing)
        policy = overwrite_policy_of(config, layout, before)
        written = at = 0
        for packed in pack_rows(layout, rows, event, created, sections=not key_layout.composite):
            part = rows.slice(at, len(packed))
            at += len(packed)
            # Feast hides the key of a view without entities, which is a text.
            columns = [
                ids(part, name, types.get(name, ValueType.STRING)) for name in key_layout.join_keys
            ]
            addresses = [key_layout.of_ids(entity) for entity in zip(*columns, strict=True)]
            written += write(client, key_layout, addresses, packed, expiry, policy)
        return written

    def write_table(self, config: RepoConfig, table: FeatureView, rows: pa.Table) -> None:
        """Write rows of a log: whole columns where they are of the declared types.

        Else (a numeric as text, a date that is declared String) by Feast's own conversion, value
        by value.
        """
        if self._columnar(config, table, rows):
            self.write_arrow(config, table, rows)
            return
        for batch in rows.to_batches():
            self.online_write_batch(config, table, to_messages(table, batch), None)

    def check_table(self, config: RepoConfig, table: FeatureView, rows: pa.Table) -> None:
        """As `write_table`, but that nothing is written.

        Raises:
            SkewlessError, ValueError, TypeError: what `write_table` would not take.
        """
        if not self._columnar(config, table, rows):
            for batch in rows.to_batches():
                self._packed(config, table, to_messages(table, batch))
            return
        layout = layout_of(config, table)
        source = table.batch_source
        assert source is not None  # it has a log
        for _ in pack_rows(
            layout, rows, source.timestamp_field, source.created_timestamp_column, sections=False
        ):
            pass

    def _columnar(self, config: RepoConfig, table: FeatureView, rows: pa.Table) -> bool:
        kinds = {field.name: field.dtype.to_value_type() for field in table.entity_columns}
        return columnar(layout_of(config, table), kinds, rows.schema)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """One row per entity key, in order; (epoch, defaults) where Redis holds none."""
        reads, layout = Reads(), layout_of(config, table)
        take_rows = reads.add(layout, self._key_layout(config, table, entity_keys), entity_keys)
        self.check_owner(config)
        rows = take_rows(reads.fetch(self._get_client(config.online_store)))
        return unpack_rows(config, layout, table, requested_features, rows)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """As `online_read`."""
        reads, layout = Reads(), layout_of(config, table)
        take_rows = reads.add(layout, self._key_layout(config, table, entity_keys), entity_keys)
        await self._check_owner_async(config)
        rows = take_rows(await reads.fetch_async(await self._get_client_async(config.online_store)))
        return unpack_rows(config, layout, table, requested_features, rows)

    def get_online_features(
        self, config: RepoConfig, features: Any, entity_rows: Any, *args: Any, **more: Any
    ) -> OnlineResponse:
        """As Feast's, which would take 5.7, True and "5" for the ids 5, 1 and 5.

        Raises:
            SkewlessError: an id is not of its entity's type.
        """
        with requested(features, entity_rows, *args, **more):
            return super().get_online_features(config, features, entity_rows, *args, **more)

    async def get_online_features_async(
        self, config: RepoConfig, features: Any, entity_rows: Any, *args: Any, **more: Any
    ) -> OnlineResponse:
        """As `get_online_features`."""
        with requested(features, entity_rows, *args, **more):
            return await super().get_online_features_async(
                config, features, entity_rows, *args, **more
            )

    def _read_features_per_fv(self, config: RepoConfig, *request: Any) -> None:
        """All views of a request in one round trip."""
        reads, views = self._collect(config, *request)
        self.check_owner(config)
        populate_response(
            config, reads.fetch(self._get_client(config.online_store)), views, *request[3:]
        )

    async def _read_features_per_fv_async(self, config: RepoConfig, *request: Any) -> None:
        reads, views = self._collect(config, *request)
        client = await self._get_client_async(config.online_store)
        async with asyncio.timeout(self.read_deadline):
            await self._check_owner_async(config)
            reply = await reads.fetch_async(client)
        populate_response(config, reply, views, *request[3:])

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Take out the rows of this version of the view; other views' rows stay.

        Raises:
            SkewlessError: the keys' prefix is another project's.
        """
        check_prefix_owner(self._get_client(config.online_store), config)
        self._delete(config, table, [layout_of(config, table).view])

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        """Take out all rows of one entity: of every view whose join keys these are.

        Raises:
            SkewlessError: the keys' prefix is another project's.
        """
        client = self._get_client(config.online_store)
        check_prefix_owner(client, config)
        delete_entity(client, config, join_keys)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Claim what the views that stay are called in Redis; take out the rows of the others.

        Raises:
            SkewlessError: the keys' prefix is another project's, or two view versions would have
                one name.
        """
        kept = [self._claim_of(config, table) for table in tables_to_keep]
        check_distinct(kept)
        client = self._get_client(config.online_store)
        try:
            claim(client, config, kept)
        except (RedisConnectionError, RedisTimeoutError):
            # Redis is not needed to apply definitions; whoever writes claims before.
            if not tables_to_delete:
                return
            raise
        if config.online_store.full_scan_for_deletion:
            for table in tables_to_delete:
                self._delete(config, table, version_names(table))

    def teardown(
        self,
        config: RepoConfig,
        tables: Sequence[FeatureView],
        entities: Sequence[Entity],  # noqa: ARG002
    ) -> None:
        """Take out the rows of these views, of all versions, and nothing else.

        Raises:
            SkewlessError: the keys' prefix is another project's; nothing is taken out.
        """
        client = self._get_client(config.online_store)
        check_prefix_owner(client, config)
        for table in tables:
            self._delete(config, table, version_names(table))
        if not client.hlen(control_key(config, VIEWS)):
            client.delete(control_key(config, PROJECT))
            client.delete(control_key(config, MARKS))
        self._claimed.clear()

    def check_owner(self, config: RepoConfig) -> None:
        """See, once in a process' life, that what is read here is this project's.

        Raises:
            SkewlessError: the keys' prefix is another project's.
        """
        if key_prefix_of(config) not in self._seen:
            check_prefix_owner(self._get_client(config.online_store), config)
            self._seen.add(key_prefix_of(config))

    async def _check_owner_async(self, config: RepoConfig) -> None:
        if key_prefix_of(config) not in self._seen:
            client = await self._get_client_async(config.online_store)
            await check_prefix_owner_async(client, config)
            self._seen.add(key_prefix_of(config))

    def _claim_of(self, config: RepoConfig, table: Any, layout: Layout | None = None) -> Claim:
        layout = layout or layout_of(config, table)
        return claim_of(table.name, layout, key_layout_of(config, table, layout.view))

    def _unclaimed(
        self, config: RepoConfig, table: FeatureView, layout: Layout, key_layout: KeyLayout
    ) -> list[Claim]:
        mine = claim_of(table.name, layout, key_layout)
        return [] if (key_prefix_of(config), mine) in self._claimed else [mine]

    def _note_claims(self, config: RepoConfig, claims: Sequence[Claim]) -> None:
        self._claimed.update((key_prefix_of(config), each) for each in claims)

    def _delete(self, config: RepoConfig, table: FeatureView, views: list[str]) -> None:
        released = delete_rows(self._get_client(config.online_store), config, table, views)
        self._claimed.difference_update((key_prefix_of(config), claim) for claim in released)

    def _packed(
        self, config: RepoConfig, table: FeatureView, data: list[WriteRow]
    ) -> tuple[KeyLayout, list[tuple[bytes, bytes | None]], list[bytes]]:
        layout = layout_of(config, table)
        key_layout = self._key_layout(config, table, [key for key, *_ in data[:1]])
        rows = pack_feast_rows(config, layout, data, sections=not key_layout.composite)
        return key_layout, [key_layout.address(key) for key, *_ in data], rows

    def _key_layout(
        self, config: RepoConfig, table: FeatureView, entities: list[EntityKey]
    ) -> KeyLayout:
        return key_layout_of(config, table, layout_of(config, table).view, entities)

    def _expiry(self, config: RepoConfig, table: FeatureView) -> Expiry:
        if ttl := lifetime_of(config, table):
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
        check_requested([table for table, _ in grouped_refs], join_keys_of)
        for table, features in grouped_refs:
            unique, indexes, length = unique_entities(table, join_key_values, join_keys_of)
            entities = entity_key_protos(unique)
            layout = layout_of(config, table)
            take_rows = reads.add(layout, self._key_layout(config, table, entities), entities)
            views.append((layout, table, features, take_rows, indexes, length))
        return reads, views
