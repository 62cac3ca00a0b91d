"""The ids of one join key in a request: as sent, as integers, and as encoded in Redis keys."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The one way in which an integer is encoded in a key; ``007``, ``-0`` and ``+7`` are never read.
_CANONICAL = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def is_whole_number(raw: bytes) -> bool:
    """Whether this part of a key is a 64-bit integer in its canonical encoding."""
    return _CANONICAL.fullmatch(raw) is not None and _LEAST <= int(raw) <= _MOST


class EntityIds(Sequence[bytes]):
    """A sequence of ids as encoded in Redis keys; the encoding is made on first use.

    ``values``: the ids as sent. ``numbers``: the same as an int64 array, where they are integers.
    """

    def __init__(
        self,
        values: list[Any],
        numbers: NDArray[np.int64] | None = None,
        raw: list[bytes] | None = None,
    ) -> None:
        self.values, self.numbers = values, numbers
        if raw is not None:
            self.__dict__["raw"] = raw

    @cached_property
    def raw(self) -> list[bytes]:
        """The ids as encoded in keys."""
        return [b"%d" % value for value in self.values]

    @property
    def hash_bytes(self) -> bytes:
        """Bytes that are equal only for equal ids, in the cheapest form at hand, for hashing."""
        return b",".join(self.raw) if self.numbers is None else self.numbers.tobytes()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: Any) -> Any:
        return self.raw[i]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.raw)
