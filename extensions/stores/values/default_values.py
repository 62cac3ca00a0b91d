"""What an entity without history has: one rule for serving, `feast serve` and training."""

import json
from datetime import timedelta
from functools import lru_cache
from typing import Any

from feast import FeatureView
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import (
    Array,
    Bytes,
    FeastType,
    ImageBytes,
    Json,
    Map,
    PdfBytes,
    Set,
    Struct,
    UnixTimestamp,
)

from extensions.asof.default_parsing import read_default
from extensions.errors import DefinitionError
from extensions.timestamps import EPOCH


def declared_defaults(view: FeatureView) -> dict[str, Any]:
    """The features of ``view`` that declare a default (tag ``default``, JSON), as Python values.

    `default_text` writes them for PostgreSQL.
    """
    return {
        field.name: _read(view.name, field.name, field.tags["default"], field.dtype)
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


def _read(view: str, feature: str, declared: str, dtype: FeastType) -> Any:
    try:
        return read_default(view, feature, declared, dtype)
    except ValueError as error:
        raise DefinitionError(str(error)) from error


def default_text(value: Any, dtype: FeastType | None) -> str | None:
    """A default in PostgreSQL's text form, as the column of a feature of ``dtype`` reads it."""
    if value is None:
        return None
    if isinstance(dtype, Struct) or dtype in (Json, Map):
        return value if isinstance(value, str) and dtype == Json else json.dumps(value)
    if isinstance(value, list):
        item_type = dtype.base_type if isinstance(dtype, Array | Set) else None
        return "{" + ",".join(_array_item(item, item_type) for item in value) + "}"
    return _scalar_text(value, dtype)


def _scalar_text(value: Any, dtype: FeastType | None) -> str:
    if dtype == UnixTimestamp and not isinstance(value, str):
        return (EPOCH + timedelta(seconds=value)).isoformat()
    if isinstance(value, bytes) or dtype in (Bytes, PdfBytes, ImageBytes):
        octets = value if isinstance(value, bytes) else str(value).encode()
        return "\\x" + octets.hex()
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _array_item(item: Any, dtype: FeastType | None) -> str:
    if item is None:
        return "NULL"
    text = str(default_text(item, dtype))
    if isinstance(item, list) and (dtype is None or isinstance(dtype, Array | Set)):
        return text
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


@lru_cache(maxsize=1024)
def _value(view: str, feature: str, declared: str, dtype: Any) -> Value:
    kind = dtype.to_value_type()
    held = _read(view, feature, declared, dtype)
    try:
        [value] = python_values_to_proto_values([held], kind)
    except (ValueError, TypeError, AssertionError) as error:
        raise DefinitionError(
            f"The default of {view}:{feature} is {declared!r}, which is no JSON for a {kind.name}: "
            'write tags={"default": "…"} with a value of that type.'
        ) from error
    return value
