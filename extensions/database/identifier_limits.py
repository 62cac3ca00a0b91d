"""Names of tables, columns and indexes: PostgreSQL cuts longer ones, and cut names may be equal."""

import hashlib

LONGEST_NAME = 63
_HASH = 16


def bounded_name(name: str) -> str:
    """The name itself, or of one that is too long (in bytes) its beginning and a hash of it all."""
    octets = name.encode()
    if len(octets) <= LONGEST_NAME:
        return name
    kept = octets[: LONGEST_NAME - _HASH - 1].decode(errors="ignore")
    return f"{kept}_{hashlib.sha256(octets).hexdigest()[:_HASH]}"
