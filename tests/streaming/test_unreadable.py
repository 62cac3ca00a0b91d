"""What the Kafka client cannot take apart stops one partition; what is merely large stops none."""

import gzip
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

from extensions.errors import SkewlessError
from extensions.local import apache_kafka
from streaming.kafka import bounded_decompression, dead_letters
from streaming.kafka.stopped_partitions import skip
from streaming.kafka.topics import ensure_topics
from streaming.settings import Settings
from streaming.stream_status import PartitionStatus, status
from tests.streaming.conftest import stream_settings
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.test_worker import event
from tests.streaming.truth import Stream

CODECS = ["gzip", "snappy", "lz4", "zstd"]


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.apache_kafka)])
def any_broker(request: pytest.FixtureRequest) -> Settings:
    return request.getfixturevalue("settings" if request.param == "embedded" else "genuine")


def produce(
    settings: Settings,
    values: list[bytes],
    partition: int = 0,
    codec: str | None = None,
    **more: object,
) -> None:
    """One batch, where the values fit into one."""
    producer = KafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        compression_type=codec,
        linger_ms=50,
        batch_size=1 << 20,
        max_request_size=200 << 20,
    )
    sent = [producer.send(settings.topic, value, partition=partition, **more) for value in values]
    producer.flush()
    for future in sent:
        future.get(timeout=30)
    producer.close()


def test_every_codec_that_producers_set_is_read(any_broker: Settings) -> None:
    ensure_topics(any_broker)
    stream = Stream(any_broker)
    for codec in CODECS:
        produce(any_broker, [event(1, eventId=f"{codec}{n}") for n in range(5)], codec=codec)
    with Fleet(any_broker) as fleet:
        worker = fleet.start()
        wait_until(lambda: stream.stored() == 20, 40, "all four are read")
        assert fleet.stop(worker) == 0


@pytest.mark.timeout(240)
def test_a_message_of_64_mib_is_a_letter_like_others(
    any_broker: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_topics(any_broker)
    stream = Stream(any_broker)
    append = DefaultRecordBatchBuilder.append

    def with_nulls(self: object, *args: object, **kwargs: object) -> object:
        *first, headers = args
        return append(
            self, *first, [(n, None if v == b"NULL" else v) for n, v in headers], **kwargs
        )

    with Fleet(any_broker) as fleet:
        worker = fleet.start()
        produce(any_broker, [b"\0" * (64 << 20)], codec="zstd", key=b"k" * (1 << 20))
        produce(any_broker, [b"[" * (900 << 10)], headers=[("blob", b"x" * (100 << 10))])
        monkeypatch.setattr(DefaultRecordBatchBuilder, "append", with_nulls)
        produce(any_broker, [b"{"], headers=[("empty", b"NULL"), ("offset", b"many")])
        monkeypatch.undo()
        produce(any_broker, [event(1, eventId="behind")])
        wait_until(lambda: stream.stored() == 1, 60, "what lies behind is read")
        wait_until(stream.at_rest, 30, "at rest")
        large, wide, small = dead_letters.list_(any_broker)
        assert (large.reason, large.detail) == (
            "oversized", f"{64 << 20} bytes, at most {any_broker.max_message_bytes} are read",
        )  # fmt: skip
        assert large.truncated
        assert large.value == b"\0" * len(large.value or b"")
        assert 0 < len(large.value or b"") <= 1 << 20
        assert wide.reason == "oversized"
        assert small.headers == (("empty", None), ("offset", b"many"))
        [row] = status(any_broker).workers
        assert row.retries == 0
        with pytest.raises(SkewlessError, match="too large to be kept whole"):
            dead_letters.replay(any_broker, position=large.position)
        assert fleet.stop(worker) == 0


def test_a_record_of_an_impossible_time_stops_nothing(settings: Settings) -> None:
    ensure_topics(settings)
    stream = Stream(settings)
    now = datetime.now(UTC).isoformat()
    for number, stamp in enumerate((10**17, 2**62, 253_402_300_800_000, 0)):
        produce(settings, [event(1)], timestamp_ms=stamp)
        # Its own time is all that is asked of an event that has one.
        produce(settings, [event(1, eventId=f"{number}", watchedAt=now)], timestamp_ms=stamp)
    with Fleet(settings) as fleet:
        fleet.start()
        wait_until(lambda: stream.stored() == 4, 40, "the events that name their time")
        reasons = sorted(letter.reason for letter in dead_letters.list_(settings))
        assert reasons == ["bad-time"] * 3 + ["too-old"]


def test_what_unfolds_without_end_is_not_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_decompression, "MAX_BATCH_BYTES", 1 << 20)
    with pytest.raises(bounded_decompression.BatchTooLargeError, match="more than 1 MB"):
        bounded_decompression._gzip(gzip.compress(bytes(200 << 20), 1))
    assert bounded_decompression._gzip(gzip.compress(b"a") + gzip.compress(b"b")) == b"ab"


@pytest.fixture
def own_broker(
    postgres_server: str, applied_database: str, redis_server: str, tmp_path: Path
) -> Iterator[Settings]:
    if reason := apache_kafka.available():
        pytest.skip(reason)
    server = apache_kafka.start(tmp_path)
    try:
        made = stream_settings(
            postgres_server, applied_database, redis_server, server.url, session_timeout=1.5,
            retry_stopped=5.0,
        )  # fmt: skip
        yield next(made)
        next(made, None)
    finally:
        server.stop()


def damage(folder: Path, settings: Settings, kind: str) -> None:
    """Change the first partition's second batch where the broker keeps it."""
    [log] = folder.rglob(f"{settings.topic}-0/00000000000000000000.log")
    data = bytearray(log.read_bytes())
    begin = 12 + int.from_bytes(data[8:12])
    batch = data[begin : begin + 12 + int.from_bytes(data[begin + 8 : begin + 12])]
    if kind == "checksum":
        batch[-3] ^= 0xFF
    elif kind == "codec":
        batch[22] |= 5
    elif kind == "content":
        batch[22] |= 4  # zstd, which this is not
    if kind != "checksum":
        batch[17:21] = calc_crc32c(bytes(batch[21:])).to_bytes(4)
    with log.open("r+b") as file:
        file.seek(begin)
        file.write(batch)


@pytest.mark.apache_kafka
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("kind", "cause"),
    [("checksum", "crc"), ("codec", "compression type: 5"), ("content", "Zstd")],
)
def test_a_broken_batch_stops_its_partition_and_no_other(
    own_broker: Settings, tmp_path: Path, kind: str, cause: str
) -> None:
    settings = own_broker
    ensure_topics(settings)
    stream = Stream(settings)
    for name in ("a", "b", "c"):
        produce(settings, [event(1, eventId=f"{name}{n}") for n in range(3)])
    damage(tmp_path, settings, kind)
    produce(settings, [event(2, eventId=f"other{n}") for n in range(2)], partition=1)

    def first() -> PartitionStatus:
        return status(settings).partitions[0]

    with Fleet(settings) as fleet:
        worker = fleet.start()
        wait_until(lambda: stream.stored() == 5, 60, "what lies before it, and the other partition")
        wait_until(lambda: first().stopped, 20, "the stop is shown")
        wait_until(lambda: first().lag_records == 6, 10, "its lag is true")
        assert cause in (first().stopped or "")
        produce(settings, [event(2, eventId="later")], partition=1)
        wait_until(lambda: stream.stored() == 6, 20, "the other partition is read on")
        assert worker.is_alive()
        assert fleet.stop(worker) == 0

        worker = fleet.start()
        produce(settings, [event(2, eventId="again")], partition=2)
        wait_until(lambda: stream.stored() == 7, 40, "a restart stops there again, and only there")
        time.sleep(6)  # it is tried again meanwhile
        assert (first().next_offset, first().lag_records) == (3, 6)
        with pytest.raises(SkewlessError, match="is not stopped at"):
            skip(settings, f"{settings.topic}/0/4", "no reason")
        with pytest.raises(SkewlessError, match="--why"):
            skip(settings, f"{settings.topic}/0/3", " ")
        skipped = skip(settings, f"{settings.topic}/0/3", "a disk was bad")
        assert (skipped.first_offset, skipped.last_offset) == (3, 5)
        wait_until(lambda: stream.stored() == 10, 20, "it goes on behind the batch")
        wait_until(lambda: first().lag_records == 0, 10, "to the end")
        assert first().stopped is None
        assert fleet.stop(worker) == 0
        with pytest.raises(SkewlessError, match="is not stopped at"):
            skip(settings, f"{settings.topic}/0/3", "a disk was bad")


def test_a_poll_that_does_not_come_back_ends_the_process() -> None:
    program = (
        "import logging, time\n"
        "from streaming.watchdog import Watchdog\n"
        "logging.basicConfig()\n"
        "dog = Watchdog(0.5, 'w')\n"
        "dog.start()\n"
        "for _ in range(3):\n"
        "    with dog.watching():\n"
        "        time.sleep(0.2)\n"
        "time.sleep(1)\n"
        "print('alive', flush=True)\n"
        "with dog.watching():\n"
        "    time.sleep(30)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=25, check=False
    )
    assert (done.returncode, done.stdout) == (70, "alive\n")
    assert "has not come back" in done.stderr
