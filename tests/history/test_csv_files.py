"""CSV as others write it: quotation marks, headers, delimiters, compression, blank lines."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extensions.errors import InputError, SkewlessError
from tests.history.tables import (
    count,
    empty,
    fetch,
    import_events,
    import_items,
    rejected_rows,
    write_csv,
)

HEADER = "user_id,item_id,watched_at,duration_min,progress"
GOOD = "1,2,2025-03-01T10:00:00Z,1.5,0.5"


@pytest.fixture(autouse=True)
def _empty(database: str) -> None:
    empty(database)


# Each line: the rest of a row whose first column is its number; all of them are rows.
OPEN_QUOTES = {
    "text behind a closed one": ['1,2025-03-01,"Great Performances" Cats', "1,2025-03-01,c"],
    "closed by the next row": ['1,2025-03-01,"open', "1,2025-03-01,c", '1,2025-03-01,12" vinyl'],
    "closed at the end of a row": ['1,2025-03-01,"open', "1,2025-03-01,c", '1,2025-03-01,12"'],
    "closed by a row of no use": ['1,2025-03-01,"open', 'x,2025-03-01,12"', '1,never,"'],
    "two in turn": ['1,2025-03-01,"open', '1,2025-03-01,"Friends', '1,2025-03-01,"'],
    "at the end of the file": ["1,2025-03-01,a", '1,2025-03-01,"'],
    "an escaped pair": ['1,2025-03-01,"a"" b', '1,2025-03-01,""', "1,2025-03-01,c"],
    "before an empty one": ['1,2025-03-01,"a', '1,2025-03-01,""', '1,2025-03-01,"b"'],
}  # fmt: skip


@pytest.mark.parametrize("kind", OPEN_QUOTES)
@pytest.mark.parametrize(
    ("delimiter", "end"), [(",", "\n"), ("\t", "\r\n"), ("::", "\r"), ("¦", "\n")]
)
def test_no_row_vanishes_inside_a_value(
    database: str, tmp_path: Path, kind: str, delimiter: str, end: str
) -> None:
    rows = [f"{user},{rest}" for user, rest in enumerate(OPEN_QUOTES[kind])]
    text = end.join(["user_id,item_id,watched_at,title", *rows]).replace(",", delimiter)
    path = tmp_path / "e.csv"
    path.write_bytes(text.encode())
    result = import_events(database, path, delimiter=delimiter)
    assert result.read == len(rows)
    stored = {row[0] for row in fetch(database, "SELECT user_id FROM watch_events")}
    refused = rejected_rows(result) if result.rejected else []
    lost = {int(row["user_id"]) for row in refused}
    assert stored | lost == set(range(len(rows)))
    assert lost == {n for n, row in enumerate(rows) if ",x," in row or ",never," in row}


@pytest.mark.parametrize(
    "value",
    [
        "two\nlines",
        "a, comma\r\nand, one, more",
        'he said "1,2\n3"',
        "\n",
        "1\n2\n3",
        "a\n\nb",
        '"\n"',
    ],
)
@pytest.mark.parametrize("place", [0, 1, 4])
def test_values_that_do_span_lines_stay_whole(
    database: str, tmp_path: Path, value: str, place: int
) -> None:
    path = tmp_path / "e.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for row in (["user_id", "item_id", "watched_at", "progress"], *(
            [user, 7, "2025-03-01", progress] for user, progress in [("1", 0.5), ("x", 1), ("3", 0)]
        )):  # fmt: skip
            writer.writerow([*row[:place], "title" if row[0] == "user_id" else value, *row[place:]])
    result = import_events(database, path)
    assert (result.read, result.inserted, result.rejected) == (3, 2, 1)
    (refused,) = rejected_rows(result)
    assert (refused["title"], refused["rejected_row"]) == (value, "3")
    assert not any("quotation" in note for note in result.notes)


def test_a_file_without_a_header_loses_no_row(database: str, tmp_path: Path) -> None:
    rows = [f"{n},2024-01-19 00:0{n}:00,8{n},category_{n}" for n in range(3)]
    path = write_csv(tmp_path / "clicks.dat", *rows)
    with pytest.raises(SkewlessError, match="if that is a row and no header, give --no-header"):
        import_events(database, path)
    by_value = {"user_id": "0", "item_id": "80", "watched_at": "2024-01-19 00:00:00"}
    with pytest.raises(SkewlessError, match=r"is no header but a row.*--map user_id=1") as refusal:
        import_events(database, path, mapping=by_value)
    assert isinstance(refusal.value, InputError)
    with pytest.raises(SkewlessError, match=r"--map user_id=NUMBER.*2 \(2024-01-19 00:00:00\)"):
        import_events(database, path, header=False)
    assert count(database) == 0
    by_number = {"user_id": "1", "item_id": "3", "watched_at": "2"}
    result = import_events(database, path, mapping=by_number, header=False)
    assert (result.read, result.inserted) == (3, 3)
    worse = write_csv(tmp_path / "worse.dat", *rows, "x,2024-01-19 00:00:00,83,category_3")
    refused = import_events(database, worse, mapping=by_number, header=False).rejected_path
    assert refused is not None
    refused.write_text(refused.read_text().replace('"x"', '"9"'))
    assert import_events(database, refused, mapping=by_number).inserted == 1


def test_items_without_a_header(database: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "items.csv", "1,drama", "2,comedy")
    with pytest.raises(SkewlessError, match="is no header but a row"):
        import_items(database, path, mapping={"item_id": "1", "genre": "drama"})
    mapping = {"item_id": "1", "genre": "2"}
    assert import_items(database, path, mapping=mapping, header=False).inserted == 2
    parquet = tmp_path / "i.parquet"
    pq.write_table(pa.table({"1": [1], "2": ["drama"]}), parquet)
    with pytest.raises(SkewlessError, match="leave --no-header and --names out"):
        import_items(database, parquet, mapping=mapping, header=False)


@pytest.mark.parametrize("delimiter", ["::", "\\t", "¦", "|", " - ", "\x1f", "||"])
def test_delimiters_of_any_length(database: str, tmp_path: Path, delimiter: str) -> None:
    between = {"\\t": "\t"}.get(delimiter, delimiter)
    text = 'user_id,item_id,watched_at,title\n1,2,1700000000,a\n2,3,1700000000,"x,y"\n3,4\n'
    path = tmp_path / "ratings.dat"
    path.write_text(text.replace(",", between), encoding="utf-8")
    result = import_events(database, path, delimiter=delimiter)
    assert (result.read, result.inserted, result.rejected) == (3, 2, 1)
    (refused,) = rejected_rows(result)
    assert refused["rejected_text"] == f"3{between}4"


@pytest.mark.parametrize("delimiter", ["", '"', "\n", ",\r", "\0", "\udcff"])
def test_what_cannot_be_a_delimiter_is_one_sentence(
    database: str, tmp_path: Path, delimiter: str
) -> None:
    path = write_csv(tmp_path / "e.csv", HEADER, GOOD)
    with pytest.raises(SkewlessError, match="--delimiter takes") as refusal:
        import_events(database, path, delimiter=delimiter)
    assert isinstance(refusal.value, InputError)
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize("kind", ["gzip", "bz2", "zstd", "lz4"])
def test_compression_is_known_by_the_bytes(database: str, tmp_path: Path, kind: str) -> None:
    plain = (f"{HEADER}\n" + "".join(f"{n},2,2025-03-01,1,0.5\n" for n in range(5))).encode()
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, kind) as stream:
        stream.write(plain)
    whole = buffer.getvalue().to_pybytes()
    path = tmp_path / "export.csv"
    path.write_bytes(whole)
    assert import_events(database, path).inserted == 5
    path.write_bytes(whole[:-3])
    with pytest.raises(SkewlessError, match="cannot be read as CSV"):
        import_events(database, path)


def test_lines_of_nothing_are_said(database: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv", HEADER, GOOD, "", ",,,,")
    result = import_events(database, path)
    assert result.read == 1
    assert any(note.startswith("2 lines hold no value") for note in result.notes)
