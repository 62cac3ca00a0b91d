"""What an entity without history has: one rule for serving, `feast serve` and training."""

import json
from functools import lru_cache
from typing import Any

from feast import FeatureView
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values


def declared_defaults(view: FeatureView) -> dict[str, Any]:
    """The features of ``view`` that declare a default (tag ``default``, JSON), as Python values."""
    return {
        field.name: json.loads(field.tags["default"])
        for field in view.features
        if "default" in field.tags
    }


def default_values(view: FeatureView) -> dict[str, Value]:
    """The declared defaults as Feast's wire values, each of its feature's own type."""
    return {
        field.name: _value(field.tags["default"], field.dtype.to_value_type())
        for field in view.features
        if "default" in field.tags
    }


@lru_cache(maxsize=1024)
def _value(declared: str, value_type: Any) -> Value:
    [value] = python_values_to_proto_values([json.loads(declared)], value_type)
    return value
