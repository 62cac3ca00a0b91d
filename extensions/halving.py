"""Bisection: a batch that fails as a whole is taken without the members that make it fail."""

from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


def take_halved(
    begin: int,
    end: int,
    take: Callable[[int, int], T],
    refuse: Callable[[int, E], None],
    *,
    error_type: type[E],
    is_members: Callable[[E], bool],
    failed: E | None = None,
) -> Iterator[T]:
    """Take the members ``[begin, end)`` in order, halving what fails until one member is left.

    No part is tried twice: b bad members among n cost at most 1 + 2 b ⌈log₂ n⌉ calls of ``take``.
    Members that fail only together are taken in two parts.

    Args:
        begin: The first member.
        end: The member after the last; nothing is taken where there is none.
        take: Takes a part ``[begin, end)``, or raises and leaves nothing of it.
        refuse: Called with a member that fails by itself, and what ``take`` raised for it; what it
            raises ends everything.
        error_type: The class of errors that may be one member's fault.
        is_members: Whether such an error may be one.
        failed: Where the whole is known to fail: what was raised.

    Returns:
        What ``take`` returned, part by part; each part is taken when it is asked for.

    Raises:
        Exception: what ``take`` raised, if it is no member's fault.
    """
    if begin >= end:
        return
    if failed is None:
        try:
            taken = take(begin, end)
        except error_type as error:
            if not is_members(error):
                raise
            failed = error
        else:
            yield taken
            return
    if end - begin == 1:
        refuse(begin, failed)
        return
    middle = (begin + end) // 2
    for part in ((begin, middle), (middle, end)):
        yield from take_halved(*part, take, refuse, error_type=error_type, is_members=is_members)
