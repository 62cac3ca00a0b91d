"""What an entity without history has: one rule for serving, `feast serve` and training."""

import json
from functools import lru_cache
from typing import Any

from feast import FeatureView
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values

from extensions.errors import SkewlessError


def declared_defaults(view: FeatureView) -> dict[str, Any]:
    """The features of ``view`` that declare a default (tag ``default``, JSON), as Python values."""
    return {
        field.name: json.loads(field.tags["default"])
        for field in view.features
        if "default" in field.tags
    }


def default_values(view: FeatureView) -> dict[str, Value]:
    """The declared defaults as Feast's wire values, each of its feature's own type.

    Raises:
        SkewlessError: a tag is not JSON, or not of the feature's type.
    """
    return {
        field.name: _value(view.name, field.name, field.tags["default"], field.dtype)
        for field in view.features
        if "default" in field.tags
    }


@lru_cache(maxsize=1024)
def _value(view: str, feature: str, declared: str, dtype: Any) -> Value:
    kind = dtype.to_value_type()
    # JSON writes 1.0 as 1, and Feast takes no int in a list of floats.
    number = float if kind.name.startswith(("FLOAT", "DOUBLE")) else int
    try:
        [value] = python_values_to_proto_values([json.loads(declared, parse_int=number)], kind)
    except (ValueError, TypeError) as error:
        raise SkewlessError(
            f"The default of {view}:{feature} is {declared!r}, which is no JSON for a {kind.name}: "
            'write tags={"default": "…"} with a value of that type.'
        ) from error
    return value
