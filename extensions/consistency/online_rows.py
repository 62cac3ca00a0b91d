"""Rows of the online store, read as serving reads them: by entity, and a scan for a sample."""

import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
from feast import FeatureStore, ValueType
from numpy.typing import NDArray
from redis.exceptions import ConnectionError as RedisConnectionError

from extensions.asof.computation import Computation
from extensions.consistency.entity_sample import SUSPECTS, Key
from extensions.errors import ConfigurationError
from extensions.feast_internals import redis_client
from extensions.feature_types import BITS
from extensions.serving.features.request_plan import View, compile_plan
from extensions.stores.log_publishing import online_store
from extensions.stores.online.redis_io import scan
from extensions.stores.online_codec.column_format import AnotherLayoutError
from extensions.stores.online_codec.redis_keys import ids_of_field
from extensions.stores.online_codec.row_encoder import ids
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.online_codec.section_index import fields
from extensions.stores.values.canonical_keys import integer_of
from extensions.versions.online_sample import fetch

_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class OnlineRows:
    """Rows by entity, in the order they were asked for.

    ``columns``: features with defaults where there is no row. ``present``: whether a row counts;
    ``stored``: whether Redis holds one at all, be it expired or of another layout. ``events``:
    event times in microseconds, 0 where ``present`` is False. ``stored_at``: event times of all
    rows that are stored and can be read, the least integer elsewhere.
    """

    columns: dict[str, Any]
    present: NDArray[np.bool_]
    stored: NDArray[np.bool_]
    events: NDArray[np.int64]
    stored_at: NDArray[np.int64]


@dataclass
class OnlineScan:
    """What a bounded scan of Redis found: entities at random, and those that look wrong."""

    random: list[Key] = field(default_factory=list)
    suspects: list[Key] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass
class OnlineReader:
    """Reads one store; remembers what it scanned, since views of one entity share their keys."""

    store: FeatureStore
    most_keys: int
    seconds: float
    # Why Redis does not answer, once it did not: each further try would wait as long again.
    away: str | None = None
    _scanned: dict[bytes, tuple[list[tuple[bytes, Any]], bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store = self.store
        self._client: Any = redis_client(online_store(store), store.config.online_store)

    def view(self, computation: Computation) -> View:
        """The plan of one version's rows, as the server compiles it.

        Raises:
            ConfigurationError: the version is not in the registry.
        """
        name, version = computation.view, computation.version
        refs = [f"{name}@v{version}:{one.name}" for one in computation.features]
        try:
            plan = compile_plan(self.store, refs)
        except Exception as error:
            raise ConfigurationError(f"{computation.name} is not served: {error}") from error
        [view] = plan.views
        return view

    def read(
        self, view: View, types: Mapping[str, ValueType], keys: pa.Table, now: int
    ) -> OnlineRows:
        """The rows of entities at ``now`` (microseconds); ``keys``: a column per join key.

        Raises:
            RedisError: Redis does not answer.
        """
        self._refuse_if_away()
        columns = [ids(keys, name, types[name]) for name in view.join_keys]
        addresses = [view.place.of_ids(one) for one in zip(*columns, strict=True)]
        layout = view.decoder.layout
        rows = list(fetch(self.store, layout, addresses))
        block = view.decoder.block(*fields([row or b"" for row in rows]), now)
        return OnlineRows(
            dict(block.columns),
            block.present,
            np.array([row is not None for row in rows], np.bool_),
            np.where(block.present, block.events, 0),
            np.array([_event_time(layout, row) for row in rows], np.int64),
        )

    def scan(
        self, view: View, types: Mapping[str, ValueType], computation: Computation, after: int
    ) -> OnlineScan:
        """Entities that Redis holds; suspects: rows later than ``after``, or of another layout.

        ``after``: microseconds; no row of the log is later.

        Raises:
            RedisError: Redis does not answer.
        """
        self._refuse_if_away()
        held, whole = self._held(view)
        found = OnlineScan()
        if not whole:
            found.left_out.append(
                f"Redis holds more than {self.most_keys:,} keys of {computation.name}'s entity: "
                "the rest was not scanned."
            )
        unread = 0
        random: list[Key] = []
        suspects: list[Key] = []
        for parts, row in self._rows(view, held):
            key = _key(parts, view.join_keys, types, computation.join_keys)
            if key is None:
                unread += 1
                continue
            try:
                event, _, _ = view.decoder.layout.times(row)
                (suspects if event > after else random).append(key)
            except (AnotherLayoutError, IndexError):
                suspects.append(key)
        rng = np.random.default_rng()
        found.random = [random[i] for i in rng.permutation(len(random))]
        found.suspects = [suspects[i] for i in rng.permutation(len(suspects))[:SUSPECTS]]
        if unread:
            found.left_out.append(
                f"{unread:,} ids of {computation.name} in Redis are of a type that no sample is "
                "taken of."
            )
        return found

    def _refuse_if_away(self) -> None:
        if self.away is not None:
            raise RedisConnectionError(self.away)

    def _held(self, view: View) -> tuple[list[tuple[bytes, Any]], bool]:
        """Keys below the view's prefix with their values (hashes whole), and whether all."""
        prefix = view.place.prefix
        if prefix in self._scanned:
            return self._scanned[prefix]
        found: list[tuple[bytes, Any]] = []
        fields_read, whole = 0, True
        deadline = time.monotonic() + self.seconds
        for keys in scan(self._client, prefix):
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hgetall(key) if view.place.composite else pipe.get(key)
                values = pipe.execute()
            found += zip(keys, values, strict=True)
            fields_read += sum(map(len, values)) if view.place.composite else len(keys)
            if fields_read >= self.most_keys or time.monotonic() > deadline:
                whole = False
                break
        self._scanned[prefix] = found, whole
        return found, whole

    def _rows(
        self, view: View, held: Sequence[tuple[bytes, Any]]
    ) -> Iterator[tuple[list[bytes], bytes]]:
        start, layout = len(view.place.prefix), view.decoder.layout
        for key, value in held:
            if not value:
                continue
            if view.place.composite:
                for name, row in value.items():
                    parts = ids_of_field(name, len(view.join_keys) - 1)
                    yield [key[start:], *parts], row
            elif (row := layout.find(value)) is not None:
                yield [key[start:]], row


def _event_time(layout: Layout, row: bytes | None) -> int:
    if row is None:
        return int(_NEVER)
    try:
        return layout.times(row)[0]
    except (AnotherLayoutError, IndexError, struct.error):
        return int(_NEVER)


def _key(
    parts: Sequence[bytes],
    names: Sequence[str],
    types: Mapping[str, ValueType],
    wanted: Sequence[str],
) -> Key | None:
    """The ids as PostgreSQL takes them, in the computation's order; None: of another type."""
    held: dict[str, Any] = {}
    if len(parts) != len(names):  # a field that is none of ours
        return None
    for name, raw in zip(names, parts, strict=True):
        try:
            if types[name] in BITS:
                number = integer_of(raw.decode())
                if number is None:
                    return None
                held[name] = number
            elif types[name] == ValueType.STRING and raw[:1] == b"=":
                held[name] = raw[1:].decode()
            elif types[name] == ValueType.UUID and raw[:1] == b"=":
                held[name] = UUID(raw[1:].decode())
            else:
                return None
        except ValueError:
            return None
    return tuple(held[name] for name in wanted)
