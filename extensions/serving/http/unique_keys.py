"""Duplicate keys in a JSON body: parsers disagree about which of them counts, so none does."""

import json
from typing import Any


class _RepeatedError(Exception):
    """A key stands twice in one object."""


def repeated_key(body: bytes, colons: int) -> str | None:
    """A key that an object of a body has twice, at any depth; None where there is none.

    A body that has no more colons than those that are known of has no second key: only others, in
    whose texts there are some, are parsed again.

    Args:
        body: The body; one that is not JSON is passed by, since its route says so.
        colons: How many of its colons are known to belong to members of its objects as they were
            read, or to texts; fewer will do.

    Raises:
        RecursionError: the body is nested too deeply to be looked through.
    """
    if body.count(b":") == colons:
        return None
    try:
        # Numbers are not of interest, and some are too long to be made.
        json.loads(body, object_pairs_hook=_once, parse_int=str, parse_float=str)
    except _RepeatedError as error:
        return str(error)
    except ValueError:
        return None
    return None


def known_colons(read: Any, body: bytes) -> int:
    """The colons of an object's members, of the objects that it holds, and of its lists' texts."""
    if not isinstance(read, dict):
        return 0
    count = len(read) + sum(len(value) for value in read.values() if isinstance(value, dict))
    if b"\\" in body:  # a colon of a text may be written as none
        return count
    lists = (value for value in read.values() if isinstance(value, list))
    return count + sum(one.count(":") for held in lists for one in held if isinstance(one, str))


def _once(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for key, _ in pairs:
        if key in seen:
            raise _RepeatedError(ascii(key)[1:-1])
        seen.add(key)
