"""A backfill that is cut as told and ends where told, also in a process of its own."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import psycopg

from extensions.asof.backfill import backfill
from extensions.asof.backfill_chunks import BackfillEngine, Chunk
from extensions.asof.computation import Computation
from extensions.database.connection import connect
from extensions.engines.backfill import duckdb_chunks
from extensions.engines.duckdb import Limits
from extensions.failpoints import VARIABLE

NAME = "killed backfill"


@dataclass
class Cuts:
    """An engine whose slices are cut as told, and which fails at a chunk of its own."""

    inner: BackfillEngine
    told: Iterator[tuple[float, int]]
    fails_at: int | None = None
    after: bool = False
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.inner.name

    def begin(self, after: datetime, end: datetime) -> None:
        self.inner.begin(after, end)

    def cut(self, after: datetime, end: datetime) -> tuple[datetime, int]:
        share, buckets = next(self.told)
        return after + (end - after) * share, buckets

    def append(self, conn: psycopg.Connection, chunk: Chunk) -> int:
        fails = self.fails_at == len(self.chunks)
        self.chunks.append(chunk)
        if fails and not self.after:
            raise StoppedError
        rows = self.inner.append(conn, chunk)
        if fails:
            raise StoppedError
        return rows

    def shrink(self) -> None:
        self.inner.shrink()


class StoppedError(Exception):
    pass


def fill(url: str, computation: Computation, start: datetime, end: datetime, armed: str) -> None:
    """Backfill by DuckDB; ``armed``: the failpoint at which this process is killed."""
    os.environ[VARIABLE] = armed
    with (
        connect(url, autocommit=True, name=NAME) as conn,
        duckdb_chunks(url, computation, Limits(threads=1)) as engine,
    ):
        told = itertools.cycle([(0.5, 3), (0.5, 2), (1.0, 1)])
        backfill(conn, computation, start, end, engine=Cuts(engine, told))
