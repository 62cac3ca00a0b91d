"""CloudEvents 1.0 over Kafka: structured (one JSON object) and binary (``ce_`` headers).

The attributes are among the fields as ``ce_id``, ``ce_source``, ``ce_type``, ``ce_time``,
``ce_subject`` and ``ce_<extension>``. Reference: CloudEvents, Kafka protocol binding 1.0.2.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any

import orjson

from streaming.decoding.json_format import name_of
from streaming.kafka.message_decoder import Message, Reason, RejectedError

PREFIX = "ce_"
_STRUCTURED = "application/cloudevents+json"
_REQUIRED = ("id", "source", "specversion", "type")
_DATA = ("data", "data_base64")


def read_event(
    message: Message,
    parse: Callable[[bytes], Any] | None,
    read: Callable[[bytes], Any],
    check: Callable[[Any], Any] | None,
) -> dict[str, Any]:
    """The fields of an event: its data's, and its attributes.

    Args:
        message: The record.
        parse: Reads the JSON of a structured event; None: `orjson`.
        read: Reads the data's bytes, in the stream's format.
        check: Of JSON data, by the stream's schema; None: data must come as bytes.

    Raises:
        RejectedError: it is no CloudEvent, or its data cannot be read.
    """
    headers = {name.lower(): value for name, value in message.headers}
    kind = _text(headers, "content-type").partition(";")[0].strip().lower()
    value = message.value
    if kind.startswith("application/cloudevents") and kind != _STRUCTURED:
        raise RejectedError(Reason.ENVELOPE, "events in batches or other codes than JSON")
    if kind != _STRUCTURED and PREFIX + "specversion" in headers:
        told = {
            name.removeprefix(PREFIX): _text(headers, name)
            for name, content in headers.items()
            if name.startswith(PREFIX) and content is not None
        }
        fields = {} if value is None else read(value)
    else:
        if value is None:
            raise RejectedError(Reason.TOMBSTONE, "the message has no value")
        told, fields = _structured(value, parse or _parsed, read, check)
    for name in _REQUIRED:
        if not isinstance(told.get(name), str) or not told[name]:
            raise RejectedError(Reason.ENVELOPE, f"the attribute {name} is missing")
    if not told["specversion"].startswith("1."):
        raise RejectedError(Reason.ENVELOPE, "specversion is not 1.0")
    if not isinstance(fields, dict):
        raise RejectedError(Reason.NOT_AN_OBJECT, "data is no object")
    return {**fields, **{PREFIX + name: each for name, each in told.items()}}


def _structured(
    value: bytes,
    parse: Callable[[bytes], Any],
    read: Callable[[bytes], Any],
    check: Callable[[Any], Any] | None,
) -> tuple[dict[str, Any], Any]:
    event = parse(value)
    if not isinstance(event, dict):
        raise RejectedError(Reason.ENVELOPE, "the message is no CloudEvent")
    told = {name: each for name, each in event.items() if name not in _DATA}
    if (text := event.get("data_base64")) is not None:
        try:
            return told, read(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError, TypeError):
            raise RejectedError(Reason.ENVELOPE, "data_base64 is no base64") from None
    if (data := event.get("data")) is None:
        return told, {}
    if check is None:
        raise RejectedError(Reason.ENVELOPE, "data must be bytes in the stream's format")
    return told, check(data)


def _parsed(value: bytes) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise RejectedError(Reason.NOT_JSON, "the text is not JSON") from None


def _text(headers: dict[str, bytes | None], name: str) -> str:
    try:
        return (headers.get(name) or b"").decode()
    except UnicodeDecodeError:
        raise RejectedError(Reason.ENCODING, f"the header {name_of(name)} is not UTF-8") from None
