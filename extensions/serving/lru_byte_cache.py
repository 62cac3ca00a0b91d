"""A least-recently-used cache that is bounded by the bytes of what it holds."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Held = TypeVar("Held")


class ByteCache(Generic[Key, Held]):
    """Keeps values of up to ``most`` bytes in all; evicts the least recently used.

    The sizes are the caller's, who knows what a value takes. One that is larger than an eighth of
    all is not kept, so that no single one pushes all others out. For one thread.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Key, tuple[Held, int]] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key) -> Held | None:
        """Get a value and mark it as used; None if it is not cached."""
        found = self._held.get(key)
        if found is None:
            return None
        self._held.move_to_end(key)
        return found[0]

    def put(self, key: Key, value: Held, size: int) -> None:
        """Cache a value of so many bytes, evicting the least recently used."""
        self.drop(key)
        if size > self._most // 8:
            return
        self._held[key] = value, size
        self.size += size
        while self.size > self._most:
            _, (_, freed) = self._held.popitem(last=False)
            self.size -= freed

    def drop(self, key: Key) -> None:
        """Remove a value, if it is cached."""
        if found := self._held.pop(key, None):
            self.size -= found[1]

    def clear(self) -> None:
        """Remove all values."""
        self._held.clear()
        self.size = 0
