"""Declared defaults: JSON in the feature's own type, or a sentence that says what to do."""

import json

import pytest
from feast import FeatureView, Field, FileSource
from feast.protos.feast.types.Value_pb2 import DoubleList, FloatList, Int64List, Value
from feast.types import Array, Bool, Float32, Float64, Int64, String

from extensions.errors import SkewlessError
from extensions.stores.values.default_values import declared_defaults, default_values


def view(dtype: object, declared: str) -> FeatureView:
    field = Field(name="it", dtype=dtype, tags={"default": declared})
    source = FileSource(name="s", path="s.parquet", timestamp_field="event_timestamp")
    return FeatureView(name="v", schema=[field], source=source)


@pytest.mark.parametrize(
    ("dtype", "declared", "expected"),
    [
        (Int64, "3", Value(int64_val=3)),
        (Float32, "1", Value(float_val=1.0)),
        (Float64, "0.5", Value(double_val=0.5)),
        (Bool, "false", Value(bool_val=False)),
        (String, '"ü"', Value(string_val="ü")),
        (Array(Float32), "[0.5, 1]", Value(float_list_val=FloatList(val=[0.5, 1.0]))),
        (Array(Float64), "[0, 0]", Value(double_list_val=DoubleList(val=[0.0, 0.0]))),
        (Array(Int64), "[1, 2]", Value(int64_list_val=Int64List(val=[1, 2]))),
    ],
)
def test_a_default_is_of_its_features_type(dtype, declared, expected) -> None:
    declares = view(dtype, declared)
    assert default_values(declares) == {"it": expected}
    assert declared_defaults(declares) == {"it": json.loads(declared)}


@pytest.mark.parametrize(
    ("dtype", "declared"),
    [(Int64, "three"), (Int64, '"three"'), (Array(Float32), "[0.5, true"), (Bool, "")],
)
def test_what_is_none_is_refused_in_one_sentence(dtype, declared) -> None:
    with pytest.raises(SkewlessError, match=r"default of v:it.*JSON"):
        default_values(view(dtype, declared))
