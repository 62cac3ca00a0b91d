"""Mutated messages of every format: each is rows or a refusal, and nothing else happens.

``HOSTILE_MESSAGES=100000`` for the long form.
"""

import io
import json
import os
import random
import struct
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import fastavro
import orjson
import pytest
from feast.data_format import AvroFormat, JsonFormat

from streaming.decoding import RowDecoder
from streaming.kafka.message_decoder import RejectedError
from tests.streaming.decoding import test_formats as formats
from tests.streaming.decoding.declared import NOW, message, stream
from tests.streaming.decoding.mutations import mutated
from tests.streaming.decoding.test_envelopes import (
    ATTRIBUTES,
    TIME,
    change,
    headers,
    products,
    views,
)

COUNT = int(os.environ.get("HOSTILE_MESSAGES", "2000"))
WIDE = {
    "k": "bigint!", "at": "timestamp with time zone!", "total": "double precision", "note": "text",
    "small": "smallint", "price": "numeric", "id": "uuid", "on": "boolean", "day": "date",
    "raw": "bytea", "more": "jsonb", "list": "integer[]", "naive": "timestamp without time zone",
    "ip": "inet", "part": "real",
}  # fmt: skip
FULL = {
    "k": 7, "at": TIME, "total": 1.5, "note": "ü", "small": 3, "price": 12.50, "on": True,
    "id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "day": "2026-07-15", "raw": "AP8=",
    "more": {"a": [1, 2.5, None]}, "list": [1, None], "naive": TIME, "ip": "::1", "part": 0.25,
}  # fmt: skip
SCHEMA = '{"type": "object", "required": ["k"], "properties": {"note": {"maxLength": 9}}}'


def wide(**more: Any) -> RowDecoder:
    return RowDecoder(stream(WIDE, JsonFormat(SCHEMA), time_units={"at": "ms"}, **more))


AVRO_FULL = {
    "type": "record", "name": "Full",
    "fields": [
        *formats.ORDER["fields"],
        {"name": "list", "type": {"type": "array", "items": ["null", "int"]}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {
            "name": "price",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        },
    ],
}  # fmt: skip


def avro_wide() -> tuple[RowDecoder, bytes]:
    fields = formats.GOOD | {
        "list": [1, None], "day": datetime(2026, 7, 15, tzinfo=UTC).date(), "id": FULL["id"],
        "price": Decimal("12.50"),
    }  # fmt: skip
    decoder = RowDecoder(stream(WIDE, AvroFormat(json.dumps(AVRO_FULL))))
    return decoder, formats.avro(AVRO_FULL, fields)


def protobuf() -> tuple[RowDecoder, bytes]:
    decoder = RowDecoder(
        stream(formats.ORDER_COLUMNS, formats.PROTOBUF, {"line.sku": "sku"}, unknown="ignore")
    )
    return decoder, formats.order(kind=1, line={"sku": "a"}, tags=["x"], big=3, raw=b"ab")


CASES: dict[str, tuple[RowDecoder, bytes, tuple[Any, ...]]] = {
    "json": (wide(), orjson.dumps(FULL), ()),
    "json, coerced": (wide(coerce=True, unknown="dead-letter"), orjson.dumps(FULL), ()),
    "avro": (*avro_wide(), ()),
    "protobuf": (*protobuf(), ()),
    "protobuf, framed": (
        protobuf()[0], struct.pack(">bI", 0, 3) + b"\x02\x02" + protobuf()[1], (),
    ),
    "debezium": (
        products(),
        orjson.dumps(change("u", {"sku": "b", "price": "1"}, {"sku": "a", "seen": TIME})),
        (),
    ),
    "cloudevents, structured": (
        views(), orjson.dumps({**ATTRIBUTES, "time": TIME, "data": {"k": 7, "page": "/a"}}), (),
    ),
    "cloudevents, binary": (
        views(), orjson.dumps({"k": 7, "page": "/a"}), headers(**ATTRIBUTES, time=TIME),
    ),
}  # fmt: skip
TYPES = {
    "bigint": int, "smallint": int, "integer": int, "real": float, "double precision": float,
    "boolean": bool, "text": str, "bytea": bytes, "timestamp with time zone": datetime,
    "timestamp without time zone": datetime,
}  # fmt: skip


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_each_mutated_message_is_rows_or_refused(name: str) -> None:
    decoder, good, told = CASES[name]
    rng = random.Random(f"{name} 20261126")
    assert decoder.decode(message(good, headers=told), NOW)
    kinds = {column.name: column.pg_type for column in decoder.stream.table.columns}
    rows = slowest = longest = 0
    for _ in range(COUNT):
        value = mutated(rng, good)
        began = time.process_time()
        try:
            found = decoder.decode(message(value, headers=told), NOW)
        except RejectedError as error:
            longest = max(longest, len(error.detail))
            continue
        finally:
            slowest = max(slowest, time.process_time() - began)
        for row in found:
            rows += 1
            for column, each in zip(decoder.columns, row, strict=True):
                wanted = TYPES.get(kinds[column])
                assert each is None or wanted is None or type(each) is wanted, (column, value)
                if isinstance(each, datetime):
                    assert (each.tzinfo is UTC) == (kinds[column] == "timestamp with time zone")
                if isinstance(each, str):
                    assert "\0" not in each
                    each.encode()
    assert rows > 0
    assert longest < 300
    assert slowest < 2


def test_avro_rows_are_what_fastavro_reads() -> None:
    """Generated values of generated schemas, against an independent way through the library."""
    rng = random.Random(20261126)
    kinds = {"long": "bigint", "string": "text", "double": "double precision", "boolean": "boolean",
             "bytes": "bytea", "int": "integer"}  # fmt: skip
    makers = {
        "long": lambda: rng.choice([0, -1, 2**63 - 1, -(2**63), rng.getrandbits(40)]),
        "int": lambda: rng.choice([0, -(2**31), 2**31 - 1]),
        "string": lambda: "".join(rng.choice("aß漢🜁 '\"\\") for _ in range(rng.randrange(20))),
        "double": lambda: rng.choice([0.0, -1.5, 1e300, rng.random()]),
        "boolean": lambda: rng.random() < 0.5,
        "bytes": lambda: rng.randbytes(rng.randrange(9)),
    }
    for _ in range(max(20, COUNT // 100)):
        chosen = {f"f{n}": rng.choice([*kinds]) for n in range(rng.randrange(1, 8))}
        fields = [{"name": n, "type": ["null", kind]} for n, kind in chosen.items()]
        schema = {**formats.ORDER, "fields": [*formats.ORDER["fields"], *fields]}
        columns = formats.COLUMNS | {n: kinds[kind] for n, kind in chosen.items()}
        decoder = RowDecoder(stream(columns, AvroFormat(json.dumps(schema))))
        for _ in range(20):
            made = {n: makers[kind]() if rng.random() < 0.8 else None for n, kind in chosen.items()}
            value = formats.avro(schema, formats.GOOD | made)
            [row] = decoder.decode(message(value), NOW)
            parsed = fastavro.parse_schema(json.loads(json.dumps(schema)))
            expected = fastavro.schemaless_reader(io.BytesIO(value), parsed, None)
            assert dict(zip(decoder.columns, row, strict=True)) == expected
