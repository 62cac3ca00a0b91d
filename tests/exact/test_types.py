"""The table of types: every Feast type is in it, and its columns agree with one another."""

import pyarrow as pa
import pytest
from feast import ValueType
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bytes, Int64, PrimitiveFeastType, Set, Struct

from extensions.errors import SkewlessError
from extensions.feature_types import (
    FEATURE_TYPES,
    arrow_of_postgres,
    arrow_type,
    pg_type,
    value_field,
)
from extensions.stores.offline.writes.serving_log_table import arrow_schema
from extensions.stores.online_codec.column_format import Column

_IN_LOGS = [PrimitiveFeastType[each.name] for each in FEATURE_TYPES.values() if each.postgres]


def test_every_feast_type_is_in_the_table() -> None:
    assert {each.name for each in PrimitiveFeastType} == FEATURE_TYPES.keys()


@pytest.mark.parametrize("dtype", _IN_LOGS, ids=str)
def test_a_log_column_comes_back_in_its_arrow_type(dtype: PrimitiveFeastType) -> None:
    for each in (dtype, Array(dtype)):
        assert arrow_of_postgres(pg_type(each)) == arrow_type(each)


def test_the_serving_log_has_an_arrow_type_for_lists_of_bytes() -> None:
    assert arrow_schema({"thumbnails": Array(Bytes)}).field(0).type == pa.list_(pa.binary())


@pytest.mark.parametrize("dtype", [Set(Int64), Struct({"a": Int64}), Array(Struct({"a": Int64}))])
def test_what_a_log_cannot_hold_is_refused(dtype: object) -> None:
    with pytest.raises(SkewlessError, match="A log table cannot hold"):
        pg_type(dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("value_type", [each for each in ValueType if each.value], ids=str)
def test_an_online_column_names_a_field_of_feasts_message(value_type: ValueType) -> None:
    column = Column.of("x", value_type)
    if column.oneof is not None:
        assert column.oneof in Value.DESCRIPTOR.fields_by_name
    if column.kind in ("scalar", "array", "text"):
        assert column.oneof == value_field(value_type)
