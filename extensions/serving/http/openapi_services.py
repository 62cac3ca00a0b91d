"""OpenAPI schemas of feature services: each feature with its name, type, nullability, description.

Types are those of Feast's fields. A feature is nullable unless its field declares a default
(other than null), which stands where an entity has no row; the field's tag ``nullable`` ("true",
"false") says otherwise, for a computation that returns null itself or a transform that never does.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feast import Field, ValueType
from feast.feature_view import DUMMY_ENTITY_ID

from extensions.serving.features.request_fields import RequestField
from extensions.serving.features.request_plan import Plan
from extensions.serving.http.request_validation import LONGEST_ID, camel_case, user_and_item

Schema = dict[str, Any]

INT64_MAX = 2**63 - 1
_INTEGER_BITS = {ValueType.INT64: 63, ValueType.INT32: 31}
_SCALARS: Mapping[str, Schema] = {
    "BOOL": {"type": "boolean"},
    "INT32": {"type": "integer", "format": "int32"},
    "INT64": {"type": "integer", "format": "int64"},
    "FLOAT": {"type": "number", "format": "float"},
    "DOUBLE": {"type": "number", "format": "double"},
    "STRING": {"type": "string"},
    "BYTES": {"type": "string", "contentEncoding": "base64"},
}


@dataclass(frozen=True)
class Property:
    """One property of an object: its schema, and whether it may be null."""

    name: str
    schema: Schema
    nullable: bool
    description: str

    def of_row(self) -> Schema:
        """The schema of one value."""
        return _described(_nullable(self.schema) if self.nullable else self.schema, self)

    def of_column(self) -> Schema:
        """The schema of one value for each row."""
        item = _nullable(self.schema) if self.nullable else self.schema
        return _described({"type": "array", "items": item}, self)


class ServiceSchemas:
    """The schemas of one feature service. ``name``: what their names begin with."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name = plan, name

    @property
    def summary(self) -> str:
        """The service's name, and its description where it has one."""
        description = self.plan.resource.description if self.plan.resource else ""
        return f"{self.plan.service}: {description}" if description else self.plan.service

    @property
    def join_keys(self) -> list[str]:
        """The join keys that a request gives."""
        return [name for name in self.plan.join_keys if name != DUMMY_ENTITY_ID]

    def id(self, join_key: str) -> Schema:
        """The schema of an entity's id."""
        return id_schema(self.plan.key_types[join_key])

    def example_row(self, value: int = 1) -> dict[str, Any]:
        """An id for each join key."""
        return {key: example_id(self.plan.key_types[key], value) for key in self.join_keys}

    def entity(self) -> Schema:
        """One entity row of a request."""
        return closed({key: self.id(key) for key in self.join_keys})

    def entity_columns(self) -> Schema:
        """The entity rows of a reply in columns."""
        return closed({key: {"type": "array", "items": self.id(key)} for key in self.join_keys})

    def features(self, *join_keys: tuple[str, ...]) -> list[Property]:
        """The features of the views with one of these lists of join keys; of all without any."""
        return [
            Property(name, *_type(view.fields.get(feature)))
            for view in self.plan.views
            if not join_keys or view.join_keys in join_keys
            for name, feature in zip(view.names, view.features, strict=True)
        ]

    def transformed(self) -> list[Property]:
        """What the service's transforms make."""
        found = []
        for transform in self.plan.transforms:
            fields = {field.name: field for field in transform.view.features}
            found += [Property(name, *_type(fields[name])) for name in transform.features]
        return found

    def context(self) -> Schema | None:
        """The request's own fields; None where the service's transforms read none."""
        if not self.plan.request:
            return None
        fields = {camel_case(name): field for name, field in self.plan.request.items()}
        required = [name for name, field in fields.items() if field.default is None]
        properties = {name: _request_field(field) for name, field in fields.items()}
        schema = closed(properties, required)
        schema["description"] = "What the service's transforms read of the request itself."
        return schema

    def example_request_fields(self) -> dict[str, Any]:
        """A value for each request field, by the field's own name."""
        fields = self.plan.request.items()
        return {name: _example(_request_field(field)) for name, field in fields}

    def example_context(self) -> dict[str, Any]:
        """A context with all request fields, as part of an example request."""
        values = self.example_request_fields()
        return (
            {"context": {camel_case(name): value for name, value in values.items()}}
            if values
            else {}
        )

    def ranks(self) -> bool:
        """Whether the service has the two join keys of a ranking."""
        return len(self.plan.join_keys) == 2

    def ranking_keys(self) -> tuple[str, str]:
        """The join keys of the user and of the items."""
        return user_and_item(self.plan)

    def ranking_parts(self) -> tuple[list[Property], list[Property], list[Property]]:
        """The features of a ranking: the user's, each item's, those of the two together."""
        user, item = self.ranking_keys()
        pairs = self.features((user, item), (item, user))
        return self.features((user,)), self.features((item,)), pairs + self.transformed()


def rows_object(properties: Sequence[Property]) -> Schema:
    """An object with one value of each feature."""
    return closed({one.name: one.of_row() for one in properties})


def columns_object(properties: Sequence[Property]) -> Schema:
    """An object with a column of each feature."""
    return closed({one.name: one.of_column() for one in properties})


def closed(properties: Mapping[str, Any], required: Iterable[str] | None = None) -> Schema:
    """An object with just these properties, all of them required unless said otherwise."""
    schema: Schema = {
        "type": "object",
        "properties": dict(properties),
        "additionalProperties": False,
    }
    if needed := list(properties if required is None else required):
        schema["required"] = needed
    return schema


def id_schema(kind: ValueType | None) -> Schema:
    """The schema of ids of this type; None: of an entity that is not known."""
    bits = _INTEGER_BITS.get(kind) if kind else None
    if bits:
        return {
            "type": "integer",
            "format": f"int{bits + 1}",
            "minimum": -(1 << bits),
            "maximum": (1 << bits) - 1,
        }
    text = {"type": "string", "maxLength": LONGEST_ID}
    if kind:
        return text
    return {"oneOf": [{"type": "integer", "minimum": -INT64_MAX - 1, "maximum": INT64_MAX}, text]}


def example_id(kind: ValueType, value: int) -> int | str:
    """An id of this type."""
    return value if kind in _INTEGER_BITS else str(value)


def _type(field: Field | None) -> tuple[Schema, bool, str]:
    """Schema, nullability and description of a feature."""
    if field is None:
        return {}, True, ""
    default = field.tags.get("default")
    nullable = default in (None, "null")
    if "nullable" in field.tags:
        nullable = field.tags["nullable"] == "true"
    return _value(field.dtype.to_value_type().name), nullable, field.description or ""


def _value(kind: str) -> Schema:
    if kind in _SCALARS:
        return dict(_SCALARS[kind])
    element, _, container = kind.rpartition("_")
    if container in ("LIST", "SET") and element in _SCALARS:
        return {"type": "array", "items": dict(_SCALARS[element])}
    return {}


def _request_field(field: RequestField) -> Schema:
    schema = _value(field.value_type.name)
    if field.minimum is not None:
        schema["minimum"] = field.minimum
    if field.maximum is not None:
        schema["maximum"] = field.maximum
    if field.description:
        schema["description"] = field.description
    return schema


def _example(schema: Schema) -> Any:
    """A value that fits the schema: the largest allowed number, a short text, true."""
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return schema.get("maximum", schema.get("minimum", 1))
    return {"string": "text", "boolean": True, "array": []}.get(str(kind))


def _nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema


def _described(schema: Schema, one: Property) -> Schema:
    return {**schema, "description": one.description} if one.description else schema


def schema_name(service: str) -> str:
    """A service's name as the name of a schema: ``home_page`` becomes ``HomePage``."""
    parts = re.split(r"[^A-Za-z0-9]+", service)
    name = "".join(part[:1].upper() + part[1:] for part in parts)
    return name if name[:1].isalpha() else f"Service{name}"
