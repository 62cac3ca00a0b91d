"""The table of types: what stands for each Feast type in PostgreSQL, Arrow, numpy, Redis and JSON.

Every other module derives from it. What it does not say about Arrow, Feast's own conversion does
(`arrow_type`); the Redis row format is in docs/online-layout.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from feast import ValueType
from feast.types import (
    Array,
    Bytes,
    FeastType,
    PrimitiveFeastType,
    Set,
    Struct,
    from_feast_to_pyarrow_type,
)

from extensions.errors import DefinitionError

UTC_MICROSECONDS = pa.timestamp("us", "UTC")

# PostgreSQL's names of types, as ``format_type`` writes them without a modifier.
INTEGER_BITS = {"smallint": 15, "integer": 31, "bigint": 63}  # without the sign
INTEGERS = frozenset(INTEGER_BITS)
FLOATS = frozenset({"real", "double precision"})
TEXTS = frozenset({"text", "character varying", "name", "bpchar"})
TIMES = frozenset({"timestamp with time zone", "timestamp without time zone", "date"})
JSONS = frozenset({"json", "jsonb"})
_WHOLE_FROM = INTEGERS | FLOATS | TEXTS | {"numeric", "boolean", "oid"}
_FLOAT_FROM = INTEGERS | FLOATS | {"numeric"}


@dataclass(frozen=True)
class FeatureType:
    """One primitive Feast type.

    Attributes:
        name: Feast's name of it, such as ``FLOAT32``.
        exact_from: The PostgreSQL types of a source column from whose values it can be made
            exactly; None: from any, as text.
        online: How an online row holds it: a `struct` letter, ``text``, ``bytes``, or ``proto``
            (Feast's own message).
        postgres: The column type of feature logs; None where there is none.
        json: The Python types of it in a JSON request; empty where no request may hold it.
    """

    name: str
    exact_from: frozenset[str] | None
    online: str = "proto"
    postgres: str | None = None
    json: tuple[type, ...] = ()

    @cached_property
    def value_type(self) -> ValueType:
        """Feast's type of a single value on the wire."""
        return PrimitiveFeastType[self.name].to_value_type()

    @cached_property
    def list_type(self) -> ValueType | None:
        """Feast's type of a list of these on the wire."""
        return ValueType.__members__.get(f"{self.value_type.name}_LIST")

    @cached_property
    def arrow(self) -> pa.DataType:
        """The Arrow type."""
        return arrow_type(PrimitiveFeastType[self.name])

    @property
    def fixed(self) -> bool:
        """Whether every value takes the same number of bytes in an online row."""
        return len(self.online) == 1

    @property
    def numeric(self) -> bool:
        """Whether it is a number (times are not)."""
        return int in self.json


FEATURE_TYPES: Mapping[str, FeatureType] = {
    each.name: each
    for each in (
        FeatureType("BOOL", frozenset({"boolean"}), "?", "boolean", (bool,)),
        FeatureType("INT32", _WHOLE_FROM, "i", "integer", (int,)),
        FeatureType("INT64", _WHOLE_FROM, "q", "bigint", (int,)),
        FeatureType("FLOAT32", _FLOAT_FROM, "f", "real", (int, float)),
        FeatureType("FLOAT64", _FLOAT_FROM, "d", "double precision", (int, float)),
        FeatureType("UNIX_TIMESTAMP", TIMES | INTEGERS, "q", "timestamptz"),
        FeatureType("ZONED_TIMESTAMP", TIMES),
        FeatureType("STRING", None, "text", "text", (str,)),
        FeatureType("JSON", JSONS | TEXTS, "text"),
        FeatureType("UUID", TEXTS | {"uuid"}, "text", "uuid"),
        FeatureType("TIME_UUID", TEXTS | {"uuid"}, "text"),
        FeatureType("DECIMAL", INTEGERS | TEXTS | {"numeric"}, "text"),
        FeatureType("BYTES", frozenset({"bytea"}), "bytes", "bytea"),
        FeatureType("PDF_BYTES", frozenset({"bytea"}), "bytes"),
        FeatureType("IMAGE_BYTES", frozenset({"bytea"}), "bytes"),
        FeatureType("MAP", JSONS | TEXTS),
        FeatureType("SCALAR_MAP", frozenset()),
        FeatureType("INVALID", frozenset()),
    )
}
_BY_POSTGRES = {each.postgres: each for each in FEATURE_TYPES.values() if each.postgres}

# By the wire type: bits of integers without the sign, and what JSON requests may hold.
BITS: Mapping[ValueType, int] = {
    each.value_type: INTEGER_BITS[each.postgres]
    for each in FEATURE_TYPES.values()
    if each.postgres in INTEGER_BITS
}


def integer_range(kind: ValueType) -> tuple[int, int]:
    """The least and the greatest integer of a type in `BITS`."""
    return -(1 << BITS[kind]), (1 << BITS[kind]) - 1


JSON_TYPES: Mapping[ValueType, tuple[type, ...]] = {
    each.value_type: each.json for each in FEATURE_TYPES.values() if each.json
}
# Numpy's type of a `struct` letter.
NUMPY_TYPES: Mapping[str, np.dtype[Any]] = {
    letter: np.dtype(np.dtype(f"<{letter}").str) for letter in "?bhiqfd"
}
# Numbers and booleans in numpy, by the wire type.
NUMPY_COLUMNS: Mapping[ValueType, np.dtype[Any]] = {
    each.value_type: NUMPY_TYPES[each.online]
    for each in FEATURE_TYPES.values()
    if each.fixed and each.json
}


def value_field(kind: ValueType) -> str:
    """The field of Feast's ``Value`` message that holds a value of the wire type."""
    return f"{kind.name.lower()}_val"


def unwrapped(dtype: Any) -> tuple[str, int]:
    """The name of the type within arrays and sets, and how many of them there are around it.

    The name is one of `FEATURE_TYPES`, or ``STRUCT``; "" of None.
    """
    depth = 0
    while isinstance(dtype, Array | Set):
        dtype, depth = dtype.base_type, depth + 1
    return "STRUCT" if isinstance(dtype, Struct) else getattr(dtype, "name", ""), depth


def pg_type(dtype: FeastType) -> str:
    """The PostgreSQL type that holds a Feast type without loss.

    Raises:
        SkewlessError: the type has no column of its own (maps, structs, images).
    """
    if isinstance(dtype, Array):
        return pg_type(dtype.base_type) + "[]"
    known = FEATURE_TYPES.get(unwrapped(dtype)[0])
    if known is None or known.postgres is None or isinstance(dtype, Set):
        raise DefinitionError(f"A log table cannot hold the Feast type {dtype}: use a plain type.")
    return known.postgres


def pg_name(catalogue_name: str) -> str:
    """A type's name from the catalogue (``format_type``) as `pg_type` spells it."""
    return catalogue_name.replace("timestamp with time zone", "timestamptz")


def arrow_type(dtype: FeastType) -> pa.DataType:
    """The Arrow type of a Feast type; Feast's own table leaves out bytes."""
    if isinstance(dtype, Array | Set) and not isinstance(dtype.base_type, Struct):
        return pa.list_(arrow_type(dtype.base_type))
    return pa.binary() if dtype == Bytes else from_feast_to_pyarrow_type(dtype)


def arrow_of_postgres(kind: str) -> pa.DataType:
    """The Arrow type of a column of one of `pg_type`'s types."""
    if kind.endswith("[]"):
        return pa.list_(arrow_of_postgres(kind.removesuffix("[]")))
    return _BY_POSTGRES[kind].arrow


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a list, of any offset width or of a fixed size."""
    return isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is text, of either offset width."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
