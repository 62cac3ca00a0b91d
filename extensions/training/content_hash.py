"""Content hash of a table: independent of batches, encodings and file format."""

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def as_stored(table: pa.Table) -> pa.Table:
    """The same values in the types that Parquet gives back: it has no times of whole seconds.

    A hash of what was written is then the hash of what is read. The name that Parquet gives to
    the elements of lists is no part of that.
    """
    wanted = _stored(table.schema.remove_metadata())
    return table if wanted.equals(table.schema) else table.cast(wanted)


@lru_cache(maxsize=16)
def _stored(schema: pa.Schema) -> pa.Schema:
    file = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), file)
    stored = pq.read_schema(pa.BufferReader(file.getvalue()))
    return pa.schema(
        [
            field.with_type(_without_names(field.type, back.type))
            for field, back in zip(schema, stored, strict=True)
        ]
    )


def _without_names(before: pa.DataType, after: pa.DataType) -> pa.DataType:
    if pa.types.is_list(before) and pa.types.is_list(after):
        return pa.list_(_without_names(before.value_type, after.value_type))
    return before if before.equals(after) else after


class ContentDigest:
    """SHA-256 over names, types and values in order; not over chunks, encodings or padding."""

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        self._columns: list[_ColumnDigest] = []

    def update(self, table: pa.Table) -> None:
        """Take in the next rows."""
        if self._schema is None:
            self._schema = table.schema.remove_metadata()
            self._columns = [_ColumnDigest() for _ in table.column_names]
        for digest, column in zip(self._columns, table.columns, strict=True):
            for chunk in column.chunks:
                digest.update(chunk)

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        whole = hashlib.sha256()
        for field, column in zip(self._schema or [], self._columns, strict=True):
            whole.update(f"{field.name}\0{field.type}\0{column.hexdigest()}\n".encode())
        return whole.hexdigest()


class _ColumnDigest:
    """One column as streams of nullness, of lengths and of values, which batches only extend."""

    def __init__(self) -> None:
        self._valid = hashlib.sha256()
        self._lengths = hashlib.sha256()
        self._values: Any = None

    def update(self, array: pa.Array) -> None:  # noqa: C901 (one branch per layout of memory)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        self._valid.update(_bytes(array.is_valid()))
        present = array.drop_null()
        kind = array.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self._lengths.update(_bytes(pc.list_value_length(present).cast(pa.int64())))
            if self._values is None:
                self._values = _ColumnDigest()
            self._values.update(present.flatten())
            return
        if self._values is None:
            self._values = hashlib.sha256()
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            present = present.cast(pa.large_string()).cast(pa.large_binary())
        elif pa.types.is_binary(kind):
            present = present.cast(pa.large_binary())
        if pa.types.is_large_binary(present.type):
            self._lengths.update(_bytes(pc.binary_length(present)))
            for value in present:
                self._values.update(value.as_py())
        elif pa.types.is_temporal(kind) and kind.bit_width in {32, 64}:
            self._values.update(
                _bytes(present.view(pa.int64() if kind.bit_width == 64 else pa.int32()))
            )
        elif pa.types.is_primitive(kind):
            self._values.update(_bytes(present))
        elif not pa.types.is_null(kind):
            for value in present:
                self._values.update(repr(value.as_py()).encode() + b"\0")

    def hexdigest(self) -> str:
        values = self._values.hexdigest() if self._values is not None else ""
        parts = f"{self._valid.hexdigest()} {self._lengths.hexdigest()} {values}"
        return hashlib.sha256(parts.encode()).hexdigest()


def _bytes(array: pa.Array) -> bytes:
    return np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).tobytes()
