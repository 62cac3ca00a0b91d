"""Debezium's envelope: changes of a table's rows, with and without the JSON converter's schema.

``op`` is c (insert), r (snapshot), u (update), d (delete) or t (truncate). What the source says of
a change is among the fields under the names that Debezium's own flattening gives it: ``__op``,
``__ts_ms``, ``__source_ts_ms`` and so on, and ``__deleted``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from streaming.decoding.connect_types import semantic_reader
from streaming.decoding.epochs import EpochTime
from streaming.decoding.json_format import name_of
from streaming.kafka.message_decoder import Reason, RejectedError

PREFIX = "__"
DELETED = "__deleted"


class Change(NamedTuple):
    """A change: the row after it, or before it where it is a delete; and when it happened.

    ``before``: of an update, the row as it was, where the source tells.
    """

    fields: dict[str, Any]
    deleted: bool
    at: EpochTime
    before: dict[str, Any] | None = None


def read_change(value: Any) -> Change:
    """The change in a decoded message.

    Raises:
        RejectedError: it is no envelope, or a truncation, which no row can say.
    """
    schema: Any = None
    if isinstance(value, dict) and "payload" in value and "op" not in value:
        schema, value = value.get("schema"), value["payload"]
    if not isinstance(value, dict):
        raise RejectedError(Reason.ENVELOPE, "the message is no change of Debezium's")
    op = value.get("op")
    if op == "t":
        raise RejectedError(Reason.ENVELOPE, "the source's table was truncated: no row says so")
    if op not in ("c", "r", "u", "d"):
        raise RejectedError(Reason.ENVELOPE, "op is none of c, r, u, d")
    source = value.get("source")
    source = source if isinstance(source, dict) else {}
    at = _source_time(source, value)
    deleted = op == "d"
    row = _row(value, "before" if deleted else "after", schema)
    if row is None:
        which = "before" if deleted else "after"
        raise RejectedError(Reason.ENVELOPE, f"{which} is missing in a change of op {op}")
    before = _row(value, "before", schema) if op == "u" else None
    told = {f"__source_{name}": each for name, each in source.items()}
    told |= {"__op": op, "__ts_ms": value.get("ts_ms"), DELETED: deleted}
    return Change({**row, **told}, deleted, at, before and {**before, **told, DELETED: True})


def _source_time(source: Mapping[str, Any], value: Mapping[str, Any]) -> EpochTime:
    """When the source committed the change; in microseconds where they agree."""
    for place in (source, value):
        ms, us = place.get("ts_ms"), place.get("ts_us")
        if isinstance(ms, EpochTime):
            return ms
        if type(ms) is int:
            if type(us) is int and us // 1_000 == ms:
                return EpochTime(us, "us")
            return EpochTime(ms, "ms")
    raise RejectedError(Reason.ENVELOPE, "the change says no time (source.ts_ms)")


def _row(value: Mapping[str, Any], side: str, schema: Any) -> dict[str, Any] | None:
    row = value.get(side)
    if row is None:
        return None
    if not isinstance(row, dict):
        raise RejectedError(Reason.ENVELOPE, f"{side} is no object")
    if schema is None:
        return row
    for field in _fields(schema, side):
        name = field.get("field")
        if not isinstance(name, str) or row.get(name) is None:
            continue
        told = field.get("parameters")
        try:
            read = semantic_reader(field.get("name"), told if isinstance(told, dict) else {})
            if read is not None:
                row = {**row, name: read(row[name])}
        except (ValueError, TypeError, OverflowError, KeyError):
            raise RejectedError(
                Reason.WRONG_TYPE, f"{name_of(name)} is not of its type in the message's schema"
            ) from None
    return row


def _fields(schema: Any, side: str) -> list[dict[str, Any]]:
    """The fields of one side of the envelope, in the JSON converter's schema."""
    for part in _objects(schema, "fields"):
        if part.get("field") == side:
            return _objects(part, "fields")
    return []


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    inner = value.get(name) if isinstance(value, dict) else None
    return [each for each in inner if isinstance(each, dict)] if isinstance(inner, list) else []
