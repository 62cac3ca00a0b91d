"""Dead letters: what a replay sends again, and a topic in which others wrote as well."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.record.default_records import DefaultRecordBatchBuilder
from typer.testing import CliRunner

from extensions.addresses import KAFKA_VARIABLE
from extensions.cli import app
from extensions.database import connect
from extensions.errors import SkewlessError
from streaming.kafka import dead_letters
from streaming.kafka.dead_letters import DeadLetter, _Recent
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.test_worker import event
from tests.streaming.truth import Stream

OLD_MS = 920_000_000_000  # in 1999


def produce(settings: Settings, topic: str, value: bytes | None, **more: object) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    producer.send(topic, value, **{"key": b"k", "partition": 0} | more).get(timeout=20)
    producer.close()


def rows(settings: Settings) -> list[tuple[str, int, datetime]]:
    with connect(settings.postgres_url) as conn:
        query = "SELECT event_id, user_id, watched_at FROM watch_events ORDER BY user_id, event_id"
        return conn.execute(query).fetchall()


def records(settings: Settings, partition: int) -> list[tuple[bytes, int, list[tuple[str, bytes]]]]:
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka_bootstrap, group_id=None)
    here = TopicPartition(settings.topic, partition)
    consumer.assign([here])
    consumer.seek(here, 0)
    found = []
    while consumer.position(here) < consumer.end_offsets([here])[here]:
        found += [(r.key, r.timestamp, r.headers) for r in consumer.poll(500).get(here, [])]
    consumer.close()
    return found


def test_a_replay_is_judged_by_the_time_of_its_original(settings: Settings) -> None:
    ensure_topics(settings)
    stream = Stream(settings)
    produce(settings, settings.topic, event(3), partition=2, timestamp_ms=OLD_MS,
            headers=[("trace", b"\xff\x00")])  # fmt: skip
    with Fleet(settings) as fleet:
        fleet.start()
        wait_until(lambda: len(dead_letters.list_(settings)) == 1, 40, "too old")
        assert dead_letters.replay(settings) == 1
        wait_until(lambda: len(dead_letters.list_(settings)) == 2, 20, "too old again")
        first, second = dead_letters.list_(settings)
        assert {first.reason, second.reason} == {"too-old"}
        assert dead_letters.replay(settings, position=second.position) == 1
        wait_until(lambda: len(dead_letters.list_(settings)) == 3, 20, "and again")
        wait_until(stream.at_rest, 20, "at rest")
        assert stream.stored() == 0
    sent = records(settings, 2)
    assert [(key, stamp) for key, stamp, _ in sent] == [(b"k", OLD_MS)] * 3
    assert all(headers[0] == ("trace", b"\xff\x00") for *_, headers in sent)
    assert len(sent[1][2]) == len(sent[2][2])  # a letter's letter does not grow


def test_a_replayed_event_is_the_one_that_its_original_was(settings: Settings) -> None:
    """Neither its time nor its name is the replay's, so replaying twice stores it once."""
    ensure_topics(settings)
    stream = Stream(settings)
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    stamp = int(at.timestamp() * 1000)
    produce(settings, settings.topic, event(5, note="x" * 100), partition=1, timestamp_ms=stamp)
    with Fleet(settings) as fleet:
        strict = fleet.start(max_message_bytes=100)
        [letter] = wait_until(lambda: dead_letters.list_(settings), 40, "too long for this worker")
        assert letter.reason == "oversized"
        wait_until(stream.at_rest, 20, "at rest")
        assert fleet.stop(strict) == 0
        assert dead_letters.replay(settings, reason="tombstone") == 0
        assert dead_letters.replay(settings) == 1
        assert dead_letters.replay(settings, position=letter.position) == 1
        fleet.start()
        wait_until(lambda: stream.stored() == 1, 40, "mended")
        wait_until(stream.at_rest, 20, "at rest")
    assert rows(settings) == [(f"{settings.topic}/1/0", 5, at)]


def test_a_replay_is_no_licence_to_invent_names(settings: Settings) -> None:
    ensure_topics(settings)
    stream = Stream(settings)
    for origin in (b"", b"x" * 300, b"a\0b/0/1", b"elsewhere"):
        headers = [("skewless-origin", origin), ("skewless-timestamp", b"soon")]
        produce(settings, settings.topic, event(5), headers=headers)
    with Fleet(settings) as fleet:
        fleet.start()
        wait_until(lambda: stream.stored() == 4, 40, "the headers say nothing")
    assert [row[0] for row in rows(settings)] == [f"{settings.topic}/0/{n}" for n in range(4)]


STRANGE: list[list[tuple[str, bytes]]] = [
    [],
    [("reason", b"NULL"), ("topic", b"NULL")],
    [("topic", b"TOPIC"), ("partition", b"many"), ("offset", b"1e9")],
    [("topic", b"TOPIC"), ("partition", b"0"), ("offset", b"9" * 40)],
    [("topic", b"somewhere-else"), ("partition", b"0"), ("offset", b"0")],
    [("topic", b"\xff\xfe"), ("", b""), ("\N{SNOWMAN}", b"[/red]")],
]


def test_no_letter_stops_a_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_topics(settings)
    append = DefaultRecordBatchBuilder.append

    def with_nulls(self: object, *args: object, **kwargs: object) -> object:
        *first, headers = args
        nulls = [(name, None if value == b"NULL" else value) for name, value in headers]
        return append(self, *first, nulls, **kwargs)

    monkeypatch.setattr(DefaultRecordBatchBuilder, "append", with_nulls)
    values = [b"", b"\xff\x00[/bold]", b"[red]", None, b"\x1b[2J", b"{}"]
    for headers, value in zip(STRANGE, values, strict=True):
        ours = [(n, settings.topic.encode() if v == b"TOPIC" else v) for n, v in headers]
        produce(settings, settings.dead_letter_topic, value, headers=ours, timestamp_ms=10**16)
    monkeypatch.undo()
    monkeypatch.setenv(KAFKA_VARIABLE, settings.kafka_bootstrap)
    command = ["dead-letters"]
    topic = ["--topic", settings.topic]

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, [*command, *words, *topic])
        assert result.exception is None, result.output
        return result.stdout

    listed = json.loads(run("list", "--json"))
    assert [row["position"] for row in listed] == [
        f"{settings.dead_letter_topic}/0/{offset}" for offset in range(len(STRANGE))
    ]
    assert {row["reason"] for row in listed} == {"foreign"}
    run("list")
    for row in listed:
        shown = run("show", row["position"])
        assert "foreign" in shown
        assert "\x1b" not in shown
        run("show", row["position"], "--json")
        with pytest.raises(SkewlessError, match="written by another program"):
            dead_letters.replay(settings, position=row["position"])
    assert json.loads(run("replay", "--json")) == [{"replayed": 0}]


def test_repetitions_are_known_in_bounded_memory() -> None:
    letter = DeadLetter("t", 0, 0, "r", "", datetime.now(UTC), None, None, truncated=False)
    recent = _Recent()
    for offset in range(200_000):
        one = replace(letter, offset=offset)
        assert recent.is_new(one)
        assert not recent.is_new(one)
    assert sum(map(len, recent._known.values())) <= 50_000
    assert recent.is_new(replace(letter, offset=199_999, origin="t/0/199999@1"))
    assert recent.is_new(replace(letter, offset=199_999, partition=1, at=letter.at + timedelta(1)))
