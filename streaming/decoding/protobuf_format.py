"""Protobuf messages: a generated class of the repository's, with or without Confluent's header."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from extensions.errors import DefinitionError
from streaming.decoding.epochs import EpochTime
from streaming.decoding.hooks import load_hook
from streaming.kafka.message_decoder import Reason, RejectedError

_SCHEMA_ID_BYTES = 4
_MOST_INDEXES = 32
_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
_JSON = frozenset(f"google.protobuf.{kind}" for kind in ("Struct", "Value", "ListValue"))

Get = Callable[[Any], Any]


class ProtobufFormat:
    """Reads messages of one class into dicts by the fields' names in the ``.proto``.

    A field that knows its presence (``optional``, a message, a oneof) and is not set is None;
    another one has its zero. Enums are their names, bytes are bytes, maps are dicts;
    ``Timestamp`` is a time, ``Duration`` a timedelta, wrappers are their values or None.

    Raises:
        DefinitionError: the path names no generated class.
    """

    def __init__(self, stream: str, class_path: str) -> None:
        self._class: Any = load_hook(stream, "Protobuf class", class_path)
        descriptor = getattr(self._class, "DESCRIPTOR", None)
        if not isinstance(descriptor, Descriptor):
            raise DefinitionError(
                f"The stream {stream} names {class_path} as its Protobuf class: it is no message "
                "class that protoc made."
            )
        self._indexes = _indexes(descriptor)
        self._fields = _message_reader(descriptor, {})

    def read(self, value: bytes) -> dict[str, Any]:
        """A message's fields.

        Raises:
            RejectedError: the bytes are no message of the class.
        """
        # A bare message never begins with 0: that would be a field of the number 0.
        if value[:1] == b"\0":
            value = value[self._header(value) :]
        try:
            message = self._class.FromString(value)
            if not message.IsInitialized():
                raise RejectedError(Reason.MISSING_FIELD, "a required field is missing")
            found: dict[str, Any] = self._fields(message)
        except RejectedError:
            raise
        # A library with bytes from anywhere: whatever it raises, the bytes are at fault.
        except Exception as error:  # noqa: BLE001
            raise RejectedError(
                Reason.NOT_PROTOBUF, f"the bytes are no such message ({type(error).__name__})"
            ) from None
        return found

    def _header(self, value: bytes) -> int:
        """The length of Confluent's header, which names the message within its file."""
        at = 1 + _SCHEMA_ID_BYTES
        count, at = _zigzag(value, at)
        if not 0 <= count <= _MOST_INDEXES:
            raise _no_header()
        indexes = []
        for _ in range(count):
            index, at = _zigzag(value, at)
            indexes.append(index)
        if (indexes or [0]) != self._indexes:
            raise RejectedError(
                Reason.UNKNOWN_SCHEMA, "it is another message of its file than the declared class"
            )
        return at


def _no_header() -> RejectedError:
    return RejectedError(Reason.NOT_PROTOBUF, "Confluent's header ends too early")


def _zigzag(value: bytes, at: int) -> tuple[int, int]:
    """A varint of Confluent's header, and the place behind it."""
    number = shift = 0
    for octet in value[at : at + 5]:
        number |= (octet & 0x7F) << shift
        shift += 7
        at += 1
        if octet < 0x80:
            return number >> 1 ^ -(number & 1), at
    raise _no_header()


def _indexes(descriptor: Descriptor) -> list[int]:
    """Where a message stands in its file: its index, after those of the messages around it."""
    around = descriptor.containing_type
    if around is not None:
        return [
            *_indexes(around),
            [each.name for each in around.nested_types].index(descriptor.name),
        ]
    file = FileDescriptorProto()
    descriptor.file.CopyToProto(file)
    return [[each.name for each in file.message_type].index(descriptor.name)]


def _message_reader(descriptor: Descriptor, known: dict[str, Get]) -> Get:
    """A function that makes a dict of a message; messages may contain themselves."""
    name = descriptor.full_name
    if name in known:
        return lambda message: known[name](message)  # noqa: PLW0108 - it is not there yet
    if name == "google.protobuf.Timestamp":
        return lambda value: EpochTime(value.seconds * 1_000_000 + value.nanos // 1_000, "us")
    if name == "google.protobuf.Duration":
        return lambda value: timedelta(seconds=value.seconds, microseconds=value.nanos // 1_000)
    if name in _WRAPPERS:
        return lambda value: value.value
    if name in _JSON:
        to_json: Get = json_format.MessageToDict
        return to_json
    steps: list[tuple[str, Get]] = []
    known[name] = lambda message: {field: get(message) for field, get in steps}
    steps.extend((field.name, _field_reader(field, known)) for field in descriptor.fields)
    return known[name]


def _field_reader(field: FieldDescriptor, known: dict[str, Get]) -> Get:
    name = field.name
    inner = _value_reader(field, known)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = _value_reader(field.message_type.fields_by_name["value"], known)
        return lambda message: {
            str(key): value(each) if value else each for key, each in getattr(message, name).items()
        }
    if field.is_repeated:
        return lambda message: [inner(each) if inner else each for each in getattr(message, name)]
    if field.has_presence:
        return lambda message: (
            (inner(getattr(message, name)) if inner else getattr(message, name))
            if message.HasField(name)
            else None
        )
    if inner:
        return lambda message: inner(getattr(message, name))
    return lambda message: getattr(message, name)


def _value_reader(field: FieldDescriptor, known: dict[str, Get]) -> Get | None:
    """What makes a plain value of a field's; None where it is plain already."""
    if field.message_type is not None:
        return _message_reader(field.message_type, known)
    if field.enum_type is not None:
        names = {number: each.name for number, each in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    return None
