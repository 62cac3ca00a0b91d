"""Values that another table explains: spelt as it spells them, or counted and said."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.database import connect
from extensions.history.declared_tables import declared_sources
from extensions.history.reference_spelling import Reference, Spelling, unknown_values
from extensions.operations import doctor
from extensions.sources.ingest import BatchTable
from tests.history.tables import empty, fetch, import_items, write_csv

OF = Reference("t", "kind", "kinds", "kind")


@pytest.fixture(autouse=True)
def _genres(database: str) -> None:
    empty(database)
    with connect(database) as conn:
        for genre in ("drama", "sci-fi", "action", "children's"):
            conn.execute(
                "INSERT INTO genres VALUES (%s, array_fill(0.5::real, ARRAY[32]))", [genre]
            )


def test_a_catalogue_of_another_spelling_is_read_as_the_genres_are_spelt(
    database: str, tmp_path: Path
) -> None:
    path = write_csv(
        tmp_path / "catalogue.csv", "item_id,genre",
        "1,Drama", "2,Action", "3,Sci-Fi", "4,SCI FI", "5,Childrens", "6,drama",
        '7,"Animation|Children\'s|Comedy"', "8,Noir", "9,Noir", "x,Western",
    )  # fmt: skip
    result = import_items(database, path)
    assert (result.inserted, result.rejected) == (9, 1)
    assert fetch(database, "SELECT genre FROM items ORDER BY item_id") == [
        ("drama",), ("action",), ("sci-fi",), ("sci-fi",), ("children's",), ("drama",),
        ("Animation|Children's|Comedy",), ("Noir",), ("Noir",),
    ]  # fmt: skip
    [respelt, unknown] = [note for note in result.notes if note.startswith("genre:")]
    assert "5 rows spelt otherwise" in respelt
    assert "3 rows hold a value that the table genres does not know (such as 'Noir', " in unknown
    with connect(database) as conn:
        [found] = unknown_values(conn)
    assert (found.rows, found.samples) == (3, (("Noir", 2), ("Animation|Children's|Comedy", 1)))
    assert import_items(database, path).inserted == 0


def test_what_is_known_needs_no_word(database: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "catalogue.csv", "item_id,genre", "1,drama", "2,sci-fi")
    assert not any(note.startswith("genre:") for note in import_items(database, path).notes)
    with connect(database) as conn:
        assert unknown_values(conn) == []


def test_a_table_of_ones_own_is_declared_in_sql(fresh_database: str) -> None:
    with connect(fresh_database) as conn:
        conn.execute('CREATE TABLE "Shops" (id int, "Land" text)')
        conn.execute("CREATE TABLE lands (code text)")
        conn.execute("INSERT INTO lands VALUES ('DE'), ('FR')")
        conn.execute("INSERT INTO \"Shops\" VALUES (1, 'DE'), (2, 'de'), (3, NULL)")
        conn.execute("INSERT INTO reference_columns VALUES ('Shops', 'Land', 'lands', 'code')")
        found = {each.reference.table: each for each in unknown_values(conn)}
    assert found["Shops"].samples == (("de", 1),)


def test_doctor_names_what_the_stream_brought_until_it_is_corrected(
    database: str, repo_root: Path
) -> None:
    """No import looked at these rows: they are stored as a stream's are."""
    table = declared_sources(database, repo_root).tables["items"]
    batches = BatchTable(table)

    def stored(*genres: str) -> list[tuple[str, bool, str]]:
        with connect(database) as conn:
            batches.create(conn)
            columns = ["item_id", "genre", "valid_from"]
            rows = [(number, genre, datetime.now(UTC)) for number, genre in enumerate(genres)]
            assert batches.insert(conn, batches.batch(columns, rows)) == len(rows)
        with connect(database, autocommit=True) as conn:
            return [(one.what, one.ok, one.found) for one in doctor._references(database, conn)]

    assert stored("drama", "sci-fi") == []
    [(what, ok, found)] = stored("Drama", "Noir", "Noir", "action")
    assert (what, ok) == ("reference values of items.genre", False)
    assert "3 rows hold a value that genres does not know (such as 'Noir', 'Drama')" in found
    # Each item's newest row counts: what was corrected is no fault of the present.
    [(_, _, found)] = stored("drama", "Noir", "drama")
    assert "1 rows hold" in found
    assert stored("drama", "drama") == []


def test_what_could_mean_two_values_is_left_alone() -> None:
    spelling = Spelling(OF, ["Sci-Fi", "sci fi", "C", "c++"])
    values = pa.array(["SCIFI", "sci fi", "C++", "c", "C#", "", "-"])
    assert spelling.respell(values).to_pylist() == ["SCIFI", "sci fi", "c++", "C", "C#", "", "-"]
    assert any("4 rows hold a value" in note for note in spelling.notes())


_words = st.text("aB- _é'", max_size=4)


@given(st.lists(_words, max_size=5), st.lists(_words, max_size=20))
def test_a_known_value_never_changes_and_every_row_is_accounted_for(
    known: list[str], values: list[str]
) -> None:
    spelling = Spelling(OF, known)
    out = spelling.respell(pa.array(values, pa.string())).to_pylist()
    assert len(out) == len(values)
    for before, after in zip(values, out, strict=True):
        assert after == before or (before not in known and after in known)
        if before in known:
            assert after == before
    said = [int(note.split()[1]) for note in spelling.notes()]
    changed = sum(before != after for before, after in zip(values, out, strict=True))
    missing = sum(after not in known for after in out)
    assert said == [count for count in (changed, missing) if count]
