"""What clients send: checked field by field, refused with the field's name."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import orjson
from feast import ValueType
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

from extensions.serving.features.entity_ids import Ids
from extensions.serving.features.request_fields import RequestField
from extensions.serving.features.request_plan import Plan

_WHOLE = re.compile(r"-?[0-9]{1,19}")
_BITS = {ValueType.INT64: 63, ValueType.INT32: 31}
_KINDS: dict[ValueType, tuple[type, ...]] = {
    ValueType.INT64: (int,),
    ValueType.INT32: (int,),
    ValueType.FLOAT: (int, float),
    ValueType.DOUBLE: (int, float),
    ValueType.STRING: (str,),
    ValueType.BOOL: (bool,),
}
LONGEST_ID = 10_240


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
    axes: Mapping[str, Ids]
    request: Mapping[str, Any]
    columns: bool


@dataclass(frozen=True)
class Batch:
    """A checked request for a service: ``entities`` by join key, each of the same length."""

    service: str
    entities: Mapping[str, list[Any]]
    axes: Mapping[str, Ids]
    request: Mapping[str, Any]
    columns: bool
    rows: int


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object."""
    try:
        read = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(read, dict):
        raise RefusedError(422, "The body must be a JSON object.")
    return read


def user_in_path(text: str, kind: ValueType) -> tuple[Any, bytes]:
    """The id that the path ends with, percent-decoded."""
    try:
        text = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise RefusedError(422, "The user id is not UTF-8.", "user_id") from None
    if kind in _BITS:
        if not _WHOLE.fullmatch(text):
            raise RefusedError(422, "The user id must be a whole number.", "user_id")
        return one_id(int(text), kind, "user_id")
    return one_id(text, kind, "user_id")


def one_id(value: Any, kind: ValueType, field: str) -> tuple[Any, bytes]:
    """An id as it came, and as it stands in keys."""
    if kind in _BITS:
        if isinstance(value, bool) or not isinstance(value, int):
            raise RefusedError(422, "An id must be a whole number.", field)
        bound = 1 << _BITS[kind]
        if not -bound <= value < bound:
            raise RefusedError(422, f"An id must fit {_BITS[kind] + 1} bits.", field)
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


def ranking(body: bytes, plan: Plan, most: int) -> Ranking:
    """Check a ranking request."""
    read = parse(body)
    _known(read, {"userId", "itemIds", "context", "layout"})
    user_key, item_key = user_and_item(plan)
    user, user_id = one_id(_given(read, "userId"), plan.key_types[user_key], "userId")
    items = _list(_given(read, "itemIds"), "itemIds", most)
    kind = plan.key_types[item_key]
    ids = None
    if kind == ValueType.INT64 and set(map(type, items)) == {int}:
        with contextlib.suppress(OverflowError):  # one does not fit: find out which
            ids = Ids(items, np.array(items, np.int64))
    if ids is None:
        raw = [one_id(one, kind, f"itemIds[{i}]")[1] for i, one in enumerate(items)]
        ids = Ids(items, None, raw)
    axes = {user_key: Ids([user], None, [user_id]), item_key: ids}
    return _ranking(read, plan, user, items, axes)


def batch(body: bytes, plan_of: Any, most: int) -> tuple[Batch, Plan]:
    """Check a request for any service; ``plan_of`` finds the plan by the service's name."""
    read = parse(body)
    _known(read, {"service", "entities", "context", "layout"})
    service = _given(read, "service")
    if not isinstance(service, str):
        raise RefusedError(422, "The service must be given by name.", "service")
    plan: Plan = plan_of(service)
    rows = _list(_given(read, "entities"), "entities", most)
    given = [name for name in plan.join_keys if name != DUMMY_ENTITY_ID]
    entities: dict[str, list[Any]] = {name: [] for name in given}
    axes: dict[str, list[bytes]] = {name: [] for name in given}
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RefusedError(422, "An entity row must be an object.", f"entities[{i}]")
        if more := sorted(set(row) - set(entities)):
            raise RefusedError(
                422, f"{service} has no join key {more[0]}.", f"entities[{i}].{more[0]}"
            )
        for name in given:
            kind = plan.key_types[name]
            if name not in row:
                raise RefusedError(422, f"The row must name its {name}.", f"entities[{i}].{name}")
            value, raw = one_id(row[name], kind, f"entities[{i}].{name}")
            entities[name].append(value)
            axes[name].append(raw)
    request, columns = _context(read, plan), _layout(read)
    ids = {name: Ids(entities[name], None, axes[name]) for name in axes}
    if DUMMY_ENTITY_ID in plan.key_types:
        # Feast's name for the one entity of a view without entities.
        ids[DUMMY_ENTITY_ID] = Ids(
            [DUMMY_ENTITY_VAL] * len(rows), None, [b"=" + DUMMY_ENTITY_VAL.encode()] * len(rows)
        )
    return Batch(service, entities, ids, request, columns, len(rows)), plan


def check_range(field: RequestField, values: list[Any]) -> None:
    """Check a column of a request field against its declared bounds.

    Raises:
        RefusedError: 422, a value lies outside.
    """
    if not field.in_range(values):
        raise RefusedError(
            422, f"{field.name} must be {field.range_text}.", f"entities.{field.name}"
        )


def user_and_item(plan: Plan) -> tuple[str, str]:
    """The two join keys of a ranking service: whose list it is, and what is in it."""
    if len(plan.join_keys) != 2:
        raise RefusedError(
            404, f"The service {plan.service} does not rank: it must have two join keys."
        )
    first, second = plan.join_keys
    return (second, first) if second == "user_id" else (first, second)


def _ranking(
    read: dict[str, Any], plan: Plan, user: Any, items: list[Any], axes: dict[str, Ids]
) -> Ranking:
    return Ranking(user, items, axes, _context(read, plan), _layout(read))


def _context(read: dict[str, Any], plan: Plan) -> dict[str, Any]:
    given = read.get("context") or {}
    if not isinstance(given, dict):
        raise RefusedError(422, "The context must be an object.", "context")
    named: dict[str, tuple[str, Any]] = {}
    for asked, value in given.items():
        # The field's own name, or its usual form in JSON: requestHour for request_hour.
        name = asked if asked in plan.request else _snake(asked)
        if name in named:
            raise RefusedError(422, f"The context gives {name} twice.", f"context.{asked}")
        named[name] = (asked, value)
    if more := sorted(set(named) - set(plan.request)):
        raise RefusedError(
            422, f"{plan.service} takes no {named[more[0]][0]}.", f"context.{named[more[0]][0]}"
        )
    found = {}
    for name, field in plan.request.items():
        if name in named:
            found[name] = _request_value(*named[name], field)
        elif field.default is not None:
            found[name] = field.default()
        else:
            raise RefusedError(422, f"The context must give {name}.", f"context.{name}")
    return found


def _request_value(asked: str, value: Any, field: RequestField) -> Any:
    """A value of the context, of its declared type and within its declared range."""
    kind, where = field.value_type, f"context.{asked}"
    wanted = _KINDS.get(kind)
    if wanted and (
        not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)
    ):
        raise RefusedError(422, f"{asked} must be {kind.name.lower()}.", where)
    if kind in _BITS and not -(1 << _BITS[kind]) <= value < 1 << _BITS[kind]:
        raise RefusedError(422, f"{asked} must fit {_BITS[kind] + 1} bits.", where)
    if not field.in_range((value,)):
        raise RefusedError(422, f"{asked} must be {field.range_text}.", where)
    return value


def _layout(read: dict[str, Any]) -> bool:
    layout = read.get("layout", "rows")
    if layout not in ("rows", "columns"):
        raise RefusedError(422, "The layout is rows or columns.", "layout")
    return bool(layout == "columns")


def _given(read: dict[str, Any], field: str) -> Any:
    if field not in read:
        raise RefusedError(422, f"The body must have {field}.", field)
    return read[field]


def _known(read: dict[str, Any], fields: set[str]) -> None:
    if more := sorted(set(read) - fields):
        raise RefusedError(422, f"There is no field {more[0]}.", more[0])


def _list(value: Any, field: str, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise RefusedError(422, f"{field} must be a list.", field)
    if len(value) > most:
        raise RefusedError(422, f"{field} may have at most {most} entries.", field)
    return value


def camel_case(name: str) -> str:
    """A field's usual form in JSON; its own name where that could not be turned back."""
    camel = re.sub(r"_([a-z])", lambda match: match.group(1).upper(), name)
    return camel if _snake(camel) == name else name


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match.group(1).lower(), name)
