"""JSON messages: read by orjson, validated by their JSON Schema, no field twice, numbers exact."""

import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import msgspec
import orjson

from extensions.errors import DefinitionError
from streaming.decoding.column_values import JsonNumber
from streaming.decoding.epochs import kind_of
from streaming.kafka.message_decoder import Reason, RejectedError

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
# Keywords of JSON Schema by what a message that breaks them is refused for.
_REASONS = {
    "required": Reason.MISSING_FIELD, "dependentRequired": Reason.MISSING_FIELD,
    "type": Reason.WRONG_TYPE, "additionalProperties": Reason.UNKNOWN_FIELD,
    "unevaluatedProperties": Reason.UNKNOWN_FIELD,
}  # fmt: skip
_TIMES = frozenset({"date-time", "date", "time", "duration"})
_LONGEST_NAME = 80
# Confluent's serializer of JSON puts a byte 0 and the schema's number before the text.
_FRAME_BYTES = 5


class JsonFormat:
    """Reads UTF-8 JSON objects that keep a JSON Schema; the empty schema takes any object.

    Raises:
        DefinitionError: the schema is none.
    """

    def __init__(self, stream: str, schema_json: str, *, numbers: str = "float") -> None:
        """``numbers``: what numbers with a fraction become, ``float`` or ``decimal``."""
        self._validator = _validator(stream, schema_json)
        self.valid: Callable[[Any], bool] = (
            self._validator.is_valid if self._validator is not None else lambda _: True
        )
        self._decimals = numbers == "decimal"
        self._exact = msgspec.json.Decoder(float_hook=JsonNumber if self._decimals else None)

    def parse(self, value: bytes) -> Any:
        """The value of the text, its numbers as orjson reads them."""
        try:
            found = orjson.loads(value)
        except orjson.JSONDecodeError:
            if value[:1] == b"\0":
                return self.parse(value[_FRAME_BYTES:])
            raise _unreadable(value) from None
        if not (type(found) is dict and each_once(found, value)):
            _check_each_once(found, value)
        return found

    def parse_exactly(self, value: bytes) -> Any:
        """As `parse`, integers of any length; fractions as declared by ``numbers``."""
        self.parse(value)
        try:
            return self._exact.decode(value[_FRAME_BYTES:] if value[:1] == b"\0" else value)
        except (msgspec.DecodeError, RecursionError, ValueError):
            raise RejectedError(Reason.NOT_JSON, "the text is not JSON") from None

    def check(self, found: Any) -> dict[str, Any]:
        """The object, if it keeps the schema."""
        if type(found) is not dict:
            raise RejectedError(Reason.NOT_AN_OBJECT, f"the JSON is {kind_of(found)}")
        # The validator knows no subclass of Decimal.
        plain = _with_floats(found) if self._decimals else found
        if not self.valid(plain):
            raise self._refusal(plain)
        return found

    def read_exactly(self, value: bytes) -> dict[str, Any]:
        """A message's fields, with exact numbers."""
        return self.check(self.parse_exactly(value))

    def _refusal(self, found: dict[str, Any]) -> RejectedError:
        """Why the schema refuses it, by the field and the keyword; never by the value."""
        assert self._validator is not None
        error = next(iter(self._validator.iter_errors(found)))
        keyword = _keyword(error)
        path = [*error.instance_path]
        missing = getattr(error.kind, "property", None)
        if keyword == "required" and isinstance(missing, str):
            path.append(missing)
        field = name_of(".".join(map(str, path))) or "the object"
        if keyword == "required":
            return RejectedError(Reason.MISSING_FIELD, f"{field} is missing")
        reason = _REASONS.get(keyword, Reason.OUT_OF_RANGE)
        if keyword == "type":
            if error.instance is None:
                return RejectedError(Reason.MISSING_FIELD, f"{field} is missing")
            return RejectedError(
                reason, f"{field} is {kind_of(error.instance)}, which is no type of it"
            )
        if keyword == "format":
            name = str(getattr(error.kind, "format", ""))
            reason = Reason.BAD_TIME if name in _TIMES else Reason.OUT_OF_RANGE
        return RejectedError(reason, f"{field} breaks the schema's {keyword}")


def _with_floats(value: Any) -> Any:
    if isinstance(value, JsonNumber):
        return float(value)
    if isinstance(value, dict):
        return {name: _with_floats(each) for name, each in value.items()}
    return [_with_floats(each) for each in value] if isinstance(value, list) else value


def name_of(field: str) -> str:
    """A field's name as it may be printed: a message chose it."""
    return "".join(c if c.isprintable() else "?" for c in field[:_LONGEST_NAME])


def _keyword(error: Any) -> str:
    words = [part for part in error.schema_path if isinstance(part, str)]
    return words[-1] if words else "false"


def each_once(found: dict[str, Any], value: bytes) -> bool:
    """Whether no field is there twice, for objects without a string deeper within; else False.

    Each string is written with two quotes, names of fields included, and a quote within one only
    adds to them: as many quotes as the strings that were read want means that none was dropped.
    """
    return value.count(b'"') == 2 * (len(found) + sum(type(v) is str for v in found.values()))


def _check_each_once(found: Any, value: bytes) -> None:
    """As `each_once`, of any value."""
    text = _ESCAPE.sub(b"", value) if b"\\" in value else value
    if text.count(b'"') != 2 * _strings([found]):
        raise RejectedError(Reason.DUPLICATE_FIELD, "a field is there twice")


def _strings(value: Any) -> int:
    """How many strings an object or an array is written with, names of fields included."""
    count, open_ = 0, [value]
    while open_:
        part = open_.pop()
        if type(part) is dict:
            count += len(part)
            inner = part.values()
        else:
            inner = part
        for each in inner:
            if type(each) is str:
                count += 1
            elif type(each) is dict or type(each) is list:
                open_.append(each)
    return count


def _unreadable(value: bytes) -> RejectedError:
    try:
        value.decode()
    except UnicodeDecodeError:
        return RejectedError(Reason.ENCODING, "the bytes are not UTF-8")
    return RejectedError(Reason.NOT_JSON, "the text is not JSON")


def _validator(stream: str, schema_json: str) -> Any:
    if not schema_json.strip():
        return None
    try:
        schema = json.loads(schema_json)
        if not isinstance(schema, dict):
            raise TypeError("a schema is a JSON object")
        if not schema:
            return None
        return jsonschema_rs.validator_for(schema, validate_formats=True, retriever=_no_network)
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DefinitionError(
            f"The JSON Schema of the stream {stream} cannot be used: {said.rstrip('.')}."
        ) from error


def _no_network(uri: str) -> Any:
    raise ValueError(f"it refers to {uri}, which is not in it: put it into $defs")
