"""Failpoints around the chunks of a backfill; see `extensions.failpoints`."""

from enum import Enum


class Fault(Enum):
    """A failpoint before and after a chunk's commit, and where its spine is known."""

    CHUNK_ASKED = "backfill-chunk-asked"
    CHUNK_APPENDED = "backfill-chunk-appended"
    CHUNK_COMMITTED = "backfill-chunk-committed"
