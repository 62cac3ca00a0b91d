"""From packed rows to columns: whole columns at a time, whatever the number of entities."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from numpy.typing import NDArray

from extensions.serving.columns import Coded, Integers, Values
from extensions.stores.online import layout as rows
from extensions.stores.online.layout import AnotherLayoutError, Column, Layout

_NUMPY = {"?": "?", "i": "<i4", "q": "<i8", "f": "<f4", "d": "<f8", "h": "<i2", "b": "i1"}


@dataclass(frozen=True)
class Block:
    """One view's columns for n entities; defaults stand where ``present`` is False.

    ``events``: as-of times in microseconds, 0 where there is no row.
    """

    columns: dict[str, Values]
    present: NDArray[np.bool_]
    events: Integers


@dataclass(frozen=True)
class Decoder:
    """Reads one view version's rows. ``defaults`` by feature; None stands for null.

    ``ttl``: rows whose event time lies further back than this (microseconds) are missing.
    """

    layout: Layout
    defaults: dict[str, Any]
    ttl: int | None = None

    @cached_property
    def signature(self) -> str:
        """Differs where layout or defaults differ."""
        defaults = {name: str(value) for name, value in self.defaults.items()}
        return f"{self.layout.view}:{self.layout.columns}:{sorted(defaults.items())}"

    def block(self, buffer: bytes, at: Integers, size: Integers, now: int) -> Block:
        """Rows that lie in ``buffer`` at ``at``, of ``size`` bytes each; size 0 has no row."""
        n = len(at)
        octets = np.frombuffer(buffer, np.uint8)
        events = np.zeros(n, np.int64)
        present = size >= rows.START.size
        if not present.any():
            return self._empty(n)
        where = np.flatnonzero(present)
        start = at[where]
        prints = octets[start].astype(np.int64) | octets[start + 1].astype(np.int64) << 8
        other = where[prints != self.layout.fingerprint]
        if len(other):
            present[other] = False
            self._refuse(len(other))
            where = np.flatnonzero(present)
        found: dict[str, Values] = self._filled(n)
        flags = octets[at[where] + 2]
        for flag in np.unique(flags).tolist():
            self._decode(
                flag, where[flags == flag], buffer, octets, at, size, found, events, present
            )
        if self.ttl is not None:
            self._expire(found, present, events, now)
        return Block(found, present, events)

    def one(self, row: bytes | None, now: int) -> tuple[dict[str, Any], int | None]:
        """One entity's features as they go into a reply, and their as-of time; None: defaults."""
        if row is None:
            return self.defaults, None
        try:
            event, _, at = self.layout.times(row)
            flags = row[2]
            if flags & (rows.AS_PROTOS | rows.HAS_NULLS):
                block = self.block(row, np.zeros(1, np.int64), np.array([len(row)]), now)
                return {name: column[0] for name, column in block.columns.items()}, event
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
                    values[column.name] = _payload(column, row[at : at + slot])
                    at += slot
        except ValueError:  # cut short within a payload
            at = -1
        if at != len(row):
            self.layout.refuse()
            return self.defaults, None
        return values, event

    def _empty(self, n: int) -> Block:
        return Block(self._filled(n), np.zeros(n, np.bool_), np.zeros(n, np.int64))

    def _filled(self, n: int) -> dict[str, Values]:
        """Columns that hold defaults alone."""
        filled: dict[str, Values] = {}
        for column in self.layout.columns:
            default = self.defaults.get(column.name)
            if column.kind == "scalar" and default is not None:
                filled[column.name] = np.full(n, default, _NUMPY[column.code])
            elif column.kind == "text":  # its first value is the default, whatever comes
                filled[column.name] = Coded(np.zeros(n, np.int64), [default])
            else:
                filled[column.name] = [default] * n
        return filled

    def _decode(
        self,
        flag: int,
        members: Integers,
        buffer: bytes,
        octets: NDArray[np.uint8],
        at: Integers,
        size: Integers,
        found: dict[str, Values],
        events: Integers,
        present: NDArray[np.bool_],
    ) -> None:
        """Rows that share their flags share the places of all that is fixed."""
        wide = 8 if flag & rows.WIDE_EVENT else 7
        created = rows.CREATED_WIDTH[flag & rows.CREATED_MASK]
        nulls = self.layout.null_bytes if flag & rows.HAS_NULLS else 0
        head = rows.START.size + wide + created + nulls
        if not len(members):
            return
        if flag & rows.AS_PROTOS:
            self._one_by_one(members, buffer, at, size, found, events, present)
            return
        fixed = self.layout.fixed(flag)
        whole = members[size[members] >= head + fixed.size]
        if len(whole) < len(members):
            self._drop(np.setdiff1d(members, whole), present)
            members = whole
        start = at[members]
        block = octets[(start + head)[:, None] + np.arange(fixed.size)]
        slots = self._slots(flag, block)
        payloads = [slot for slot, kind in slots if kind != "scalar"]
        ends = head + fixed.size + sum(payloads, np.zeros(len(members), np.int64))
        if not (right := ends == size[members]).all():  # cut short, or something else
            self._drop(members[~right], present)
            self._decode(flag, members[right], buffer, octets, at, size, found, events, present)
            return
        times = np.zeros((len(members), 8), np.uint8)
        times[:, :wide] = octets[start[:, None] + np.arange(3, 3 + wide)]
        if wide == 7:
            times[:, 7] = np.where(times[:, 6] & 0x80, 0xFF, 0)
        events[members] = times.view("<i8")[:, 0]
        null = None
        if nulls:
            bits = octets[(start + head - nulls)[:, None] + np.arange(nulls)]
            null = np.unpackbits(bits, axis=1, bitorder="little").astype(np.bool_)
        tail = start + head + fixed.size
        for i, (column, (slot, kind)) in enumerate(zip(self.layout.columns, slots, strict=True)):
            empty = null[:, i] if null is not None else None
            if kind == "scalar":
                _put(found, column.name, members, slot, empty)
                continue
            _put(found, column.name, members, _payloads(column, buffer, tail, slot), empty)
            tail = tail + slot

    def _slots(self, flag: int, block: NDArray[np.uint8]) -> list[tuple[NDArray[Any], str]]:
        """The fixed area's columns: scalars, and the lengths of payloads."""
        slots: list[tuple[NDArray[Any], str]] = []
        offset = 0
        for column in self.layout.columns:
            if column.kind != "scalar":
                kind = np.dtype("u1" if flag & rows.SHORT else "<u4")
            elif column.code == "q":
                kind = np.dtype(_NUMPY[rows.INTS[flag >> rows.INT_WIDTH & 0b11][1]])
            else:
                kind = np.dtype(_NUMPY[column.code])
            part = np.ascontiguousarray(block[:, offset : offset + kind.itemsize])
            slot = part.view(kind)[:, 0]
            slots.append((slot if column.kind == "scalar" else slot.astype(np.int64), column.kind))
            offset += kind.itemsize
        return slots

    def _one_by_one(
        self,
        members: Integers,
        buffer: bytes,
        at: Integers,
        size: Integers,
        found: dict[str, Values],
        events: Integers,
        present: NDArray[np.bool_],
    ) -> None:
        """Rows that hold Feast's own messages: values of other types than declared."""
        for i in members.tolist():
            row = buffer[at[i] : at[i] + size[i]]
            try:
                events[i] = self.layout.times(row)[0]
                values = self.layout.unpack(row)
            except AnotherLayoutError:
                self._drop(np.array([i]), present)
                continue
            for name, value in values.items():
                kind = value.WhichOneof("val")
                plain: Any = None if kind is None else getattr(value, kind)
                held = found[name] = list(found[name])
                held[i] = list(plain.val) if hasattr(plain, "val") else plain

    def _expire(
        self, found: dict[str, Values], present: NDArray[np.bool_], events: Integers, now: int
    ) -> None:
        assert self.ttl is not None  # the caller asked
        old = np.flatnonzero(present & (events < now - self.ttl))
        present[old] = False
        for name in found if len(old) else ():
            default, column = self.defaults.get(name), found[name]
            if isinstance(column, Coded):
                column.codes[old] = 0
                continue
            held = found[name] = list(column) if default is None else column
            for i in old.tolist():
                held[i] = default

    def _drop(self, members: Integers, present: NDArray[np.bool_]) -> None:
        present[members] = False
        self._refuse(len(members))

    def _refuse(self, times: int) -> None:
        for _ in range(times):
            self.layout.refuse()


# Behind the last value, so that a header which is cut short can be looked at.
_BEYOND = bytes(8)


def sections(
    values: Sequence[bytes | None], layouts: Sequence[Layout]
) -> tuple[bytes, list[tuple[Integers, Integers]]]:
    """Where each view's row lies in entities' values: the joined bytes, and (at, size) per view.

    A value that is cut short ends where it ends: nothing is read of the next entity's.
    """
    lengths = np.array([0 if value is None else len(value) for value in values], np.int64)
    buffer = b"".join([*[value for value in values if value], _BEYOND])
    ends = np.cumsum(lengths)
    at = ends - lengths
    octets = np.frombuffer(buffer, np.uint8)
    tags = [int.from_bytes(layout.tag, "little") for layout in layouts]
    found = [(np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)) for _ in layouts]
    active = np.flatnonzero(lengths)
    at = at[active]
    while len(active):
        four = octets[at[:, None] + np.arange(4)].astype(np.int64)
        tag = four[:, 0] | four[:, 1] << 8 | four[:, 2] << 16
        size, at = four[:, 3], at + 4
        if (long := size == rows.LONG).any():
            spread = octets[at[long][:, None] + np.arange(4)]
            size[long] = np.ascontiguousarray(spread).view("<u4")[:, 0]
            at = at + np.where(long, 4, 0)
        fits = at + size <= ends[active]
        for one, (starts, sizes) in zip(tags, found, strict=True):
            mine = (tag == one) & fits
            starts[active[mine]] = at[mine]
            sizes[active[mine]] = size[mine]
        if not fits.all():
            _say_cut(active[~fits], layouts, found)
        at = at + size
        more = fits & (at < ends[active])
        active, at = active[more], at[more]
    return buffer, found


def _say_cut(
    members: Integers, layouts: Sequence[Layout], found: list[tuple[Integers, Integers]]
) -> None:
    for layout, (_, sizes) in zip(layouts, found, strict=True):
        for _ in range(int((sizes[members] == 0).sum())):
            layout.refuse()


def fields(values: Sequence[bytes | None]) -> tuple[bytes, Integers, Integers]:
    """As `sections`, for rows that stand alone (fields of hashes)."""
    lengths = np.array([0 if value is None else len(value) for value in values], np.int64)
    return b"".join([v for v in values if v]), np.cumsum(lengths) - lengths, lengths


def default_of(column: Column, declared: str | None) -> Any:
    """A declared default (JSON) as a column holds it."""
    if declared is None:
        return None
    value = json.loads(declared)
    if column.kind == "array":
        return np.array(value, _NUMPY[column.code])
    return value


def _payloads(column: Column, buffer: bytes, at: Integers, size: Integers) -> Values:
    spans = zip(at.tolist(), (at + size).tolist(), strict=True)
    if column.kind == "text":
        known: dict[bytes, int] = {}  # few different texts, many entities
        codes = [known.setdefault(buffer[a:b], len(known)) for a, b in spans]
        return Coded(np.array(codes, np.int64), [raw.decode() for raw in known])
    return [_payload(column, buffer[a:b]) for a, b in spans]


def _payload(column: Column, raw: bytes) -> Any:
    if column.kind == "array":
        return np.frombuffer(raw, _NUMPY[column.code])
    if column.kind == "text":
        return raw.decode()
    if column.kind == "proto":
        return feast_value_type_to_python_type(Value.FromString(raw), column.value_type)
    return raw


def _put(
    found: dict[str, Values],
    name: str,
    members: Integers,
    values: Any,
    empty: NDArray[np.bool_] | None,
) -> None:
    column = found[name]
    if isinstance(column, Coded):
        codes = values.codes + len(column.values)
        column.values.extend(values.values)
        if empty is not None:
            codes[empty] = len(column.values)
            column.values.append(None)
        column.codes[members] = codes
        return
    if empty is not None and empty.any():
        values = [None if no else value for value, no in zip(list(values), empty, strict=True)]
        if not isinstance(column, list):
            column = found[name] = list(column)
    if not isinstance(column, list):
        column[members] = values
    elif len(members) == len(column):
        found[name] = values if isinstance(values, (list, np.ndarray)) else list(values)
    else:
        for i, value in zip(members.tolist(), values, strict=True):
            column[i] = value
