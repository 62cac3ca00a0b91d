"""What a table of the lake and PostgreSQL hold, in one order, to be compared bit by bit."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pyarrow as pa

from extensions.database import connect_arrow
from extensions.lake.export_rows import rows
from extensions.lake.lake_tables import LakeTable
from extensions.lake.upkeep import _named

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table

__all__ = ["connect_arrow", "files_on_disk", "in_lake", "in_postgres", "named_files"]


def in_lake(held: "Table", table: LakeTable) -> list[tuple[object, ...]]:
    """The rows of the lake's current snapshot as PyIceberg reads them."""
    rows = held.refresh().scan().to_arrow().select(table.schema.names)
    return _ordered(rows)


def in_postgres(url: str, table: LakeTable, through: datetime) -> list[tuple[object, ...]]:
    """The rows of PostgreSQL that had arrived by ``through``."""
    return _ordered(pa.Table.from_batches(rows(url, table, None, through), table.schema))


def files_on_disk(held: "Table") -> set[str]:
    """The files in the table's folder."""
    folder = Path(urlsplit(held.location()).path)
    return {str(path) for path in folder.rglob("*") if path.is_file()}


def named_files(catalog: "SqlCatalog", held: "Table") -> set[str]:
    """The files that its metadata lead to."""
    return _named(catalog.load_table(held.name()))


def rows_of(conn: psycopg.Connection, query: str) -> list[tuple[object, ...]]:
    """A query's rows."""
    return conn.execute(query).fetchall()  # type: ignore[arg-type]


def _ordered(rows: pa.Table) -> list[tuple[object, ...]]:
    # repr() tells NaN, 0.0 and -0.0, and float32 from float64 as Arrow gives them.
    columns = [column.to_pylist() for column in rows.columns]
    return sorted(zip(*columns, strict=True), key=repr)
