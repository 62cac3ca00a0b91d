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
from feast.feature_view import DUMMY_ENTITY_ID

from extensions.errors import InputError
from extensions.feature_types import BITS
from extensions.service_routes import ReplyNames
from extensions.serving.features.entity_ids import EVERYBODY, EntityIds
from extensions.serving.features.request_plan import Plan
from extensions.serving.http.request_types import (
    LONGEST_ID,
    RequestType,
    RequestTypes,
    ServiceName,
)
from extensions.serving.http.unique_keys import repeated_key
from extensions.stores.request_fields import RequestField
from extensions.stores.transform_rows import instants
from extensions.stores.values.canonical_keys import NUL, UUIDS, canonical, integer_of, is_uuid

# Of an integer's text, for a person.
_DIGITS = "as a text, in plain digits"
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
_PATTERN = "Expected `str` matching regex"
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
    """A checked ranking request: ids as they came and as they stand in keys.

    ``entity``: the id of the entity whose ranking it is. ``items``: the ids to rank.
    """

    entity: Any
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

    def ranking(self, body: bytes, plan: Plan, names: ReplyNames) -> Ranking:
        """Check a ranking request, of a service of a pair.

        Raises:
            RefusedError: 400, not JSON; 422, a field is wrong.
        """
        leading, other = plan.pair
        read, texts = _decoded(self._of(plan).ranking(names), body)
        check_unique_keys(body, 2 + _optional_members(read))
        entity, items = read.field_0, read.field_1
        axes = {
            leading: single_id(entity, plan.key_types[leading], names.entity),
            other: id_column(items, plan.key_types[other], f"{names.items}[{{}}]", texts=texts),
        }
        return Ranking(entity, items, axes, self._context(read, plan), read.layout == "columns")

    def batch(self, body: bytes, plan_of: Callable[[str], Plan]) -> tuple[Batch, Plan]:
        """Check a request for any service.

        Args:
            body: the request's body.
            plan_of: finds the plan by the service's name, or refuses it.

        Raises:
            RefusedError: 400, not JSON; 422, a field is wrong; what ``plan_of`` raises.
        """
        plan = plan_of(_decoded(_SERVICE_NAME, body)[0].service)
        types = self._of(plan)
        read, texts = _decoded(types.features, body)
        rows = read.field_1
        check_unique_keys(body, 2 + _optional_members(read) + len(rows) * len(types.keys))
        entities: dict[str, list[Any]] = {}
        ids: dict[str, EntityIds] = {}
        for place, key in enumerate(types.keys):
            kind, name = plan.key_types[key], f"field_{place}"
            entities[key] = column = [getattr(row, name) for row in rows]
            ids[key] = id_column(column, kind, f"entities[{{}}].{key}", texts=texts)
        if DUMMY_ENTITY_ID in plan.key_types:
            ids[DUMMY_ENTITY_ID] = EVERYBODY
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


def check_unique_keys(body: bytes, colons: int) -> None:
    """Check that no object of a body has a key twice; ``colons``: as of `repeated_key`.

    Raises:
        RefusedError: 422 with the key; 400, the body is nested too deeply to be looked through.
    """
    try:
        key = repeated_key(body, colons)
    except RecursionError:
        raise RefusedError(400, "The body is nested too deeply.") from None
    if key is not None:
        raise RefusedError(422, f"An object has the key {key} twice.", key)


def _optional_members(read: Any) -> int:
    """The members of a request that may be left out, of which some may be counted for none."""
    context = 0 if read.context is None else 1 + len(read.context)
    return context + int(read.layout != "rows")


_SERVICE_NAME = RequestType(ServiceName, msgspec.json.Decoder(ServiceName).decode, None)


def _request_values(given: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    found = {}
    for name, field in plan.request.items():
        if name in given:
            found[name] = given[name]
            if field.value_type == ValueType.UNIX_TIMESTAMP:
                try:
                    instants([given[name]], name)
                except InputError as error:
                    raise RefusedError(422, str(error), f"context.{name}") from None
        elif field.default_at is not None:
            found[name] = field.default()
        else:
            raise RefusedError(422, f"The context must give {name}.", f"context.{name}")
    return found


def _decoded(kind: RequestType, body: bytes) -> tuple[Any, bool]:
    """The body as its type, and whether 64-bit ids in it may be texts.

    Raises:
        RefusedError: 400, not JSON; 422, not of the type: the sentence and the field at fault.
    """
    if kind.whole is not None:
        # What is wrong is said by the other type, which takes more.
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return kind.whole(body), False
    try:
        return kind.decode(body), True
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
        wanted = "int" if wanted == "int | str" else wanted  # of an id
        kinds = " or ".join(_NAMES.get(kind, kind) for kind in wanted.split(" | "))
        return f"{where} must be {kinds}, not {_GIVEN.get(got, got)}.", path
    if length := _LENGTH.match(text):
        return f"{where} may have at most {length.group(1)} entries.", path
    if limit := _LIMIT.match(text):
        return f"{where} must be {_COMPARED[limit.group(1)]} {limit.group(2)}.", path
    if text.startswith(_PATTERN):
        return f"{where} must be a whole number ({_DIGITS}).", path
    if text.startswith("Invalid enum value"):
        return f"{where} is not one of the allowed values: {text.partition('value ')[2]}.", path
    return f"{where}: {text}.", path


def id_in_path(text: str, kind: ValueType, field: str) -> EntityIds:
    """The id that the path ends with, percent-decoded; a whole number is sent back as one.

    Raises:
        RefusedError: 422, it is no id of this type.
    """
    try:
        text = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise RefusedError(422, "The id in the path is not UTF-8.", field) from None
    if kind in BITS:
        number = integer_of(text)
        if number is None:
            raise RefusedError(422, "The id in the path must be a whole number.", field)
        return single_id(number, kind, field)
    return single_id(text, kind, field)


def single_id(value: Any, kind: ValueType, field: str) -> EntityIds:
    """One id, as it came and as it stands in Redis keys.

    Raises:
        RefusedError: as `encoded_id`.
    """
    raw = encoded_id(value, kind, field)
    if type(value) is int or kind == ValueType.STRING:
        return EntityIds([value], None, [raw])
    if kind in BITS:
        return EntityIds([value], np.array([int(raw)], np.int64), [raw], plain=False)
    return EntityIds([value], None, [raw], plain=_is_plain(value, raw))


def id_column(values: list[Any], kind: ValueType, field: str, *, texts: bool = True) -> EntityIds:
    """Check a column of ids.

    Args:
        values: the ids as they came.
        kind: the type that the entity declares.
        field: a column's id in a message; ``{}`` stands for its place.
        texts: whether 64-bit integers may be among them as texts; False: msgspec has checked
            that all are whole numbers of the type's range.

    Raises:
        RefusedError: as `encoded_id`.
    """
    if kind == ValueType.INT64 and not texts:
        return EntityIds(values, np.array(values, np.int64))
    if kind == ValueType.STRING and (raw := _encoded_texts(values)) is not None:
        return EntityIds(values, None, raw)
    raw = [encoded_id(value, kind, field.format(i)) for i, value in enumerate(values)]
    if kind in BITS:
        numbers = np.array(list(map(int, raw)), np.int64)
        return EntityIds(values, numbers, raw, plain=str not in set(map(type, values)))
    plain = kind == ValueType.STRING or all(map(_is_plain, values, raw))
    return EntityIds(values, None, raw, plain=plain)


def _is_plain(value: str, raw: bytes) -> bool:
    """Whether an id that is no number came in the spelling in which it stands in keys."""
    return raw[1:] == value.encode()


def _encoded_texts(values: list[Any]) -> list[bytes] | None:
    """Texts as ids in keys, all at once; None: one of them may be wrong."""
    try:
        whole = "\0=".join(values).encode()
    except (TypeError, UnicodeEncodeError):
        return None
    raw = (b"=" + whole).split(b"\0") if values else []
    # A text that holds NUL itself makes more of them.
    if len(raw) != len(values) or (len(whole) > LONGEST_ID and max(map(len, raw)) > LONGEST_ID):
        return None
    return raw


def encoded_id(value: Any, kind: ValueType, field: str) -> bytes:  # noqa: C901 - one test a rule
    """An id as it stands in Redis keys.

    Raises:
        RefusedError: 422, it is no id of this type, or of a type that ``/v1`` does not serve.
    """
    if kind in BITS:
        number = value
        if kind == ValueType.INT64 and isinstance(value, str):
            number = integer_of(value)
        if isinstance(number, bool) or not isinstance(number, int):
            raise RefusedError(422, "An id must be a whole number.", field)
        bound = 1 << BITS[kind]
        if not -bound <= number < bound:
            raise RefusedError(422, f"An id must fit {BITS[kind] + 1} bits.", field)
        return b"%d" % number
    if kind != ValueType.STRING and kind not in UUIDS:
        raise RefusedError(
            422, f"Ids of type {kind.name} are served by /get-online-features.", field
        )
    if not isinstance(value, str):
        raise RefusedError(422, "An id must be a text.", field)
    text = canonical(value, kind)
    if kind in UUIDS and not is_uuid(text):
        raise RefusedError(422, "An id must be a UUID.", field)
    if NUL in text:
        raise RefusedError(
            422, "An id must not hold the character NUL, which PostgreSQL's texts cannot.", field
        )
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise RefusedError(422, "An id must be valid Unicode.", field) from None
    if len(raw) > LONGEST_ID:
        raise RefusedError(422, f"An id must be at most {LONGEST_ID} bytes.", field)
    return b"=" + raw


def check_range(field: RequestField, values: list[Any]) -> None:
    """Check a column of a request field against its declared bounds.

    Raises:
        RefusedError: 422, a value lies outside.
    """
    if not field.in_range(values):
        raise RefusedError(
            422, f"{field.name} must be {field.range_text}.", f"entities.{field.name}"
        )
