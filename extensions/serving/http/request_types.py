"""Request bodies of ``/v1``: each declared once, as a msgspec type made from a service's plan.

The type decodes and checks a body (`request_validation`) and describes it in the OpenAPI document
(`openapi`), so that the two cannot differ.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from feast import ValueType
from feast.feature_view import DUMMY_ENTITY_ID
from msgspec import Meta

from extensions.feature_types import BITS, integer_range
from extensions.serving.features.request_fields import RequestField
from extensions.serving.features.request_plan import Plan

LONGEST_ID = 10_240

_PYTHON_TYPES: Mapping[ValueType, Any] = {
    ValueType.FLOAT: float,
    ValueType.DOUBLE: float,
    ValueType.STRING: str,
    ValueType.BOOL: bool,
}
_Layout = Annotated[
    Literal["rows", "columns"],
    Meta(
        description="rows (if left out): an object for each entity; columns: an array each feature."
    ),
]


class ServiceName(msgspec.Struct):
    """The part of a body that says which service's type the whole body has."""

    service: str


class RequestTypes:
    """The request types of one service, and what decodes them.

    ``rank_type`` is None for a service that does not have the two join keys of a ranking.
    ``spellings``: each spelling of a request field in a context, and the field's own name.
    """

    def __init__(self, plan: Plan, max_items: int, name: str = "") -> None:
        self.keys = [key for key in plan.join_keys if key != DUMMY_ENTITY_ID]
        ids = {key: _id_type(plan.key_types[key]) for key in self.keys}
        self.context_type = _struct(
            f"{name}Context",
            {
                camel_case(field.name): (_field_type(field), field.default is None)
                for field in plan.request.values()
            },
        )
        self.spellings = {camel_case(field): field for field in plan.request}
        self.spellings |= {field: field for field in plan.request}
        self.camel = {field: camel_case(field) for field in plan.request}
        optional = {"context": (dict[str, Any] | None, None), "layout": (_Layout, "rows")}
        self.entity_type = _struct(f"{name}Entity", {key: (ids[key], True) for key in self.keys})
        entities = Annotated[list[self.entity_type], Meta(max_length=max_items)]  # type: ignore[name-defined]
        self.features_type = _struct(
            f"{name}Request",
            {"service": (Literal[plan.service], True), "entities": (entities, True)},
            optional,
        )
        self.decode_features = msgspec.json.Decoder(self.features_type).decode
        self.rank_type: Any = None
        if len(plan.join_keys) == 2:
            user, item = user_and_item(plan.join_keys)
            item_type = ids.get(item, Any)
            items = Annotated[list[item_type], Meta(max_length=max_items)]  # type: ignore[valid-type]
            self.rank_type = _struct(
                "RankRequest",
                {"userId": (ids.get(user, Any), True), "itemIds": (items, True)},
                optional,
            )
            self.decode_rank = msgspec.json.Decoder(self.rank_type).decode


def user_and_item(join_keys: tuple[str, ...]) -> tuple[str, str]:
    """Of the two join keys of a ranking: whose list it is, and what is in it."""
    first, second = join_keys
    return (second, first) if second == "user_id" else (first, second)


def _struct(
    name: str,
    fields: Mapping[str, tuple[Any, bool]],
    optional: Mapping[str, tuple[Any, Any]] | None = None,
) -> Any:
    """A msgspec type that takes no other fields than these.

    Args:
        name: the type's name, in the OpenAPI document too.
        fields: by name, which may be any text: the type, and whether the field is required.
        optional: by name: the type and the default.
    """
    made: list[Any] = []
    rename = {}
    for i, (field, (kind, required)) in enumerate(fields.items()):
        rename[f"field_{i}"] = field
        made.append(
            (f"field_{i}", kind)
            if required
            else (f"field_{i}", kind | msgspec.UnsetType, msgspec.UNSET)
        )
    made += [(field, kind, default) for field, (kind, default) in (optional or {}).items()]
    made.sort(key=len)  # required fields first
    return msgspec.defstruct(name, made, rename=rename, forbid_unknown_fields=True, gc=False)


def _id_type(kind: ValueType) -> Any:
    """The type of an entity's ids; any, of a kind that ``/v1`` does not serve."""
    if kind in BITS:
        least, greatest = integer_range(kind)
        return Annotated[int, Meta(ge=least, le=greatest)]
    return Annotated[str, Meta(max_length=LONGEST_ID)] if kind == ValueType.STRING else Any


def _field_type(field: RequestField) -> Any:
    """The type of a request field with its range and description."""
    is_integer = field.value_type in BITS
    kind: Any = int if is_integer else _PYTHON_TYPES.get(field.value_type)
    if kind is None:
        return Any
    limits: dict[str, Any] = {}
    if is_integer:
        limits["ge"], limits["le"] = integer_range(field.value_type)
    if field.minimum is not None:
        limits["ge"] = field.minimum
    if field.maximum is not None:
        limits["le"] = field.maximum
    if field.description:
        limits["description"] = field.description
    return Annotated[kind, Meta(**limits)] if limits else kind


def camel_case(name: str) -> str:
    """A field's usual form in JSON; its own name where that could not be turned back."""
    camel = re.sub(r"_([a-z])", lambda match: match.group(1).upper(), name)
    back = re.sub(r"([A-Z])", lambda match: "_" + match.group(1).lower(), camel)
    return camel if back == name else name
