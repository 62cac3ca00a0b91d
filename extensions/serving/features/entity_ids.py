"""The ids of one join key in a request: as sent, as integers, and as encoded in Redis keys."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from feast.feature_view import DUMMY_ENTITY_VAL
from numpy.typing import NDArray

from extensions.stores.values.canonical_keys import integer_of


def is_whole_number(raw: bytes) -> bool:
    """Whether this part of a key is a 64-bit integer in its canonical encoding."""
    return raw.isascii() and integer_of(raw.decode()) is not None


class EntityIds(Sequence[bytes]):
    """A sequence of ids as encoded in Redis keys; the encoding is made on first use.

    ``values``: the ids as sent. ``numbers``: the same as an int64 array, where they are integers.
    ``plain``: each id was sent in its canonical form; else ``numbers`` or ``raw`` must be given
    (``"42"`` for 42, a UUID in capitals).
    """

    def __init__(
        self,
        values: list[Any],
        numbers: NDArray[np.int64] | None = None,
        raw: list[bytes] | None = None,
        *,
        plain: bool = True,
    ) -> None:
        self.values, self.numbers, self.plain = values, numbers, plain
        if raw is not None:
            self.__dict__["raw"] = raw

    @cached_property
    def raw(self) -> list[bytes]:
        """The ids as encoded in keys."""
        return [b"%d" % number for number in self.integers]

    @property
    def integers(self) -> list[int]:
        """The ids as Python integers, where they are integers."""
        if self.plain:
            return self.values
        assert self.numbers is not None  # see the class
        numbers: list[int] = self.numbers.tolist()
        return numbers

    @property
    def hash_bytes(self) -> bytes:
        """Bytes that are equal only for equal ids, in the cheapest form at hand, for hashing."""
        return b"\0".join(self.raw) if self.numbers is None else self.numbers.tobytes()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: Any) -> Any:
        return self.raw[i]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.raw)


# What a view without entities has for an id: Feast's name for its only one, for all rows.
EVERYBODY = EntityIds([DUMMY_ENTITY_VAL], None, [b"=" + DUMMY_ENTITY_VAL.encode()])
