"""Files in the shapes that stand in the wild, into tables that others would declare for them."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extensions.errors import InputError
from extensions.history.file_import import ImportOptions, import_file
from extensions.sources import HistoryTable
from tests.history.declared import declare
from tests.history.tables import count, fetch, rejected_rows

RATINGS = """
CREATE TABLE ratings (
    rating_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    movie_id bigint NOT NULL,
    rated_at timestamptz NOT NULL,
    known_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    rating real CHECK (rating BETWEEN 0 AND 5)
) PARTITION BY RANGE (rated_at)
"""


def ratings(url: str, **tags: str) -> HistoryTable:
    return declare(
        url, RATINGS, time="rated_at", arrival="known_at",
        keys="user_id,movie_id", id="rating_id", partition="month", **tags,
    )  # fmt: skip


def test_movielens_ratings_dat(fresh_database: str, tmp_path: Path) -> None:
    """No header, two colons between values, epoch seconds of 1997, whole stars."""
    table = ratings(fresh_database, oldest="1995-01-01")
    path = tmp_path / "ratings.dat"
    rows = [f"{n % 6 + 1}::{1190 + n}::{n % 5 + 1}::{874965758 + 86400 * n}" for n in range(500)]
    path.write_text("\n".join(rows) + "\n", encoding="latin-1")
    options = ImportOptions(
        names=("UserID", "MovieID", "Rating", "Timestamp"),
        mapping={"user_id": "UserID", "movie_id": "MovieID", "rated_at": "Timestamp"},
    )
    result = import_file(fresh_database, table, path, options)
    assert (result.read, result.inserted, result.rejected) == (500, 500, 0)
    columns = "user_id, movie_id, rating, rated_at, known_at"
    first = fetch(fresh_database, f"SELECT {columns} FROM ratings "
                  "ORDER BY rated_at LIMIT 1")  # fmt: skip
    at = datetime(1997, 9, 22, 22, 2, 38, tzinfo=UTC)
    assert first == [("1", 1190, 1.0, at, at)]
    notes = " ".join(result.notes)
    assert "'::'" in notes
    assert "epoch seconds" in notes
    again = import_file(fresh_database, table, path, options)
    assert (again.inserted, again.duplicates) == (0, 500)


def test_dates_before_the_oldest_are_rejected_with_a_hint_at_the_tag(
    fresh_database: str, tmp_path: Path
) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("user_id,movie_id,rating,rated_at\n1,2,3,874965758\n1,2,3,1700000000\n")
    result = import_file(fresh_database, ratings(fresh_database), path)
    assert (result.inserted, result.rejected) == (1, 1)
    assert any('the tag "oldest"' in note for note in result.notes)


def test_amazon_like_reviews_with_text_ids(fresh_database: str, tmp_path: Path) -> None:
    """User, item, rating, timestamp: ids are text whose case and zeros matter."""
    table = declare(
        fresh_database,
        'CREATE TABLE reviews (reviewer text COLLATE "C" NOT NULL, asin text COLLATE "C" NOT NULL, '
        "at timestamptz NOT NULL, stars smallint)",
        time="at", keys="reviewer,asin",
    )  # fmt: skip
    path = tmp_path / "reviews.csv.gz"
    rows = ["AKJHHD5VEH7VG,0762451459,5.0,1387152000", "akjhhd5veh7vg,0762451459,4.0,1387152000",
            "A2ZV,B00000J0FW,,1387152001", "A2ZV,762451459,3.5,1387152001",
            "AKJHHD5VEH7VG,0762451459,5.0,1387152000"]  # fmt: skip
    path.write_bytes(gzip.compress("\n".join(["user,item,rating,timestamp", *rows]).encode()))
    options = ImportOptions(
        mapping={"reviewer": "user", "asin": "item", "at": "timestamp", "stars": "rating"}
    )
    result = import_file(fresh_database, table, path, options)
    assert (result.read, result.inserted, result.duplicates, result.rejected) == (5, 3, 1, 1)
    assert set(fetch(fresh_database, "SELECT reviewer, asin, stars FROM reviews")) == {
        ("AKJHHD5VEH7VG", "0762451459", 5), ("akjhhd5veh7vg", "0762451459", 4),
        ("A2ZV", "B00000J0FW", None),
    }  # fmt: skip
    assert result.reasons == {"stars is not a 16-bit integer": 1}
    assert import_file(fresh_database, table, path, options).inserted == 0


def test_lastfm_tsv(fresh_database: str, tmp_path: Path) -> None:
    """No header, tabulators, ISO times, an id or none, names with quotation marks."""
    table = declare(
        fresh_database,
        'CREATE TABLE plays (play_id uuid NOT NULL, listener text COLLATE "C" NOT NULL, '
        'artist text COLLATE "C" NOT NULL, played_at timestamptz NOT NULL, artist_id uuid)',
        time="played_at", keys="listener,artist", id="play_id",
    )  # fmt: skip
    path = tmp_path / "userid-timestamp-artid-artname-traid-traname.tsv"
    rows = [
        "user_000001\t2009-05-04T23:08:57Z\tf1b1cf71-bd35-4e99-8624-24a6e15f133a\tDeep Dish\t\tA",
        'user_000001\t2009-05-04T13:54:10Z\t\t"Weird Al" Yankovic\t\tComposition 0919',
        'user_000002\t2009-05-04T13:52:04Z\tno-uuid\tSigur Rós\t\t12" Mix',
        "user_000002\tyesterday\t\tSigur Rós\t\tHeima",
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    options = ImportOptions(
        header=False,
        mapping={"listener": "1", "played_at": "2", "artist_id": "3", "artist": "4"},
    )
    result = import_file(fresh_database, table, path, options)
    assert (result.read, result.inserted, result.rejected) == (4, 2, 2)
    assert set(result.reasons) == {"played_at is not a time", "invalid input syntax for type uuid"}
    assert {row["rejected_row"] for row in rejected_rows(result)} == {"3", "4"}
    found = fetch(fresh_database, "SELECT listener, artist FROM plays ORDER BY played_at DESC")
    assert found == [("user_000001", "Deep Dish"), ("user_000001", '"Weird Al" Yankovic')]
    assert import_file(fresh_database, table, path, options).duplicates == 2


def test_retailrocket_events(fresh_database: str, tmp_path: Path) -> None:
    """Milliseconds, whole-number ids, a kind of event by which one table takes only its own."""
    table = declare(
        fresh_database,
        "CREATE TABLE carts (visitor_id bigint NOT NULL, item_id bigint NOT NULL, "
        "added_at timestamptz NOT NULL, bought boolean NOT NULL)",
        time="added_at", keys="visitor_id,item_id",
    )  # fmt: skip
    path = tmp_path / "events.csv"
    rows = ["1433221332117,257597,view,355908,", "1433224214164,992329,addtocart,248676,",
            "1433221999827,111016,transaction,318965,4000",
            "1433221955914,x,addtocart,253185,"]  # fmt: skip
    path.write_text("\n".join(["timestamp,visitorid,event,itemid,transactionid", *rows]) + "\n")
    options = ImportOptions(
        mapping={"visitor_id": "visitorid", "item_id": "itemid", "added_at": "timestamp",
                 "bought": "transactionid is not null"},
        where="event <> 'view'",
    )  # fmt: skip
    result = import_file(fresh_database, table, path, options)
    assert (result.read, result.inserted, result.rejected, result.left_out) == (3, 2, 1, 1)
    assert fetch(fresh_database, "SELECT visitor_id, added_at, bought FROM carts ORDER BY 1") == [
        (111016, datetime(2015, 6, 2, 5, 13, 19, 827_000, tzinfo=UTC), True),
        (992329, datetime(2015, 6, 2, 5, 50, 14, 164_000, tzinfo=UTC), False),
    ]
    assert any("epoch milliseconds" in note for note in result.notes)


def test_instacart_like_files_without_an_absolute_time_are_refused(
    fresh_database: str, tmp_path: Path
) -> None:
    table = ratings(fresh_database)
    path = tmp_path / "orders.csv"
    path.write_text(
        "order_id,user_id,order_dow,order_hour_of_day,days_since_prior_order,movie_id\n"
        "2539329,1,2,08,,9\n"
    )
    with pytest.raises(InputError, match=r"no column for rated_at.*Without a time \(rated_at\)"):
        import_file(fresh_database, table, path)
    assert count(fresh_database, "ratings") == 0


def test_an_export_without_a_user_column(fresh_database: str, tmp_path: Path) -> None:
    table = ratings(fresh_database)
    path = tmp_path / "my ratings.csv"
    path.write_text("Movie ID,Rating,Rated At\n5,4,2014/04/05\n6,4,2014/4/6 9:00\n7,3,2014/04/31\n")
    with pytest.raises(InputError, match="--set user_id=VALUE"):
        import_file(fresh_database, table, path)
    result = import_file(fresh_database, table, path, ImportOptions(constants={"user_id": "anna"}))
    assert (result.inserted, result.rejected) == (1, 2)
    found = fetch(fresh_database, "SELECT user_id, movie_id, rated_at FROM ratings")
    assert found == [("anna", 5, datetime(2014, 4, 5, tzinfo=UTC))]
    assert any("2014/04/05" in note for note in result.notes)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "utf-8-sig"])
def test_excel_with_semicolons_and_decimal_commas(
    fresh_database: str, tmp_path: Path, encoding: str
) -> None:
    table = ratings(fresh_database)
    path = tmp_path / "export.csv"
    rows = ["Jörg;7;4,5;2014-04-05;Amélie", "ß;8;5;2014-04-06;x", ""]
    text = "\r\n".join(["user_id;movie_id;rating;rated_at;titel", *rows])
    path.write_bytes(text.encode(encoding))
    result = import_file(fresh_database, table, path)
    assert (result.read, result.inserted, result.rejected) == (2, 2, 0)
    found = fetch(fresh_database, "SELECT user_id, rating FROM ratings ORDER BY movie_id")
    assert found == [("Jörg", 4.5), ("ß", 5.0)]
    notes = " ".join(result.notes)
    assert "decimal comma" in notes
    assert "The delimiter was taken to be ';'" in notes
    assert ("--encoding says otherwise" in notes) == (encoding != "utf-8-sig")


def test_a_comma_within_a_value_of_a_file_of_commas_is_no_decimal_one(
    fresh_database: str, tmp_path: Path
) -> None:
    table = ratings(fresh_database)
    path = tmp_path / "export.csv"
    path.write_text('user_id,movie_id,rating,rated_at\na,7,"4,5",2014-04-05\na,8,4,2014-04-05\n')
    assert import_file(fresh_database, table, path).reasons == {"rating is not a number": 1}


WATCHED = """
CREATE TABLE watched (
    viewer text COLLATE "C" NOT NULL,
    title text COLLATE "C" NOT NULL,
    started_at timestamptz NOT NULL,
    duration_ms integer NOT NULL CHECK (duration_ms >= 0)
)
"""


def watched(url: str) -> HistoryTable:
    return declare(url, WATCHED, time="started_at", keys="viewer,title")


def test_clock_durations_and_other_units(fresh_database: str, tmp_path: Path) -> None:
    """As a streaming service's own export has them."""
    table = watched(fresh_database)
    path = tmp_path / "ViewingActivity.csv"
    path.write_text(
        "Profile Name,Start Time,Duration,Title\nAnna,2021-07-01 18:00:01,01:02:03,Dark\n"
        "Anna,2021-07-02 18:00:01,00:59,Dark\nAnna,2021-07-03 18:00:01,1:62:03,Dark\n"
    )
    mapping = {"viewer": "Profile Name", "started_at": "Start Time", "title": "Title"}
    with pytest.raises(InputError, match="no column for duration_ms"):
        import_file(fresh_database, table, path, ImportOptions(mapping=mapping))
    options = ImportOptions(mapping=mapping | {"duration_ms": "Duration"})
    result = import_file(fresh_database, table, path, options)
    assert (result.inserted, result.rejected) == (2, 1)
    found = fetch(fresh_database, "SELECT duration_ms FROM watched ORDER BY started_at")
    assert found == [(3_723_000,), (59_000,)]
    assert any("hours, minutes and seconds, stored in ms" in note for note in result.notes)
    seconds = tmp_path / "seconds.csv"
    seconds.write_text("viewer,title,startedAt,duration_s\nBea,Dark,2021-07-02,90.5\n")
    assert import_file(fresh_database, table, seconds).inserted == 1
    found = fetch(fresh_database, "SELECT duration_ms FROM watched WHERE viewer = 'Bea'")
    assert found == [(90_500,)]
    longer = tmp_path / "longer.csv"
    longer.write_text("viewer,title,startedAt,watch_duration_min\nBea,Dark,2021-07-02,90.5\n")
    with pytest.raises(
        InputError, match=r'watch_duration_min may be it.*"watch_duration_min" \* 60000'
    ):
        import_file(fresh_database, table, longer)


def test_plays_without_a_duration(fresh_database: str, tmp_path: Path) -> None:
    table = watched(fresh_database)
    path = tmp_path / "plays.csv"
    path.write_text("viewer,title,started_at\nAnna,Dark,2021-07-01 18:00:01\n")
    with pytest.raises(InputError, match="--set duration_ms=VALUE"):
        import_file(fresh_database, table, path)
    result = import_file(fresh_database, table, path, ImportOptions(constants={"duration_ms": "0"}))
    assert result.inserted == 1


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz", "events.txt"])
def test_json_lines(fresh_database: str, tmp_path: Path, name: str) -> None:
    table = ratings(fresh_database)
    whole = [
        {"userId": "u-1", "movieId": 7, "rating": None, "ratedAt": "2025-03-01T10:00:00Z"},
        {"userId": "U-1", "movieId": 7, "rating": 4.5, "ratedAt": "2025-03-01T10:00:00+02:00",
         "meta": {"device": {"os": "tv"}}},
        {"userId": "ünï-😀\n", "movieId": "8", "ratedAt": 1740823200000},
        {"userId": "u-2", "movieId": 7.5, "ratedAt": "2025-03-01T10:00:00Z"},
        {"userId": "u-3", "movieId": 7, "rating": 6, "ratedAt": "2025-03-01T10:00:00Z"},
    ]  # fmt: skip
    lines = [*map(json.dumps, whole), "", '{"userId": ', "[1]", '"text"']
    data = "\n".join(lines).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    result = import_file(fresh_database, table, path)
    assert (result.read, result.inserted, result.rejected) == (8, 3, 5)
    assert result.reasons == {
        "is no JSON object": 3, "movie_id is not a 64-bit integer": 1,
        "it violates ratings_rating_check": 1,
    }  # fmt: skip
    refused = {row["rejected_row"]: row for row in rejected_rows(result)}
    assert set(refused) == {"4", "5", "7", "8", "9"}
    assert refused["7"]["rejected_text"] == '{"userId": '
    found = fetch(fresh_database, "SELECT user_id, movie_id, rating, rated_at FROM ratings "
                  "ORDER BY user_id")  # fmt: skip
    ten = datetime(2025, 3, 1, 10, tzinfo=UTC)
    assert found == [("U-1", 7, 4.5, ten - timedelta(hours=2)), ("u-1", 7, None, ten),
                     ("ünï-😀\n", 8, None, ten)]  # fmt: skip
    nested = ImportOptions(
        mapping={"user_id": "meta->>'$.device.os'"}, where="meta is not null",
        rejected=tmp_path / "again.csv",
    )  # fmt: skip
    result = import_file(fresh_database, table, path, nested)
    assert (result.inserted, result.left_out) == (1, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{}]", "jq -c"),
        ('{\n  "a": 1\n}\n', "no JSON object"),
    ],
)  # fmt: skip
def test_json_that_is_no_lines_is_refused(
    fresh_database: str, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "events.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        import_file(fresh_database, ratings(fresh_database), path)


def test_parquet_with_nested_types(fresh_database: str, tmp_path: Path) -> None:
    table = declare(
        fresh_database,
        "CREATE TABLE baskets (visitor uuid NOT NULL, at timestamptz NOT NULL, skus text[], "
        "extra jsonb, amount numeric(8, 2), day date, raw bytea)",
        time="at", keys="visitor",
    )  # fmt: skip
    at = datetime(2025, 3, 1, 10, tzinfo=UTC)
    rows = pa.table(
        {
            "visitor": pa.array([bytes(range(16)), bytes(16)], pa.binary(16)),
            "at": [at, at],
            "skus": [['a"b', "c,d", None], None],
            "extra": [{"x": 1, "y": ["é"]}, None],
            "amount": pa.array([1.1, None]),
            "day": [at.date(), None],
            "raw": [b"\x00\xff", None],
        }
    )
    path = tmp_path / "baskets.parquet"
    pq.write_table(rows, path)
    result = import_file(fresh_database, table, path)
    assert (result.inserted, result.rejected) == (2, 0)
    found = fetch(fresh_database, "SELECT visitor::text, skus, extra, amount::text, day, raw "
                  "FROM baskets ORDER BY visitor DESC LIMIT 1")  # fmt: skip
    assert found == [
        ("00010203-0405-0607-0809-0a0b0c0d0e0f", ['a"b', "c,d", None], {"x": 1, "y": ["é"]},
         "1.10", at.date(), b"\x00\xff")
    ]  # fmt: skip
