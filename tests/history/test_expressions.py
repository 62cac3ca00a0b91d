"""--map, --where, --set and --dry-run: SQL over a file's columns, and what it must not do."""

import math
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from extensions.errors import InputError
from extensions.history.file_expressions import FileExpressions, sandbox
from extensions.history.file_import import ImportOptions, import_file, import_files
from extensions.history.import_arguments import files_of, parse_pairs, time_formats
from tests.asof.loading import media_sources
from tests.history.tables import count, empty, fetch, import_events, rejected_rows, write_csv

BATCH = pa.record_batch(
    {
        "rating": ["1", "2", "3.5"], "code": ["007", "8", "9"], "at": ["2025-01-01"] * 3,
        "Odd Name": ["a", "", "c"], "id": ["x", "y", "z"], "ID": ["X", "Y", "Z"],
    }
)  # fmt: skip


@pytest.fixture(autouse=True)
def _empty(database: str) -> None:
    empty(database)


def evaluate(text: str, where: str | None = None) -> list:
    names = BATCH.schema.names
    return (
        FileExpressions("f.csv", names, {"x": text}, where).evaluate(BATCH).values["x"].to_pylist()
    )


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("rating * 2", [2.0, 4.0, 7.0]),
        ("code || '-' || rating", ["007-1", "8-2", "9-3.5"]),
        ("\"Odd Name\" || '!'", ["a!", "!", "c!"]),
        ('"at" + INTERVAL 1 DAY', [datetime(2025, 1, 2)] * 3),  # noqa: DTZ001
        ("CASE WHEN rating > 3 THEN 'good' END", [None, None, "good"]),
        ("lower(code)", ["007", "8", "9"]),
        ("CASE WHEN code < rating THEN 1 ELSE 0 END", [0, 0, 0]),
        ("coalesce(nullif(\"Odd Name\", ''), code)", ["a", "8", "c"]),
        ("substr(rating, 1, 1)", ["1", "2", "3"]),
        ("1 -- a comment", [1, 1, 1]),
        ("CAST(code AS INT) / (CAST(code AS INT) - 8)", [-7.0, math.inf, 9.0]),
    ],
)
def test_expressions_see_numbers_times_and_texts(text: str, values: list) -> None:
    assert evaluate(text) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1; DROP TABLE x", "takes one SQL expression"),
        ("1) FROM x WHERE (1=1", "takes one SQL expression"),
        ("1 FROM skewless_batch", "takes one SQL expression"),
        ("rating, code", "takes one SQL expression"),
        ("rating LIMIT 1", "takes one SQL expression"),
        ("DISTINCT rating", "takes one SQL expression"),
        ("", "takes one SQL expression"),
        ("(SELECT 1)", "a subquery"),
        ("EXISTS (SELECT content FROM read_text('/etc/passwd'))", "a subquery"),
        ("row_number() OVER ()", "a window"),
        ("lag(rating) OVER (ORDER BY code)", "a window"),
        ("sum(rating)", "cannot be computed"),
        ("*", "a star"),
        ("?", "a parameter"),
        ("read_text('/etc/passwd')", "cannot be computed"),
        ("getenv('HOME')", "cannot be computed"),
        ("nope + 1", "Its columns are rating, code"),
        ("id", "several columns called id"),
        ('"Odd Name" * 2', "TRY_CAST"),
        ("at + 1", "double quotes"),
    ],
)
def test_what_is_no_expression_over_a_row_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        evaluate(text)
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "ATTACH '{folder}/out.db'",
        "EXPORT DATABASE '{folder}/out'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM read_csv('https://example.org/x.csv')",
        "SET enable_external_access = true",
        "SELECT * FROM secret_table",
    ],
)
def test_the_sandbox_reaches_nothing(tmp_path: Path, statement: str) -> None:
    """Even if a statement were let through: DuckDB itself refuses."""
    secret_table = pa.table({"secret": [1]})  # noqa: F841 - a variable that DuckDB could find
    conn = sandbox()
    with pytest.raises(Exception, match=r"(?i)permission|does not exist|cannot change|disabled"):
        conn.execute(statement.format(folder=tmp_path)).fetchall()
    assert list(tmp_path.iterdir()) == []


def test_what_only_later_rows_show_is_read_as_it_is(database: str, tmp_path: Path) -> None:
    """The first megabyte has whole numbers alone: nothing behind it is rounded, or refused."""
    path = tmp_path / "e.csv"
    lines = [f"{n},1,2025-03-01,2,{'x' * 100}" for n in range(30_000)]
    later = ["30000,1,2025-03-01,2.5,x", "30001,1,2025-03-01,two,x", "30002,1,2025-03-01,,x"]
    path.write_text("\n".join(["user_id,item_id,watched_at,minutes,b", *lines, *later]) + "\n")
    result = import_events(database, path, mapping={"duration_ms": "minutes * 60000"})
    assert (result.inserted, result.rejected) == (30_001, 2)
    assert result.reasons == {"duration_ms: the expression fails": 1, "duration_ms is empty": 1}
    assert [row["minutes"] for row in rejected_rows(result)] == ["two", ""]
    found = fetch(database, "SELECT duration_ms, count(*) FROM watch_events GROUP BY 1 ORDER BY 1")
    assert found == [(120_000, 30_000), (150_000, 1)]


def test_an_id_is_made_of_texts_as_they_are(database: str, tmp_path: Path) -> None:
    header = "event,user_id,item_id,watched_at"
    rows = [f"{n:03},1,1,2025-03-01" for n in range(3)]
    path = write_csv(tmp_path / "e.csv", header, *rows, "4,1,1,2025-03-01", "1.50,1,1,2025-03-01")
    import_events(database, path, mapping={"event_id": "'e-' || event"})
    found = fetch(database, "SELECT event_id FROM watch_events ORDER BY 1")
    assert [name for (name,) in found] == ["e-000", "e-001", "e-002", "e-1.50", "e-4"]


def test_a_condition_that_fails_rejects_the_row(database: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv", "user_id,item_id,watched_at,n",
                     "1,1,2025-03-01,1", "2,1,2025-03-01,x", "3,1,2025-03-01,9")  # fmt: skip
    result = import_events(database, path, where="CAST(n AS INT) < 5")
    assert (result.read, result.inserted, result.rejected, result.left_out) == (2, 1, 1, 1)
    assert result.reasons == {"--where: the expression fails": 1}
    assert any("1 rows were left out" in note for note in result.notes)


def test_computed_durations_that_are_nearly_whole_are_whole(database: str, tmp_path: Path) -> None:
    """1.1 times 60,000 is 66,000.00000000001."""
    path = write_csv(tmp_path / "e.csv", "user_id,item_id,watched_at,m",
                     "1,1,2025-03-01,1.1", "2,1,2025-03-01,0.00001")  # fmt: skip
    result = import_events(database, path, mapping={"duration_ms": "m * 60000"})
    assert (result.inserted, result.rejected) == (1, 1)
    assert fetch(database, "SELECT duration_ms FROM watch_events") == [(66_000,)]


@pytest.mark.parametrize(
    ("form", "text", "moment"),
    [
        ("%d.%m.%Y %H:%M", "05.04.2014 09:30", datetime(2014, 4, 5, 9, 30)),  # noqa: DTZ001
        ("%Y%m%d", "20140405", datetime(2014, 4, 5)),  # noqa: DTZ001
        ("%d/%b/%Y:%H:%M:%S %z", "05/Apr/2014:10:00:00 +0200", datetime(2014, 4, 5, 8)),  # noqa: DTZ001
        ("ms", "1396688400000", datetime(2014, 4, 5, 9)),  # noqa: DTZ001
    ],
)
def test_times_of_a_form_that_is_given(
    database: str, tmp_path: Path, form: str, text: str, moment: datetime
) -> None:
    path = write_csv(tmp_path / "e.csv", "user_id;item_id;watched_at", f"1;1;{text}", "2;1;soon")
    result = import_events(database, path, time_formats={"watched_at": form})
    assert (result.inserted, result.rejected) == (1, 1)
    assert fetch(database, "SELECT watched_at FROM watch_events") == [(moment.replace(tzinfo=UTC),)]


def test_a_trial_stores_nothing_and_says_what_would_be(database: str, tmp_path: Path) -> None:
    rows = [f"{n},1,2025-03-01,{n % 3 / 2 + (n == 4)}" for n in range(8)]
    path = write_csv(
        tmp_path / "e.csv", "who,item_id,watched_at,progress", *rows, "x,1,2025-03-01,1"
    )
    table = media_sources(database).table("watch_events")
    options = ImportOptions(mapping={"user_id": "who + 100"}, constants={"duration_ms": "60000"})
    result = import_file(database, table, path, options, trial=True)
    assert (result.read, result.inserted, result.rejected) == (9, 7, 2)
    assert count(database) == count(database, "watch_events_ids") == 0
    assert sorted(tmp_path.iterdir()) == [path]
    assert result.columns["user_id"] == "the expression who + 100"
    assert result.columns["duration_ms"] == "the constant '60000'"
    assert result.columns["event_id"] == "derived from keys, time and repetition"
    assert [row["user_id"] for row in result.rows] == [100, 101, 102, 103, 104]
    assert result.reasons == {
        "user_id: the expression fails": 1, "it violates watch_events_progress_check": 1,
    }  # fmt: skip
    assert result.to_json()["rows"][0]["watched_at"] == "2025-03-01T00:00:00+00:00"


def test_several_files_are_one_first_load(database: str, tmp_path: Path) -> None:
    header = "user_id,item_id,watched_at"
    for n in (1, 2):
        write_csv(tmp_path / f"plays-{n}.csv", header, f"{n},1,2025-03-0{n}")
    write_csv(tmp_path / "plays-0.csv.rejected.csv", header, "9,1,2025-03-01")
    paths = files_of([tmp_path / "plays-1.csv", str(tmp_path / "plays-*.csv")])
    assert [path.name for path in paths] == ["plays-1.csv", "plays-2.csv"]
    table = media_sources(database).table("watch_events")
    results = list(import_files(database, table, paths))
    assert [each.inserted for each in results] == [1, 1]
    assert fetch(database, "SELECT count(*) FROM watch_events WHERE watched_at = ingested_at") == [
        (2,)
    ]
    for pattern in ("none.csv", "none-*.csv"):
        with pytest.raises(InputError, match="There is no file"):
            files_of([tmp_path / pattern])


def test_arguments_are_pairs_and_formats() -> None:
    assert parse_pairs("--set", ["user_id= a ", "x="]) == {"user_id": " a ", "x": ""}
    assert time_formats(["%d.%m.%Y", "known_at=ms"]) == {"": "%d.%m.%Y", "known_at": "ms"}


def test_columns_that_are_not_there_are_named(database: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv", "user_id,item_id,watched_at", "1,1,2025-03-01")
    for options, said in (
        (
            {"mapping": {"user_ids": "user_id"}},
            "--map does not know user_ids:.*Did you mean user_id",
        ),
        ({"constants": {"colour": "red"}}, "--set does not know colour"),
        (
            {"mapping": {"user_id": "item_id"}, "constants": {"user_id": "1"}},
            "by --map and by --set",
        ),
        ({"names": ("a", "b")}, "--names has 2 names and the first row .* 3 fields"),
        ({"encoding": "klingon"}, "--encoding takes"),
    ):
        with pytest.raises(InputError, match=said):
            import_events(database, path, **options)
    assert count(database) == 0
