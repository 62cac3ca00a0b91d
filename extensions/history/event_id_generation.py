"""Ids for rows that come without one, the same whenever the same file is imported."""

import struct
import uuid
from collections.abc import Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from extensions.database import connect
from extensions.database.binary_copy import copy_batch

_HASH_BYTES = 8
# The moment comes first, so that neighbours in time are neighbours in an index. The hash only
# has to tell apart who did what at that microsecond.
_ID = np.dtype([("moment", ">i8"), ("hash", f"S{_HASH_BYTES}")])

_COUNT = """
WITH counted AS (
    INSERT INTO occurrences AS o (key, n) SELECT key, n FROM occurrences_batch
    ON CONFLICT (key) DO UPDATE SET n = o.n + excluded.n
    RETURNING key, n
)
SELECT counted.key, counted.n - b.n
FROM counted INNER JOIN occurrences_batch AS b USING (key)
WHERE counted.n > b.n
"""


class EventIds:
    """Derives ids from a row's keys and time, and from how often the file said so before.

    The first row of some keys and a moment has the moment and a hash of them as its id, the next
    ones a number behind it. What the file's other columns say plays no part, so that importing
    again with another mapping adds nothing either. How often a key occurred is counted in a
    temporary table: no file is too large for memory.

    Args:
        url: The database.
        as_uuid: Whether ids are UUIDs (version 8), and not text.
    """

    def __init__(self, url: str, *, as_uuid: bool = False) -> None:
        self._as_uuid = as_uuid
        self._conn = connect(url, autocommit=True, name="skewless import")
        self._conn.execute("CREATE TEMP TABLE occurrences (key bytea PRIMARY KEY, n integer)")
        self._conn.execute("CREATE TEMP TABLE occurrences_batch (key bytea, n integer)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._conn.close()

    def derive(self, keys: Sequence[pa.Array], moments: npt.NDArray[np.int64]) -> pa.Array:
        """An id (string) for each of the file's next rows, in the file's order.

        Args:
            keys: The key columns' values (no nulls).
            moments: The rows' times, in microseconds since the epoch.
        """
        parts = np.empty(len(moments), _ID)
        parts["moment"] = moments
        parts["hash"] = [
            blake2b(packed, digest_size=_HASH_BYTES).digest() for packed in _packed(keys, moments)
        ]
        plain = parts.view(f"S{_ID.itemsize}")
        unique, inverse, counts = np.unique(plain, return_inverse=True, return_counts=True)
        ordinals = self._before(unique, counts)[inverse] + _ordinal_within(inverse, counts)
        digits, width = parts.tobytes().hex(), 2 * _ID.itemsize
        ids = [
            digits[row * width : (row + 1) * width] + (f"-{n}" if n else "")
            for row, n in enumerate(ordinals.tolist())
        ]
        if self._as_uuid:
            ids = [_uuid(text) for text in ids]
        return pa.array(ids, pa.string())

    def _before(
        self, unique: npt.NDArray[np.bytes_], counts: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """How often each key occurred before; counts these occurrences in."""
        keys = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(_ID.itemsize), len(unique), [None, pa.py_buffer(np.ascontiguousarray(unique))]
        )
        batch = pa.record_batch([keys, pa.array(counts, pa.int32())], names=["key", "n"])
        self._conn.execute("TRUNCATE occurrences_batch")
        copy_batch(self._conn, "occurrences_batch", batch, ["key", "n"])
        self._conn.execute("ANALYZE occurrences_batch")
        before = np.zeros(len(unique), np.int64)
        for key, n in self._conn.execute(_COUNT):
            before[np.searchsorted(unique, np.bytes_(key))] = n
        return before


def _packed(keys: Sequence[pa.Array], moments: npt.NDArray[np.int64]) -> list[bytes]:
    """What is hashed of each row: whole numbers as 8 bytes, texts behind their length."""
    fixed = [key for key in keys if pa.types.is_integer(key.type)]
    if len(fixed) == len(keys):
        record = np.dtype([(f"k{n}", "<i8") for n in range(len(keys))] + [("moment", "<i8")])
        rows = np.empty(len(moments), record)
        for place, key in enumerate(keys):
            rows[f"k{place}"] = key.to_numpy()
        rows["moment"] = moments
        octets, width = rows.tobytes(), record.itemsize
        return [octets[begin : begin + width] for begin in range(0, len(octets), width)]
    columns = [_octets(key) for key in keys]
    columns.append([struct.pack("<q", moment) for moment in moments.tolist()])
    return [b"".join(parts) for parts in zip(*columns, strict=True)]


def _octets(key: pa.Array) -> list[bytes]:
    if pa.types.is_integer(key.type):
        return [struct.pack("<q", value) for value in key.to_pylist()]
    texts = [
        value if isinstance(value, bytes) else str(value).encode() for value in key.to_pylist()
    ]
    return [struct.pack("<I", len(text)) + text for text in texts]


def _uuid(text: str) -> str:
    digest = blake2b(text.encode(), digest_size=6).digest()
    octets = bytes.fromhex(text[:16])[:6] + digest[:2] + bytes.fromhex(text[16:32])
    number = int.from_bytes(octets)
    number = number & ~(0xF << 76) | 8 << 76  # version 8
    number = number & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=number))


def _ordinal_within(
    inverse: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """0 for a key's first row, 1 for its second, and so on, in the rows' order."""
    order = np.argsort(inverse, kind="stable")
    begins = np.repeat(np.cumsum(counts) - counts, counts)
    ordinals = np.empty(len(inverse), np.int64)
    ordinals[order] = np.arange(len(inverse)) - begins
    return ordinals
