"""Importing a person's own events: mapping, units, zones, defaults, and every reason to refuse."""

import csv
import gzip
import resource
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extensions.database import connect
from extensions.errors import InputError, SkewlessError
from extensions.history import csv_file
from extensions.history.import_arguments import parse_pairs
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


def moments(url: str) -> list[str]:
    rows = fetch(url, "SELECT watched_at AT TIME ZONE 'UTC' FROM watch_events ORDER BY user_id")
    return [row[0].isoformat() for row in rows]


def test_a_file_with_every_column(database: str, tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "e.csv",
        "event_id,user_id,item_id,watched_at,ingested_at,duration_ms,progress",
        "a,1,2,2025-03-01T10:00:00Z,2025-03-01T10:00:05.5Z,90000,0.5",
        "a,1,2,2025-03-01T10:00:00Z,2025-03-01T10:00:09Z,90000,0.5",
    )
    result = import_events(database, path)
    assert (result.read, result.inserted, result.duplicates, result.rejected) == (2, 1, 1, 0)
    assert result.rejected_path is None
    assert sorted(tmp_path.iterdir()) == [path]
    assert fetch(database, "SELECT * FROM watch_events") == [
        (
            "a", 1, 2, datetime(2025, 3, 1, 10, tzinfo=UTC),
            datetime(2025, 3, 1, 10, 0, 5, 500_000, tzinfo=UTC), 90_000, 0.5,
        )
    ]  # fmt: skip


def test_missing_optional_columns_get_defaults_and_the_result_says_so(
    database: str, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "e.csv", "who,what,at", "1,2,2025-03-01")
    mapping = parse_pairs("--map", ["user_id=who", "item_id = what", "watched_at=at"])
    result = import_events(database, path, mapping=mapping)
    assert fetch(database, "SELECT watched_at = ingested_at, duration_ms, progress"
                 " FROM watch_events") == [(True, 0, 0.0)]  # fmt: skip
    notes = " ".join(result.notes)
    for said in ("event_id: derived", "ingested_at: taken", "duration_ms: no", "1 times without"):
        assert said in notes


def test_what_a_live_store_did_not_know_counts_as_known_from_its_import_on(
    database: str, tmp_path: Path
) -> None:
    header, at = "user_id,item_id,watched_at", "2025-03-01T12:00:00Z"
    with connect(database, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO watermarks (view_name, version, live_from, processed_through) "
            "VALUES ('user_habits', 1, '2025-01-01', now())"
        )
        try:
            first = import_events(database, write_csv(tmp_path / "first.csv", header, f"1,1,{at}"))
            before = datetime.now(UTC)
            later = import_events(database, write_csv(tmp_path / "later.csv", header, f"2,1,{at}"))
            claimed = import_events(
                database,
                write_csv(tmp_path / "claimed.csv", header, f"3,1,{at}"),
                known_at_event_time=True,
            )
        finally:
            conn.execute("DELETE FROM watermarks")
        arrivals = dict(fetch(database, "SELECT user_id, ingested_at FROM watch_events"))
        changes = conn.execute(
            "SELECT operation, claimed_from FROM history_changes ORDER BY id DESC LIMIT 2"
        ).fetchall()
    own = datetime(2025, 3, 1, 12, tzinfo=UTC)
    assert (arrivals[1], arrivals[3]) == (own, own)
    assert before <= arrivals[2] <= datetime.now(UTC)
    assert "ingested_at: taken to be watched_at." in first.notes
    assert any(note.startswith("ingested_at: now") for note in later.notes)
    assert "ingested_at: taken to be watched_at." in claimed.notes
    assert changes == [("insert", own), ("insert", own)]


def test_a_catalogue_that_is_imported_again_into_a_live_store_adds_nothing(
    database: str, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "items.csv", "item_id,genre,valid_from", "1,drama,2025-03-02")
    with connect(database, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO watermarks (view_name, version, live_from, processed_through) "
            "VALUES ('user_habits', 1, '2025-01-01', now())"
        )
        try:
            assert import_items(database, path).inserted == 1
            conn.execute("UPDATE items SET ingested_at = now() - interval '1 hour'")
            again = import_items(database, path)
        finally:
            conn.execute("DELETE FROM watermarks")
    assert (again.inserted, again.duplicates) == (0, 1)


def test_the_published_names_need_no_mapping(database: str, tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "e.csv",
        "eventId,userId,itemId,watchDurationMin,progress,watchedAt",
        "a,1,2,1.5,0.5,2025-03-01T10:00:00Z",
    )
    assert import_events(database, path).inserted == 1
    assert fetch(database, "SELECT duration_ms FROM watch_events") == [(90_000,)]


@pytest.mark.parametrize(
    ("factor", "unit"),
    [(1, "seconds"), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_epoch_units_are_inferred_and_stated(
    database: str, tmp_path: Path, factor: int, unit: str, kind: str
) -> None:
    at = [int(datetime(year, 2, 28, 23, 59, 59, tzinfo=UTC).timestamp()) for year in (2000, 2025)]
    values = [second * factor for second in at]
    path = tmp_path / f"e.{kind}"
    if kind == "csv":
        write_csv(path, "user_id,item_id,watched_at", *(f"{i},1,{v}" for i, v in enumerate(values)))
    else:
        pq.write_table(pa.table({"user_id": [0, 1], "item_id": [1, 1], "watched_at": values}), path)
    result = import_events(database, path)
    assert moments(database) == ["2000-02-28T23:59:59", "2025-02-28T23:59:59"]
    assert any(unit in note for note in result.notes)


def test_one_file_has_one_epoch_unit(database: str, tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "e.csv", "user_id,item_id,watched_at",
        "1,1,1740000000000", "2,1,1740000000123", "3,1,1740000000", "4,1,1740000000.5e3",
    )  # fmt: skip
    result = import_events(database, path)
    assert (result.inserted, result.rejected) == (3, 1)
    assert "epoch milliseconds" in next(iter(result.reasons))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-03-30T02:30:00+02:00", "2025-03-30T00:30:00"),
        ("2025-03-30 02:30:00-0330", "2025-03-30T06:00:00"),
        ("2025-03-30T02:30:00.123456789Z", "2025-03-30T02:30:00.123456"),
        ("2025-03-30T02:30Z", "2025-03-30T02:30:00"),
        ("2025-03-30 02:30:00 UTC", "2025-03-30T02:30:00"),
        ("2024-02-29", "2024-02-29T00:00:00"),
        ("2025-03-30 02:30:00", "2025-03-30T02:30:00"),
        ("1740000000.25", "2025-02-19T21:20:00.250000"),
    ],
)
def test_times_with_and_without_a_zone(
    database: str, tmp_path: Path, text: str, moment: str
) -> None:
    path = write_csv(tmp_path / "e.csv", "user_id,item_id,watched_at", f"1,1,{text}")
    result = import_events(database, path)
    assert moments(database) == [moment]
    naive = any("without a zone" in note for note in result.notes)
    assert naive == (text in {"2024-02-29", "2025-03-30 02:30:00"})


def test_a_time_without_a_zone_is_utc_behind_one_with_a_zone(database: str, tmp_path: Path) -> None:
    """Pandas 2 alone would read it in the zone of the row before."""
    path = write_csv(
        tmp_path / "e.csv", "user_id,item_id,watched_at",
        "1,1,2025-03-30T02:30:00+02:00", "2,1,2025-03-30T02:30:00",
    )  # fmt: skip
    import_events(database, path)
    assert sorted(moments(database)) == ["2025-03-30T00:30:00", "2025-03-30T02:30:00"]


REASONS = [
    (f"abc,2,2025-03-01,1,0.5", "user_id is not a 64-bit integer"),  # noqa: F541
    ("7d1f1e0c-7d0a-4b62-9b55-0c1b1b1b1b1b,2,2025-03-01,1,0.5", "user_id is not a 64-bit integer"),
    ("5.7,2,2025-03-01,1,0.5", "user_id is not a 64-bit integer"),
    ("9223372036854775808,2,2025-03-01,1,0.5", "user_id is not a 64-bit integer"),
    (",2,2025-03-01,1,0.5", "user_id is empty"),
    ("1,  ,2025-03-01,1,0.5", "item_id is empty"),
    ("1,1e3,2025-03-01,1,0.5", "item_id is not a 64-bit integer"),
    ("1,2,,1,0.5", "watched_at is empty"),
    ("1,2,yesterday,1,0.5", "watched_at is not a time"),
    ("1,2,2025-02-30,1,0.5", "watched_at is not a time"),
    ("1,2,2025-03-01T25:00:00Z,1,0.5", "watched_at is not a time"),
    ("1,2,1999-12-31T23:59:59Z,1,0.5", "watched_at is not between 2000-01-01 00:00:00"),
    ("1,2,2200-01-01,1,0.5", "watched_at is not between"),
    ("1,2,2025-03-01,-1,0.5", "it violates watch_events_duration_ms_check"),
    ("1,2,2025-03-01,1440.01,0.5", "it violates watch_events_duration_ms_check"),
    ("1,2,2025-03-01,NaN,0.5", "duration_ms is not a number"),
    ("1,2,2025-03-01,1e999,0.5", "duration_ms is not a number"),
    ('1,2,2025-03-01,"1,5",0.5', "duration_ms is not a number"),
    ("1,2,2025-03-01,,0.5", "duration_ms is empty"),
    ("1,2,2025-03-01,1,1.01", "it violates watch_events_progress_check"),
    ("1,2,2025-03-01,1,-0.1", "it violates watch_events_progress_check"),
    ("1,2,2025-03-01,1,inf", "progress is not a number"),
    ("1,2,2025-03-01,1,", "progress is empty"),
    ("1,2,2025-03-01", "3 fields instead of 5"),
    ("1,2,2025-03-01,1,0.5,6", "6 fields instead of 5"),
]


@pytest.mark.parametrize(("row", "reason"), REASONS)
def test_a_bad_row_is_refused_with_its_reason_and_number(
    database: str, tmp_path: Path, row: str, reason: str
) -> None:
    path = write_csv(tmp_path / "e.csv", HEADER, GOOD, row, GOOD.replace("1,2", "3,4"))
    result = import_events(database, path)
    assert (result.read, result.inserted, result.rejected) == (3, 2, 1)
    (refused,) = rejected_rows(result)
    assert refused["rejected_reason"].startswith(reason)
    assert refused["rejected_row"] == "3"
    assert sum(result.reasons.values()) == 1
    if "fields instead" in reason:
        assert refused["rejected_text"] == row
    else:
        assert [refused[name] for name in HEADER.split(",")] == next(csv.reader([row]))


def test_a_row_with_several_faults_names_them_all(database: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv", HEADER, "x,2,never,1,much")
    (refused,) = rejected_rows(import_events(database, path))
    assert refused["rejected_reason"] == (
        "user_id is not a 64-bit integer; watched_at is not a time; progress is not a number"
    )


def test_event_ids_that_cannot_be_stored_are_refused(database: str, tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    long = b"".join(sha256(b"%d" % n).hexdigest().encode() for n in range(100))
    ids = [b"", long, b"a\xff", b"a\0b", b"fine", b"x" * 1_000]
    rows = b"".join(text + b",1,2,2025-03-01\n" for text in ids)
    path.write_bytes(b"event_id,user_id,item_id,watched_at\n" + rows)
    result = import_events(database, path)
    assert (result.inserted, result.rejected) == (2, 4)
    assert sorted(result.reasons) == [
        "event_id is empty",
        "event_id is longer than the 2,600 bytes that an index of ids takes",
        "event_id is not valid UTF-8 text",
    ]


def test_edges_are_accepted(database: str, tmp_path: Path) -> None:
    now = datetime.now(UTC) + timedelta(minutes=4)
    path = write_csv(
        tmp_path / "e.csv", HEADER,
        f"-9223372036854775808,9223372036854775807,{now.isoformat()},1440,1",
        "+7,12.0,2000-01-01T00:00:00Z,0,0",
        " 8 , 1 , 2025-01-01 ,  .5 , 1e-1 ",
    )  # fmt: skip
    assert import_events(database, path).inserted == 3


def test_a_mended_file_of_rejected_rows_can_be_imported(database: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv", HEADER, GOOD, "x,2,2025-03-01,1,0.5")
    result = import_events(database, path)
    assert result.rejected_path == tmp_path / "e.csv.rejected.csv"
    mended = result.rejected_path.read_text().replace('"x"', '"9"')
    result.rejected_path.write_text(mended)
    again = import_events(database, result.rejected_path)
    assert (again.inserted, again.rejected) == (1, 0)


def test_the_same_file_twice_adds_nothing_and_equal_rows_are_events_of_their_own(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{n % 7},1,2025-03-0{1 + n % 3},{n % 2},0.5" for n in range(400)]
    path = write_csv(tmp_path / "e.csv", HEADER, *rows)
    first = import_events(database, path)
    assert (first.inserted, first.duplicates) == (400, 0)
    ids = "SELECT event_id FROM watch_events_ids ORDER BY 1"
    before = fetch(database, ids)
    again = import_events(database, path)
    assert (again.inserted, again.duplicates) == (0, 400)
    # Where the file is cut into batches plays no part, nor the order of its rows.
    empty(database)
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 128)
    other = write_csv(tmp_path / "other.csv", HEADER, *reversed(rows))
    assert import_events(database, other).inserted == 400
    assert fetch(database, ids) == before
    # An export that has grown adds what is new.
    grown = write_csv(tmp_path / "grown.csv", HEADER, *rows, rows[0], "77,1,2025-03-01,1,0.5")
    result = import_events(database, grown)
    assert (result.inserted, result.duplicates) == (2, 400)


def test_quotes_newlines_blank_lines_and_windows_line_ends(database: str, tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(
        b'\xef\xbb\xbfuser_id,item_id,watched_at,title\r\n1,2,2025-03-01,"a\r\n""b"", c"\r\n'
        b"\r\n\r\n2,2,2025-03-01,\xe9t\xe9\r\nbad,2,2025-03-01,d\r\n3,2\r\n\r\n4,2,2025-03-01,"
    )
    result = import_events(database, path)
    assert (result.read, result.inserted, result.rejected) == (5, 3, 2)
    assert {row["rejected_row"] for row in rejected_rows(result)} == {"6", "7"}


@pytest.mark.parametrize("name", ["e.tsv", "e.csv.gz", "e.txt"])
def test_other_delimiters_and_compression(database: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = f"{HEADER}\n{GOOD}\n"
    if name == "e.csv.gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text.replace(",", "\t" if name == "e.tsv" else ";"))
    delimiter = ";" if name == "e.txt" else None
    assert import_events(database, path, delimiter=delimiter).inserted == 1


def test_parquet_types_are_understood_and_bad_values_refused(database: str, tmp_path: Path) -> None:
    at = datetime(2025, 3, 1, 10, tzinfo=UTC)
    table = pa.table(
        {
            "user_id": pa.array([1.0, 2.5, float("nan"), None, 5.0]),
            "item_id": pa.array([1, 2, 3, 4, 2**63], pa.uint64()),
            "watched_at": pa.array([at] * 5, pa.timestamp("ns", tz="Europe/Berlin")),
            "duration_s": pa.array([Decimal("90.5")] * 5),
            "progress": pa.array(["0.5"] * 5).dictionary_encode(),
            "tags": pa.array([["a"], [], None, ["b"], ["c"]]),
        }
    )
    path = tmp_path / "e.parquet"
    pq.write_table(table, path)
    result = import_events(database, path)
    assert (result.read, result.inserted, result.rejected) == (5, 1, 4)
    assert fetch(database, "SELECT watched_at, duration_ms FROM watch_events") == [(at, 90_500)]
    assert [row["rejected_row"] for row in rejected_rows(result)] == ["2", "3", "4", "5"]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([datetime(2025, 3, 1)], pa.timestamp("s")),  # noqa: DTZ001
        pa.array([datetime(2025, 3, 1).date()], pa.date32()),  # noqa: DTZ001
        pa.array(["2025-03-01"], pa.large_string()),
        pa.array([1740787200.0]),
        pa.array([1740787200], pa.int32()),
        pa.array([1740787200000], pa.uint64()),
    ],
)
def test_parquet_times(database: str, tmp_path: Path, values: pa.Array) -> None:
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table({"user_id": [1], "item_id": [1], "watched_at": values}), path)
    assert import_events(database, path).inserted == 1
    assert moments(database) == ["2025-03-01T00:00:00"]


def test_far_parquet_times_are_out_of_range(database: str, tmp_path: Path) -> None:
    far = pa.array([2**62, -(2**62), 0, None], pa.timestamp("ms"))
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table({"user_id": [1] * 4, "item_id": [1] * 4, "watched_at": far}), path)
    result = import_events(database, path)
    assert (result.inserted, result.rejected) == (0, 4)


def unusable(tmp_path: Path) -> list[tuple[Path, dict[str, str], str]]:
    def file(name: str, octets: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(octets)
        return path

    good = (HEADER + "\n" + GOOD + "\n").encode()
    lists = tmp_path / "lists.parquet"
    pq.write_table(pa.table({"user_id": [[1]], "item_id": [1], "watched_at": [1]}), lists)
    return [
        (tmp_path / "none.csv", {}, "There is no file"),
        (tmp_path, {}, "is a folder"),
        (file("empty.csv", b""), {}, "is empty"),
        (file("other.csv", b"user,item\n1,2\n"), {},
         "no column for user_id, item_id, watched_at.*its columns are user, item"),
        (file("map.csv", good), {"watched_at": "when"}, "no column when, which --map names"),
        (file("map.csv", good), {"watchedat": "when"}, "--map does not know watchedat"),
        (file("two.csv", b"user_id,user_id,item_id,watched_at\n1,1,1,1\n"), {}, "2 columns called"),
        (file("durations.csv", b"user_id,item_id,watched_at,duration_s,duration_ms\n1,1,1,1,1"),
         {}, r"more than one column for duration_ms \(duration_ms, duration_s\)"),
        (file("latin.csv", b"user_id,item_id,watched_at,\xc3\xa9t\xe9\n1,1,1,1\n"), {},
         "not in the encoding"),
        (file("zeros.csv", bytes(10) + b"user_id,item_id\n1,1\n"), {}, "is no text"),
        (file("zip.xlsx", b"PK\x03\x04" + bytes(range(256)) * 8), {}, "."),
        (file("cut.parquet", b"PAR1" + b"x" * 100), {}, "not a whole Parquet file"),
        (file("cut.csv.gz", gzip.compress(good * 50)[:-20]), {}, "cannot be read as CSV"),
        (lists, {}, "holds list"),
    ]  # fmt: skip


def test_unusable_files_are_one_sentence_and_exit_code_2(database: str, tmp_path: Path) -> None:
    for path, mapping, said in unusable(tmp_path):
        with pytest.raises(SkewlessError, match=said) as refusal:
            import_events(database, path, mapping=mapping)
        assert isinstance(refusal.value, InputError), path
        assert "\n" not in refusal.value.message, path
    assert count(database) == 0
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob("*.rejected.csv"))


@pytest.mark.parametrize("block", [128, 1 << 20])
def test_a_quotation_mark_that_is_never_closed_takes_no_other_row_with_it(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", block)
    rows = [f"{n},2,2025-03-01,1,{chr(34) if n == 5 else ''}0.5" for n in range(200)]
    path = write_csv(tmp_path / "e.csv", HEADER, *rows)
    result = import_events(database, path)
    assert (result.read, result.inserted, result.rejected) == (200, 199, 1)
    (refused,) = rejected_rows(result)
    assert (refused["rejected_row"], refused["progress"]) == ("7", '"0.5')
    assert any("the first is row 7" in note for note in result.notes)


def test_rejected_rows_can_go_elsewhere_and_a_closed_folder_is_one_sentence(
    database: str, tmp_path: Path
) -> None:
    path = write_csv(tmp_path / "e.csv", HEADER, "x,2,2025-03-01,1,0.5")
    elsewhere = tmp_path / "refused.csv"
    assert import_events(database, path, rejected=elsewhere).rejected_path == elsewhere
    with pytest.raises(SkewlessError, match="cannot be written to") as refusal:
        import_events(database, path, rejected=tmp_path / "no folder" / "refused.csv")
    assert isinstance(refusal.value, InputError)
    with pytest.raises(SkewlessError, match="cannot go to the input itself"):
        import_events(database, path, rejected=path)
    assert path.read_text().startswith(HEADER)


@pytest.mark.parametrize("pair", ["watched_at", "=x", "x=", "a=b=c=", ""])
def test_mappings_are_pairs(pair: str) -> None:
    if pair == "a=b=c=":
        assert parse_pairs("--map", [pair]) == {"a": "b=c="}
        return
    with pytest.raises(SkewlessError, match="COLUMN=EXPRESSION"):
        parse_pairs("--map", [pair])
    with pytest.raises(SkewlessError, match="twice"):
        parse_pairs("--map", ["a=b", "a=c"])


def test_a_header_alone_is_a_file_without_rows(database: str, tmp_path: Path) -> None:
    result = import_events(database, write_csv(tmp_path / "e.csv", HEADER))
    assert (result.read, result.rejected_path) == (0, None)
    assert result.to_json()["read"] == 0


def test_large_files_are_streamed(database: str, tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    line = "{},{},2025-03-01T10:00:00Z," + "x" * 2_000 + "\n"
    calls: list[tuple[int, int | None]] = []
    peaks = []
    for rows in (20_000, 80_000):
        with path.open("w") as file:
            file.write("user_id,item_id,watched_at,ballast\n")
            file.writelines(line.format(n, rows) for n in range(rows))
        calls.clear()
        result = import_events(database, path, progress=lambda *call: calls.append(call))
        assert result.inserted == rows
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    assert path.stat().st_size > 150 << 20
    assert peaks[1] - peaks[0] < 64 << 20
    assert len(calls) > 100  # it came in many batches
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (80_000, 80_000)
    estimates = np.array([total for _, total in calls[60:]])
    assert (np.abs(estimates / 80_000 - 1) < 0.5).all()


def test_items_with_and_without_a_history(database: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "i.csv", "id,kind", "1,drama", "2,comedy", "x,drama", "3,")
    mapping = {"item_id": "id", "genre": "kind"}
    result = import_items(database, path, mapping=mapping)
    assert (result.read, result.inserted, result.rejected) == (4, 2, 2)
    assert set(result.reasons) == {"item_id is not a 64-bit integer", "genre is empty"}
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert fetch(database, "SELECT * FROM items ORDER BY 1") == [
        (1, "drama", epoch, epoch),
        (2, "comedy", epoch, epoch),
    ]
    assert import_items(database, path, mapping=mapping).duplicates == 2
    history = write_csv(
        tmp_path / "h.csv", "item_id,genre,valid_from,ingested_at",
        "1,crime,2025-03-01T00:00:00Z,2025-03-02T00:00:00Z",
        "1,crime,1850-03-01,2025-03-02T00:00:00Z",
    )  # fmt: skip
    result = import_items(database, history)
    assert (result.inserted, result.rejected) == (1, 1)
