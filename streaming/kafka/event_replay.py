"""Replay: recorded or stored events into the topic once more, at a chosen rate."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import fastavro
import orjson
from feast.data_format import AvroFormat, JsonFormat
from kafka import KafkaProducer
from psycopg import sql

from extensions.addresses import project_name
from extensions.asof.computation_loading import read_repository
from extensions.database import connect
from extensions.errors import DefinitionError, InputError
from extensions.sources import Column, EventStream, load_sources
from streaming.decoding.hooks import load_hook
from streaming.decoding.row_builder import columns_of, nested
from streaming.decoding.schema_registry import SchemaRegistry
from streaming.kafka.client_settings import client_settings
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings

_SLICE_SECONDS = 0.05
_SEND_SECONDS = 60.0
# Types whose values JSON writes as the decoder reads them; the others go by their text.
_AS_THEY_ARE = frozenset(
    {
        "smallint", "integer", "bigint", "real", "double precision", "boolean", "date", "bytea",
        "timestamp with time zone", "timestamp without time zone", "json", "jsonb", "numeric",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Replayed:
    """Messages that the broker has acknowledged, and the seconds they took."""

    messages: int
    seconds: float


@dataclass(frozen=True)
class _Outgoing:
    key: bytes | None
    value: bytes


def replay(
    settings: Settings,
    source: Path | datetime,
    *,
    until: datetime | None = None,
    rate: float | None = None,
) -> Replayed:
    """Produce events at ``rate`` a second (None: as fast as the broker takes them).

    ``source`` is a file of messages, one in a line, sent byte for byte, or a moment: the stored
    events that happened from then (up to ``until``), with their ids, encoded as the stream's
    declaration says (`encoder`). Ids that are stored already are not stored again, but their
    entities' values are computed and published anew, which is what reprocessing is for. Messages
    are keyed by the field of the table's first key.

    Raises:
        SkewlessError: the file cannot be read, the stream's rows cannot be encoded, or a server
            does not answer.
    """
    ensure_topics(settings)
    stream = _declared(settings)
    outgoing = (
        _recorded(source, stream)
        if isinstance(source, Path)
        else _stored(settings, stream, source, until)
    )
    producer = KafkaProducer(
        **client_settings(settings.kafka_bootstrap),
        linger_ms=5,
        batch_size=128 * 1024,
    )
    began = time.monotonic()
    sent = 0
    try:
        size = 1_000 if rate is None else max(1, int(rate * _SLICE_SECONDS))
        while part := list(islice(outgoing, size)):
            futures = [
                producer.send(settings.topic, key=each.key, value=each.value) for each in part
            ]
            if rate is None:
                sent += len(part)
            else:
                for future in futures:
                    future.get(timeout=_SEND_SECONDS)
                sent += len(part)
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))
        producer.flush(timeout=_SEND_SECONDS)
    finally:
        producer.close(timeout=5)
    return Replayed(sent, time.monotonic() - began)


def encoder(stream: EventStream) -> Callable[[dict[str, Any]], bytes]:
    """A function from a stored row's columns to a message in the stream's format.

    Its fields are those of the tag ``encode``, or of the inverse of the stream's mapping. Avro is
    written by the declared schema, as it is read where no registry is.

    Raises:
        DefinitionError: the declaration alone does not say how a message was made.
    """
    declared = stream.message_format
    write = _avro(stream, declared) if isinstance(declared, AvroFormat) else _json
    if stream.encode:
        encode = load_hook(stream.name, "encode", stream.encode)
        return lambda columns: write(encode(columns))
    by_hand = [tag for tag in ("convert", "decoder", "envelope") if getattr(stream, tag)]
    if by_hand or not isinstance(declared, JsonFormat | AvroFormat):
        what = f"has the tag {by_hand[0]}" if by_hand else "is neither JSON nor Avro"
        raise DefinitionError(
            f"Stored events of the stream {stream.name} cannot be turned into messages, since it "
            f"{what}: name a function that makes a message's fields of a row's columns "
            "(tag encode), or replay a file."
        )
    fields = {each.column.name: each.path for each in columns_of(stream)}

    def inverse(columns: dict[str, Any]) -> bytes:
        message: dict[str, Any] = {}
        for name, value in columns.items():
            if value is not None:
                *steps, last = fields[name]
                inner = message
                for step in steps:
                    inner = inner.setdefault(step, {})
                inner[last] = value
        return write(message)

    return inverse


def _avro(stream: EventStream, declared: AvroFormat) -> Callable[[dict[str, Any]], bytes]:
    """Fields as bare Avro of the declared schema."""

    def refused(why: str) -> DefinitionError:
        return DefinitionError(
            f"Stored events of the stream {stream.name} cannot be written in Avro ({why}): "
            "replay a file, or name a function that makes fields of this schema of a row's "
            "columns (tag encode)."
        )

    if SchemaRegistry.of(stream.registry_url) is not None:
        raise refused("its messages name a schema of the registry by number")
    try:
        schema = fastavro.parse_schema(json.loads(declared.schema_json))
    except Exception as error:
        raise refused(f"its schema: {type(error).__name__}") from error

    def write(fields: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        try:
            fastavro.schemaless_writer(out, schema, fields)
        # A library with values of any type: whatever it raises, they do not fit the schema.
        except Exception as error:
            raise refused(f"a row does not fit its schema: {type(error).__name__}") from error
        return out.getvalue()

    return write


def _json(fields: dict[str, Any]) -> bytes:
    return orjson.dumps(fields, default=_default)


def _default(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(bytes(value)).decode()
    return str(value)  # a decimal, as text: exact


def _declared(settings: Settings) -> EventStream:
    contents = read_repository(settings.repo_root)
    with connect(settings.postgres_url, name="skewless replay") as conn:
        sources = load_sources(contents, conn, project_name(settings.repo_root) or "")
    if settings.stream or len(sources.streams) != 1:
        return sources.stream(settings.stream)
    return next(iter(sources.streams.values()))


def _recorded(path: Path, stream: EventStream) -> Iterator[_Outgoing]:
    try:
        lines = path.open("rb")
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    key = _key_of(stream)
    with lines:
        for line in lines:
            if value := line.rstrip(b"\r\n"):
                yield _Outgoing(key(value), value)


def _key_of(stream: EventStream) -> Callable[[bytes], bytes | None]:
    """The first key's field, so that one entity's events stay in order; else messages spread."""
    first = next(each for each in columns_of(stream) if each.column.name == stream.table.keys[0])

    def key(value: bytes) -> bytes | None:
        try:
            fields = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(fields, dict):
            return None
        # An envelope's record, if it has one.
        for part in (fields, fields.get("payload")):
            inner = part if isinstance(part, dict) else {}
            for record in (inner, inner.get("after"), inner.get("before"), inner.get("data")):
                if isinstance(record, dict):
                    found = nested(record, first.field, first.path)
                    if isinstance(found, str | int) and not isinstance(found, bool):
                        return str(found).encode(errors="replace")
        return None

    return key


def _stored(
    settings: Settings, stream: EventStream, since: datetime, until: datetime | None
) -> Iterator[_Outgoing]:
    table, encode = stream.table, encoder(stream)
    columns = [each.column for each in columns_of(stream)]
    order = list(dict.fromkeys([table.time, *([table.id] if table.id else []), *table.keys]))
    query = sql.SQL(
        "SELECT {columns} FROM {table} WHERE {time} >= %s "
        "AND {time} < coalesce(%s::timestamptz, 'infinity') ORDER BY {order}"
    ).format(
        columns=sql.SQL(", ").join(map(_selected, columns)),
        table=sql.Identifier(table.table),
        time=sql.Identifier(table.time),
        order=sql.SQL(", ").join(map(sql.Identifier, order)),
    )
    names = [column.name for column in columns]
    first = names.index(table.keys[0])
    with (
        connect(settings.postgres_url, name="skewless replay") as conn,
        conn.cursor("replay") as cursor,
    ):
        cursor.itersize = 10_000
        cursor.execute(query, [since, until])
        for row in cursor:
            values = [_zoned(value) for value in row]
            key = None if row[first] is None else str(row[first]).encode()
            yield _Outgoing(key, encode(dict(zip(names, values, strict=True))))


def _selected(column: Column) -> sql.Composable:
    """The column, as text where the decoder takes text of that type and Python has no such type."""
    name = sql.Identifier(column.name)
    if column.pg_type in _AS_THEY_ARE or column.pg_type.endswith("[]"):
        return name
    return sql.SQL("{}::text").format(name)


def _zoned(value: Any) -> Any:
    """Times of a column without a zone are of UTC."""
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value
