"""Identifier limits: how long they may be, and those of our own.

PostgreSQL truncates longer names, and truncated names may be equal.
"""

import hashlib

LONGEST_NAME = 63
_HASH = 16

# The column of each log that says whether a backfill wrote the row. Times do not say it: a row
# that was pushed may have been created at its event's own time.
BACKFILLED = "skewless_backfilled"


def bounded_name(name: str) -> str:
    """The name, or if it exceeds the limit (in bytes) a prefix and a hash of all of it."""
    octets = name.encode()
    if len(octets) <= LONGEST_NAME:
        return name
    kept = octets[: LONGEST_NAME - _HASH - 1].decode(errors="ignore")
    return f"{kept}_{hashlib.sha256(octets).hexdigest()[:_HASH]}"
