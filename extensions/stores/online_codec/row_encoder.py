"""Vectorized encoder: Arrow columns to packed rows and encoded ids."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import ValueType
from feast.type_map import python_values_to_proto_values
from numpy.typing import NDArray

from extensions.errors import InputError
from extensions.feature_types import BITS, NUMPY_TYPES, UTC_MICROSECONDS, is_list, is_text
from extensions.stores.online_codec import row_format as rows
from extensions.stores.online_codec.column_format import FLOATS, LENGTH, Column, encode_payload
from extensions.stores.online_codec.redis_keys import id_bytes
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.values.canonical_keys import UUIDS, canonical
from extensions.stores.values.exact_cast import refuse_null_items, whole_seconds

# Rows packed at once: large enough for numpy, small enough for the processor's cache.
SLICE = 16_384

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

# Arrow's type of a number's `struct` letter; a boolean is a byte.
_ARROW = {code: pa.from_numpy_dtype(NUMPY_TYPES[code]) for code in "iqfd"} | {"?": pa.uint8()}


@dataclass(frozen=True)
class _Packed:
    """An encoded column of n rows: scalars of shape (n, width), or payloads with offsets.

    ``long`` scalars are 64-bit integers, of which a row may keep only the low bytes.
    """

    valid: NDArray[np.bool_]
    scalars: Bytes | None
    data: Bytes
    starts: Integers
    lengths: Integers
    long: bool = False


def pack_rows(
    layout: Layout, table: pa.Table, event: str, created: str | None, *, sections: bool
) -> Iterator[list[bytes]]:
    """Pack a table's rows in order.

    Args:
        layout: The row format.
        table: The features and times.
        event: The column of event times.
        created: The column of created times; None: there is none.
        sections: Put each row's section header before it.

    Yields:
        Lists of at most `SLICE` rows.

    Raises:
        InputError: a row has no event time, or a column is missing or of another type.
    """
    missing = [name for name in (*layout.names, event) if name not in table.column_names]
    if missing:
        raise InputError(
            f"The rows for {layout.view} lack {', '.join(missing)}: they must have the event "
            "time and every feature of the view."
        )
    for at in range(0, table.num_rows, SLICE):
        yield _pack(layout, table.slice(at, SLICE), event, created, sections=sections)


def columnar(layout: Layout, ids: dict[str, ValueType], schema: pa.Schema) -> bool:
    """Whether the columnar encoder gives the same values as Feast's conversion of each value.

    Where not (a numeric as text, a fraction in an Int64 view), Feast's own conversion decides.
    """
    kinds = {field.name: field.type for field in schema}
    return all(
        column.name in kinds and _is_as_declared(column, kinds[column.name])
        for column in (*layout.columns, *(Column.of(*key) for key in ids.items()))
    )


def _is_as_declared(column: Column, kind: pa.DataType) -> bool:
    if column.kind == "array":
        return is_list(kind) and _is_number_of(column, kind.value_type)
    if column.kind == "scalar":
        return _is_number_of(column, kind)
    if column.value_type == ValueType.STRING:
        return is_text(kind)
    if column.kind == "bytes":
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
    return True  # `_by_messages` is Feast's conversion


def _is_number_of(column: Column, kind: pa.DataType) -> bool:
    if column.value_type in (ValueType.UNIX_TIMESTAMP, ValueType.UNIX_TIMESTAMP_LIST):
        return bool(pa.types.is_timestamp(kind))
    fits = {
        "?": pa.types.is_boolean,
        "i": pa.types.is_integer,
        "q": pa.types.is_integer,
        "f": pa.types.is_floating,
        "d": pa.types.is_floating,
    }[column.code]
    return bool(fits(kind))


def ids(table: pa.Table, name: str, value_type: ValueType) -> list[bytes]:
    """Encode a column of ids as in Redis keys (`extensions.stores.online_codec.redis_keys`).

    Raises:
        InputError: an id is null or not of the declared type.
    """
    column = one_chunk(table[name])
    if column.null_count:
        raise InputError(f"A row has no {name}: every row must name its entity.")
    if value_type in BITS:
        return [b"%d" % number for number in _cast(column, pa.int64(), name).to_numpy().tolist()]
    if value_type == ValueType.STRING:
        return [b"=" + text.encode() for text in _cast(column, pa.string(), name).to_pylist()]
    if value_type in UUIDS:
        texts = map(str, column.to_pylist())
        return [b"=" + canonical(text, value_type).encode() for text in texts]
    if value_type == ValueType.UNIX_TIMESTAMP and pa.types.is_timestamp(column.type):
        seconds = whole_seconds(column)
        if not seconds.cast(pa.timestamp("s", column.type.tz)).cast(column.type).equals(column):
            raise InputError(
                f"The key {name} holds a time with a fraction of a second, which Feast cuts off: "
                "two such keys would be one."
            )
    return [id_bytes(value) for value in proto_values(column, name, value_type)]


def microseconds(column: pa.ChunkedArray) -> tuple[Integers, NDArray[np.bool_]]:
    """Microseconds since 1970 (a time without a zone is UTC) and validity, both of shape (n,)."""
    times = one_chunk(column)
    if not pa.types.is_timestamp(times.type):
        times = times.cast(UTC_MICROSECONDS)
    # A cast between units is checked for lost digits; nanoseconds may lose theirs.
    exact = times.cast(pa.timestamp("us", times.type.tz), safe=False).view(pa.int64())
    valid: NDArray[np.bool_] = np.asarray(exact.is_valid())
    return exact.fill_null(0).to_numpy(zero_copy_only=False), valid


def _pack(
    layout: Layout, table: pa.Table, event_name: str, created_name: str | None, *, sections: bool
) -> list[bytes]:
    n = table.num_rows
    event, known = microseconds(table[event_name])
    if not known.all():
        raise InputError(f"A row for {layout.view} has no {event_name}: every row must have one.")
    created, dated = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    if created_name and created_name in table.column_names:
        created, dated = microseconds(table[created_name])
    flags = _time_flags(event, created, dated)
    columns = [_column(column, table) for column in layout.columns]
    nulls = np.stack([~column.valid for column in columns], axis=1)
    flags |= np.where(nulls.any(axis=1), rows.HAS_NULLS, 0).astype(np.uint8)
    flags |= _widths(columns, n)
    bitmap = np.packbits(nulls, axis=1, bitorder="little")

    # Rows of one shape (flags, and lengths of all payloads) are filled in as one matrix.
    payloads = [column.lengths for column in columns if column.scalars is None]
    shape = np.stack([flags.astype(np.int64), *payloads], axis=1)
    if (shape == shape[0]).all():
        return _fill(layout, slice(None), n, flags, event, created, bitmap, columns, sections)
    _, which = np.unique(shape, axis=0, return_inverse=True)
    order = np.argsort(which, kind="stable")
    out: list[bytes] = [b""] * n
    for members in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
        filled = _fill(
            layout, members, len(members), flags, event, created, bitmap, columns, sections
        )
        for i, row in zip(members.tolist(), filled, strict=True):
            out[i] = row
    return out


def _time_flags(event: Integers, created: Integers, dated: NDArray[np.bool_]) -> Bytes:
    after = created - event
    flags = np.full(len(event), rows.CREATED_ABSOLUTE, np.uint8)
    flags[(after > 0) & (after < rows.SOON)] = rows.CREATED_SOON
    flags[after == 0] = rows.CREATED_AT_EVENT
    flags[~dated] = rows.CREATED_ABSENT
    flags[(event < -rows.NARROW) | (event >= rows.NARROW)] |= rows.WIDE_EVENT
    return flags


def _widths(columns: list[_Packed], n: int) -> Bytes:
    """Each row's flags for the width of integers and lengths."""
    flags = np.zeros(n, np.uint8)
    longs = [
        column.scalars.view(np.int64)[:, 0]
        for column in columns
        if column.scalars is not None and column.long
    ]
    widest = np.zeros(n, np.int64)
    for numbers in longs:
        widest = np.maximum(widest, np.where(numbers < 0, ~numbers, numbers))
    for bits in (31, 15, 7):
        flags += widest < 1 << bits
    flags <<= rows.INT_WIDTH
    short = np.ones(n, np.bool_)
    for column in columns:
        if column.scalars is None:
            short &= column.lengths < 256
    return flags | np.where(short, rows.SHORT, 0).astype(np.uint8)


def _fill(
    layout: Layout,
    members: Any,
    n: int,
    flags: Bytes,
    event: Integers,
    created: Integers,
    bitmap: Bytes,
    columns: list[_Packed],
    sections: bool,
) -> list[bytes]:
    """Pack rows with equal flags and payload lengths, as one byte matrix."""
    flag = int(flags[members][0])
    parts: list[Bytes] = []

    def constant(data: bytes) -> None:
        parts.append(np.broadcast_to(np.frombuffer(data, np.uint8), (n, len(data))))

    constant(rows.START.pack(layout.fingerprint, flag))
    wide = 8 if flag & rows.WIDE_EVENT else 7
    parts.append(_octets(event[members])[:, :wide])
    form = flag & rows.CREATED_MASK
    if form == rows.CREATED_SOON:
        parts.append(_octets(created[members] - event[members])[:, :3])
    elif form == rows.CREATED_ABSOLUTE:
        parts.append(_octets(created[members]))
    if flag & rows.HAS_NULLS:
        parts.append(bitmap[members])
    tails: list[Bytes] = []
    for column in columns:
        if column.scalars is not None:
            width = rows.INTS[flag >> rows.INT_WIDTH & 0b11][0] if column.long else None
            parts.append(column.scalars[members][:, :width])
            continue
        length = int(column.lengths[members][0])
        constant(bytes((length,)) if flag & rows.SHORT else LENGTH.pack(length))
        tails.append(column.data[column.starts[members][:, None] + np.arange(length)])
    parts += tails
    if sections:
        size = sum(part.shape[1] for part in parts)
        head = np.frombuffer(layout.header(size), np.uint8)
        parts.insert(0, np.broadcast_to(head, (n, len(head))))
    matrix = np.concatenate(parts, axis=1)
    data, width = matrix.tobytes(), matrix.shape[1]
    return [data[i : i + width] for i in range(0, n * width, width)]


def _octets(values: Integers) -> Bytes:
    return np.ascontiguousarray(values, "<i8").view(np.uint8).reshape(len(values), 8)


def _column(column: Column, table: pa.Table) -> _Packed:
    array = one_chunk(table[column.name])
    n = len(array)
    none = np.zeros(0, np.int64)
    valid: NDArray[np.bool_] = np.asarray(array.is_valid())
    if column.kind == "scalar":
        numbers = _numbers(array, column).fill_null(0).to_numpy(zero_copy_only=False)
        octets = np.ascontiguousarray(numbers).view(np.uint8).reshape(n, column.width)
        empty = np.zeros(0, np.uint8)
        return _Packed(valid, octets, empty, none, none, long=column.code == "q")
    if column.kind == "array" and is_list(array.type):
        if column.code not in "fd":  # there a null is NaN, as Feast makes it
            refuse_null_items(array, column.name)
        lists = array.cast(pa.large_list(array.type.value_type))
        offsets = lists.offsets.to_numpy().astype(np.int64)
        items = _numbers(lists.values, column).to_numpy(zero_copy_only=False)
        data = np.ascontiguousarray(items).view(np.uint8)
        size = items.dtype.itemsize
        lengths = np.where(valid, np.diff(offsets), 0) * size
        return _Packed(valid, None, data, offsets[:-1] * size, lengths)
    if column.value_type == ValueType.STRING or column.kind == "bytes":
        text = pa.large_string() if column.kind == "text" else pa.large_binary()
        held = _cast(array, text, column.name).cast(pa.large_binary())
        _, offset_buffer, data_buffer = held.buffers()
        offsets = np.frombuffer(offset_buffer, np.int64)[held.offset : held.offset + n + 1]
        data = np.frombuffer(data_buffer or b"", np.uint8)
        lengths = np.where(valid, np.diff(offsets), 0)
        return _Packed(valid, None, data, offsets[:-1], lengths)
    return _by_messages(array, column)


def _by_messages(array: pa.Array, column: Column) -> _Packed:
    """Encode types without a columnar form (sets, maps, lists of texts) by Feast's messages."""
    values = proto_values(array, column.name, column.value_type)
    kinds = [value.WhichOneof("val") for value in values]
    packed = [
        b"" if kind is None else encode_payload(column, value)
        for value, kind in zip(values, kinds, strict=True)
    ]
    lengths = np.array([len(payload) for payload in packed], np.int64)
    starts = np.cumsum(lengths) - lengths
    valid = np.array([kind is not None for kind in kinds], np.bool_)
    return _Packed(valid, None, np.frombuffer(b"".join(packed), np.uint8), starts, lengths)


def proto_values(array: pa.Array, name: str, value_type: ValueType) -> list[Any]:
    """Feast's conversion of each value, from Python objects.

    Not from numpy, which makes floats of integers beside a null.

    Raises:
        InputError: a value does not fit, by the column's ``name``.
    """
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    items = array.to_pylist()
    if is_list(array.type) and pa.types.is_floating(array.type.value_type):
        # As Feast makes it.
        items = [row and [math.nan if item is None else item for item in row] for row in items]
    elif is_list(array.type):
        refuse_null_items(array, name)
    try:
        return python_values_to_proto_values(items, value_type)
    except (TypeError, ValueError, AssertionError, OverflowError) as error:
        raise InputError(f"The column {name} does not fit {value_type.name}: {error}.") from error


def _numbers(array: pa.Array, column: Column) -> pa.Array:
    if pa.types.is_timestamp(array.type):  # Feast keeps whole seconds
        return whole_seconds(array)
    if pa.types.is_boolean(array.type) or column.code == "?":
        array = _cast(array, pa.bool_(), column.name)
    numbers = _cast(array, _ARROW[column.code], column.name)
    return pc.add(numbers, pa.scalar(0.0, numbers.type)) if column.code in FLOATS else numbers


def _cast(array: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    try:
        return array.cast(kind)
    except pa.ArrowInvalid as error:
        raise InputError(f"The column {name} does not fit {kind}: {error}.") from error
    except pa.ArrowNotImplementedError as error:
        raise InputError(f"The column {name} is {array.type}, not {kind}.") from error


def one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Combine a column's chunks into one array."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return column
