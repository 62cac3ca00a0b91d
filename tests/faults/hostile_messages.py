"""Hostile messages: what each is, and by construction what must become of it.

The verdict comes from how a message was made and never from the decoder that is tested: an event
with exactly these columns, or a dead letter for one of these reasons.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from tests.streaming.load import ITEMS, USERS, Sent

LARGEST_ID = 2**63 - 1
KIB, MIB = 1 << 10, 1 << 20
# The client sends no null; `hostile_topic` puts one in a header's place where this stands.
NULL = b"\0NULL\0"
CODECS = (None, "gzip", "snappy", "lz4", "zstd")

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Hostile:
    """One message. ``reasons``: of its dead letter, any of these; empty: it is the ``event``.

    ``event_id`` None: named by the place that it gets. ``packs``: small only when compressed.
    """

    kind: str
    value: bytes | None
    reasons: frozenset[str] = frozenset()
    event: Sent | None = None
    event_id: str | None = None
    key: bytes | None = None
    headers: Headers = ()
    timestamp_ms: int | None = None
    packs: bool = False

    @property
    def is_event(self) -> bool:
        return not self.reasons


Fields = dict[str, Any]
Draw = random.Random


def messages(seed: int, count: int, events: float = 0.05) -> list[Hostile]:
    """``count`` messages in their order, about so large a share of them events."""
    draw, made = Draw(seed), []
    for number in range(count):
        wrap = _event if draw.random() < events else _no_event
        made.append(_wrapped(draw, wrap(draw, number)))
    return made


def repeated(seed: int, made: Sequence[Hostile], count: int) -> list[Hostile]:
    """Events out of these once more, unchanged: the same ids, so nothing new to store."""
    named = [one for one in made if one.is_event and one.event_id is not None]
    return [replace(one, kind="repeated") for one in Draw(seed).choices(named, k=count)]


def _event(draw: Draw, number: int) -> Hostile:
    """An event that is valid, however it looks."""
    now = datetime.now(UTC)
    age = draw.choice(
        [timedelta(seconds=draw.uniform(0, 5)), timedelta(hours=draw.uniform(0, 200))]
    )
    user, item = draw.randrange(USERS), draw.randrange(ITEMS)
    if draw.random() < 0.02:
        user, item = draw.choice([(LARGEST_ID, 1), (0, LARGEST_ID), (LARGEST_ID, LARGEST_ID)])
    progress = draw.choice([draw.randrange(65) / 64, -0.0, 5e-324])
    sent = Sent(user, item, now - age, draw.randrange(86_400_001), progress)
    event_id: str | None = f"{number}{draw.choice(_ODD_TEXTS)}"[:256]
    fields: Fields = {
        "eventId": event_id,
        "userId": sent.user_id,
        "itemId": sent.item_id,
        "watchedAt": sent.watched_at.isoformat(),
        "watchDurationMin": sent.duration_ms / 60_000,
        "progress": sent.progress,
    }
    if draw.random() < 0.1:
        del fields["eventId"]
        event_id = None
    if draw.random() < 0.2:
        fields |= draw.choice(_UNKNOWN_FIELDS)
    value = orjson.dumps(fields)
    if draw.random() < 0.1:
        value = value[:-1] + b',"deep":' + b"[" * 900 + b"]" * 900 + b"}"
    stamp = draw.choice([None, None, None, 0, 10**12, 10**17, 2**62])
    return Hostile("event", value, event=sent, event_id=event_id, timestamp_ms=stamp)


def _no_event(draw: Draw, number: int) -> Hostile:
    kind, make = draw.choice(_KINDS)
    return replace(make(draw), kind=kind)


def _wrapped(draw: Draw, one: Hostile) -> Hostile:
    """The message with a key and headers of any sort."""
    key = draw.choice([b"1", b"", b"\xff\x00", b"k" * draw.randrange(2_000), b"7"])
    if draw.random() < 0.002:
        key = b"k" * 100 * KIB
    headers: Headers = draw.choice(_HEADERS) if draw.random() < 0.3 else ()
    if draw.random() < 0.002:
        headers = (("long", b"x" * 90 * KIB),)
    return replace(one, key=key, headers=headers)


def _bad(value: bytes | None, *reasons: str, **more: Any) -> Hostile:
    return Hostile("", value, frozenset(reasons), **more)


def _good_fields(draw: Draw) -> Fields:
    return {
        "eventId": f"bad-{draw.getrandbits(64)}",
        "userId": draw.randrange(USERS),
        "itemId": draw.randrange(ITEMS),
        "watchedAt": datetime.now(UTC).isoformat(),
        "watchDurationMin": 3,
        "progress": 0.5,
    }


def _changed(draw: Draw, name: str, text: bytes) -> bytes:
    """A good event's JSON in which one field is this text, whatever it is."""
    fields = _good_fields(draw)
    fields[name] = "@@"
    return orjson.dumps(fields).replace(b'"@@"', text)


def _random_bytes(draw: Draw) -> Hostile:
    value = b"\xfe" * draw.randrange(2) + draw.randbytes(draw.randrange(1, 400))
    return _bad(value, "encoding", "not-json", "not-an-object")


def _truncated(draw: Draw) -> Hostile:
    value = orjson.dumps(_good_fields(draw))
    return _bad(value[: draw.randrange(len(value))], "not-json")


def _deep(draw: Draw) -> Hostile:
    depth = draw.choice([1_100, 5_000, 16_000])
    begin, end = draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inner = begin * min(depth, 10_000) + b"1" + end * min(depth, 10_000)
    whole = draw.choice([inner, begin * depth, _changed(draw, "deep", inner)])
    return _bad(whole, "not-json") if len(whole) <= 64 * KIB else _bad(whole, "oversized")


def _huge_number(draw: Draw) -> Hostile:
    name = draw.choice(["userId", "itemId", "watchDurationMin", "progress"])
    number = draw.choice(
        [
            *(b"9" * 25, b"1" + b"0" * 400, b"-1", b"-9223372036854775809", b"1e400", b"1e308"),
            *(b"18446744073709551616", b"9223372036854775808", b"-1e-3", b"1440.0001e3"),
            *(b"NaN", b"Infinity", b"-Infinity", b"0x10", b"1_000", b"01", b".5", b"1e"),
            b"9" * 20_000,
        ]
    )
    return _bad(_changed(draw, name, number), "out-of-range", "wrong-type", "not-json")


def _wrong_encoding(draw: Draw) -> Hostile:
    text = orjson.dumps(_good_fields(draw) | {"title": "Über ☃ 😀"}).decode()
    value = draw.choice(
        [
            *(text.encode("utf-16"), text.encode("utf-32"), text.encode("utf-16-be")),
            text.encode("latin-1", "replace").replace(b"?", b"\xdc"),
            b"\xef\xbb\xbf" + text.encode(),
            *(text.replace("☃", "\N{SNOWMAN}").encode() + b"\xc0\x80", b"\xfe" + text.encode()),
            *(text.encode().replace("☃".encode(), b"\xed\xa0\x80"), text.encode("cp037", "ignore")),
        ]
    )  # fmt: skip
    return _bad(value, "encoding", "not-json")


def _lone_surrogate(draw: Draw) -> Hostile:
    text = draw.choice([rb'"\ud800"', rb'"a\udfffb"', rb'"\ud83d"', rb'"\udc00\ud800"', rb'"\u12"'])
    return _bad(_changed(draw, draw.choice(["eventId", "title"]), text), "not-json")


def _control_character(draw: Draw) -> Hostile:
    text = draw.choice(
        [rb'"a\u0000b"', rb'"\u0000"', b'"a\x00b"', b'"a\x01b"', b'"\x1b[2J"', b'"\n"']
    )
    return _bad(_changed(draw, "eventId", text), "out-of-range", "not-json")


def _wrong_type(draw: Draw) -> Hostile:
    name = draw.choice(["userId", "itemId", "watchDurationMin", "progress"])
    text = draw.choice(
        [
            b'"07"',
            b'"-7"',
            b'" 7"',
            b"true",
            b"null",
            b"[]",
            b"{}",
            b"[0.5]",
            b'{"$gt": 0}',
            b'""',
            b"false",
        ]
    )
    if draw.random() < 0.2:
        name, text = "eventId", draw.choice([b"12", b'""', b"[]", b'"' + b"x" * 257 + b'"', b"{}"])
    return _bad(_changed(draw, name, text), "wrong-type", "missing-field", "out-of-range")


def _missing(draw: Draw) -> Hostile:
    fields = _good_fields(draw)
    del fields[draw.choice(["userId", "itemId", "watchDurationMin", "progress"])]
    return _bad(orjson.dumps(fields), "missing-field")


def _absurd_time(draw: Draw) -> Hostile:
    text = draw.choice(
        [
            *(b'"9999-12-31T23:59:59Z"', b'"10000-01-01T00:00:00Z"', b"99999999999999999"),
            *(b"-62135596800001", b"1e18", b"1.5", b'"1999-12-31T23:59:59Z"', b'"infinity"'),
            *(b'"0001-01-01T00:00:00+23:59"', b'"9999-12-31T23:59:59-23:59"', b'"now"', b'"epoch"'),
            *(b'"2026-13-45T00:00:00Z"', b'"2026-01-01T00:00:00"', b'"2026-01-01"', b'""', b"[]"),
            *(b'"2026-01-01T25:00:00Z"', b'"2026-01-01T00:00:00+99:99"', b"true", b'"0"', b"-1"),
            b"946684799999",
        ]
    )
    reasons = ("bad-time", "too-old", "in-the-future", "wrong-type")
    return _bad(_changed(draw, "watchedAt", text), *reasons)


def _absurd_record_time(draw: Draw) -> Hostile:
    fields = _good_fields(draw)
    del fields["watchedAt"]
    stamp = draw.choice([0, 1, 10**11, 10**14, 10**17, 2**62, 253_402_300_800_000])
    reasons = ("bad-time", "too-old", "in-the-future")
    return _bad(orjson.dumps(fields), *reasons, timestamp_ms=stamp)


def _oversized(draw: Draw) -> Hostile:
    if draw.random() < 0.9:
        return _bad(orjson.dumps(_good_fields(draw)) + b" " * 66 * KIB, "oversized", packs=True)
    if draw.random() < 0.7:
        return _bad(draw.randbytes(draw.randrange(65, 300) * KIB), "oversized")
    size = draw.choice([2, 5, 8]) * MIB
    return _bad(draw.choice([b"\0", b"[", b'"']) * size, "oversized", packs=True)


def _tombstone(_: Draw) -> Hostile:
    return _bad(None, "tombstone")


def _empty(draw: Draw) -> Hostile:
    return _bad(draw.choice([b"", b" ", b"\n\n", b"\0", b"\0" * 5]), "not-json")


def _doubled_key(draw: Draw) -> Hostile:
    value = orjson.dumps(_good_fields(draw))[:-1] + draw.choice(
        [b',"userId":"x"}', b',"progress":2}', b',"itemId":null}', b',"eventId":0}']
    )
    return _bad(value, "duplicate-field")


def _no_object(draw: Draw) -> Hostile:
    good = orjson.dumps(_good_fields(draw))
    value = draw.choice(
        [
            *(b"null", b"true", b"5", b'"text"', b"[" + good + b"]", b"[]", b"-0", b"1e2"),
            b"[" * 500 + b"]" * 500,
        ]
    )  # fmt: skip
    return _bad(value, "not-an-object")


def _two_objects(draw: Draw) -> Hostile:
    good = orjson.dumps(_good_fields(draw))
    return _bad(good + draw.choice([b"\n", b"", b","]) + good, "not-json")


def _other_format(draw: Draw) -> Hostile:
    value = draw.choice(
        [
            *(b"Obj\x01\x04\x14avro.codec", b"\x00\x00\x00\x00\x01\x0e\x02", b"\x08\x07\x10\x09"),
            *(b"<event><userId>7</userId></event>", b"userId=7&itemId=9", b"--- {userId: 7}"),
            *(b"{'userId': 7}", b'{"userId": 7,}', b"{userId: 7}", b"// x\n{}"),
            b"\x1f\x8b\x08\x00",
        ]
    )  # fmt: skip
    return _bad(value, "not-json", "encoding")


_KINDS: tuple[tuple[str, Callable[[Draw], Hostile]], ...] = (
    ("deep", _deep),
    ("oversized", _oversized),
    *(
        (make.__name__.strip("_").replace("_", " "), make)
        for make in (
            *(
                _random_bytes,
                _truncated,
                _huge_number,
                _wrong_encoding,
                _lone_surrogate,
                _wrong_type,
            ),
            *(_control_character, _missing, _absurd_time, _absurd_record_time, _tombstone, _empty),
            *(_doubled_key, _no_object, _two_objects, _other_format),
        )
        for _ in range(6)
    ),
)

_ODD_TEXTS = (
    *("", "", "", "'; DROP TABLE watch_events; --", "\x1b[2J", "\t\n\r\\N\\.", "\u202e\u2066"),
    *("\ufffe\uffff", "😀" * 200, "%s%d{0}", "\x7f\x80\x9f", "ſtraße", "[/red]", '"\\', "\ufeff"),
)
_UNKNOWN_FIELDS: tuple[Fields, ...] = (
    {"note": "x" * 5_000},
    {"": None, "user_id": 99, "USERID": 98},
    {"__proto__": {"userId": 5}, "constructor": []},
    {"n": 2**64 - 1, "f": 1.7976931348623157e308},
)
_HEADERS: tuple[Headers, ...] = (
    (("empty", NULL), ("offset", b"many"), ("partition", b"-1")),
    (("reason", NULL), ("topic", NULL), ("offset", NULL)),
    (("reason", b"none"), ("topic", b"elsewhere"), ("partition", b"0"), ("offset", b"0")),
    (("skewless-origin", b"x" * 300), ("skewless-timestamp", b"soon")),
    (("skewless-origin", NULL), ("skewless-timestamp", NULL)),
    (("offset", b"9" * 40), ("timestamp", b"1e9"), ("header:header:", b"\xff")),
    (("", b""), ("\N{SNOWMAN}", b"[/red]"), ("null-header:", b"\0")),
    tuple((f"h{n}", b"\xff\xfe") for n in range(200)),
)
