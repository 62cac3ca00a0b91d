"""The decoder: what it reads, what it refuses and why, and that nothing gets past it."""

import random
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.kafka.message_decoder import Message, Reason, RejectedError
from tests.streaming.published_decoder import JsonDecoder, WatchEvent

NOW = datetime(2026, 7, 15, 12, tzinfo=UTC)
DECODER = JsonDecoder()
GOOD = {
    "eventId": "e-1",
    "userId": 7,
    "itemId": 9,
    "watchDurationMin": 12.5,
    "progress": 0.25,
    "watchedAt": "2026-07-15T11:59:00Z",
}


def message(value: bytes | None, offset: int = 5, incarnation: int = 0) -> Message:
    stamp = int(NOW.timestamp() * 1000)
    return Message("watch-events", 2, offset, stamp, b"7", value, incarnation)


def decode(fields: object) -> WatchEvent:
    return DECODER.decode(message(orjson.dumps(fields)), NOW)


def reason(value: bytes | None) -> Reason:
    with pytest.raises(RejectedError) as caught:
        DECODER.decode(message(value), NOW)
    return caught.value.reason


def test_reads_the_published_shape() -> None:
    assert decode(GOOD) == WatchEvent("e-1", 7, 9, NOW - timedelta(minutes=1), 750_000, 0.25)


def test_times_may_be_milliseconds_or_the_records_own() -> None:
    assert decode(GOOD | {"watchedAt": 1_752_580_800_123}).watched_at == datetime(
        2025, 7, 15, 12, 0, 0, 123_000, tzinfo=UTC
    )
    assert decode({k: v for k, v in GOOD.items() if k != "watchedAt"}).watched_at == NOW


def test_an_event_without_an_id_is_named_by_its_place() -> None:
    value = orjson.dumps({k: v for k, v in GOOD.items() if k != "eventId"})
    first = DECODER.decode(message(value), NOW).event_id
    assert first == DECODER.decode(message(value), NOW).event_id == "watch-events/2/5"
    # The offsets of a topic that was made anew begin again at 0; the names must not.
    assert DECODER.decode(message(value, incarnation=1), NOW).event_id != first


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"userId": "7"}, Reason.WRONG_TYPE),
        ({"userId": True}, Reason.WRONG_TYPE),
        ({"userId": 7.0}, Reason.WRONG_TYPE),
        ({"userId": None}, Reason.MISSING_FIELD),
        ({"userId": -1}, Reason.OUT_OF_RANGE),
        ({"itemId": 2**63}, Reason.OUT_OF_RANGE),
        ({"watchDurationMin": "12"}, Reason.WRONG_TYPE),
        ({"watchDurationMin": -0.001}, Reason.OUT_OF_RANGE),
        ({"watchDurationMin": 1441}, Reason.OUT_OF_RANGE),
        ({"progress": 1.01}, Reason.OUT_OF_RANGE),
        ({"progress": -0.01}, Reason.OUT_OF_RANGE),
        ({"progress": [0.5]}, Reason.WRONG_TYPE),
        ({"eventId": 12}, Reason.WRONG_TYPE),
        ({"eventId": ""}, Reason.OUT_OF_RANGE),
        ({"eventId": "a\0b"}, Reason.OUT_OF_RANGE),
        ({"eventId": "x" * 257}, Reason.OUT_OF_RANGE),
        ({"watchedAt": "2026-07-15T12:05:01Z"}, Reason.IN_THE_FUTURE),
        ({"watchedAt": "1999-12-31T23:59:59Z"}, Reason.TOO_OLD),
        ({"watchedAt": "2026-07-15T12:00:00"}, Reason.BAD_TIME),
        ({"watchedAt": "yesterday"}, Reason.BAD_TIME),
        ({"watchedAt": 10**18}, Reason.BAD_TIME),
        ({"watchedAt": 1.5}, Reason.WRONG_TYPE),
    ],
)
def test_refuses_bad_fields(change: dict[str, object], why: Reason) -> None:
    assert reason(orjson.dumps(GOOD | change)) is why


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, Reason.TOMBSTONE),
        (b"", Reason.NOT_JSON),
        (b"{", Reason.NOT_JSON),
        (b'{"userId": NaN}', Reason.NOT_JSON),
        (b"\xff\xfe{}", Reason.ENCODING),
        ('{"eventId": "ü"}'.encode("latin-1"), Reason.ENCODING),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        (b" " * 65_537, Reason.OVERSIZED),
        (b"[" * 60_000, Reason.NOT_JSON),
    ],
)
def test_refuses_what_is_no_object(value: bytes | None, why: Reason) -> None:
    assert reason(value) is why


def test_reasons_never_repeat_what_a_message_holds() -> None:
    for field in GOOD:
        with pytest.raises(RejectedError) as caught:
            decode(GOOD | {field: {"secret": "hunter2"}})
        assert "hunter2" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), json_values))
def test_any_object_is_an_event_that_fits_the_table_or_refused(change: dict[str, object]) -> None:
    try:
        value = orjson.dumps(GOOD | change)
    except TypeError:  # an integer that JSON libraries do not write
        return
    assert_valid_or_refused(value)


def test_a_hundred_thousand_mutations() -> None:
    rng = random.Random(20260715)
    good = orjson.dumps(GOOD)
    accepted = sum(assert_valid_or_refused(mutated(rng, good)) for _ in range(100_000))
    assert 0 < accepted < 100_000


def mutated(rng: random.Random, value: bytes) -> bytes:
    """``value`` with one to four bytes replaced, removed, repeated, or its end cut off."""
    out = bytearray(value)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) or 1)
        match rng.randrange(5):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del out[at : at + rng.randint(1, 8)]
            case 2:
                out[at:at] = out[at : at + rng.randint(1, 20)]
            case 3:
                out[at : at + 1] = rng.choice([b'"', b"{", b"9", b"-", b"e", b"\\", b"\0"])
            case _:
                del out[rng.randint(0, len(out)) :]
    return bytes(out)


def assert_valid_or_refused(value: bytes) -> bool:
    try:
        event = DECODER.decode(message(value), NOW)
    except RejectedError:
        return False
    assert 0 <= event.user_id < 2**63
    assert 0 <= event.item_id < 2**63
    assert 0 <= event.duration_ms <= 86_400_000
    assert 0 <= event.progress <= 1
    assert datetime(2000, 1, 1, tzinfo=UTC) <= event.watched_at <= NOW + timedelta(minutes=5)
    assert event.event_id.encode()
    assert "\0" not in event.event_id
    return True
