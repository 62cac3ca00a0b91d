"""Avro, Protobuf, the registry: what is read, what is refused, and what is an outage."""

import io
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import fastavro
import pytest
from feast.data_format import AvroFormat, JsonFormat, ProtoFormat

from extensions.errors import DefinitionError, UnavailableError
from extensions.failure_classification import Outage, outage
from streaming.decoding import RowDecoder, SchemaRegistry
from streaming.decoding import schema_registry as registry_module
from streaming.kafka.message_decoder import Reason, RejectedError
from tests.streaming.decoding.declared import NOW, decoded, message, stream
from tests.streaming.decoding.protobuf_messages import Order
from tests.streaming.decoding.registry_server import RegistryServer, serving

AT = datetime(2026, 7, 15, 11, 59, 0, 123456, UTC)
COLUMNS = {
    "k": "bigint!", "at": "timestamp with time zone!", "total": "double precision", "note": "text",
}  # fmt: skip
ORDER = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "k", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "total", "type": ["null", "double"], "default": None},
        {"name": "note", "type": "string", "default": ""},
    ],
}
GOOD = {"k": 7, "at": AT, "total": 1.5, "note": "ü"}


def avro(schema: Any, fields: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(json.dumps(schema))), fields)
    return out.getvalue()


def framed(number: int, value: bytes) -> bytes:
    return struct.pack(">bI", 0, number) + value


def refused(decoder: RowDecoder, value: object, **more: Any) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        decoder.decode(message(value, **more), NOW)
    return caught.value


def avro_decoder(schema: Any = ORDER, columns: Any = COLUMNS, **more: Any) -> RowDecoder:
    text = json.dumps(schema) if schema else ""
    return RowDecoder(stream(columns, AvroFormat(text), **more))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RegistryServer]:
    monkeypatch.setattr(registry_module, "_PAUSE_SECONDS", 0.01)
    with serving(RegistryServer()) as found:
        yield found


def test_avro_without_a_registry() -> None:
    assert decoded(avro_decoder(), avro(ORDER, GOOD)) == [GOOD]


def test_avro_refuses_what_does_not_fit() -> None:
    decoder = avro_decoder()
    value = avro(ORDER, GOOD)
    assert refused(decoder, value[:-1]).reason is Reason.NOT_AVRO
    assert refused(decoder, value + b"\0").reason is Reason.NOT_AVRO
    assert (
        refused(decoder, avro(ORDER, GOOD | {"total": float("nan")})).reason is Reason.OUT_OF_RANGE
    )


def test_a_unit_that_the_schema_declares_and_the_producer_missed() -> None:
    millis = json.loads(json.dumps(ORDER).replace("micros", "millis"))
    raw = json.loads(json.dumps(ORDER).replace(', "logicalType": "timestamp-micros"', ""))
    error = refused(avro_decoder(millis), avro(raw, GOOD | {"at": int(AT.timestamp() * 1e6)}))
    assert (error.reason, error.detail) == (
        Reason.BAD_TIME,
        "at is declared in milliseconds, but looks like microseconds",
    )


def test_a_list_too_deep_is_refused_and_ends_no_process() -> None:
    """fastavro's compiled reader overflows the stack of C, which no handler catches."""
    script = (
        "from tests.streaming.decoding.test_formats import deep_list; print(deep_list().reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "Reason.NOT_AVRO"), done.stderr[-500:]


def deep_list() -> RejectedError:
    schema = json.loads(json.dumps(ORDER))
    schema["fields"].insert(0, {"name": "n", "type": ["null", "Order"], "default": None})
    return refused(avro_decoder(schema), b"\x02" * 60_000)


def test_an_array_of_nothing_is_no_schema() -> None:
    """Ten bytes would ask for a list of 2^60 items."""
    schema = json.loads(json.dumps(ORDER))
    schema["fields"].append({"name": "n", "type": {"type": "array", "items": "null"}})
    with pytest.raises(DefinitionError, match="things_stream"):
        avro_decoder(schema)


def test_avro_with_a_registry(server: RegistryServer) -> None:
    older = {**ORDER, "fields": [*ORDER["fields"][:2], {"name": "gone", "type": "int"}]}
    server.register(5, older)
    server.register(6, ORDER)
    decoder = avro_decoder(registry_url=server.url.replace("://", "://user:s%40crt@"))
    for _ in range(2):
        [row] = decoded(decoder, framed(5, avro(older, GOOD | {"gone": 1})))
        assert row == GOOD | {"total": None, "note": ""}
        assert decoded(decoder, framed(6, avro(ORDER, GOOD))) == [GOOD]
    assert [path for path, _ in server.requests] == ["/schemas/ids/5", "/schemas/ids/6"]
    assert {told for _, told in server.requests} == {"Basic dXNlcjpzQGNydA=="}
    for _ in range(2):
        assert refused(decoder, framed(99, b"")).reason is Reason.UNKNOWN_SCHEMA
    assert len(server.requests) == 3
    assert refused(decoder, avro(ORDER, GOOD)).reason is Reason.NOT_AVRO


def test_schemas_of_the_registry_may_refer_to_others(server: RegistryServer) -> None:
    money = {"type": "record", "name": "Money", "fields": [{"name": "cents", "type": "long"}]}
    order = {**ORDER, "fields": [*ORDER["fields"], {"name": "paid", "type": "Money"}]}
    server.register(
        7, order, references=[{"name": "Money", "subject": "money-value", "version": 3}]
    )
    server.versions["money-value", "3"] = {"schema": json.dumps(money)}
    whole = {**ORDER, "fields": [*ORDER["fields"], {"name": "paid", "type": money}]}
    decoder = avro_decoder(
        None,
        COLUMNS | {"cents": "integer"},
        mapping={"paid.cents": "cents"},
        registry_url=server.url,
    )
    value = framed(7, avro(whole, GOOD | {"paid": {"cents": 120}}))
    assert decoded(decoder, value) == [GOOD | {"cents": 120}]


def test_a_writer_with_another_unit_is_not_read_in_ours(server: RegistryServer) -> None:
    millis = json.loads(json.dumps(ORDER).replace("micros", "millis"))
    server.register(8, millis)
    decoder = avro_decoder(registry_url=server.url)
    assert refused(decoder, framed(8, avro(millis, GOOD))).reason is Reason.UNKNOWN_SCHEMA


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_a_registry_that_does_not_answer_is_an_outage(server: RegistryServer, status: int) -> None:
    decoder = avro_decoder(registry_url=server.url.replace("://", "://user:hunter2@"))
    server.register(6, ORDER)
    server.status = status
    if status == 404:
        server.answer = lambda _: (404, {})  # type: ignore[method-assign]
    with pytest.raises(UnavailableError) as caught:
        decoder.decode(message(framed(6, avro(ORDER, GOOD))), NOW)
    assert outage(caught.value) is Outage.LOST
    assert "hunter2" not in str(caught.value)
    assert "SKEWLESS_SCHEMA_REGISTRY" in str(caught.value)


def test_a_registry_that_is_away_is_an_outage_until_it_is_back() -> None:
    found = RegistryServer()
    with serving(found) as server:
        url = server.url
    decoder = avro_decoder(registry_url=url)
    with pytest.raises(UnavailableError) as caught:
        decoder.decode(message(framed(6, avro(ORDER, GOOD))), NOW)
    assert outage(caught.value) is Outage.LOST
    found.register(6, ORDER)
    with serving(found, int(url.rpartition(":")[2])):
        assert decoded(decoder, framed(6, avro(ORDER, GOOD))) == [GOOD]


def test_the_environment_names_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKEWLESS_SCHEMA_REGISTRY", "http://127.0.0.1:1")
    assert SchemaRegistry.of(None) is not None
    assert SchemaRegistry.of("none") is None
    assert decoded(avro_decoder(registry_url="none"), avro(ORDER, GOOD)) == [GOOD]


PROTOBUF = ProtoFormat("tests.streaming.decoding.protobuf_messages.Order")
ORDER_COLUMNS = COLUMNS | {
    "raw": "bytea", "kind": "text", "sku": "text", "tags": "text[]", "big": "bigint",
}  # fmt: skip


def order(**fields: Any) -> bytes:
    made = Order(k=7, note="ü", **fields)
    made.at.FromDatetime(AT)
    return bytes(made.SerializeToString())


def test_protobuf_bare_and_in_confluents_format() -> None:
    decoder = RowDecoder(stream(ORDER_COLUMNS, PROTOBUF, {"line.sku": "sku"}))
    value = order(raw=b"\0\xff", kind=1, line={"sku": "a"}, tags=["x", 'y"\\'], big=3)
    expected = {
        "k": 7, "at": AT, "total": None, "note": "ü", "raw": b"\0\xff", "kind": "SALE", "sku": "a",
        "tags": '{"x","y\\"\\\\"}', "big": 3,
    }  # fmt: skip
    assert decoded(decoder, value) == [expected]
    # Order is the second message of its file: one index, 1, in zigzag.
    assert decoded(decoder, framed(3, b"\x02\x02" + value)) == [expected]
    assert refused(decoder, framed(3, b"\0" + value)).reason is Reason.UNKNOWN_SCHEMA
    assert refused(decoder, b"\0\0").reason is Reason.NOT_PROTOBUF
    assert refused(decoder, value[:-1]).reason is Reason.NOT_PROTOBUF
    assert refused(decoder, order(big=2**64 - 1)).reason is Reason.OUT_OF_RANGE
    assert decoded(decoder, order(total=0.0))[0]["total"] == 0.0


def test_a_class_that_is_none_is_said() -> None:
    for path in ("tests.nowhere.Order", "tests.streaming.decoding.declared.stream"):
        with pytest.raises(DefinitionError, match=r"things_stream .*" + path):
            RowDecoder(stream(COLUMNS, ProtoFormat(path)))


def test_json_of_confluents_serializer() -> None:
    decoder = RowDecoder(stream(COLUMNS, JsonFormat("{}")))
    value = b'{"k": 7, "at": "2026-07-15T11:59:00.123456Z", "total": 1.5, "note": "\xc3\xbc"}'
    assert decoded(decoder, value) == decoded(decoder, framed(3, value)) == [GOOD]
