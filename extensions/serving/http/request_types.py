"""Request bodies of ``/v1``: each declared once, as a msgspec type made from a service's plan.

The type decodes and checks a body (`request_validation`) and describes it in the OpenAPI document
(`openapi`), so that the two cannot differ.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from feast import ValueType
from feast.feature_view import DUMMY_ENTITY_ID
from msgspec import Meta

from extensions.feature_types import BITS, integer_range
from extensions.service_routes import ReplyNames
from extensions.serving.features.request_plan import Plan
from extensions.stores.request_fields import RequestField
from extensions.stores.values.canonical_keys import CANONICAL_INTEGER, UUIDS

LONGEST_ID = 10_240
LONGEST_UUID = 80  # with spaces around it, as PostgreSQL takes it

Decode = Callable[[bytes], Any]

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
_OPTIONAL: Mapping[str, tuple[Any, Any]] = {
    "context": (dict[str, Any] | None, None),
    "layout": (_Layout, "rows"),
}


class ServiceName(msgspec.Struct):
    """The part of a body that says which service's type the whole body has."""

    service: str


@dataclass(frozen=True)
class RequestType:
    """The type of a body, and what decodes it.

    ``whole``, quicker, takes 64-bit ids as whole numbers alone; None: ``decode`` is as quick.
    """

    type: Any
    decode: Decode
    whole: Decode | None


class RequestTypes:
    """The request types of one service, and what decodes them.

    ``spellings``: each spelling of a request field in a context, and the field's own name.
    """

    def __init__(self, plan: Plan, max_items: int, name: str = "") -> None:
        self._plan, self._name, self._max_items = plan, name, max_items
        self._rankings: dict[ReplyNames, RequestType] = {}
        self.keys = [key for key in plan.join_keys if key != DUMMY_ENTITY_ID]
        self.context_type = _struct(
            f"{name}Context",
            {
                camel_case(field.name): (_field_type(field), field.default_at is None)
                for field in plan.request.values()
            },
        )
        self.spellings = {camel_case(field): field for field in plan.request}
        self.spellings |= {field: field for field in plan.request}
        self.camel = {field: camel_case(field) for field in plan.request}
        self.features = self._request_type(self._features_type)

    def ranking(self, names: ReplyNames, type_name: str = "RankRequest") -> RequestType:
        """The request of a ranking, with these names; the service must be of a pair."""
        held = self._rankings.get(names)
        if held is None:
            held = self._request_type(partial(self._rank_type, names, type_name))
            self._rankings[names] = held
        return held

    def _request_type(self, made: Callable[[bool], Any]) -> RequestType:
        """The type that ``made`` makes with ids as texts, too, and what decodes it."""
        kind = made(True)
        whole = None
        if ValueType.INT64 in self._plan.key_types.values():
            whole = msgspec.json.Decoder(made(False)).decode
        return RequestType(kind, msgspec.json.Decoder(kind).decode, whole)

    def _features_type(self, texts: bool) -> Any:
        ids = {key: (self._id_type(key, texts=texts), True) for key in self.keys}
        entity_type = _struct(f"{self._name}Entity", ids)
        entities = Annotated[list[entity_type], Meta(max_length=self._max_items)]  # type: ignore[valid-type]
        fields = {"service": (Literal[self._plan.service], True), "entities": (entities, True)}
        return _struct(f"{self._name}Request", fields, _OPTIONAL)

    def _rank_type(self, names: ReplyNames, type_name: str, texts: bool) -> Any:
        leading, other = self._plan.pair
        item_type = self._id_type(other, texts=texts)
        items = Annotated[list[item_type], Meta(max_length=self._max_items)]  # type: ignore[valid-type]
        fields = {
            names.entity: (self._id_type(leading, texts=texts), True),
            names.items: (items, True),
        }
        return _struct(type_name, fields, _OPTIONAL)

    def _id_type(self, key: str, *, texts: bool) -> Any:
        if key == DUMMY_ENTITY_ID:
            return Any
        return _id_type(self._plan.key_types[key], texts=texts)


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


def _id_type(kind: ValueType, *, texts: bool) -> Any:
    """The type of an entity's ids; any, of a kind that ``/v1`` does not serve.

    ``texts``: a 64-bit integer may be its decimal text, which JavaScript needs beyond 2**53.
    """
    if kind in BITS:
        least, greatest = integer_range(kind)
        number = Annotated[int, Meta(ge=least, le=greatest)]
        text = Annotated[str, Meta(pattern=f"^(?:{CANONICAL_INTEGER})$")]
        return number | text if texts and kind == ValueType.INT64 else number
    if kind in UUIDS:
        return Annotated[str, Meta(max_length=LONGEST_UUID, description="A UUID.")]
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
