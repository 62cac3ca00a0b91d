"""Kafka record batches: bounded decompression, bounded records, errors that name the place.

kafka-python 3.0.12 raises what its codecs raise, names no partition, and after that spins for ever
on the batch that it could not take apart. It also decompresses whatever size a batch unfolds to,
and brings as many records at a time as were asked for, whatever their sizes. All three are put
right where it parses a fetched partition, for every consumer made afterwards in this process.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import lz4.frame
import snappy
import zstandard
from kafka import TopicPartition
from kafka.consumer import group
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.record import default_records, legacy_records

# What a batch may take when it is decompressed: one message of 64 MiB, and room beside it.
MAX_BATCH_BYTES = 128 << 20
# What is kept of a longer value, key, or headers in all; a record knows its true sizes.
MAX_VALUE_BYTES = 1 << 20
MAX_KEY_BYTES = 64 << 10
MAX_HEADER_BYTES = 64 << 10
# What one poll brings at most, as it is kept, and one more record: a thousand records of a
# megabyte fit into a compressed megabyte.
MAX_POLL_BYTES = 32 << 20


class UnreadableBatchError(Exception):
    """A batch that this client cannot take apart: ``offset`` to ``last_offset`` of a partition."""

    def __init__(self, partition: TopicPartition, offset: int, last_offset: int, why: str) -> None:
        super().__init__(f"{partition.topic}/{partition.partition}/{offset}: {why}")
        self.partition = partition
        self.offset = offset
        self.last_offset = last_offset
        self.why = why


class BatchTooLargeError(Exception):
    """A batch unfolds to more than `MAX_BATCH_BYTES`."""

    def __init__(self) -> None:
        super().__init__(f"it decompresses to more than {MAX_BATCH_BYTES >> 20} MB")


class _Batches:
    """A partition's batches, of which the last one is remembered."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self.last: Any = None

    def next_batch(self) -> Any:
        self.last = self._records.next_batch()
        return self.last


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of a fetched partition; one that cannot be read ends them, by its place."""

    record_iterator: Iterator[ConsumerRecord] | None
    # What the next `take` may bring, in bytes.
    room = MAX_POLL_BYTES

    def take(self, n: int | None = None) -> list[ConsumerRecord]:
        """At most ``n`` records, and no further one once the room is used up."""
        records = self.record_iterator
        assert records is not None  # else there is nothing to take
        self.record_iterator = self._within_room(records)
        try:
            found: list[ConsumerRecord] = super().take(n)
        finally:
            if self.record_iterator is not None:  # else they have been drained
                self.record_iterator = records
        return found

    def _within_room(self, records: Iterator[ConsumerRecord]) -> Iterator[ConsumerRecord]:
        while self.room > 0:
            record = next(records, None)
            if record is None:
                return
            self.room -= kept_bytes(record)
            yield record

    def _unpack_records(
        self, tp: TopicPartition, records: Any, key_deserializer: Any, value_deserializer: Any
    ) -> Iterator[ConsumerRecord]:
        batches = _Batches(records)
        try:
            for record in super()._unpack_records(
                tp, batches, key_deserializer, value_deserializer
            ):
                yield _bounded(record)
        except Exception as error:
            offset = self.next_fetch_offset
            # Without this the client asks a generator that has ended for more, for ever.
            self.drain()
            last = _last_offset(batches.last, offset)
            raise UnreadableBatchError(tp, offset, last, _why(error)) from error


class _Fetcher(Fetcher):  # type: ignore[misc]
    """A fetcher whose polls are bounded in bytes as well."""

    PartitionRecords = _PartitionRecords

    def fetched_records(self, *arguments: Any, **named: Any) -> Any:
        """As Kafka's."""
        self._room = MAX_POLL_BYTES
        return super().fetched_records(*arguments, **named)

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        """Take from a partition; once the room is used up, the poll has all that it may have."""
        if not part:
            return 0
        part.room = self._room
        taken: int = super()._append(drained, part, max_records, update_offsets)
        self._room = part.room
        return max_records if self._room <= 0 else taken


def kept_bytes(record: ConsumerRecord) -> int:
    """Bytes of a record as it is kept in memory: value, key and headers."""
    size = len(record.value or b"") + len(record.key or b"")
    for name, value in record.headers:
        size += len(name) + len(value or b"")
    return size


def _bounded(record: ConsumerRecord) -> ConsumerRecord:
    """The record, no part of it longer than what is kept."""
    if (
        record.serialized_value_size <= MAX_VALUE_BYTES
        and record.serialized_key_size <= MAX_KEY_BYTES
        and record.serialized_header_size <= MAX_HEADER_BYTES
    ):
        return record
    return record._replace(
        key=record.key and record.key[:MAX_KEY_BYTES],
        value=record.value and record.value[:MAX_VALUE_BYTES],
        headers=record.headers if record.serialized_header_size <= MAX_HEADER_BYTES else [],
    )


def _last_offset(batch: Any, offset: int) -> int:
    """The last offset of a batch whose head could be read, else of its first record."""
    try:
        last = int(batch.next_offset) - 1
    except (AttributeError, TypeError, struct.error):
        return offset
    return max(offset, last)


def _why(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{said[0][:200]} ({type(error).__name__})" if said else type(error).__name__


def _gzip(payload: Any) -> bytes:
    parts, size, rest = [], 0, bytes(payload)
    while rest:
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(rest, MAX_BATCH_BYTES - size + 1))
        size += len(parts[-1])
        if size > MAX_BATCH_BYTES:
            raise BatchTooLargeError
        if not member.eof:
            raise EOFError("the compressed records end too early")
        rest = member.unused_data
    return b"".join(parts)


def _zstd(payload: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(payload, read_across_frames=True) as reader:
        return _within(reader.read(MAX_BATCH_BYTES + 1))


def _lz4(payload: bytes) -> bytes:
    frame = lz4.frame.LZ4FrameDecompressor()
    data = _within(frame.decompress(payload, MAX_BATCH_BYTES + 1))
    if not frame.eof:
        raise EOFError("the compressed records end too early")
    return data


_XERIAL = b"\x82SNAPPY\x00"


def _snappy(payload: bytes) -> bytes:
    """Raw snappy, or the blocks of xerial's framing, which Java's clients write."""
    if not payload.startswith(_XERIAL):
        return _snappy_block(payload, 0)
    parts, size, at = [], 0, 16
    while at < len(payload):
        (length,) = struct.unpack_from("!i", payload, at)
        at += 4
        parts.append(_snappy_block(payload[at : at + length], size))
        size += len(parts[-1])
        at += length
    return b"".join(parts)


def _snappy_block(block: bytes, before: int) -> bytes:
    """A block begins with the size that it unfolds to, as a varint."""
    size = shift = 0
    for octet in block[:5]:
        size |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            break
    if before + size > MAX_BATCH_BYTES:
        raise BatchTooLargeError
    return bytes(snappy.decompress(block))


def _within(data: bytes) -> bytes:
    if len(data) > MAX_BATCH_BYTES:
        raise BatchTooLargeError
    return data


def install() -> None:
    """Let consumers made from now on fetch and parse like this; doing it twice is once."""
    decoders: dict[str, Callable[..., bytes]] = {
        "gzip_decode": _gzip,
        "snappy_decode": _snappy,
        "lz4_decode": _lz4,
        "zstd_decode": _zstd,
    }
    for module in (default_records, legacy_records):
        for name in decoders.keys() & vars(module).keys():
            setattr(module, name, decoders[name])
    group.Fetcher = _Fetcher
