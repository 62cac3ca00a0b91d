"""What missing, unknown, coercible, late and absurd values mean; and what types hold."""

from datetime import timedelta
from typing import Any

import pytest
from feast.data_format import JsonFormat

from extensions.errors import DefinitionError
from streaming.decoding import RowDecoder
from streaming.kafka.message_decoder import Reason, RejectedError
from tests.streaming.decoding.declared import NOW, STAMP, decoded, message, stream, table
from tests.streaming.decoding.test_formats import refused
from tests.streaming.decoding.test_hostile_formats import FULL, WIDE, wide

TIMES = {"k": "bigint!", "at": "timestamp with time zone!"}


def hook(value: bytes) -> Any:
    """A decoder of the repository's own, as a stream would name it."""
    if value == b"out":
        return None
    if value == b"fail":
        raise ValueError("hunter2")
    return [{"k": number} for number in value]


def only(kind: str, value: object, **more: Any) -> Any:
    """The value of a column of this type; a refusal's reason where it is refused."""
    key = more.pop("key", False)
    made = table(TIMES | {"v": kind}, keys="v" if key else "k")
    decoder = RowDecoder(stream(made, **more))
    raw = value if isinstance(value, bytes) else None
    body = b'{"k": 1, "v": ' + raw + b"}" if raw is not None else {"k": 1, "v": value}
    try:
        return decoded(decoder, body)[0]["v"]
    except RejectedError as error:
        return error.reason


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("smallint", 2**15 - 1, 2**15 - 1),
        ("smallint", 2**15, Reason.OUT_OF_RANGE),
        ("bigint", b"9223372036854775807", 2**63 - 1),
        ("bigint", b"9223372036854775808", Reason.OUT_OF_RANGE),
        ("bigint", b"18446744073709551616", Reason.WRONG_TYPE),
        ("bigint", 7.0, Reason.WRONG_TYPE),
        ("bigint", True, Reason.WRONG_TYPE),
        ("bigint", "42", Reason.WRONG_TYPE),
        ("real", 3.5e38, Reason.OUT_OF_RANGE),
        ("double precision", b"1e300", 1e300),
        ("double precision", b"18446744073709551616", Reason.OUT_OF_RANGE),
        ("double precision", 2**53 + 1, Reason.OUT_OF_RANGE),
        ("double precision", b"NaN", Reason.NOT_JSON),
        ("numeric", b"0.1000000000000000000001", "0.1000000000000000000001"),
        ("numeric", b"123456789012345678901234567890", "123456789012345678901234567890"),
        ("numeric", "12.50", "12.50"),
        ("numeric", "1e", Reason.WRONG_TYPE),
        ("numeric", b"1e999999999", Reason.NOT_JSON),
        ("text", "E\u0301\u00c9", "E\u0301\u00c9"),
        ("text", b'"a\\u0000b"', Reason.OUT_OF_RANGE),
        ("text", 5, Reason.WRONG_TYPE),
        ("uuid", FULL["id"].upper(), FULL["id"]),  # type: ignore[attr-defined]
        ("uuid", "x", Reason.WRONG_TYPE),
        ("jsonb", b'{"a": 1.10, "b": 12345678901234567890}', '{"a":1.10,"b":12345678901234567890}'),
        ("jsonb", b'{"a": "\\u0000"}', Reason.OUT_OF_RANGE),
        ("text[]", ["a", None, 'b"\\', "NULL"], '{"a",NULL,"b\\"\\\\","NULL"}'),
        ("integer[]", [1, "2"], Reason.WRONG_TYPE),
        ("bytea", "AP8=", b"\0\xff"),
        ("bytea", "AP8", Reason.WRONG_TYPE),
        ("date", "2026-02-30", Reason.BAD_TIME),
        ("bigint", b'1, "v": 2', Reason.DUPLICATE_FIELD),
        ("bigint", b'1, "\\u0076": 2', Reason.DUPLICATE_FIELD),
    ],
)  # fmt: skip
def test_values_are_exact_or_refused(kind: str, value: object, expected: object) -> None:
    assert only(kind, value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("42", 42), ("0", 0), ("-7", -7), ("042", None), ("4.0", None), (" 42", None), ("+4", None),
     ("", None), ("-0", None), ("٤", None)],
)  # fmt: skip
def test_whole_keys_come_as_canonical_text_too(text: str, expected: int | None) -> None:
    found = only("bigint!", text, key=True)
    assert found == (Reason.WRONG_TYPE if expected is None else expected)


def test_what_may_be_coerced() -> None:
    for kind, value, expected in [
        ("bigint", "5", 5), ("bigint", 5.0, 5), ("bigint", "05", Reason.WRONG_TYPE),
        ("text", 5, "5"),
        ("text", True, "true"), ("double precision", "1.5", 1.5), ("boolean", "true", True),
        ("boolean", "yes", Reason.WRONG_TYPE),
    ]:  # fmt: skip
        assert only(kind, value, coerce=True) == expected
        assert only(kind, value) is Reason.WRONG_TYPE


def test_unknown_and_missing_fields() -> None:
    assert decoded(wide(), {"k": 7, "new": 1})[0]["k"] == 7
    error = refused(wide(unknown="dead-letter"), {"k": 7, "new": {"secret": 1}})
    assert (error.reason, error.detail) == (Reason.UNKNOWN_FIELD, "new has no column")
    assert decoded(wide(), {"k": 7})[0]["note"] is None
    for field in WIDE:
        short = {name: value for name, value in FULL.items() if name != field}
        error = refused(wide(missing="dead-letter"), short)
        assert (error.reason, error.detail) == (Reason.MISSING_FIELD, f"{field} is missing")


def test_nested_fields_are_mapped_by_dots() -> None:
    decoder = RowDecoder(
        stream(TIMES | {"sku": "text"}, mapping={"item.sku": "sku"}, unknown="dead-letter")
    )
    assert decoded(decoder, {"k": 7, "item": {"sku": "a"}})[0]["sku"] == "a"
    assert decoded(decoder, {"k": 7, "item": None})[0]["sku"] is None
    error = refused(decoder, {"k": 7, "item": {"sku": "a", "x": 1}})
    assert error.detail == "item.x has no column"


@pytest.mark.parametrize(
    ("unit", "value", "detail"),
    [
        ("ms", STAMP * 1000, "at is declared in milliseconds, but looks like microseconds"),
        ("ms", STAMP // 1000, "at is declared in milliseconds, but looks like seconds"),
        ("s", STAMP, "at is declared in seconds, but looks like milliseconds"),
        ("us", STAMP * 10**6, "at is declared in microseconds, but looks like nanoseconds"),
        ("ns", STAMP, "at is declared in nanoseconds, but looks like milliseconds"),
    ],
)  # fmt: skip
def test_an_absurd_time_says_its_unit(unit: Any, value: int, detail: str) -> None:
    decoder = RowDecoder(stream(TIMES, time_units={"at": unit}))
    error = refused(decoder, {"k": 7, "at": value})
    assert (error.reason, error.detail) == (Reason.BAD_TIME, detail)
    good = {"s": STAMP // 1000, "ms": STAMP, "us": STAMP * 10**3, "ns": STAMP * 10**6}[unit]
    assert decoded(decoder, {"k": 7, "at": good})[0]["at"] == NOW


def test_the_future_the_past_and_the_late() -> None:
    decoder = RowDecoder(stream(TIMES, max_lateness=timedelta(hours=1)))
    assert decoded(decoder, {"k": 7, "at": "2026-07-15T11:00:00Z"})
    for text, reason in (
        ("2026-07-15T10:59:59Z", Reason.TOO_LATE), ("2026-07-15T12:05:01Z", Reason.IN_THE_FUTURE),
        ("1999-12-31T00:00:00Z", Reason.TOO_OLD), ("2026-07-15T11:30:00", Reason.BAD_TIME),
    ):  # fmt: skip
        assert refused(decoder, {"k": 7, "at": text}).reason is reason
    assert decoded(decoder, {"k": 7})[0]["at"] == NOW


def test_hooks() -> None:
    path = f"{__name__}.hook"
    decoder = RowDecoder(stream(table(TIMES | {"id": "text"}, id="id"), decoder=path))
    assert decoder.decode(message(b"out"), NOW) == []
    rows = decoded(decoder, b"\x01\x02")
    assert [row["k"] for row in rows] == [1, 2]
    assert len({row["id"] for row in rows}) == 2
    error = refused(decoder, b"fail")
    assert (error.reason, error.detail) == (Reason.DECODER, "decoder raised ValueError")
    for tag in ("decoder", "convert"):
        with pytest.raises(DefinitionError, match=r"things_stream .*nowhere\.hook"):
            RowDecoder(stream(TIMES, **{tag: "nowhere.hook"}))


def test_schemas_that_are_none() -> None:
    for text in ("{", "[]", '{"type": "nothing"}', '{"$ref": "https://example.org/x"}'):
        with pytest.raises(DefinitionError, match="things_stream"):
            RowDecoder(stream(TIMES, JsonFormat(text)))


def test_what_a_schema_refuses_names_the_field_only() -> None:
    schema = JsonFormat(
        '{"properties": {"a": {"properties": {"b": {"type": "string", "format": "date-time"}}},'
        '"c": {"enum": [1]}}, "required": ["k"]}'
    )
    decoder = RowDecoder(stream(TIMES, schema))
    for value, reason, detail in (
        ({}, Reason.MISSING_FIELD, "k is missing"),
        ({"k": 1, "a": {"b": "hunter2"}}, Reason.BAD_TIME, "a.b breaks the schema's format"),
        ({"k": 1, "c": "hunter2"}, Reason.OUT_OF_RANGE, "c breaks the schema's enum"),
        ({"k": 1, "a": {"b": 5}}, Reason.WRONG_TYPE, "a.b is a number, which is no type of it"),
    ):
        error = refused(decoder, value)
        assert (error.reason, error.detail) == (reason, detail)
