"""The Iceberg catalog, in the project's own PostgreSQL, and the tables in it.

PyIceberg's SQL catalog is laid out as Iceberg's JDBC catalog, which Spark, Trino and Flink read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
from sqlalchemy import URL

from extensions.addresses import libpq_settings
from extensions.database.advisory_locks import session_lock
from extensions.database.connection import connect
from extensions.errors import ConfigurationError, ConflictError, UnavailableError
from extensions.lake.lake_tables import LakeTable
from extensions.lake.settings import LakeSettings

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table

NAME = "skewless"
_PATIENCE_SECONDS = 30.0
# Deletes of other engines rewrite files: DuckDB reads a list of files and knows of no others.
_PROPERTIES = {
    "format-version": "2",
    "write.delete.mode": "copy-on-write",
    "write.update.mode": "copy-on-write",
    "write.merge.mode": "copy-on-write",
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}


@contextmanager
def open_catalog(url: str, project: str, settings: LakeSettings) -> Iterator["SqlCatalog"]:
    """The catalog in the database at ``url``, with the project's namespace.

    Raises:
        ConfigurationError: PyIceberg is not installed.
    """
    try:
        from pyiceberg.catalog.sql import SqlCatalog  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"The lake needs PyIceberg ({error}): install `skewless[lake]`."
        ) from error
    with (
        connect(url, autocommit=True, name="skewless lake") as conn,
        # Two that open a new catalog at once would both make its tables.
        session_lock(conn, "skewless lake catalog", _busy, patience=_PATIENCE_SECONDS),
    ):
        properties = {
            **settings.properties, "uri": _driver_url(url), "warehouse": settings.warehouse
        }  # fmt: skip
        catalog = SqlCatalog(NAME, **properties)
        catalog.create_namespace_if_not_exists(project)
    try:
        yield catalog
    finally:
        catalog.engine.dispose()


def ensure_table(catalog: "SqlCatalog", project: str, table: LakeTable) -> "Table":
    """The table of the lake, made or given new columns where they are missing.

    Raises:
        ConflictError: a column has another type in the lake, or it is partitioned otherwise.
    """
    from pyiceberg.exceptions import NoSuchTableError  # noqa: PLC0415
    from pyiceberg.transforms import DayTransform  # noqa: PLC0415

    name = (project, table.name)
    try:
        held = catalog.load_table(name)
    except NoSuchTableError:
        with (
            catalog.create_table_transaction(
                name, schema=table.schema, properties=_PROPERTIES
            ) as made,
            made.update_spec() as spec,
        ):
            spec.add_field(table.event, DayTransform(), f"{table.event}_day")
        return catalog.load_table(name)
    _check_columns(held, table)
    if set(table.schema.names) - set(held.schema().column_names):
        with held.update_schema() as update:
            update.union_by_name(table.schema)
        held = catalog.load_table(name)
    return held


def refuse_deletes(table: "Table", snapshot_id: int | None = None) -> None:
    """Refuse a snapshot (the current one) whose rows cannot be read from its data files alone.

    Raises:
        ConflictError: another engine deleted rows by delete files (merge on read).
    """
    snapshot = (
        table.current_snapshot() if snapshot_id is None else table.snapshot_by_id(snapshot_id)
    )
    if snapshot is None:
        return
    from pyiceberg.manifest import ManifestContent  # noqa: PLC0415

    for manifest in snapshot.manifests(table.io):
        if manifest.content == ManifestContent.DELETES and (
            manifest.has_added_files() or manifest.has_existing_files()
        ):
            raise ConflictError(
                f"The lake's table {'.'.join(table.name())} has delete files of another engine: "
                "who reads its data files would bring deleted rows back. Rewrite its files there "
                "(in Spark: CALL system.rewrite_data_files with delete-file-threshold 1), and set "
                "write.delete.mode, write.update.mode and write.merge.mode to copy-on-write."
            )


def _check_columns(held: "Table", table: LakeTable) -> None:
    from pyiceberg.io.pyarrow import schema_to_pyarrow  # noqa: PLC0415

    types = {field.name: field.type for field in schema_to_pyarrow(held.schema())}
    for column in table.columns:
        there = types.get(column.name)
        if there is not None and _plain(there) != _plain(column.type):
            raise ConflictError(
                f"The column {column.name} of {table.name} has another type in the lake "
                f"({_plain(there)}, here {_plain(column.type)}): give the column another name."
            )


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without the widths and names in which Arrow's spellings of it differ."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    return kind


def _driver_url(url: str) -> str:
    settings = libpq_settings(url)
    known = {name: settings.pop(name, None) for name in ("user", "password", "host", "dbname")}
    port = settings.pop("port", None)
    return URL.create(
        "postgresql+psycopg",
        username=known["user"],
        password=known["password"],
        host=known["host"],
        port=int(port) if port else None,
        database=known["dbname"],
        query=settings,
    ).render_as_string(hide_password=False)


def _busy() -> UnavailableError:
    return UnavailableError("The lake's catalog is being made by another process: try again.")
