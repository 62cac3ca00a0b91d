"""The decoder of one declared stream: a message becomes rows of its table, or is refused.

Bytes → format (or the repository's own function) → envelope → ``convert`` → mapping, types,
policies → rows. A message is judged by its own bytes and headers, the declaration and the clock
that it is given: the same message is the same rows again.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import orjson
from feast.data_format import AvroFormat as FeastAvro
from feast.data_format import JsonFormat as FeastJson
from feast.data_format import ProtoFormat as FeastProtobuf

from extensions.errors import DefinitionError
from extensions.sources import EventStream
from streaming.decoding import cloudevents, debezium
from streaming.decoding.avro_format import AvroFormat
from streaming.decoding.column_values import EXACT, TEXTS, ReadExactlyError
from streaming.decoding.hooks import load_hook
from streaming.decoding.json_format import JsonFormat
from streaming.decoding.protobuf_format import ProtobufFormat
from streaming.decoding.row_builder import (
    KnownFields,
    Row,
    columns_of,
    nested,
    row_builder,
)
from streaming.decoding.schema_registry import SchemaRegistry
from streaming.kafka.message_decoder import Message, Reason, RejectedError

Fields = dict[str, Any]
Decode = Callable[[Message, datetime], list[Row]]
Format = JsonFormat | AvroFormat | ProtobufFormat

MAX_BYTES = 64 * 1024
_NO_FIELDS = "convert returned no fields"
# What an envelope adds to the fields: never an unknown field.
_PREFIXES = {"debezium": debezium.PREFIX, "cloudevents": cloudevents.PREFIX}


class RowDecoder:
    """Decodes a stream's messages into rows.

    Args:
        stream: The declared stream.
        max_bytes: A longer message is refused.
        registry: The schema registry; None: that of the stream's tag ``schema_registry``, else of
            the environment (``SKEWLESS_SCHEMA_REGISTRY``).

    Attributes:
        columns: The names of a row's columns, in its order.

    Raises:
        DefinitionError: a schema, a hook or a mapping of the stream cannot be used.
        ConfigurationError: the registry's address is none.
    """

    def __init__(
        self,
        stream: EventStream,
        *,
        max_bytes: int = MAX_BYTES,
        registry: SchemaRegistry | None = None,
    ) -> None:
        self.stream = stream
        self._max_bytes = max_bytes
        self._debezium = stream.envelope == "debezium"
        found = columns_of(stream, deleted_field=debezium.DELETED if self._debezium else None)
        self.columns: tuple[str, ...] = tuple(each.column.name for each in found)
        self._hook = self._function("decoder", stream.decoder)
        self._convert = self._function("convert", stream.convert)
        exact = any(EXACT.fullmatch(each.column.pg_type) for each in found)
        self._format = None if self._hook else _format(stream, registry, plain=bool(self._convert))
        self._json = self._format if isinstance(self._format, JsonFormat) else None
        self._binary = self._format if not isinstance(self._format, JsonFormat) else None
        # Numbers that a binary float cannot hold want a slower reader.
        self._always_exact = exact and self._convert is None
        self._build = row_builder(stream, found, inexact=self._json is not None)
        self._build_exact = row_builder(stream, found)
        self._build_deleted = row_builder(stream, found, deleting=True)
        prefix = _PREFIXES.get(stream.envelope or "")
        self._known = KnownFields(found, prefix) if stream.unknown == "dead-letter" else None
        by_name = {each.column.name: each for each in found}
        self._keys = [by_name[key] for key in stream.table.keys if key in by_name]
        self._time = by_name[stream.table.time]
        self._id_at = self.columns.index(stream.table.id) if stream.table.id in by_name else None
        self._id_is_text = (
            stream.table.id is not None
            and stream.table.id in by_name
            and by_name[stream.table.id].column.pg_type in TEXTS
        )
        quick = self._compiled()
        if quick is not None:
            self.decode = quick  # type: ignore[method-assign,assignment] # quicker, for most streams

    def decode(self, message: Message, now: datetime) -> list[Row]:
        """The rows of a message: one; none where it is to be left out; two where a key changes.

        Args:
            message: The record.
            now: The store's clock, by which times of the future are refused.

        Raises:
            RejectedError: the message is no row; the detail names the field, never its value.
            UnavailableError: the schema registry does not answer; the message can be tried again.
        """
        value, size = message.value, message.size
        if value is not None and (len(value) if size is None else size) > self._max_bytes:
            raise RejectedError(
                Reason.OVERSIZED,
                f"{len(value) if size is None else size} bytes, at most {self._max_bytes} are read",
            )
        return self._rows(message, now)

    def _compiled(  # noqa: C901 - one function for the sake of speed
        self,
    ) -> Decode | None:
        """`decode` for what most streams are: JSON objects whose numbers fit into floats.

        The same steps in one function, for the sake of speed. Whatever it does not decide is read
        again by `decode`.
        """
        if self._json is None or self.stream.envelope is not None or self._always_exact:
            return None
        valid, convert, build = self._json.valid, self._convert, self._build
        check = self._known.check if self._known is not None else None
        loads, max_bytes = orjson.loads, self._max_bytes
        otherwise: Decode = self.decode

        def quick(message: Message, now: datetime) -> list[Row]:  # noqa: C901
            value = message.value
            size = message.size
            if value is None or (len(value) if size is None else size) > max_bytes:
                return otherwise(message, now)
            try:
                fields = loads(value)
            except orjson.JSONDecodeError:
                return otherwise(message, now)
            if type(fields) is not dict:
                return otherwise(message, now)
            # Each field once: see `json_format.each_once`.
            strings = len(fields)
            for each in fields.values():
                if type(each) is str:
                    strings += 1
            if value.count(b'"') != 2 * strings or not valid(fields):
                return otherwise(message, now)
            if convert is not None:
                try:
                    fields = convert(fields)
                except Exception as error:  # noqa: BLE001 - the repository's own function
                    raise _failed("convert", error) from None
                if type(fields) is not dict:
                    raise RejectedError(Reason.DECODER, _NO_FIELDS)
            if check is not None:
                check(fields)
            try:
                return [build(fields, message, now, None)]
            except ReadExactlyError:
                return otherwise(message, now)

        return quick

    def _rows(self, message: Message, now: datetime) -> list[Row]:
        """Envelopes, hooks, other formats, and numbers that want exactness."""
        if message.value is None:
            if self._debezium:
                return []  # the delete before it said all
            if self.stream.envelope is None:
                raise RejectedError(Reason.TOMBSTONE, "the message has no value")
        rows: list[Row] = []
        for record in self._records(message):
            if self._debezium:
                rows += self._change(record, message, now)
            else:
                rows.append(self._row(record, message, now))
        if len(rows) > 1:
            rows = [self._numbered(row, message, number) for number, row in enumerate(rows)]
        return rows

    def _records(self, message: Message) -> list[Any]:
        """What the message holds, in its envelope if that is Debezium's."""
        value = message.value
        if self.stream.envelope == "cloudevents":
            json = self._json
            if self._hook is not None:
                read, check = self._hooked, None
            elif json is not None:
                read, check = json.read_exactly, json.check
            else:
                assert self._binary is not None
                read, check = self._binary.read, None
            parse = json.parse_exactly if json is not None else None
            return _listed(cloudevents.read_event(message, parse, read, check))
        assert value is not None
        if self._hook is not None:
            return _listed(self._hooked(value))
        if self._json is not None:
            return [
                (self._json.parse_exactly if self._debezium else self._json.read_exactly)(value)
            ]
        assert self._binary is not None
        return [self._binary.read(value)]

    def _hooked(self, value: bytes) -> Any:
        assert self._hook is not None
        try:
            return self._hook(value)
        except Exception as error:  # noqa: BLE001 - the repository's own function
            raise _failed("decoder", error) from None

    def _row(self, record: Any, message: Message, now: datetime) -> Row:
        return self._build_exact(self._mapped(record), message, now, None)

    def _mapped(self, record: Any) -> Fields:
        """Fields under the names that the mapping knows."""
        if not isinstance(record, dict):
            raise RejectedError(Reason.DECODER, "the decoder returned no fields")
        fields = self._converted(record) if self._convert is not None else record
        if self._known is not None:
            self._known.check(fields)
        return fields

    def _change(self, record: Any, message: Message, now: datetime) -> list[Row]:
        change = debezium.read_change(record)
        if change.deleted:
            return [self._delete(change.fields, change, message, now)]
        if self._json is not None:
            # The schema is the row's; what the envelope adds is not in it.
            self._json.check(
                {k: v for k, v in change.fields.items() if not k.startswith(debezium.PREFIX)}
            )
        fields = self._mapped(change.fields)
        row = self._build_exact(fields, message, now, change.at)
        if change.before is None:
            return [row]
        before = self._mapped(change.before)
        if not self._moved(before, fields):
            return [row]
        deleted = self._delete(before, change, message, now, mapped=True)
        if self._id_at is not None and deleted[self._id_at] == row[self._id_at]:
            deleted = self._renamed(deleted, "/deleted")
        return [deleted, row]

    def _moved(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
        """Whether an update gave the row to another entity; where ``before`` says nothing, no."""
        for key in self._keys:
            old = nested(before, key.field, key.path)
            if old is not None and old != nested(after, key.field, key.path):
                return True
        return False

    def _delete(
        self,
        fields: Fields,
        change: debezium.Change,
        message: Message,
        now: datetime,
        *,
        mapped: bool = False,
    ) -> Row:
        """The row that ends a value, at the time of the change."""
        if self.stream.table.deleted is None:
            raise RejectedError(
                Reason.ENVELOPE,
                "a row was deleted, or given another key, and the table has no column for it "
                "(tag deleted)",
            )
        if not mapped:
            fields = self._mapped(fields)
        fields = {
            k: v for k, v in fields.items() if k not in (self._time.path[0], self._time.field)
        }
        return self._build_deleted(fields, message, now, change.at)

    def _numbered(self, row: Row, message: Message, number: int) -> Row:
        """A message's several rows that were named by its place: the place is not enough."""
        if number and self._id_at is not None and row[self._id_at] == message.position:
            return self._renamed(row, f"#{number}")
        return row

    def _renamed(self, row: Row, suffix: str) -> Row:
        assert self._id_at is not None
        if not self._id_is_text:
            raise RejectedError(
                Reason.ENVELOPE, "the update changes the key, and its two rows have one id"
            )
        return (*row[: self._id_at], f"{row[self._id_at]}{suffix}", *row[self._id_at + 1 :])

    def _converted(self, fields: Fields) -> Fields:
        assert self._convert is not None
        try:
            found = self._convert(fields)
        except Exception as error:  # noqa: BLE001 - the repository's own function
            raise _failed("convert", error) from None
        if type(found) is not dict:
            raise RejectedError(Reason.DECODER, _NO_FIELDS)
        return found

    def _function(self, tag: str, path: str | None) -> Callable[..., Any] | None:
        return load_hook(self.stream.name, tag, path) if path else None


def _failed(tag: str, error: Exception) -> RejectedError:
    """A hook's failure: its class alone, for the text may repeat the message."""
    return RejectedError(Reason.DECODER, f"{tag} raised {type(error).__name__}")


def _listed(found: Any) -> list[Any]:
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def _format(stream: EventStream, registry: SchemaRegistry | None, *, plain: bool) -> Format:
    declared = stream.message_format
    if isinstance(declared, FeastJson):
        return JsonFormat(
            stream.name, declared.schema_json, numbers="float" if plain else "decimal"
        )
    if isinstance(declared, FeastAvro):
        named = registry or SchemaRegistry.of(stream.registry_url)
        return AvroFormat(stream.name, declared.schema_json, named)
    if isinstance(declared, FeastProtobuf):
        return ProtobufFormat(stream.name, declared.class_path)
    raise DefinitionError(
        f"The stream {stream.name} has no format that is read here: set its message_format to a "
        "JsonFormat, AvroFormat or ProtoFormat, or name a function (tag decoder)."
    )
