"""Stored rows as messages again: what is replayed is decoded to the same row."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from feast.data_format import AvroFormat, JsonFormat

from extensions.errors import DefinitionError
from streaming.decoding import RowDecoder
from streaming.kafka.event_replay import encoder
from tests.streaming.decoding.declared import NOW, decoded, stream, watches
from tests.streaming.decoding.test_hostile_formats import FULL, WIDE


def test_the_inverse_of_a_mapping_is_read_as_the_same_row() -> None:
    declared = stream(WIDE, JsonFormat(""), {"item.key": "k", "Note": "note"})
    stored = {
        "k": 2**63 - 1, "at": NOW, "total": 0.1, "note": "ü", "small": -3, "id": FULL["id"],
        "price": Decimal("12.5000000000000000000000001"), "on": False, "day": date(2026, 7, 15),
        "raw": b"\0\xff", "more": {"a": [1, None]}, "list": [1, None], "part": 0.25, "ip": "::1",
        "naive": datetime(2026, 7, 15, 1, 2, 3, 4, UTC),
    }  # fmt: skip
    [row] = decoded(RowDecoder(declared), encoder(declared)(stored))
    expected = stored | {
        "price": "12.5000000000000000000000001", "more": '{"a":[1,null]}', "list": "{1,NULL}",
        "naive": datetime(2026, 7, 15, 1, 2, 3, 4),  # noqa: DTZ001
    }  # fmt: skip
    assert row == expected


def test_a_function_encodes_what_a_function_converted() -> None:
    declared = watches(encode="feature_repo.streams.published_event")
    stored = {
        "event_id": "e-1", "user_id": 7, "item_id": 9, "watched_at": NOW, "duration_ms": 750_001,
        "progress": 0.25,
    }  # fmt: skip
    assert decoded(RowDecoder(declared), encoder(declared)(stored)) == [stored]


LINE = {
    "type": "record", "name": "Line",
    "fields": [
        {"name": "item", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "price", "type": ["null", {
            "type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}]},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("hooked", [False, True])
def test_avro_is_written_by_the_declared_schema(hooked: bool) -> None:
    declared = replace(
        stream(WIDE, AvroFormat(json.dumps(LINE)), {"item": "k"}),
        encode=f"{__name__}.line" if hooked else None,
    )
    stored = {"k": 7, "at": NOW, "note": None, "price": Decimal("12.50"), "day": date(2026, 7, 15)}
    [row] = decoded(RowDecoder(declared), encoder(declared)(stored))
    found = {name: value for name, value in row.items() if value is not None}
    wanted = {name: value for name, value in stored.items() if value is not None}
    assert found == wanted | {"price": "12.50"}


def line(columns: dict[str, Any]) -> dict[str, Any]:
    return {"item": columns["k"], **{name: columns[name] for name in ("at", "price", "day")}}


def test_what_avro_cannot_say_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = stream(WIDE, AvroFormat(json.dumps(LINE)), {"item": "k"})
    with pytest.raises(DefinitionError, match=r"does not fit its schema.*tag encode"):
        encoder(declared)({"k": "seven", "at": NOW})
    monkeypatch.setenv("SKEWLESS_SCHEMA_REGISTRY", "http://127.0.0.1:1")
    with pytest.raises(DefinitionError, match=r"of the registry by number.*tag encode"):
        encoder(declared)


def test_a_stream_without_an_inverse_is_said() -> None:
    for declared in (
        watches(),
        stream(WIDE, AvroFormat("{}")),
        stream(WIDE, envelope="debezium"),
    ):
        with pytest.raises(DefinitionError, match=r"_stream .*tag encode"):
            encoder(declared)
