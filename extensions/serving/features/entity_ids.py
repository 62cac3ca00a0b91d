"""Ids of one join key: as they came, as numbers where they are, and as they stand in keys."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A whole number as it stands in keys: in one way only. ``007``, ``-0`` and ``+7`` are other texts,
# which no request asks for.
_CANONICAL = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


def is_whole_number(raw: bytes) -> bool:
    """Whether a key's part is the one way in which an id of 64 bits is written."""
    return _CANONICAL.fullmatch(raw) is not None and _LEAST <= int(raw) <= _MOST


class Ids(Sequence[bytes]):
    """A sequence of ids as they stand in keys, made when first asked for.

    ``values``: as they came. ``numbers``: the same as an array, where they are whole numbers.
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
        """As they stand in keys."""
        return [b"%d" % value for value in self.values]

    @property
    def octets(self) -> bytes:
        """Bytes that differ where the ids do: the cheapest to have."""
        return b",".join(self.raw) if self.numbers is None else self.numbers.tobytes()

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: Any) -> Any:
        return self.raw[i]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.raw)
