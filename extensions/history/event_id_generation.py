"""Ids for events that come without one, the same whenever the same file is imported."""

from hashlib import blake2b
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from extensions.database import connect
from extensions.history.postgres_binary_copy import copy_batch

_HASH_BYTES = 8
# The moment comes first, so that neighbours in time are neighbours in an index. The hash only
# has to tell apart who watched what at that microsecond.
_ID = np.dtype([("moment", ">i8"), ("hash", f"S{_HASH_BYTES}")])
_KEY = np.dtype([("user", "<i8"), ("item", "<i8"), ("moment", "<i8")])

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
    """Derives ids from who watched what when, and from how often the file said so before.

    The first event of a user, an item and a moment has the moment and a hash of the three as
    its id, the next ones a number behind it. What the file's duration or other columns say
    plays no part, so that importing again with another mapping adds nothing either. How often
    a key occurred is counted in a temporary table: no file is too large for memory.
    """

    def __init__(self, url: str) -> None:
        self._conn = connect(url, autocommit=True, name="skewless import")
        self._conn.execute("CREATE TEMP TABLE occurrences (key uuid PRIMARY KEY, n integer)")
        self._conn.execute("CREATE TEMP TABLE occurrences_batch (key uuid, n integer)")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._conn.close()

    def derive(
        self,
        users: npt.NDArray[np.int64],
        items: npt.NDArray[np.int64],
        moments: npt.NDArray[np.int64],
    ) -> pa.Array:
        """An id (string) for each of the file's next events, in the file's order."""
        keys = np.empty(len(users), _KEY)
        keys["user"], keys["item"], keys["moment"] = users, items, moments
        packed, width = keys.tobytes(), _KEY.itemsize
        parts = np.empty(len(users), _ID)
        parts["moment"] = moments
        parts["hash"] = [
            blake2b(packed[begin : begin + width], digest_size=_HASH_BYTES).digest()
            for begin in range(0, len(packed), width)
        ]
        plain = parts.view(f"S{_ID.itemsize}")
        unique, inverse, counts = np.unique(plain, return_inverse=True, return_counts=True)
        ordinals = self._before(unique, counts)[inverse] + _ordinal_within(inverse, counts)
        digits, width = parts.tobytes().hex(), 2 * _ID.itemsize
        return pa.array(
            [
                digits[row * width : (row + 1) * width] + (f"-{n}" if n else "")
                for row, n in enumerate(ordinals.tolist())
            ],
            pa.string(),
        )

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
            before[np.searchsorted(unique, np.bytes_(key.bytes))] = n
        return before


def _ordinal_within(
    inverse: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """0 for a key's first row, 1 for its second, and so on, in the rows' order."""
    order = np.argsort(inverse, kind="stable")
    begins = np.repeat(np.cumsum(counts) - counts, counts)
    ordinals = np.empty(len(inverse), np.int64)
    ordinals[order] = np.arange(len(inverse)) - begins
    return ordinals
