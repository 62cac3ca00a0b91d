"""Rows of the lake and of PostgreSQL as relations of a DuckDB session."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from extensions.lake.commits import data_files
from extensions.lake.lake_tables import LakeTable
from extensions.lake.parquet_files import dataset, day_of

if TYPE_CHECKING:
    from pyiceberg.table import Table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


def rows_before(
    held: "Table", table: LakeTable, before: datetime, snapshot: int | None = None
) -> pads.Dataset:
    """The files of a snapshot (the current one) that may hold rows of event times before a time.

    Raises:
        ConflictError: another engine's delete files hold rows of it.
    """
    last = (before - _EPOCH) // _DAY
    files = [file for file in data_files(held, snapshot) if day_of(file) <= last]
    return dataset(held, files, table.schema)


@contextmanager
def given(
    duck: duckdb.DuckDBPyConnection,
    name: str,
    table: LakeTable,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[None]:
    """Rows of PostgreSQL as a relation that can be read once."""
    duck.register(name, pa.RecordBatchReader.from_batches(table.schema, batches))
    try:
        yield
    finally:
        duck.unregister(name)


def time_literal(at: datetime) -> str:
    """An instant in DuckDB's SQL."""
    return f"TIMESTAMPTZ '{at.astimezone(UTC).isoformat()}'"
