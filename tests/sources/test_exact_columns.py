"""A value is stored exactly or refused: one rule, whether it comes by a stream or from a file.

PostgreSQL itself rounds 1.005 to 1.01 on its way into a numeric(5,2), cuts blanks and names, and
drops digits of a second, without a word.
"""

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extensions.database import connect
from extensions.history.file_import import ImportOptions, import_file
from extensions.sources import HistoryTable
from extensions.sources.ingest import BatchTable
from streaming.decoding import RowDecoder
from streaming.kafka.message_decoder import RejectedError
from tests.history.declared import declare
from tests.history.tables import rejected_rows
from tests.streaming.decoding.declared import NOW, message, stream

FINE = "more than {} digits"
# A column's type, a value as JSON has it, and what is stored of it; or why it is refused.
CASES: list[tuple[str, Any, str | None, str]] = [
    ("numeric(5,2)", 1.25, "1.25", ""),
    ("numeric(5,2)", "1.2500", "1.25", ""),
    ("numeric(5,2)", 7, "7.00", ""),
    ("numeric(5,2)", 1.005, None, FINE.format(2)),
    ("numeric(5,2)", "125e-3", None, FINE.format(2)),
    ("numeric(5,2)", 1000, None, "NumericValueOutOfRange|numeric field overflow"),
    ("numeric(5)", 1.5, None, FINE.format(0)),
    ("numeric(5,0)", "12.000", "12", ""),
    ("numeric(5,-2)", 1200, "1200", ""),
    ("numeric(5,-2)", 1250, None, FINE.format(-2)),
    ("numeric", "1.00500", "1.00500", ""),
    ("varchar(3)", "abc", "abc", ""),
    ("varchar(3)", "äöü", "äöü", ""),
    ("varchar(3)", "abc ", None, "more than 3 characters"),
    ("varchar(3)", "abcd", None, "more than 3 characters"),
    ("char(3)", "ab", "ab", ""),
    ("char(3)", "abc   ", None, "more than 3 characters"),
    ("name", "n" * 63, "n" * 63, ""),
    ("name", "n" * 64, None, "more than 63 bytes"),
    ('"char"', "ab", None, "more than 1 bytes"),
    ("text", "x" * 3000, "x" * 3000, ""),
    ("smallint", 32768, None, ""),
    ("integer", 1.5, None, ""),
    ("integer", 2**31, None, ""),
    ("bigint", 2**63, None, ""),
    ("timestamptz(3)", "2026-07-15T11:00:00.123Z", "2026-07-15 11:00:00.123+00", ""),
    ("timestamptz(3)", "2026-07-15T11:00:00.1234Z", None, "3 digits of a second"),
    ("timestamp(0)", "2026-07-15T11:00:00.5Z", None, "0 digits of a second"),
    ("time(0)", "11:00:00.5", None, "0 digits of a second"),
    ("time", "11:00:00.5", "11:00:00.5", ""),
    ("interval(1)", "1 day 1.25 seconds", None, "1 digits of a second"),
]  # fmt: skip


def made(url: str, kind: str) -> HistoryTable:
    with psycopg.connect(url) as conn:
        conn.execute("DROP TABLE IF EXISTS things")
    ddl = f"CREATE TABLE things (k bigint NOT NULL, at timestamptz NOT NULL, v {kind})"
    return declare(url, ddl, time="at", keys="k")


def by_stream(url: str, table: HistoryTable, value: Any) -> str:
    """The reason for which the message is refused; empty where its row is stored."""
    decoder, batches = RowDecoder(stream(table)), BatchTable(table)
    body = json.dumps({"k": 1, "at": NOW.isoformat(), "v": value}).encode()
    try:
        rows = decoder.decode(message(body), NOW)
    except RejectedError as error:
        return str(error)
    with connect(url, autocommit=True) as conn:
        batches.create(conn)
        batch = batches.batch(decoder.columns, rows)
        refused = batches.refused(conn, batch)
        if not refused:
            with conn.transaction():
                assert batches.insert(conn, batch) == 1
        return "".join(each.why for each in refused)


def by_file(url: str, table: HistoryTable, value: Any, folder: Path, kind: str) -> str:
    row = {"k": 1, "at": NOW.isoformat(), "v": value}
    if kind == "parquet":
        path = folder / "things.parquet"
        pq.write_table(pa.table({name: [each] for name, each in row.items()}), path)
    else:
        path = folder / "things.jsonl"
        path.write_text(json.dumps(row) + "\n")
    result = import_file(url, table, path, ImportOptions())
    assert result.inserted + result.rejected == 1
    return (
        " ".join(each["rejected_reason"] for each in rejected_rows(result))
        if result.rejected
        else ""
    )


def stored(url: str) -> str | None:
    with psycopg.connect(url) as conn:
        conn.execute("SET timezone = 'UTC'")
        row = conn.execute("DELETE FROM things RETURNING v::text").fetchone()
        return row[0] if row else None


@pytest.mark.parametrize(("kind", "value", "text", "why"), CASES)
def test_what_does_not_fit_exactly_is_refused(
    database: str, tmp_path: Path, kind: str, value: Any, text: str | None, why: str
) -> None:
    table = made(database, kind)
    ways = {"stream": lambda: by_stream(database, table, value)}
    if not (isinstance(value, int) and value >= 2**63):
        ways |= {
            form: lambda form=form: by_file(database, table, value, tmp_path, form)
            for form in ("json", "parquet")
        }
    for way, go in ways.items():
        reason = go()
        assert (stored(database), bool(reason)) == (text, text is None), (way, reason)
        assert not why or any(each in reason for each in why.split("|")), (way, reason)


@pytest.fixture
def orders(fresh_database: str) -> HistoryTable:
    ddl = (
        "CREATE TABLE orders (id text NOT NULL, visitor text NOT NULL, sku text NOT NULL, "
        "at timestamptz NOT NULL)"
    )
    return declare(fresh_database, ddl, time="at", keys="visitor,sku", id="id")


@pytest.mark.parametrize(
    ("row", "refused"),
    [
        ({"visitor": "v" * 1300, "sku": "ö" * 400}, False),
        ({"visitor": secrets.token_hex(650), "sku": secrets.token_hex(600)}, False),
        ({"visitor": "v" * 2600, "sku": "s"}, True),
        ({"visitor": "v" * 1300, "sku": "ö" * 651}, True),
        ({"id": "é" * 1301}, True),
    ],
)
def test_ids_that_no_index_holds_are_refused_where_they_come_in(
    fresh_database: str, orders: HistoryTable, tmp_path: Path, row: dict[str, str], *, refused: bool
) -> None:
    given = {"id": "i", "visitor": "v", "sku": "s", "at": datetime.now(UTC).isoformat(), **row}
    path = tmp_path / "orders.jsonl"
    path.write_text(json.dumps(given) + "\n")
    result = import_file(fresh_database, orders, path, ImportOptions())
    assert (result.inserted, result.rejected) == (int(not refused), int(refused))
    decoder = RowDecoder(stream(orders))
    given["at"] = NOW.isoformat()
    if not refused:
        assert decoder.decode(message(given), NOW)
        return
    with pytest.raises(RejectedError) as caught:
        decoder.decode(message(given), NOW)
    sentence = "visitor and sku are together longer than the 2,600 bytes that an index of ids takes"
    if "id" in row:
        sentence = sentence.replace("visitor and sku are together", "id is")
    assert caught.value.detail == sentence
    [rejected] = rejected_rows(result)
    assert rejected["rejected_reason"] == sentence
    assert "vvv" not in sentence
