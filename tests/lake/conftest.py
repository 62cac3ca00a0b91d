"""A lake in a folder, its catalog in a fresh database."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from extensions.lake.catalog import open_catalog
from extensions.lake.export import Exported, export
from extensions.lake.lake_tables import LakeTable
from extensions.lake.settings import LakeSettings

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog

PROJECT = "tested"


@pytest.fixture
def catalog(fresh_database: str, tmp_path: Path) -> Iterator["SqlCatalog"]:
    with open_catalog(fresh_database, PROJECT, LakeSettings(f"file://{tmp_path}/lake")) as opened:
        yield opened


@pytest.fixture
def exported(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog"
) -> Callable[[LakeTable], Exported]:
    """Exports a table."""
    return lambda table: export(conn, fresh_database, catalog, PROJECT, table)
