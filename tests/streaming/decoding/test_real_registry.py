"""Avro and Protobuf with the schemas of a real registry: Apicurio, by Confluent's API."""

import json
import struct
from collections.abc import Iterator

import pytest
from feast.data_format import AvroFormat

from extensions.errors import SkewlessError, UnavailableError
from extensions.failure_classification import Outage, outage
from extensions.local.server_process import Server
from streaming.decoding import RowDecoder
from streaming.decoding import schema_registry as registry_module
from streaming.kafka.message_decoder import Reason
from tests.streaming.decoding import apicurio
from tests.streaming.decoding.declared import NOW, decoded, message, stream
from tests.streaming.decoding.test_formats import (
    COLUMNS,
    GOOD,
    ORDER,
    ORDER_COLUMNS,
    PROTOBUF,
    avro,
    framed,
    order,
    refused,
)

PROTO = """
syntax = "proto3";
package tests;
import "google/protobuf/timestamp.proto";
message Other {}
message Order {
  int64 k = 1;
  google.protobuf.Timestamp at = 2;
  string note = 4;
}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if reason := apicurio.available():
        pytest.skip(reason)
    try:
        apicurio.fetch()
    except SkewlessError as error:
        pytest.skip(f"Apicurio Registry cannot be fetched here: {error}")
    server = apicurio.start(tmp_path_factory.mktemp("apicurio"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    return server.url


def decoder_of(url: str, columns: dict[str, str] = COLUMNS, **more: object) -> RowDecoder:
    return RowDecoder(stream(columns, AvroFormat(""), registry_url=url, **more))


def test_a_schema_that_evolves_is_read_with_each_of_its_versions(url: str) -> None:
    older = {**ORDER, "fields": ORDER["fields"][:3]}
    newer = {
        **ORDER,
        "fields": [*ORDER["fields"], {"name": "more", "type": "string", "default": ""}],
    }
    numbers = [apicurio.register(url, "orders-value", each) for each in (older, ORDER, newer)]
    assert len(set(numbers)) == 3
    assert apicurio.register(url, "orders-value", ORDER) == numbers[1]
    decoder = decoder_of(url)
    for _ in range(2):
        [first] = decoded(decoder, framed(numbers[0], avro(older, GOOD)))
        assert first == {**GOOD, "note": None}
        assert decoded(decoder, framed(numbers[1], avro(ORDER, GOOD))) == [GOOD]
        assert decoded(decoder, framed(numbers[2], avro(newer, GOOD | {"more": "x"}))) == [GOOD]


def test_a_schema_may_refer_to_another(url: str) -> None:
    money = {"type": "record", "name": "Money", "fields": [{"name": "cents", "type": "long"}]}
    paid = {**ORDER, "fields": [*ORDER["fields"], {"name": "paid", "type": "Money"}]}
    apicurio.register(url, "money-value", money)
    number = apicurio.register(
        url, "paid-value", paid,
        references=[{"name": "Money", "subject": "money-value", "version": 1}],
    )  # fmt: skip
    whole = {**ORDER, "fields": [*ORDER["fields"], {"name": "paid", "type": money}]}
    columns = COLUMNS | {"cents": "integer"}
    decoder = decoder_of(url, columns, mapping={"paid.cents": "cents"})
    value = framed(number, avro(whole, GOOD | {"paid": {"cents": 120}}))
    assert decoded(decoder, value) == [GOOD | {"cents": 120}]


def test_protobuf_in_the_registrys_frame(url: str) -> None:
    newer = PROTO.replace("string note = 4;", "string note = 4;\n  repeated string tags = 8;")
    numbers = [
        apicurio.register(url, "protobuf-value", each, schemaType="PROTOBUF")
        for each in (PROTO, newer)
    ]
    decoder = RowDecoder(stream(ORDER_COLUMNS, PROTOBUF, registry_url=url))
    for number, tags in zip(numbers, ([], ["x"]), strict=True):
        # Order is the second message of its file: one index, 1, in zigzag.
        value = struct.pack(">bI", 0, number) + b"\x02\x02" + order(tags=tags)
        [row] = decoded(decoder, value)
        assert (row["k"], row["note"], row["tags"]) == (7, "ü", "{" + ",".join(
            json.dumps(tag) for tag in tags) + "}")  # fmt: skip


def test_an_unknown_number_is_a_dead_letter(url: str) -> None:
    error = refused(decoder_of(url), framed(987_654, avro(ORDER, GOOD)))
    assert (error.reason, error.detail) == (
        Reason.UNKNOWN_SCHEMA, "the registry has no schema 987654",
    )  # fmt: skip


def test_a_registry_that_went_away_is_an_outage(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read stays known; what was not is waited for, and is no dead letter."""
    monkeypatch.setattr(registry_module, "_PAUSE_SECONDS", 0.01)
    known = apicurio.register(server.url, "away-value", ORDER)
    decoder = decoder_of(server.url)
    assert decoded(decoder, framed(known, avro(ORDER, GOOD))) == [GOOD]
    server.stop()  # the last test of this file
    assert decoded(decoder, framed(known, avro(ORDER, GOOD))) == [GOOD]
    with pytest.raises(UnavailableError) as caught:
        decoder.decode(message(framed(known + 1, avro(ORDER, GOOD))), NOW)
    assert outage(caught.value) is Outage.LOST
