"""An empty text is a text, and what is not there is none: by each format of file, and by stream."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extensions.history.file_import import ImportOptions, import_file
from extensions.sources import HistoryTable
from streaming.decoding import RowDecoder
from tests.history.declared import declare
from tests.history.tables import fetch, rejected_rows
from tests.streaming.decoding.declared import decoded, stream

TABLE = """
CREATE TABLE visits (visitor text COLLATE "C" NOT NULL, page text, place varchar(9), mark bytea,
    hits integer, at timestamptz NOT NULL)
"""
AT = "2026-03-01T12:00:00Z"
COLUMNS = ("visitor", "page", "place", "mark", "hits", "at")
# As sources write them; bytes as JSON has them are base64, of which "" is the empty one.
ROWS: list[tuple[Any, ...]] = [
    ("", "", "", "", 1, AT),
    (" ", "  ", None, None, 2, AT),
    ("a", None, "", None, 3, AT),
    ("b", "x", "y", None, 4, AT),
]
STORED = [
    ("", "", "", b"", 1),
    (" ", "  ", None, None, 2),
    ("a", None, "", None, 3),
    ("b", "x", "y", None, 4),
]


def visits(url: str) -> HistoryTable:
    return declare(url, TABLE, time="at", keys="visitor")


def stored(url: str) -> list[tuple[Any, ...]]:
    return fetch(url, "SELECT visitor, page, place, mark, hits FROM visits ORDER BY hits")


def csv_line(row: tuple[Any, ...]) -> str:
    """As COPY, pandas and DuckDB write it: only an empty text has marks."""
    return ",".join("" if value is None else '""' if value == "" else str(value) for value in row)


def written(folder: Path, form: str, rows: list[tuple[Any, ...]]) -> Path:
    path = folder / f"visits.{form}"
    if form == "parquet":
        columns = list(zip(*rows, strict=True))
        texts = [pa.array(values, pa.string()) for values in columns[:4]]
        pq.write_table(
            pa.table([*texts, pa.array(columns[4]), pa.array(columns[5])], names=COLUMNS), path
        )
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows))
    else:
        path.write_text("\n".join([",".join(COLUMNS), *map(csv_line, rows)]) + "\n")
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_files_of_every_format_give_the_same_rows(
    fresh_database: str, tmp_path: Path, form: str
) -> None:
    result = import_file(fresh_database, visits(fresh_database), written(tmp_path, form, ROWS))
    assert (result.inserted, result.rejected) == (4, 0), result.notes
    assert stored(fresh_database) == STORED
    notes = " ".join(result.notes)
    assert "visitor: 1 texts are empty, and were stored so" in notes
    assert "place: 2 texts are empty" in notes


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_id_that_is_not_there_is_a_rejected_row(
    fresh_database: str, tmp_path: Path, form: str
) -> None:
    path = written(tmp_path, form, [(None, *ROWS[3][1:]), *ROWS])
    result = import_file(fresh_database, visits(fresh_database), path)
    assert (result.inserted, result.rejected) == (4, 1)
    [row] = rejected_rows(result)
    assert row["rejected_reason"] == "visitor is empty"


def test_the_stream_gives_the_same_rows(fresh_database: str) -> None:
    decoder = RowDecoder(stream(visits(fresh_database)))
    for row, true in zip(ROWS, STORED, strict=True):
        [got] = decoded(decoder, dict(zip(COLUMNS, row, strict=True)))
        assert [got[name] for name in COLUMNS[:5]] == list(true)


def test_a_damaged_line_keeps_what_is_nothing(fresh_database: str, tmp_path: Path) -> None:
    """The mark within the second value is out of place, and the line is written anew."""
    path = tmp_path / "visits.csv"
    path.write_text(f'{",".join(COLUMNS)}\n"",5" tape,,,1,{AT}\na,,"",,2,{AT}\n')
    result = import_file(fresh_database, visits(fresh_database), path)
    assert result.inserted == 2, result.notes
    assert stored(fresh_database) == [("", '5" tape', None, None, 1), ("a", None, "", None, 2)]


def test_all_values_in_marks_and_how_to_say_that_none_is_meant(
    fresh_database: str, tmp_path: Path
) -> None:
    path = tmp_path / "visits.csv"
    path.write_text(f'"visitor","page","hits","at"\n"a","","","{AT}"\n')
    options = ImportOptions(mapping={"page": "nullif(page, '')"})
    result = import_file(fresh_database, visits(fresh_database), path, options)
    assert (result.inserted, result.rejected) == (1, 0)
    assert stored(fresh_database) == [("a", None, None, None, None)]
