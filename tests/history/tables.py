"""What a test database holds, and a way to write small files."""

import csv
from pathlib import Path

import psycopg

from extensions.history import ImportResult


def count(url: str, table: str = "watch_events") -> int:
    with psycopg.connect(url) as conn:
        return conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def fetch(url: str, query: str) -> list[tuple]:
    with psycopg.connect(url) as conn:
        return conn.execute(query).fetchall()


def empty(url: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute("TRUNCATE watch_events, watch_event_ids, items, genres")


def write_csv(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def rejected_rows(result: ImportResult) -> list[dict[str, str]]:
    assert result.rejected_path is not None
    with result.rejected_path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
