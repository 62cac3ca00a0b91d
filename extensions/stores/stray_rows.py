"""Find and delete stray rows: rows in Redis of entities that have none in the log."""

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from feast import FeatureView, RepoConfig
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.feature_types import INTEGER_BITS
from extensions.stores.online.redis_io import drop, drop_fields, scan
from extensions.stores.online.view_settings import layout_of
from extensions.stores.online_codec.redis_keys import KeyLayout, ids_of_field, key_layout_of
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.values.canonical_keys import NUL, integer_of, is_uuid
from extensions.stores.values.future_rows import not_future_condition

_ENTITIES_PER_QUERY = 5_000

# A row's key, field (None: a section of a string), and the entity's ids.
_Stray = tuple[bytes, bytes | None, tuple[Any, ...]]


def drop_strays(
    conn: psycopg.Connection,
    config: RepoConfig,
    client: Any,
    computation: Computation,
    table: FeatureView,
    before: int,
) -> int:
    """Delete rows, up to an event time, of entities without a row in the log.

    Args:
        conn: The log's database, in autocommit.
        config: The repository's configuration.
        client: The connection to Redis.
        computation: The view version whose log counts.
        table: The view as Feast knows it.
        before: Event time in microseconds since 1970; later rows may be a running stream's.

    Returns:
        How many rows were deleted.
    """
    layout = layout_of(config, table)
    where = key_layout_of(config, table, layout.view)
    types = dict(zip(computation.join_keys, computation.key_types, strict=True))
    kinds = [types[name] for name in where.join_keys]
    removed = 0
    batch: list[_Stray] = []
    for rows in _rows(client, where, layout, kinds):
        batch += rows
        if len(batch) >= _ENTITIES_PER_QUERY:
            removed += _drop(conn, config, client, computation, (where, layout), batch, before)
            batch = []
    return removed + _drop(conn, config, client, computation, (where, layout), batch, before)


def _drop(
    conn: psycopg.Connection,
    config: RepoConfig,
    client: Any,
    computation: Computation,
    place: tuple[KeyLayout, Layout],
    rows: list[_Stray],
    before: int,
) -> int:
    where, layout = place
    known = _known(conn, config, computation, where, [ids for *_, ids in rows])
    strays = [(key, name) for (key, name, _), held in zip(rows, known, strict=True) if not held]
    if not where.composite:
        return drop(client, [key for key, _ in strays], [layout.tag], before)
    fields: dict[bytes, list[bytes]] = {}
    for key, name in strays:
        fields.setdefault(key, []).append(name or b"")
    return sum(drop_fields(client, key, names, before) for key, names in fields.items())


def _rows(
    client: Any, where: KeyLayout, layout: Layout, kinds: Sequence[str]
) -> Iterator[list[_Stray]]:
    """All rows of the version that Redis holds, by parts."""
    skip = len(where.prefix)
    for keys in scan(client, where.prefix):
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                if where.composite:
                    pipe.hkeys(key)
                else:
                    pipe.get(key)
            replies = pipe.execute(raise_on_error=False)
        rows: list[_Stray] = []
        for key, reply in zip(keys, replies, strict=True):
            if reply is None or isinstance(reply, Exception):  # another type: none of ours
                continue
            if where.composite:
                for name in reply:
                    parts = [key[skip:], *ids_of_field(name, len(kinds) - 1)]
                    rows.append((key, name, _values(parts, kinds)))
            elif layout.find(reply) is not None:
                rows.append((key, None, _values([key[skip:]], kinds)))
        yield rows


def _values(raw: Sequence[bytes], kinds: Sequence[str]) -> tuple[Any, ...]:
    """Ids as PostgreSQL takes them; a None is no id that a log could hold."""
    if len(raw) != len(kinds):
        return (None,) * len(kinds)
    return tuple(_value(*each) for each in zip(raw, kinds, strict=True))


def _value(raw: bytes, kind: str) -> Any:
    try:
        if kind in INTEGER_BITS:
            number, bound = integer_of(raw.decode()), 1 << INTEGER_BITS[kind]
            return number if number is not None and -bound <= number < bound else None
        if raw[:1] == b"=":
            text = raw[1:].decode()
            unfit = NUL in text or (kind == "uuid" and not is_uuid(text))
            return None if unfit else text
        if raw[:1] == b"~":
            return raw[1:]
        if raw[:1] == b"%":
            value = Value.FromString(raw[1:])
            return getattr(value, value.WhichOneof("val") or "", None)
    except (ValueError, DecodeError):
        pass
    return None


def _known(
    conn: psycopg.Connection,
    config: RepoConfig,
    computation: Computation,
    where: KeyLayout,
    entities: list[tuple[Any, ...]],
) -> list[bool]:
    """Which of the entities have a row in the log."""
    whole = [i for i, ids in enumerate(entities) if None not in ids]
    known = [False] * len(entities)
    if not whole:
        return known
    types = dict(zip(computation.join_keys, computation.key_types, strict=True))
    columns = list(zip(*(entities[i] for i in whole), strict=True))
    names = [sql.Identifier(f"k{i}") for i in range(len(columns))]
    query = sql.SQL(
        "SELECT k.place FROM unnest({arrays}) WITH ORDINALITY AS k ({names}, place) "
        "WHERE EXISTS (SELECT FROM {log} AS l WHERE {same} AND {past})"
    ).format(
        arrays=sql.SQL(", ").join(
            sql.SQL("%s::{}[]").format(sql.SQL(types[name])) for name in where.join_keys
        ),
        names=sql.SQL(", ").join(names),
        log=sql.Identifier(computation.log_table),
        same=sql.SQL(" AND ").join(
            sql.SQL("l.{} = k.{}").format(sql.Identifier(key), name)
            for key, name in zip(where.join_keys, names, strict=True)
        ),
        past=not_future_condition(config, ["event_timestamp", "created_timestamp"]),
    )
    for (place,) in conn.execute(query, [list(column) for column in columns]):
        known[whole[place - 1]] = True
    return known
