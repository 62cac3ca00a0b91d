"""Convert the driver's extension types (numeric, JSON, UUID) to plain Arrow types."""

import uuid
from collections.abc import Collection

import pyarrow as pa


def to_plain_types(table: pa.Table, exact: Collection[str] = ()) -> pa.Table:
    """Numerics as doubles, as from Feast's store, or as text in the columns ``exact``.

    JSON and UUIDs are text. Types that Arrow has no name for are left as the driver gives them.
    """
    for place, field in enumerate(table.schema):
        column = table.column(place)
        if pa.types.is_list(field.type):
            inner = field.type.value_type
            if (wanted := _plain_type(inner, exact=field.name in exact)) is not None:
                column = pa.chunked_array(
                    [_list(chunk, wanted) for chunk in column.chunks], pa.list_(wanted)
                )
                table = table.set_column(place, field.name, column)
        elif (wanted := _plain_type(field.type, exact=field.name in exact)) is not None:
            column = pa.chunked_array([_values(chunk, wanted) for chunk in column.chunks], wanted)
            table = table.set_column(place, field.name, column)
    return table


def _plain_type(kind: pa.DataType, *, exact: bool) -> pa.DataType | None:
    """The plain type for an extension type; None for a type that is plain already."""
    if isinstance(kind, pa.OpaqueType) and pa.types.is_string(kind.storage_type):
        return pa.float64() if kind.type_name == "numeric" and not exact else pa.string()
    if isinstance(kind, pa.JsonType | pa.UuidType):
        return pa.string()
    return None


def _values(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    if isinstance(array.type, pa.UuidType):
        texts = [
            None if octets is None else str(uuid.UUID(bytes=octets)) for octets in _stored(array)
        ]
        return pa.array(texts, pa.string())
    return array.storage.cast(wanted)


def _stored(array: pa.Array) -> list[bytes | None]:
    values: list[bytes | None] = array.storage.to_pylist()
    return values


def _list(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    values = _values(array.values, wanted)
    return pa.ListArray.from_arrays(array.offsets, values, pa.list_(wanted), mask=array.is_null())
