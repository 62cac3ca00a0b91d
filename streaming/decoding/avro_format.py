"""Avro messages: the declared schema, or Confluent's wire format with a schema registry.

Values keep what the schema says of them and no more: times stay numbers with their unit
(`EpochTime`), so that a number that is no time of its unit is refused by name.
"""

import io
import json
import struct
from collections.abc import Callable
from datetime import date
from typing import Any

import fastavro
import fastavro._read_py  # the reader in Python: it has a bound on recursion
from fastavro.schema import SchemaParseException

from extensions.errors import DefinitionError, SkewlessError
from streaming.decoding.connect_types import Reader, semantic_reader
from streaming.decoding.epochs import EpochTime
from streaming.decoding.schema_registry import SchemaRegistry
from streaming.kafka.message_decoder import Reason, RejectedError

# Read here and not by fastavro, which loses the unit, or the case of a UUID's text.
_UNITS = {"millis": "ms", "micros": "us", "nanos": "ns"}
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_OWN = "skewless.logicalType"
_HEADER = struct.Struct(">bI")

Plan = tuple[Any, Any, Callable[..., Any], Reader | None]


class AvroFormat:
    """Reads records; with a registry each message names its writer's schema by number.

    Args:
        stream: The stream's name, for messages.
        schema_json: The declared (reader's) schema. With a registry it may be empty: then each
            message is read by its writer's schema.
        registry: None: messages are bare Avro, written with the declared schema.

    Raises:
        DefinitionError: the declared schema is none, or there is neither a schema nor a registry.
    """

    def __init__(self, stream: str, schema_json: str, registry: SchemaRegistry | None) -> None:
        self._registry = registry
        self._declared: Any = None
        if schema_json.strip():
            try:
                self._declared = _prepared(json.loads(schema_json), {})
                self._bare = _plan(self._declared, None)
            except Exception as error:
                raise DefinitionError(
                    f"The Avro schema of the stream {stream} cannot be used "
                    f"({type(error).__name__}): {_first_line(error)}."
                ) from error
        elif registry is None:
            raise DefinitionError(
                f"The stream {stream} reads Avro: declare its schema (schema_json), or name a "
                "schema registry (tag schema_registry)."
            )
        self._plans: dict[int, Plan] = {}

    def read(self, value: bytes) -> dict[str, Any]:
        """A message's fields.

        Raises:
            RejectedError: the bytes do not fit the schema, or the registry has no such schema.
            SkewlessError: the registry cannot be asked now, or refuses to answer.
        """
        if self._registry is None:
            return _read(value, 0, self._bare)
        if len(value) < _HEADER.size or value[0] != 0:
            raise RejectedError(
                Reason.NOT_AVRO, "the bytes do not begin with Confluent's header of 5 bytes"
            )
        number = _HEADER.unpack_from(value)[1]
        plan = self._plans.get(number)
        if plan is None:
            plan = self._plans[number] = self._writers(number, self._registry)
        return _read(value, _HEADER.size, plan)

    def _writers(self, number: int, registry: SchemaRegistry) -> Plan:
        schema = registry.schema(number)
        if schema.kind != "AVRO":
            raise RejectedError(Reason.UNKNOWN_SCHEMA, f"schema {number} is no Avro schema")
        named: dict[str, Any] = {}
        try:
            for text in schema.references:
                _prepared(json.loads(text), named)
            writer = _prepared(json.loads(schema.text), named)
            return _plan(writer, self._declared)
        except (RejectedError, SkewlessError):
            raise
        except Exception as error:  # noqa: BLE001 - anything may stand there
            raise RejectedError(
                Reason.UNKNOWN_SCHEMA, f"schema {number} cannot be used ({type(error).__name__})"
            ) from None


def _read(value: bytes, begin: int, plan: Plan) -> dict[str, Any]:
    writer, reader, read, semantics = plan
    stream = io.BytesIO(value)
    stream.seek(begin)
    try:
        found = read(stream, writer, reader)
        left = len(value) - stream.tell()
        if semantics is not None and not left:
            found = semantics(found)
    # A library with bytes from anywhere: whatever it raises, the bytes are at fault.
    except Exception as error:  # noqa: BLE001
        raise RejectedError(
            Reason.NOT_AVRO, f"the bytes do not fit the schema ({type(error).__name__})"
        ) from None
    if left:
        raise RejectedError(Reason.NOT_AVRO, f"{left} bytes are left behind the record")
    if not isinstance(found, dict):
        raise RejectedError(Reason.NOT_AN_OBJECT, "the schema is not of a record")
    return found


def _prepared(schema: Any, named: dict[str, Any]) -> Any:
    parsed = fastavro.parse_schema(_without_times(schema), named_schemas=named)
    if _empty_items(parsed, named, set()):
        raise SchemaParseException("it has an array of items that take no bytes")
    return parsed


def _plan(writer: Any, reader: Any) -> Plan:
    """How messages of a writer's schema are read.

    fastavro's compiled reader has no bound on recursion, and a list that is deep enough ends the
    process: schemas that contain themselves are read by the one in Python.
    """
    if reader is not None:
        _same_semantics(writer, reader, "")
    recursive = _recursive(writer, set(), frozenset()) or _recursive(reader, set(), frozenset())
    module = fastavro._read_py if recursive else fastavro  # noqa: SLF001
    seen: dict[str, Any] = {}
    semantics = None if recursive else _semantics(reader if reader is not None else writer, seen)
    return writer, reader, module.schemaless_reader, semantics


def _without_times(schema: Any) -> Any:
    """The schema with the logical types that are read here under a name of our own."""
    if isinstance(schema, list):
        return [_without_times(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: _without_times(value) if key in ("type", "items", "values", "fields") else value
        for key, value in schema.items()
    }
    logical = found.get("logicalType")
    if isinstance(logical, str) and (
        logical.rpartition("-")[0] in ("timestamp", "local-timestamp")
        or logical == "date"
        or (logical == "uuid" and found.get("type") == "string")
    ):
        found[_OWN] = found.pop("logicalType")
    return found


def _semantics(schema: Any, seen: dict[str, Any]) -> Reader | None:  # noqa: PLR0911 - by kind
    """A function that completes a decoded value by what its schema says; None: it is complete."""
    if isinstance(schema, str):
        return seen.get(schema)
    if isinstance(schema, list):
        branches = [part for each in schema if (part := _semantics(each, seen))]
        if not branches:
            return None
        if len([each for each in schema if each != "null"]) > 1:
            # Which branch it was is not told by the value.
            raise SchemaParseException("a union of several types, of which one is a time")
        branch = branches[0]
        return lambda value: None if value is None else branch(value)
    if not isinstance(schema, dict):
        return None
    own = _of_logical(schema.get(_OWN)) or semantic_reader(
        schema.get("connect.name"), _parameters(schema)
    )
    kind = schema.get("type")
    if own is not None:
        return own
    if kind in ("record", "error"):
        steps = [
            (each["name"], step)
            for each in schema["fields"]
            if (step := _semantics(each["type"], seen)) is not None
        ]
        complete = _of_record(steps) if steps else None
        seen[schema["name"]] = complete
        return complete
    inner = schema.get("items", schema.get("values"))
    if kind in ("array", "map") and (step := _semantics(inner, seen)) is not None:
        if kind == "array":
            return lambda value: [step(each) for each in value]
        return lambda value: {name: step(each) for name, each in value.items()}
    return _semantics(kind, seen) if isinstance(kind, dict | list) else None


def _of_record(steps: list[tuple[str, Reader]]) -> Reader:
    def complete(value: Any) -> Any:
        for name, step in steps:
            value[name] = step(value[name])
        return value

    return complete


def _of_logical(logical: str | None) -> Reader | None:
    if logical is None or logical == "uuid":
        return None
    if logical == "date":
        return lambda value: date.fromordinal(_EPOCH_DAY + value)
    kind, _, unit = logical.rpartition("-")
    if unit not in _UNITS:
        return None
    name: Any = _UNITS[unit]
    zoned = kind == "timestamp"
    return lambda value: EpochTime(value, name, zoned)


def _parameters(schema: dict[str, Any]) -> dict[str, str]:
    found = schema.get("connect.parameters")
    return found if isinstance(found, dict) else {}


def _same_semantics(writer: Any, reader: Any, path: str) -> None:
    """Refuse a writer whose numbers would be read in another unit: Avro resolves bare types."""
    writer, reader = _one(writer), _one(reader)
    if not (isinstance(writer, dict) and isinstance(reader, dict)):
        writer = writer if isinstance(writer, dict) else {}
        reader = reader if isinstance(reader, dict) else {}
    told = ("scale", _OWN, "logicalType")
    if writer.get("fields") is None and reader.get("fields") is None:
        mine = [writer.get(key) for key in told]
        if mine != [reader.get(key) for key in told] and any(
            each.get(_OWN) or each.get("logicalType") for each in (writer, reader)
        ):
            raise RejectedError(
                Reason.UNKNOWN_SCHEMA, f"{path} has another unit or scale in the writer's schema"
            )
    written = {each["name"]: each["type"] for each in writer.get("fields", ())}
    for each in reader.get("fields", ()):
        if each["name"] in written:
            inner = f"{path}.{each['name']}" if path else each["name"]
            _same_semantics(written[each["name"]], each["type"], inner)


def _one(schema: Any) -> Any:
    """A union's one type beside null."""
    if isinstance(schema, list):
        others = [each for each in schema if each != "null"]
        return others[0] if len(others) == 1 else None
    return schema


def _children(schema: Any) -> list[Any]:
    if isinstance(schema, list):
        return schema
    if not isinstance(schema, dict):
        return []
    found = [each["type"] for each in schema.get("fields", ())]
    return found + [schema[key] for key in ("items", "values", "type") if key in schema]


def _recursive(schema: Any, done: set[str], inside: frozenset[str]) -> bool:
    """Whether a record contains itself: a name that is used within its own definition."""
    if isinstance(schema, str):
        return schema in inside
    if isinstance(schema, dict) and schema.get("type") in ("record", "error"):
        inside |= {schema["name"]}
    return any(_recursive(each, done, inside) for each in _children(schema))


def _empty_items(schema: Any, named: dict[str, Any], inside: set[str]) -> bool:
    """Whether some array's items take no bytes: four bytes would ask for a billion of them."""
    if isinstance(schema, dict):
        if schema.get("type") == "array" and _no_bytes(schema["items"], named, frozenset()):
            return True
        name = schema.get("name")
        if name in inside:
            return False
        inside |= {name} if name else set()
    return any(_empty_items(each, named, inside) for each in _children(schema))


def _no_bytes(schema: Any, named: dict[str, Any], inside: frozenset[str]) -> bool:
    if isinstance(schema, str):
        if schema in named and schema not in inside:
            return _no_bytes(named[schema], named, inside | {schema})
        return schema == "null"
    if not isinstance(schema, dict):
        return False
    if schema.get("type") in ("record", "error"):
        return all(_no_bytes(each["type"], named, inside) for each in schema["fields"])
    return schema.get("type") == "null" or (schema.get("type"), schema.get("size")) == ("fixed", 0)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
