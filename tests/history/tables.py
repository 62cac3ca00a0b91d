"""What a test database holds, and a way to write small files and import them."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from extensions.history.bulk_load import LoadResult, load
from extensions.history.file_import import ImportOptions, ImportResult, import_file
from extensions.sources import Sources
from tests.asof.loading import media_sources


def count(url: str, table: str = "watch_events") -> int:
    with psycopg.connect(url) as conn:
        return conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def fetch(url: str, query: str) -> list[tuple]:
    with psycopg.connect(url) as conn:
        return conn.execute(query).fetchall()


def empty(url: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute("TRUNCATE watch_events, watch_events_ids, items, genres")


def write_csv(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def rejected_rows(result: ImportResult) -> list[dict[str, str]]:
    assert result.rejected_path is not None
    with result.rejected_path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def import_events(url: str, path: Path, **options: Any) -> ImportResult:
    """Imports a file of plays; ``options`` are `ImportOptions`', and ``progress``."""
    return _import(url, "watch_events", path, options)


def import_items(url: str, path: Path, **options: Any) -> ImportResult:
    """Imports a catalogue."""
    return _import(url, "items", path, options)


def _import(url: str, name: str, path: Path, options: dict[str, Any]) -> ImportResult:
    sources: Sources = media_sources(url)
    progress = options.pop("progress", None)
    options["mapping"] = options.get("mapping") or {}
    return import_file(
        url, sources.table(name), path, ImportOptions(**options),
        streams=sources.streams.values(), progress=progress,
    )  # fmt: skip


def load_events(url: str, batches: Iterable[pa.RecordBatch], **options: Any) -> LoadResult:
    """Loads plays in bulk."""
    return load(url, media_sources(url).table("watch_events"), batches, **options)


def load_items(url: str, batches: Iterable[pa.RecordBatch], **options: Any) -> LoadResult:
    """Loads rows of the catalogue in bulk."""
    return load(url, media_sources(url).table("items"), batches, **options)
