"""Identifier limits: PostgreSQL truncates longer names, and truncated names may be equal."""

import hashlib

LONGEST_NAME = 63
_HASH = 16


def bounded_name(name: str) -> str:
    """The name, or if it exceeds the limit (in bytes) a prefix and a hash of all of it."""
    octets = name.encode()
    if len(octets) <= LONGEST_NAME:
        return name
    kept = octets[: LONGEST_NAME - _HASH - 1].decode(errors="ignore")
    return f"{kept}_{hashlib.sha256(octets).hexdigest()[:_HASH]}"
