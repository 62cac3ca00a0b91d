"""OpenAPI schemas of feature services: each feature with its name, type, nullability, description.

Types are those of Feast's fields. A feature is nullable unless its field declares a default
(other than null), which stands where an entity has no row; the field's tag ``nullable`` ("true",
"false") says otherwise, for a computation that returns null itself or a transform that never does.
"""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from feast import Field, ValueType
from feast.feature_view import DUMMY_ENTITY_ID

from extensions.feature_types import BITS, integer_range
from extensions.service_routes import ReplyNames
from extensions.serving.features.request_plan import Plan
from extensions.serving.http.request_types import (
    LONGEST_ID,
    LONGEST_UUID,
    RequestTypes,
    camel_case,
)
from extensions.stores.request_fields import RequestField
from extensions.stores.values.canonical_keys import CANONICAL_INTEGER, UUIDS

Schema = dict[str, Any]

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

    def __init__(self, plan: Plan, name: str, max_items: int) -> None:
        self.plan, self.name, self._max_items = plan, name, max_items
        self.types = RequestTypes(plan, max_items, name)

    @property
    def join_keys(self) -> list[str]:
        """The join keys that a request gives."""
        return [name for name in self.plan.join_keys if name != DUMMY_ENTITY_ID]

    def id(self, join_key: str, *, texts: bool = True) -> Schema:
        """The schema of an entity's id; ``texts``: a 64-bit integer may be its decimal text."""
        return id_schema(self.plan.key_types[join_key], texts=texts)

    def example_row(self, value: int = 1) -> dict[str, Any]:
        """An id for each join key."""
        return {key: example_id(self.plan.key_types[key], value) for key in self.join_keys}

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

    @property
    def context_required(self) -> bool:
        """Whether a request must give a context: some request field has no default."""
        return any(field.default_at is None for field in self.plan.request.values())

    def requests(self) -> dict[str, Schema]:
        """The schemas of rows' requests, made from the types that decode them."""
        return self._schemas(self.types.features.type, f"{self.name}Request")

    def rank_request(self, names: ReplyNames, name: str) -> dict[str, Schema]:
        """The schema ``name`` of a ranking's request, made from the type that decodes it."""
        kind = RequestTypes(self.plan, self._max_items, self.name).ranking(names, name).type
        return self._schemas(kind, name)

    def _schemas(self, request_type: Any, request: str) -> dict[str, Schema]:
        wanted = [request_type, self.types.context_type]
        template = "#/components/schemas/{name}"
        _, schemas = msgspec.json.schema_components(wanted, ref_template=template)
        context = schemas[f"{self.name}Context"]
        context["description"] = "What the service's transforms read of the request itself."
        properties = schemas[request]["properties"]
        properties["context"] = {"$ref": template.format(name=f"{self.name}Context")}
        if self.context_required:
            schemas[request]["required"].append("context")
        return {name: _without_defaults(schema) for name, schema in schemas.items()}

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

    def ranking_parts(self) -> tuple[list[Property], list[Property], list[Property]]:
        """The features of a ranking: the entity's, each item's, those of the two together."""
        leading, other = self.plan.pair
        pairs = self.features((leading, other), (other, leading))
        return self.features((leading,)), self.features((other,)), pairs + self.transformed()


def rows_object(properties: Sequence[Property]) -> Schema:
    """An object with one value of each feature."""
    return closed({feature.name: feature.of_row() for feature in properties})


def columns_object(properties: Sequence[Property]) -> Schema:
    """An object with a column of each feature."""
    return closed({feature.name: feature.of_column() for feature in properties})


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


def id_schema(kind: ValueType, *, texts: bool = True) -> Schema:
    """The schema of ids of this type; ``texts``: a 64-bit integer may be its decimal text."""
    if kind in BITS:
        least, greatest = integer_range(kind)
        number = {
            "type": "integer",
            "format": f"int{BITS[kind] + 1}",
            "minimum": least,
            "maximum": greatest,
        }
        if not texts or kind != ValueType.INT64:
            return number
        return {"anyOf": [number, {"type": "string", "pattern": f"^(?:{CANONICAL_INTEGER})$"}]}
    return {"type": "string", "maxLength": LONGEST_UUID if kind in UUIDS else LONGEST_ID}


def example_id(kind: ValueType, value: int) -> int | str:
    """An id of this type."""
    if kind in UUIDS:
        return str(uuid.UUID(int=value))
    return value if kind in BITS else str(value)


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


def _without_defaults(schema: Any) -> Any:
    """A schema without ``default``, which generators take as required, and ``title``."""
    if isinstance(schema, list):
        return [_without_defaults(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    held = {key: value for key, value in schema.items() if key not in ("default", "title")}
    if len(held.get("enum", ())) == 1:
        held = {key: value for key, value in held.items() if key != "enum"} | {
            "type": "string", "const": held["enum"][0],
        }  # fmt: skip
    properties = held.pop("properties", None)
    made = {key: _without_defaults(value) for key, value in held.items()}
    if properties is not None:
        made["properties"] = {
            name: _without_defaults(held_schema) for name, held_schema in properties.items()
        }
    return made


def _nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema


def _described(schema: Schema, feature: Property) -> Schema:
    return {**schema, "description": feature.description} if feature.description else schema


def schema_name(service: str) -> str:
    """A service's name as the name of a schema: ``home_page`` becomes ``HomePage``."""
    parts = re.split(r"[^A-Za-z0-9]+", service)
    name = "".join(part[:1].upper() + part[1:] for part in parts)
    return name if name[:1].isalpha() else f"Service{name}"
