"""The packed row format: a view version's features and times as bytes (docs/online-layout.md)."""

import logging
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any

from feast.infra.online_stores.helpers import compute_versioned_name
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError

from extensions.stores.online_codec.column_format import (
    FLOATS,
    LENGTH,
    AnotherLayoutError,
    Column,
    decode_message,
    encode_message,
    encode_payload,
)
from extensions.stores.schema_history import Schema, earlier_schemas_of, parse_schemas, schema_of

logger = logging.getLogger(__name__)

FORMAT = 1

# The flags byte. How the created time follows the event time:
CREATED_ABSENT, CREATED_AT_EVENT, CREATED_SOON, CREATED_ABSOLUTE = range(4)
CREATED_MASK = 0b11
WIDE_EVENT = 0b100  # the event time takes 8 bytes instead of 7
HAS_NULLS = 0b1000  # a bitmap of null features follows the times
AS_PROTOS = 0b10000  # some value is not of its declared type: all are Feast's own messages
INT_WIDTH = 5  # two bits from here: 64-bit integers take 8, 4, 2 or 1 bytes in this row
SHORT = 0b10000000  # payloads' lengths take 1 byte instead of 4

# Bytes of the created time, by its form.
CREATED_WIDTH = (0, 0, 3, 8)
SOON = 1 << 24  # microseconds that three bytes hold: 16.7 seconds
NARROW = 1 << 55  # microseconds that seven signed bytes hold: the years 829 to 3111

LONG = 255  # in a section's byte for the length: the length follows in four
START = struct.Struct("<HB")  # fingerprint, flags
ABSOLUTE = struct.Struct("<q")
SHORTEST = START.size + 7  # a row has an event time at least

# Rows that were met in another layout than the reader's, by view version; for /metrics.
refused: Counter[str] = Counter()

# Width in bytes and letter of 64-bit integers, by the two bits at INT_WIDTH.
INTS = ((8, "q"), (4, "i"), (2, "h"), (1, "b"))


@dataclass(frozen=True)
class Layout:
    """The row format of one view version; columns are in order of name.

    Attributes:
        view: The view version's name.
        columns: The formats of its features.
        earlier: Layouts from before the view's schema changed. Features that still exist with
            the same type are read from rows in them.
    """

    view: str
    columns: tuple[Column, ...]
    earlier: tuple["Layout", ...] = ()

    @classmethod
    def of(cls, table: Any, *, versioning: bool) -> "Layout":
        """The layout of a Feast view's schema; ``versioning`` is the registry's setting."""
        return _layout(
            _versioned_name(table, versioning=versioning),
            schema_of(table),
            earlier_schemas_of(table),
        )

    @cached_property
    def tag(self) -> bytes:
        """The three bytes that begin this view version's section in an entity's value."""
        return blake2b(self.view.encode(), digest_size=3).digest()

    @cached_property
    def fingerprint(self) -> int:
        """A 16-bit hash of format, view and schema, with which each row begins."""
        schema = "|".join(f"{column.name}:{column.value_type.name}" for column in self.columns)
        text = f"{FORMAT}|{self.view}|{schema}".encode()
        return int.from_bytes(blake2b(text, digest_size=2).digest(), "little")

    @cached_property
    def kinds(self) -> str:
        """One letter per column, for the write scripts: the scalar's, or p for a payload."""
        return "".join(column.code if column.kind == "scalar" else "p" for column in self.columns)

    @cached_property
    def earlier_marks(self) -> tuple[bytes, ...]:
        """The first two bytes of rows in earlier layouts."""
        return tuple(layout.fingerprint.to_bytes(2, "little") for layout in self.earlier)

    @cached_property
    def by_fingerprint(self) -> Mapping[int, "Layout"]:
        """Earlier layouts, by their fingerprint."""
        return {layout.fingerprint: layout for layout in reversed(self.earlier)}

    def shared(self, older: "Layout") -> tuple[str, ...]:
        """The features that an earlier layout has with the same type."""
        return tuple(column.name for column in self.columns if column in older.columns)

    @cached_property
    def null_bytes(self) -> int:
        """Bytes of the bitmap of nulls, where a row has one."""
        return (len(self.columns) + 7) // 8

    @cached_property
    def _fixed(self) -> tuple[struct.Struct, ...]:
        forms = []
        for form in range(8):
            codes = {"q": INTS[form & 0b11][1]}
            length = "B" if form & 0b100 else "I"
            forms.append(
                struct.Struct(
                    "<"
                    + "".join(
                        codes.get(column.code, column.code) if column.kind == "scalar" else length
                        for column in self.columns
                    )
                )
            )
        return tuple(forms)

    def fixed(self, flags: int) -> struct.Struct:
        """The `struct` of the fixed area under these flags: scalars, and lengths of payloads."""
        return self._fixed[flags >> INT_WIDTH]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Feature names in the order of the columns."""
        return tuple(column.name for column in self.columns)

    def pack(self, values: Mapping[str, Value], event: int, created: int | None) -> bytes:
        """Pack one row; times are microseconds since 1970, and a missing feature is null."""
        held = [values.get(name) for name in self.names]
        kinds = [None if value is None else value.WhichOneof("val") for value in held]
        nulls = sum(1 << i for i, kind in enumerate(kinds) if kind is None)
        flags, times = pack_times(event, created)
        if nulls:
            flags |= HAS_NULLS
            times += nulls.to_bytes(self.null_bytes, "little")
        if any(
            kind is not None and column.oneof is not None and kind != column.oneof
            for kind, column in zip(kinds, self.columns, strict=True)
        ):
            payloads = [b"" if value is None else encode_message(value) for value in held]
            start = START.pack(self.fingerprint, flags | AS_PROTOS)
            lengths = b"".join(LENGTH.pack(len(payload)) for payload in payloads)
            return b"".join((start, times, lengths, *payloads))
        slots: list[Any] = []
        tail: list[bytes] = []
        widest = 0
        for column, value in zip(self.columns, held, strict=True):
            if column.kind == "scalar":
                slots.append(0 if value is None else getattr(value, str(column.oneof)))
                if column.code in FLOATS:
                    slots[-1] += 0.0
                if column.code == "q":
                    widest = max(widest, slots[-1] if slots[-1] >= 0 else ~slots[-1])
                continue
            payload = b"" if value is None else encode_payload(column, value)
            slots.append(len(payload))
            tail.append(payload)
        flags |= int_width(widest) | (SHORT if all(len(payload) < 256 for payload in tail) else 0)
        start = START.pack(self.fingerprint, flags)
        return b"".join((start, times, self.fixed(flags).pack(*slots), *tail))

    def header(self, length: int) -> bytes:
        """The section header (tag and length) of a row of this length."""
        if length < LONG:
            return self.tag + bytes((length,))
        return self.tag + bytes((LONG,)) + LENGTH.pack(length)

    def find(self, value: bytes) -> bytes | None:
        """Find this view version's row among the sections of a value; None where there is none."""
        at, size, tag = 0, len(value), self.tag
        try:
            while at < size:
                mine = value.startswith(tag, at)
                length = value[at + 3]
                at += 4
                if length == LONG:
                    [length] = LENGTH.unpack_from(value, at)
                    at += LENGTH.size
                if mine and at + length <= size:
                    return value[at : at + length]
                at += length
        except (IndexError, struct.error):  # cut short
            at = -1
        if at != size:
            self.refuse()
        return None

    def times(self, row: bytes) -> tuple[int, int | None, int]:
        """Read event time, created time, and the offset of what follows them.

        Raises:
            AnotherLayoutError: the row is neither of this layout nor of an earlier one.
        """
        if len(row) < SHORTEST:
            raise AnotherLayoutError
        mark = row[0] | row[1] << 8
        if mark != self.fingerprint and mark not in self.by_fingerprint:
            raise AnotherLayoutError
        return unpack_times(row)

    def unpack(self, row: bytes) -> dict[str, Value]:
        """Unpack a row's features; a null feature is an empty `Value`.

        A row in an earlier layout has no more than the features that it shares with this one.

        Raises:
            AnotherLayoutError: the row is of no known layout, cut short or damaged.
        """
        _, _, at = self.times(row)
        older = self.by_fingerprint.get(row[0] | row[1] << 8) if self.earlier else None
        if older is not None and older.fingerprint != self.fingerprint:
            held = older.unpack(row)
            return {name: held[name] for name in self.shared(older)}
        try:
            return self._values(row, at)
        except (UnicodeDecodeError, DecodeError) as error:
            raise AnotherLayoutError from error

    def _values(self, row: bytes, at: int) -> dict[str, Value]:
        flags = row[2]
        nulls = 0
        if flags & HAS_NULLS:
            nulls = int.from_bytes(row[at : at + self.null_bytes], "little")
            at += self.null_bytes
        try:
            if flags & AS_PROTOS:
                slots: tuple[Any, ...] = struct.unpack_from(f"<{len(self.columns)}I", row, at)
                at += LENGTH.size * len(self.columns)
            else:
                fixed = self.fixed(flags)
                slots = fixed.unpack_from(row, at)
                at += fixed.size
        except struct.error as error:
            raise AnotherLayoutError from error
        payloads = [
            slot
            for column, slot in zip(self.columns, slots, strict=True)
            if flags & AS_PROTOS or column.kind != "scalar"
        ]
        if at + sum(payloads) != len(row):  # before a payload that is cut short is parsed
            raise AnotherLayoutError
        values = {}
        for i, (column, slot) in enumerate(zip(self.columns, slots, strict=True)):
            payload = b""
            if flags & AS_PROTOS or column.kind != "scalar":
                payload = row[at : at + slot]
                at += slot
            if nulls >> i & 1:
                values[column.name] = Value()
            elif flags & AS_PROTOS:
                values[column.name] = Value.FromString(payload)
            elif column.kind == "scalar":
                values[column.name] = Value(**{str(column.oneof): slot})
            else:
                values[column.name] = decode_message(column, payload)
        return values

    def refuse(self) -> None:
        """Count a row that cannot be read (`refused`); the first of a view is also logged."""
        if not refused[self.view]:
            logger.warning(
                "Rows of %s in Redis have another layout and count as missing: "
                "run `skewless rebuild-online --view %s`.",
                self.view,
                self.view,
            )
        refused[self.view] += 1


def _versioned_name(table: Any, *, versioning: bool) -> str:
    """``view_vN`` as Feast names it, also where Feast's copy of a view forgot its number.

    A view that an on-demand view reads is copied without ``current_version_number``; what is
    left of the version is the one that the view pins.
    """
    name: str = compute_versioned_name(table, versioning)
    if not versioning or name != table.name or table.projection.version_tag is not None:
        return name
    if getattr(table, "current_version_number", None) is None:
        pinned = re.fullmatch(r"v([1-9]\d*)", str(getattr(table, "version", "")))
        if pinned:
            return f"{name}_v{pinned.group(1)}"
    return name


@lru_cache(maxsize=1024)
def _layout(view: str, schema: Schema, earlier: str) -> Layout:
    return Layout(
        view,
        _columns(schema),
        tuple(Layout(view, _columns(each)) for each in parse_schemas(earlier) if each != schema),
    )


def _columns(schema: Schema) -> tuple[Column, ...]:
    return tuple(Column.of(name, value_type) for name, value_type in schema)


def int_width(widest: int) -> int:
    """The flags for the width of 64-bit integers, by the largest of n or ~n (for negative n)."""
    return sum(widest < 1 << bits for bits in (31, 15, 7)) << INT_WIDTH


def pack_times(event: int, created: int | None) -> tuple[int, bytes]:
    """Encode the times; returns the flags of their form, and the bytes."""
    wide = not -NARROW <= event < NARROW
    flags = WIDE_EVENT if wide else 0
    times = event.to_bytes(8 if wide else 7, "little", signed=True)
    if created is None:
        return flags | CREATED_ABSENT, times
    if created == event:
        return flags | CREATED_AT_EVENT, times
    if 0 < created - event < SOON:
        return flags | CREATED_SOON, times + (created - event).to_bytes(3, "little")
    return flags | CREATED_ABSOLUTE, times + ABSOLUTE.pack(created)


def unpack_times(row: bytes) -> tuple[int, int | None, int]:
    """Decode event time, created time (None: absent), and the offset of what follows them."""
    flags = row[2]
    at = START.size + (8 if flags & WIDE_EVENT else 7)
    event = int.from_bytes(row[START.size : at], "little", signed=True)
    form = flags & CREATED_MASK
    if form == CREATED_ABSENT:
        return event, None, at
    if form == CREATED_AT_EVENT:
        return event, event, at
    if form == CREATED_SOON:
        return event, event + int.from_bytes(row[at : at + 3], "little"), at + 3
    return event, int.from_bytes(row[at : at + 8], "little", signed=True), at + 8
