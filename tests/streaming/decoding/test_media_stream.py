"""The media repository's stream is read as it was before streams were declared."""

import json
import os
import random
from datetime import datetime

import orjson
import pytest

from streaming.decoding import RowDecoder
from streaming.kafka.message_decoder import Reason, RejectedError
from tests.streaming.decoding.declared import NOW, decoded, message, watches
from tests.streaming.decoding.mutations import mutated
from tests.streaming.published_decoder import JsonDecoder

COUNT = int(os.environ.get("HOSTILE_MESSAGES", "5000"))
GOOD = {
    "eventId": "e-1", "userId": 7, "itemId": 9, "watchDurationMin": 12.5, "progress": 0.25,
    "watchedAt": "2026-07-15T11:59:00Z",
}  # fmt: skip
DECODER = RowDecoder(watches())


def test_reads_the_published_shape() -> None:
    [row] = decoded(DECODER, GOOD)
    assert row == {
        "event_id": "e-1", "user_id": 7, "item_id": 9, "duration_ms": 750_000, "progress": 0.25,
        "watched_at": datetime.fromisoformat("2026-07-15T11:59:00Z"),
    }  # fmt: skip


# What differs from the decoder of before, by intention: (before, now).
INTENDED = {
    # A field twice was its last value.
    ("a row", Reason.DUPLICATE_FIELD),
    # An id as canonical decimal text.
    (Reason.WRONG_TYPE, "a row"),
}


def test_decides_as_before() -> None:
    """Each mutated message: the same row, or a refusal where one was before."""
    rng = random.Random(20261126)
    before, differing, rows = JsonDecoder(), 0, 0
    for _ in range(COUNT):
        value = _made(rng)
        one, two = _outcome(before, value), _outcome(DECODER, value)
        if isinstance(one, tuple) and isinstance(two, tuple):
            rows += 1
            assert one == two, value
        elif isinstance(one, tuple) or isinstance(two, tuple):
            kinds = tuple("a row" if isinstance(each, tuple) else each for each in (one, two))
            assert kinds in INTENDED, (value, one, two)
            if kinds[1] == "a row":
                fields = orjson.loads(value)
                assert isinstance(fields["userId"], str) or isinstance(fields["itemId"], str)
            differing += 1
    assert rows > COUNT // 50
    assert differing < COUNT // 10


def _made(rng: random.Random) -> bytes:
    fields = dict(GOOD)
    odd = [
        7, -1, 0, 2**63, 2**63 - 1, 2**64, 10**30, 7.0, 0.5, -0.0, 1e300, "7", "07", "+4", "", "e",
        "ü\u0000", "x" * 257, None, True, [], {}, {"a": 1}, "2026-07-15T12:06:00Z",
        "1999-01-01T00:00:00Z", "2026-07-15", "2026-07-15T11:00:00+02:00", 1_784_116_800_000,
        1_784_116_800, 1_784_116_800_000_000, "0001-01-01T00:00:00+14:00", 1440, 1440.0001,
        1.0000001,
    ]  # fmt: skip
    for _ in range(rng.randrange(3)):
        field = rng.choice(sorted(fields))
        if rng.random() < 0.2:
            del fields[field]
        else:
            fields[field] = rng.choice(odd)
        if not fields:
            break
    value = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode()
    return mutated(rng, value) if rng.random() < 0.6 else value


def _outcome(decoder: JsonDecoder | RowDecoder, value: bytes) -> object:
    try:
        found = decoder.decode(message(value), NOW)
    except RejectedError as error:
        return error.reason
    if isinstance(found, list):
        [row] = found
        event_id, user, item, at, duration, progress = row
        return (event_id, user, item, at, duration, progress)
    return tuple(found)


@pytest.mark.parametrize("text", ["07", "7.0", " 7", "+7", "7 ", "-0", "９", "9223372036854775808"])
def test_ids_as_text_are_canonical_or_refused(text: str) -> None:
    assert decoded(DECODER, GOOD | {"userId": "7"})[0]["user_id"] == 7
    with pytest.raises(RejectedError) as caught:
        decoded(DECODER, GOOD | {"userId": text})
    assert text not in caught.value.detail
