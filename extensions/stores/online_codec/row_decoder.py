"""Vectorized decoder: packed rows to columns of numpy arrays and dictionary-coded texts."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from extensions.feature_types import NUMPY_TYPES
from extensions.stores.online_codec import row_format as rows
from extensions.stores.online_codec.coded_columns import Coded, Integers, Values
from extensions.stores.online_codec.column_format import AnotherLayoutError
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.online_codec.section_index import overlapping_records
from extensions.stores.online_codec.variable_length_decoder import (
    decode_payload,
    decode_payloads,
    put_values,
)

# Fingerprint and flags, with one byte that follows; no row is shorter than with its event time.
_START = np.dtype("<u4")
_LEAST = rows.START.size + 7


@dataclass(frozen=True)
class Block:
    """Decoded features of one view for n entities.

    Attributes:
        columns: n values by feature; the default where ``present`` is False.
        present: Whether an entity has a row that counts, shape (n,).
        events: Event times in microseconds since 1970, shape (n,); 0 without a row.
    """

    columns: dict[str, Values]
    present: NDArray[np.bool_]
    events: Integers


@dataclass(frozen=True)
class Decoder:
    """Decodes the rows of one view version.

    Attributes:
        layout: Their format.
        defaults: Default values by feature; None is null.
        ttl: Rows older than this (microseconds) count as missing; None: none does.
        ahead: Rows further in the future than this (microseconds) count as missing.
    """

    layout: Layout
    defaults: dict[str, Any]
    ttl: int | None = None
    ahead: int | None = None

    @cached_property
    def signature(self) -> str:
        """A key that differs where layout or defaults differ."""
        defaults = {name: str(value) for name, value in self.defaults.items()}
        return f"{self.layout.view}:{self.layout.columns}:{sorted(defaults.items())}"

    def block(self, buffer: bytes, at: Integers, size: Integers, now: int) -> Block:
        """Decode n rows.

        Args:
            buffer: The bytes of all rows.
            at: Where each row begins, shape (n,).
            size: Its length in bytes, shape (n,); 0: there is none.
            now: The time in microseconds, for ``ttl`` and ``ahead``.
        """
        n = len(at)
        columns, events, present = self._filled(n), np.zeros(n, np.int64), size > 0
        where = np.flatnonzero(present)
        if (short := size[where] < _LEAST).any():
            self._drop(where[short], present)
            where = where[~short]
        if not len(where):
            return Block(columns, present, events)
        starts = overlapping_records(buffer, _START)[at[where]] & 0xFFFFFF
        alike = np.unique(starts).tolist() if (starts != starts[:1]).any() else starts[:1].tolist()
        for start in alike:
            members = where[starts == start] if len(alike) > 1 else where
            if start & 0xFFFF == self.layout.fingerprint:
                self._decode(start >> 16, members, buffer, at, size, columns, events, present)
            elif self.layout.earlier:
                self._one_by_one(members, buffer, at, size, columns, events, present)
            else:
                self._drop(members, present)
        if self.ttl is not None:
            self._default(np.flatnonzero(present & (events < now - self.ttl)), columns, present)
        if self.ahead is not None and events.max() > (latest := now + self.ahead):
            self._default(np.flatnonzero(events > latest), columns, present)
        return Block(columns, present, events)

    def alike(self, held: Sequence[bytes], now: int | None = None) -> Block | None:
        """A fast path for rows of scalars with equal flags, at a third of `block`'s cost.

        Returns:
            A row of defaults, then the rows given; None if they are not all alike.
        """
        size = len(held[0]) if held else 0
        if size < _LEAST or self.ttl is not None or set(map(len, held)) != {size}:
            return None
        flag = held[0][2]
        kind = None if flag & (rows.AS_PROTOS | rows.HAS_NULLS) else self._kind(flag)
        if kind is None or kind.itemsize != size or not self._scalars:
            return None
        table = np.frombuffer(b"".join(held), kind)
        if (table["start"] != rows.START.pack(self.layout.fingerprint, flag)).any():
            return None
        n = len(held) + 1
        columns = self._filled(n)
        for i, column in enumerate(columns.values()):
            column[1:] = table[f"{i}"]  # type: ignore[index] # an array
        events, present = np.zeros(n, np.int64), np.ones(n, np.bool_)
        events[1:] = _events(table, flag)
        present[0] = False
        if now is not None and self.ahead is not None and events.max() > now + self.ahead:
            return None
        return Block(columns, present, events)

    @cached_property
    def filled(self) -> bool:
        """Whether no feature is null where there is no row."""
        return all(default is not None for default in self.defaults.values())

    @cached_property
    def _scalars(self) -> bool:
        """Whether all columns are numbers, and none of the defaults is null."""
        kinds = {column.kind for column in self.layout.columns}
        return kinds == {"scalar"} and None not in map(self.defaults.get, self.layout.names)

    def one(  # noqa: PLR0911 - each way in which a row does not count ends here
        self, row: bytes | None, now: int
    ) -> tuple[dict[str, Any], int | None]:
        """Decode one row: features and event time; (defaults, None) where it does not count."""
        if row is None:
            return self.defaults, None
        try:
            event, _, at = self.layout.times(row)
            if self.ahead is not None and event > now + self.ahead:
                return self.defaults, None
            flags = row[2]
            of_another = self.layout.earlier and not self._own(row)
            if of_another or flags & (rows.AS_PROTOS | rows.HAS_NULLS):
                block = self.block(row, np.zeros(1, np.int64), np.array([len(row)]), now)
                values = {name: column[0] for name, column in block.columns.items()}
                return values, event if block.present[0] else None
            fixed = self.layout.fixed(flags)
            slots = fixed.unpack_from(row, at)
        except (AnotherLayoutError, IndexError, struct.error):
            self.layout.refuse()
            return self.defaults, None
        if self.ttl is not None and event < now - self.ttl:
            return self.defaults, None
        at += fixed.size
        values = {}
        try:
            for column, slot in zip(self.layout.columns, slots, strict=True):
                if column.kind == "scalar":
                    values[column.name] = np.float32(slot) if column.code == "f" else slot
                else:
                    values[column.name] = decode_payload(column, row[at : at + slot])
                    at += slot
        except (ValueError, DecodeError):  # cut short within a payload, or damaged
            at = -1
        if at != len(row):
            self.layout.refuse()
            return self.defaults, None
        return values, event

    def _own(self, row: bytes) -> bool:
        """Whether a row is of the layout itself, not of an earlier one."""
        return row[0] | row[1] << 8 == self.layout.fingerprint

    def _filled(self, n: int) -> dict[str, Values]:
        """Columns of n defaults."""
        filled: dict[str, Values] = {}
        for column in self.layout.columns:
            default = self.defaults.get(column.name)
            if column.kind == "scalar" and default is not None:
                held = filled[column.name] = np.empty(n, NUMPY_TYPES[column.code])
                held.fill(default)
            elif column.kind == "text":  # its first value is the default, whatever comes
                filled[column.name] = Coded(np.zeros(n, np.int64), [default])
            else:
                filled[column.name] = [default] * n
        return filled

    @cached_property
    def _kinds(self) -> dict[int, np.dtype[Any]]:
        """The cache of `_kind`."""
        return {}

    def _kind(self, flag: int) -> np.dtype[Any]:
        """The numpy record type of a row's fixed part under these flags; one field per column."""
        kind = self._kinds.get(flag)
        if kind is None:
            wide = flag & rows.WIDE_EVENT
            # Of seven bytes, see `_events`.
            fields: dict[str, tuple[Any, int]] = {"event": ("<i8", 3 if wide else 2)}
            fields["start"] = (f"S{rows.START.size}", 0)
            end = (
                rows.START.size + (8 if wide else 7) + rows.CREATED_WIDTH[flag & rows.CREATED_MASK]
            )
            if flag & rows.HAS_NULLS:
                fields["nulls"] = (("u1", (self.layout.null_bytes,)), end)
                end += self.layout.null_bytes
            for i, column in enumerate(self.layout.columns):
                if column.kind != "scalar":
                    code = np.dtype("u1" if flag & rows.SHORT else "<u4")
                elif column.code == "q":
                    code = NUMPY_TYPES[rows.INTS[flag >> rows.INT_WIDTH & 0b11][1]]
                else:
                    code = NUMPY_TYPES[column.code]
                fields[f"{i}"] = (code, end)
                end += code.itemsize
            kind = self._kinds[flag] = np.dtype(
                {
                    "names": list(fields),
                    "formats": [kind_ for kind_, _ in fields.values()],
                    "offsets": [place for _, place in fields.values()],
                    "itemsize": end,
                }
            )
        return kind

    def _decode(
        self,
        flag: int,
        members: Integers,
        buffer: bytes,
        at: Integers,
        size: Integers,
        columns: dict[str, Values],
        events: Integers,
        present: NDArray[np.bool_],
    ) -> None:
        """Decode rows with equal flags, whose fixed parts have one record type."""
        if flag & rows.AS_PROTOS:
            self._one_by_one(members, buffer, at, size, columns, events, present)
            return
        kind = self._kind(flag)
        length = size[members]
        if (short := length < kind.itemsize).any():
            self._drop(members[short], present)
            members, length = members[~short], length[~short]
        if not len(members):
            return
        start = at[members]
        table = overlapping_records(buffer, kind)[start]
        payloads = {
            i: table[f"{i}"].astype(np.int64)
            for i, column in enumerate(self.layout.columns)
            if column.kind != "scalar"
        }
        ends = sum(payloads.values(), np.int64(kind.itemsize))
        if not (right := length == ends).all():  # cut short, or something else
            self._drop(members[~right], present)
            self._decode(flag, members[right], buffer, at, size, columns, events, present)
            return
        events[members] = _events(table, flag)
        null = None
        if flag & rows.HAS_NULLS:
            bits = np.ascontiguousarray(table["nulls"])
            null = np.unpackbits(bits, axis=1, bitorder="little").astype(np.bool_)
        tail = start + kind.itemsize
        decoded: list[Any] = []
        try:
            for i, column in enumerate(self.layout.columns):
                if i not in payloads:
                    decoded.append(np.ascontiguousarray(table[f"{i}"]))
                    continue
                decoded.append(decode_payloads(column, buffer, tail, payloads[i]))
                tail = tail + payloads[i]
        except (ValueError, DecodeError):  # damaged bytes in some payload: only that row is missing
            self._one_by_one(members, buffer, at, size, columns, events, present)
            return
        for i, column in enumerate(self.layout.columns):
            empty = null[:, i] if null is not None else None
            put_values(columns, column.name, members, decoded[i], empty)

    def _one_by_one(
        self,
        members: Integers,
        buffer: bytes,
        at: Integers,
        size: Integers,
        columns: dict[str, Values],
        events: Integers,
        present: NDArray[np.bool_],
    ) -> None:
        """Decode rows singly: with Feast's messages, of earlier layouts, or perhaps damaged."""
        for i in members.tolist():
            row = buffer[at[i] : at[i] + size[i]]
            try:
                events[i] = self.layout.times(row)[0]
                values = self.layout.unpack(row)
            except AnotherLayoutError:
                events[i] = 0
                self._drop(np.array([i]), present)
                continue
            for name, value in values.items():
                kind = value.WhichOneof("val")
                plain: Any = None if kind is None else getattr(value, kind)
                held = columns[name]
                if not isinstance(held, list):
                    held = columns[name] = list(held)
                held[i] = list(plain.val) if hasattr(plain, "val") else plain

    def _default(
        self, members: Integers, columns: dict[str, Values], present: NDArray[np.bool_]
    ) -> None:
        """Put defaults in place of rows that are too old or from the future."""
        present[members] = False
        for name in columns if len(members) else ():
            default, column = self.defaults.get(name), columns[name]
            if isinstance(column, Coded):
                column.codes[members] = 0
                continue
            held = columns[name] = list(column) if default is None else column
            for i in members.tolist():
                held[i] = default

    def _drop(self, members: Integers, present: NDArray[np.bool_]) -> None:
        present[members] = False
        self._refuse(len(members))

    def _refuse(self, times: int) -> None:
        for _ in range(times):
            self.layout.refuse()


def _events(table: NDArray[Any], flag: int) -> Integers:
    """Event times; seven-byte ones are read as eight bytes from the flags on, and shifted."""
    events: Integers = table["event"]
    return events if flag & rows.WIDE_EVENT else events >> 8
