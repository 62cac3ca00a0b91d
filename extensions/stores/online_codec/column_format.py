"""How one feature is stored in a packed row: kind, width, and payload as bytes."""

import struct
from dataclasses import dataclass

from feast import ValueType
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from extensions.feature_types import FEATURE_TYPES, value_field

LENGTH = struct.Struct("<I")
# `struct` letters of types with a negative zero, which no row holds.
FLOATS = "fd"


# Feast's wire types by how a row holds them: letter and field of `Value`, or the field alone.
_FIXED = [each for each in FEATURE_TYPES.values() if each.fixed]
_SCALARS = {each.value_type: (each.online, value_field(each.value_type)) for each in _FIXED}
_ARRAYS = {
    each.list_type: (each.online, value_field(each.list_type)) for each in _FIXED if each.list_type
}
_TEXTS = {
    each.value_type: value_field(each.value_type)
    for each in FEATURE_TYPES.values()
    if each.online == "text"
}
_BYTES = {each.value_type for each in FEATURE_TYPES.values() if each.online == "bytes"}


class AnotherLayoutError(Exception):
    """The row was written in another layout than the reader's, or is cut short."""


@dataclass(frozen=True)
class Column:
    """The format of one feature in a row.

    Attributes:
        name: The feature.
        value_type: Feast's type of it on the wire.
        kind: ``scalar``, ``array`` (of ``code``), ``text``, ``bytes``, or ``proto`` for
            everything else.
        code: The `struct` and numpy letter of a scalar, or of an array's elements.
        oneof: The field of Feast's ``Value`` that holds it; None for ``proto``.
    """

    name: str
    value_type: ValueType
    kind: str
    code: str
    oneof: str | None

    @classmethod
    def of(cls, name: str, value_type: ValueType) -> "Column":
        """The format of a feature of this type."""
        if value_type in _SCALARS:
            return cls(name, value_type, "scalar", *_SCALARS[value_type])
        if value_type in _ARRAYS:
            return cls(name, value_type, "array", *_ARRAYS[value_type])
        if value_type in _TEXTS:
            return cls(name, value_type, "text", "", _TEXTS[value_type])
        if value_type in _BYTES:
            return cls(name, value_type, "bytes", "", "bytes_val")
        return cls(name, value_type, "proto", "", None)

    @property
    def width(self) -> int:
        """Bytes in the fixed area: the scalar itself, or the length of the payload."""
        return struct.calcsize("<" + self.code) if self.kind == "scalar" else LENGTH.size


def encode_payload(column: Column, value: Value) -> bytes:
    """Encode a value that has no fixed width: an array, a text, bytes, or Feast's message."""
    if column.kind == "array":
        items = getattr(value, str(column.oneof)).val
        if column.code in FLOATS:
            items = [item + 0.0 for item in items]
        return struct.pack(f"<{len(items)}{column.code}", *items)
    if column.kind == "text":
        return str(getattr(value, str(column.oneof))).encode()
    if column.kind == "bytes":
        return bytes(value.bytes_val)
    return encode_message(value)


def encode_message(value: Value) -> bytes:
    """Encode Feast's message, with one zero."""
    folded = Value()
    folded.CopyFrom(value)
    _fold_zeros(folded)
    return bytes(folded.SerializeToString())


def _fold_zeros(message: Message) -> None:
    """Make negative zeros zeros, wherever in a message they are."""
    for field, held in message.ListFields():
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            if isinstance(held, float):
                setattr(message, field.name, held + 0.0)
            else:
                held[:] = [item + 0.0 for item in held]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            several = list(held.values()) if hasattr(held, "values") else held
            for each in [held] if isinstance(held, Message) else several:
                if isinstance(each, Message):
                    _fold_zeros(each)


def decode_message(column: Column, payload: bytes) -> Value:
    """Decode what `encode_payload` encoded.

    Raises:
        AnotherLayoutError: the length is no multiple of the element's.
    """
    if column.kind == "array":
        size = struct.calcsize("<" + column.code)
        if len(payload) % size:
            raise AnotherLayoutError
        items = struct.unpack(f"<{len(payload) // size}{column.code}", payload)
        value = Value()
        array = getattr(value, str(column.oneof))
        array.SetInParent()
        array.val.extend(items)
        return value
    if column.kind == "text":
        text = Value()
        setattr(text, str(column.oneof), payload.decode())
        return text
    if column.kind == "bytes":
        return Value(bytes_val=payload)
    message: Value = Value.FromString(payload)
    return message
