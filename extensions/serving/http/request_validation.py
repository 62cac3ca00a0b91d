"""What clients send: checked field by field, refused with the field's name."""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np
import orjson
from feast import ValueType
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

from extensions.feature_types import BITS
from extensions.serving.features.entity_ids import EntityIds
from extensions.serving.features.request_fields import RequestField
from extensions.serving.features.request_plan import Plan
from extensions.serving.http.request_types import (
    LONGEST_ID,
    RequestTypes,
    ServiceName,
    user_and_item,
)

_WHOLE = re.compile(r"-?[0-9]{1,19}")
_NAMES = {
    "int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false",
    "array": "a list", "object": "an object", "null": "null",
}  # fmt: skip
_GIVEN = _NAMES | {"float": "a fraction", "bool": "a truth value"}
_COMPARED = {"<=": "at most", ">=": "at least", "<": "less than", ">": "more than"}
# What msgspec says is wrong.
_EXPECTED = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")
_LENGTH = re.compile(r"Expected `array` of length <= (\d+)")
_LIMIT = re.compile(r"Expected `(?:int|float)` (<=|>=|<|>) (\S+)")
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)


class RefusedError(Exception):
    """The request cannot be answered: a status, the field at fault, and a sentence.

    ``allow``: the method that the route takes, where it is another.
    """

    def __init__(
        self, status: int, message: str, field: str | None = None, allow: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.field, self.allow = status, field, allow


@dataclass(frozen=True)
class Ranking:
    """A checked ranking request: ids as they came and as they stand in keys."""

    user: Any
    items: list[Any]
    axes: Mapping[str, EntityIds]
    request: Mapping[str, Any]
    columns: bool


@dataclass(frozen=True)
class Batch:
    """A checked request for a service: ``entities`` by join key, each of the same length."""

    service: str
    entities: Mapping[str, list[Any]]
    axes: Mapping[str, EntityIds]
    request: Mapping[str, Any]
    columns: bool
    rows: int


class RequestParser:
    """Decodes and checks the bodies of ``/v1``. Request types are kept for the plans in use."""

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        # By the plan's identity; the plan is held, so that no other can have it.
        self._types: dict[int, tuple[Plan, RequestTypes]] = {}

    def ranking(self, body: bytes, plan: Plan) -> Ranking:
        """Check a ranking request.

        Raises:
            RefusedError: 400, not JSON; 422, a field is wrong; 404, the service does not rank.
        """
        user_key, item_key = ranking_keys(plan)
        types = self._of(plan)
        read = _decoded(types.decode_rank, body)
        user, items = read.field_0, read.field_1
        kind = plan.key_types[item_key]
        if kind == ValueType.INT64:
            ids = EntityIds(items, np.array(items, np.int64))
        else:
            raw = [entity_id(item, kind, f"itemIds[{i}]")[1] for i, item in enumerate(items)]
            ids = EntityIds(items, None, raw)
        user_id = entity_id(user, plan.key_types[user_key], "userId")[1]
        axes = {user_key: EntityIds([user], None, [user_id]), item_key: ids}
        return Ranking(user, items, axes, self._context(read, plan), read.layout == "columns")

    def batch(self, body: bytes, plan_of: Callable[[str], Plan]) -> tuple[Batch, Plan]:
        """Check a request for any service.

        Args:
            body: the request's body.
            plan_of: finds the plan by the service's name, or refuses it.

        Raises:
            RefusedError: 400, not JSON; 422, a field is wrong; what ``plan_of`` raises.
        """
        plan = plan_of(_decoded(_SERVICE_NAME, body).service)
        types = self._of(plan)
        read = _decoded(types.decode_features, body)
        rows = read.field_1
        entities: dict[str, list[Any]] = {}
        ids: dict[str, EntityIds] = {}
        for place, key in enumerate(types.keys):
            kind, name = plan.key_types[key], f"field_{place}"
            entities[key] = column = [getattr(row, name) for row in rows]
            raw = [
                entity_id(value, kind, f"entities[{i}].{key}")[1] for i, value in enumerate(column)
            ]
            ids[key] = EntityIds(column, None, raw)
        if DUMMY_ENTITY_ID in plan.key_types:
            # Feast's name for the one entity of a view without entities.
            ids[DUMMY_ENTITY_ID] = EntityIds(
                [DUMMY_ENTITY_VAL] * len(rows), None, [b"=" + DUMMY_ENTITY_VAL.encode()] * len(rows)
            )
        columns = read.layout == "columns"
        request = self._context(read, plan)
        return Batch(plan.service, entities, ids, request, columns, len(rows)), plan

    def without_context(self, plan: Plan) -> dict[str, Any]:
        """The request fields of a route that takes none: their defaults.

        Raises:
            RefusedError: 422, one has no default.
        """
        return _request_values({}, plan)

    def _of(self, plan: Plan) -> RequestTypes:
        held = self._types.get(id(plan))
        if held is None:
            # Those of plans that were swapped out are dropped.
            self._types = {
                key: kept for key, kept in self._types.items() if kept[0].number == plan.number
            }
            held = self._types[id(plan)] = plan, RequestTypes(plan, self._max_items)
        return held[1]

    def _context(self, read: Any, plan: Plan) -> dict[str, Any]:
        """The request fields by name, from the body's context and from their defaults."""
        types = self._of(plan)
        given: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for asked, value in (read.context or {}).items():
            name = types.spellings.get(asked)
            if name is None:
                raise RefusedError(422, f"{plan.service} takes no {asked}.", f"context.{asked}")
            if name in given:
                raise RefusedError(422, f"The context gives {name} twice.", f"context.{asked}")
            given[name], spelled[name] = value, asked
        if given:
            by_camel = {types.camel[name]: value for name, value in given.items()}
            try:
                msgspec.convert(by_camel, types.context_type)
            except msgspec.ValidationError as error:
                message, path = _sentence(error)
                name = types.spellings.get(path or "", "")
                asked = spelled.get(name, name)
                message = message.replace(path or "", asked, 1)
                raise RefusedError(422, message, f"context.{asked}") from None
        return _request_values(given, plan)


_SERVICE_NAME = msgspec.json.Decoder(ServiceName).decode


def _request_values(given: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    found = {}
    for name, field in plan.request.items():
        if name in given:
            found[name] = given[name]
        elif field.default is not None:
            found[name] = field.default()
        else:
            raise RefusedError(422, f"The context must give {name}.", f"context.{name}")
    return found


def _decoded(decode: Callable[[bytes], Any], body: bytes) -> Any:
    """The body as its type.

    Raises:
        RefusedError: 400, not JSON; 422, not of the type: the sentence and the field at fault.
    """
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        with contextlib.suppress(orjson.JSONDecodeError):  # msgspec stops at the first mistake
            orjson.loads(body)
            message, path = _sentence(error)
            raise RefusedError(422, message, path) from None
        raise RefusedError(400, "The body is not JSON.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(400, f"The body is not JSON: {error}.") from None


def _sentence(  # noqa: PLR0911 - one for each kind of mistake
    error: msgspec.ValidationError,
) -> tuple[str, str | None]:
    """What msgspec finds wrong, as a sentence, and the path of the field at fault."""
    text, _, path = str(error).partition(" - at `$")
    path = path.removesuffix("`").removeprefix(".")
    where = path or "The body"
    if not path and text.startswith("Expected `object`"):
        return "The body must be a JSON object.", None
    if field := _FIELD.match(text):
        problem, name = field.groups()
        path = f"{path}.{name}" if path else name
        if problem == "missing required":
            return f"{where} must have {name}.", path
        return f"There is no field {name}.", path
    if expected := _EXPECTED.match(text):
        wanted, got = expected.groups()
        kinds = " or ".join(_NAMES.get(kind, kind) for kind in wanted.split(" | "))
        return f"{where} must be {kinds}, not {_GIVEN.get(got, got)}.", path
    if length := _LENGTH.match(text):
        return f"{where} may have at most {length.group(1)} entries.", path
    if limit := _LIMIT.match(text):
        return f"{where} must be {_COMPARED[limit.group(1)]} {limit.group(2)}.", path
    if text.startswith("Invalid enum value"):
        return f"{where} is not one of the allowed values: {text.partition('value ')[2]}.", path
    return f"{where}: {text}.", path


def user_in_path(text: str, kind: ValueType) -> tuple[Any, bytes]:
    """The id that the path ends with, percent-decoded.

    Returns:
        As `entity_id`.

    Raises:
        RefusedError: 422, it is no id of this type.
    """
    try:
        text = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise RefusedError(422, "The user id is not UTF-8.", "user_id") from None
    if kind in BITS:
        if not _WHOLE.fullmatch(text):
            raise RefusedError(422, "The user id must be a whole number.", "user_id")
        return entity_id(int(text), kind, "user_id")
    return entity_id(text, kind, "user_id")


def entity_id(value: Any, kind: ValueType, field: str) -> tuple[Any, bytes]:
    """Check an entity's id.

    Returns:
        The id as it came, and as it stands in Redis keys.

    Raises:
        RefusedError: 422, it is no id of this type, or of a type that ``/v1`` does not serve.
    """
    if kind in BITS:
        if isinstance(value, bool) or not isinstance(value, int):
            raise RefusedError(422, "An id must be a whole number.", field)
        bound = 1 << BITS[kind]
        if not -bound <= value < bound:
            raise RefusedError(422, f"An id must fit {BITS[kind] + 1} bits.", field)
        return value, b"%d" % value
    if kind != ValueType.STRING:
        raise RefusedError(
            422, f"Ids of type {kind.name} are served by /get-online-features.", field
        )
    if not isinstance(value, str):
        raise RefusedError(422, "An id must be a text.", field)
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise RefusedError(422, "An id must be valid Unicode.", field) from None
    if len(raw) > LONGEST_ID:
        raise RefusedError(422, f"An id must be at most {LONGEST_ID} bytes.", field)
    return value, b"=" + raw


def check_range(field: RequestField, values: list[Any]) -> None:
    """Check a column of a request field against its declared bounds.

    Raises:
        RefusedError: 422, a value lies outside.
    """
    if not field.in_range(values):
        raise RefusedError(
            422, f"{field.name} must be {field.range_text}.", f"entities.{field.name}"
        )


def ranking_keys(plan: Plan) -> tuple[str, str]:
    """The two join keys of a ranking service: whose list it is, and what is in it.

    Raises:
        RefusedError: 404, the service does not rank.
    """
    if len(plan.join_keys) != 2:
        raise RefusedError(
            404, f"The service {plan.service} does not rank: it must have two join keys."
        )
    return user_and_item(plan.join_keys)
