"""Debezium's changes and CloudEvents as rows."""

import base64
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from feast.data_format import AvroFormat, JsonFormat

from streaming.decoding import RowDecoder
from streaming.kafka.message_decoder import Reason, RejectedError
from tests.streaming.decoding.declared import NOW, decoded, message, stream, table
from tests.streaming.decoding.test_formats import avro, refused

STAMP_US = 1_784_116_740_123_456
CHANGED = datetime(2026, 7, 15, 11, 59, 0, 123456, UTC)
PRODUCTS = {
    "sku": "text!", "price": "numeric", "at": "timestamp with time zone!", "deleted": "boolean!",
    "since": "date", "seen": "timestamp without time zone",
}  # fmt: skip


def products(**more: Any) -> RowDecoder:
    made = table(PRODUCTS, keys="sku", deleted="deleted", **more.pop("table", {}))
    return RowDecoder(stream(made, envelope="debezium", **more))


def change(op: str, before: Any = None, after: Any = None) -> dict[str, Any]:
    source = {"ts_ms": STAMP_US // 1000, "ts_us": STAMP_US, "table": "products", "lsn": 3}
    return {"op": op, "before": before, "after": after, "source": source, "ts_ms": STAMP_US // 1000}


ROW = {"sku": "a", "price": "12.50"}
STORED = {
    "sku": "a", "price": "12.50", "at": CHANGED, "deleted": False, "since": None, "seen": None,
}  # fmt: skip


@pytest.mark.parametrize("op", ["c", "r", "u"])
def test_the_row_after_a_change(op: str) -> None:
    assert decoded(products(), change(op, ROW if op == "u" else None, ROW)) == [STORED]


def test_a_delete_is_a_row_that_ends_the_value() -> None:
    deleted = {**STORED, "deleted": True}
    assert decoded(products(), change("d", ROW)) == [deleted]
    # By PostgreSQL's default only the key is told.
    only_key = change("d", {"sku": "a", "price": None})
    assert decoded(products(missing="dead-letter"), only_key) == [deleted | {"price": None}]
    assert decoded(products(), None) == []  # the tombstone behind it


def test_a_delete_has_the_time_of_the_change_not_the_rows() -> None:
    decoder = products(mapping={"updated": "at"}, time_units={"at": "ms"})
    row = {**ROW, "updated": STAMP_US // 1000 - 60_000}
    assert decoded(decoder, change("c", None, row))[0]["at"] < CHANGED
    assert decoded(decoder, change("d", row))[0]["at"] == CHANGED


def test_an_update_of_the_key_ends_the_old_value() -> None:
    old, new = decoded(products(), change("u", {"sku": "b", "price": "1"}, ROW))
    assert (old["sku"], old["deleted"], new) == ("b", True, STORED)
    with_id = {**PRODUCTS, "id": "text!"}
    decoder = RowDecoder(
        stream(table(with_id, keys="sku", deleted="deleted", id="id"), envelope="debezium")
    )
    ids = [row["id"] for row in decoded(decoder, change("u", {"sku": "b"}, ROW))]
    assert len(set(ids)) == 2


def test_a_table_without_the_column_refuses_deletes() -> None:
    columns = {name: kind for name, kind in PRODUCTS.items() if name != "deleted"}
    decoder = RowDecoder(stream(table(columns, keys="sku"), envelope="debezium"))
    assert refused(decoder, change("d", ROW)).reason is Reason.ENVELOPE


@pytest.mark.parametrize(
    "value",
    [
        change("t"), change("x", ROW, ROW), change("c"), change("d"), ROW, [], 7, {"payload": None},
        {**change("c", None, ROW), "source": None, "ts_ms": None}, change("c", None, [1]),
    ],
)  # fmt: skip
def test_what_is_no_change(value: object) -> None:
    assert refused(products(), value).reason is Reason.ENVELOPE


def test_the_schema_of_the_json_converter_says_the_types() -> None:
    cents = base64.b64encode((1250).to_bytes(2, "big")).decode()
    row = {"sku": "a", "price": cents, "since": 20_649, "seen": STAMP_US}
    fields = [
        {"field": "sku", "type": "string"},
        {
            "field": "price", "type": "bytes", "name": "org.apache.kafka.connect.data.Decimal",
            "parameters": {"scale": "2"},
        },
        {"field": "since", "type": "int32", "name": "io.debezium.time.Date"},
        {"field": "seen", "type": "int64", "name": "io.debezium.time.MicroTimestamp"},
    ]  # fmt: skip
    sides = [{"field": side, "type": "struct", "fields": fields} for side in ("before", "after")]
    value = {"schema": {"type": "struct", "fields": sides}, "payload": change("c", None, row)}
    expected = {**STORED, "since": date(2026, 7, 15), "seen": CHANGED.replace(tzinfo=None)}
    assert decoded(products(), value) == [expected]
    value["payload"]["after"]["price"] = "?"
    error = refused(products(), value)
    assert (error.reason, error.detail.split()[0]) == (Reason.WRONG_TYPE, "price")


def test_debezium_as_avro() -> None:
    micro = {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}
    price = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    row = {
        "type": "record", "name": "Value",
        "fields": [
            {"name": "sku", "type": "string"},
            {"name": "price", "type": ["null", price]},
            {"name": "seen", "type": ["null", micro]},
        ],
    }  # fmt: skip
    source = {"type": "record", "name": "Source", "fields": [{"name": "ts_ms", "type": "long"}]}
    schema = {
        "type": "record", "name": "Envelope",
        "fields": [
            {"name": "before", "type": ["null", row]}, {"name": "after", "type": ["null", "Value"]},
            {"name": "source", "type": source}, {"name": "op", "type": "string"},
        ],
    }  # fmt: skip
    after = {"sku": "a", "price": Decimal("12.50"), "seen": STAMP_US}
    value = {"before": None, "after": after, "source": {"ts_ms": STAMP_US // 1000}, "op": "c"}
    decoder = products(message_format=AvroFormat(json.dumps(schema)))
    at = CHANGED.replace(microsecond=123_000)
    expected = {**STORED, "at": at, "seen": CHANGED.replace(tzinfo=None)}
    assert decoded(decoder, avro(schema, value)) == [expected]


VIEWS = {"k": "bigint!", "at": "timestamp with time zone!", "event": "text!", "page": "text"}
MAPPING = {"ce_id": "event", "ce_time": "at"}
ATTRIBUTES = {"id": "e-1", "source": "/shop", "type": "view", "specversion": "1.0"}
TIME = "2026-07-15T11:59:00Z"


def views(**more: Any) -> RowDecoder:
    return RowDecoder(
        stream(table(VIEWS, id="event"), mapping=MAPPING, envelope="cloudevents", **more)
    )


def headers(**attributes: str) -> tuple[tuple[str, bytes], ...]:
    return tuple((f"ce_{name}", text.encode()) for name, text in attributes.items())


def test_cloudevents_structured_and_binary() -> None:
    expected = [{"k": 7, "at": datetime.fromisoformat(TIME), "event": "e-1", "page": "/a"}]
    data = {"k": 7, "page": "/a"}
    event = {**ATTRIBUTES, "time": TIME, "data": data}
    kind = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    assert decoded(views(unknown="dead-letter"), event, headers=kind) == expected
    assert decoded(views(), event) == expected
    coded = {
        **ATTRIBUTES,
        "time": TIME,
        "data_base64": base64.b64encode(json.dumps(data).encode()).decode(),
    }
    assert decoded(views(), coded, headers=kind) == expected
    binary = headers(**ATTRIBUTES, time=TIME)
    assert decoded(views(), data, headers=binary) == expected


def test_what_is_no_cloudevent() -> None:
    for name in ATTRIBUTES:
        event = {k: v for k, v in ATTRIBUTES.items() if k != name} | {"data": {"k": 7}}
        assert refused(views(), event).reason is Reason.ENVELOPE
    assert refused(views(), {**ATTRIBUTES, "data": [7]}).reason is Reason.NOT_AN_OBJECT
    batch = (("content-type", b"application/cloudevents-batch+json"),)
    assert refused(views(), [], headers=batch).reason is Reason.ENVELOPE
    assert refused(views(), None).reason is Reason.TOMBSTONE
    assert (
        refused(views(), {"k": 7}, headers=(("ce_specversion", b"1.0"), ("ce_id", b"\xff"))).reason
        is Reason.ENCODING
    )


def test_the_schema_is_of_the_data() -> None:
    schema = JsonFormat('{"required": ["page"]}')
    error = refused(views(message_format=schema), {**ATTRIBUTES, "data": {"k": 7}})
    assert (error.reason, error.detail) == (Reason.MISSING_FIELD, "page is missing")
    with pytest.raises(RejectedError):
        views(message_format=schema).decode(
            message({"k": 7}, headers=headers(**ATTRIBUTES, time=TIME)), NOW
        )
