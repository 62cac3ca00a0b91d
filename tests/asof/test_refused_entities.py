"""An entity whose value fails is refused alone: it is named, others go on, and it comes back."""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pyarrow as pa
import pytest

from extensions.asof.backfill import backfill
from extensions.asof.backfill_refusals import Hole, Holes, holes_sql
from extensions.asof.computation import Computation, FeatureColumn, Freshness, HistorySource
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.history_changes import follow_sources
from extensions.asof.refused_entities import MOST_REFUSED, refused_entities
from extensions.asof.tick import tick
from extensions.consistency.entity_sample import history_entities
from extensions.database import connect
from extensions.errors import DefinitionError
from extensions.operations import doctor

AT = datetime.now(UTC) - timedelta(days=1)
TEXT = (
    "SELECT s.visitor, s.as_of, c.paid AS paid FROM spine AS s CROSS JOIN LATERAL ("
    "SELECT coalesce(sum(v.paid), 0)::integer AS paid FROM visits AS v WHERE v.visitor = s.visitor "
    "AND v.at <= s.as_of AND v.known_at <= s.as_of) AS c"
)


@pytest.fixture
def conn(fresh_database: str) -> Iterator[psycopg.Connection]:
    with connect(fresh_database, autocommit=True) as made:
        made.execute(
            "CREATE TABLE visits (visitor text, sku text, paid integer, at timestamptz NOT NULL, "
            "known_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        yield made


@pytest.fixture
def paid(conn: psycopg.Connection) -> Computation:
    made = Computation(
        view="visitor_paid", version=1, sql=TEXT, join_keys=("visitor",), key_types=("text",),
        features=(FeatureColumn("paid", "integer", 0),), horizon=None,
        freshness=Freshness.HOURLY, decays=False,
        reads=(HistorySource("visits", ("visitor",), "at", "known_at"),),
    )  # fmt: skip
    ensure_log_tables(conn, [made])
    follow_sources(conn, [made])
    return made


def pay(conn: psycopg.Connection, visitor: str | None, amount: int) -> None:
    conn.execute(
        "INSERT INTO visits (visitor, paid, at) VALUES (%s, %s, %s)", [visitor, amount, AT]
    )


def logged(conn: psycopg.Connection) -> dict[str, int]:
    return dict(
        conn.execute(
            "SELECT visitor, paid FROM visitor_paid_v1 ORDER BY event_timestamp"
        ).fetchall()
    )


def later(conn: psycopg.Connection) -> None:
    conn.execute("UPDATE refused_entities SET refused_at = refused_at - interval '2 minutes'")


def test_an_overflow_refuses_one_entity_until_it_is_mended(
    conn: psycopg.Connection, paid: Computation
) -> None:
    for number in range(20):
        pay(conn, f"v{number}", 5)
    pay(conn, "v7", 2**31 - 1)
    assert tick(conn, paid).rows == 19
    assert logged(conn) == {f"v{n}": 5 for n in range(20) if n != 7}
    refused = refused_entities(conn)[("visitor_paid", 1)]
    assert refused == {("v7",): "integer out of range (22003)"}
    assert set(history_entities(conn, paid, 100)) == {(f"v{n}",) for n in range(20) if n != 7}
    [finding] = doctor._refused(conn)
    assert (finding.what, finding.found) == (
        "refused entities of visitor_paid.v1", "1 (v7: integer out of range (22003))",
    )  # fmt: skip

    # Others go on, also where the entity changes again; it is tried again after a while.
    pay(conn, "v7", 1)
    pay(conn, "v8", 1)
    assert tick(conn, paid).rows == 1
    assert logged(conn)["v8"] == 6
    later(conn)
    assert tick(conn, paid).rows == 0
    assert list(refused_entities(conn)[("visitor_paid", 1)]) == [("v7",)]
    conn.execute("DELETE FROM visits WHERE paid > 1000")
    later(conn)
    assert tick(conn, paid).rows >= 1
    assert logged(conn)["v7"] == 6
    assert refused_entities(conn) == {}


def test_a_key_that_no_index_holds_is_refused_by_name(
    conn: psycopg.Connection, paid: Computation
) -> None:
    long = secrets.token_hex(2000)
    for visitor in ("a", long, "b"):
        pay(conn, visitor, 5)
    assert tick(conn, paid).rows == 2
    assert logged(conn) == {"a": 5, "b": 5}
    refused = refused_entities(conn)[("visitor_paid", 1)]
    assert refused == {(long,): "a value is too long for an index (54000)"}


def test_a_view_that_fails_for_many_is_itself_at_fault(
    conn: psycopg.Connection, paid: Computation
) -> None:
    for number in range(MOST_REFUSED + 1):
        pay(conn, f"v{number}", 2**31 - 1)
        pay(conn, f"v{number}", 1)
    with pytest.raises(DefinitionError, match="integer out of range"):
        tick(conn, paid)
    assert logged(conn) == {}
    assert refused_entities(conn) == {}


def test_a_text_that_is_wrong_is_no_entitys_fault(
    conn: psycopg.Connection, paid: Computation
) -> None:
    pay(conn, "a", 5)
    with pytest.raises(DefinitionError, match="nosuch"):
        tick(conn, replace(paid, sql=TEXT.replace("v.paid", "v.nosuch")))
    assert refused_entities(conn) == {}


def test_rows_that_name_nobody_are_passed_by(conn: psycopg.Connection, paid: Computation) -> None:
    """By the first tick, a later one, one after a change of history, and a backfill."""
    pay(conn, "a", 5)
    pay(conn, None, 5)
    assert tick(conn, paid).rows == 1
    pay(conn, "a", 1)
    pay(conn, None, 1)
    assert tick(conn, paid).rows == 1
    conn.execute("UPDATE visits SET paid = paid + 1")
    assert tick(conn, paid).rows == 1
    assert logged(conn) == {"a": 8}
    conn.execute("UPDATE visits SET known_at = at")
    backfill(conn, paid, AT - timedelta(hours=3), AT + timedelta(hours=3))
    assert refused_entities(conn) == {}


def test_a_backfill_goes_on_without_an_entity_and_counts_it(
    conn: psycopg.Connection, paid: Computation
) -> None:
    """Days before the failure are kept, others' values too; it comes back with its rows."""
    for number in range(20):
        pay(conn, f"v{number}", 5)
    conn.execute(
        "INSERT INTO visits (visitor, paid, at) SELECT v, p, a FROM (VALUES "
        "('v7', 2147483647, %(later)s), ('v8', 1, %(later)s)) AS x (v, p, a)",
        {"later": AT + timedelta(hours=2)},
    )
    conn.execute("UPDATE visits SET known_at = at")
    start, end = AT - timedelta(hours=1), AT + timedelta(hours=3)
    done = backfill(conn, paid, start, end)
    assert (done.refused, done.rows) == (1, 20)
    assert logged(conn) == {f"v{n}": 6 if n == 8 else 5 for n in range(20) if n != 7}
    assert refused_entities(conn)[("visitor_paid", 1)] == {("v7",): "integer out of range (22003)"}
    again = backfill(conn, paid, start, end)
    assert (again.rows, again.refused) == (0, 1)

    conn.execute("DELETE FROM visits WHERE paid > 1000")
    mended = backfill(conn, paid, start, end)
    assert mended.refused == 0
    assert logged(conn)["v7"] == 5


def test_an_entity_that_failed_on_one_day_has_its_other_days(
    conn: psycopg.Connection, paid: Computation
) -> None:
    """Each chunk tries it: it fails only while the sum is too large, and `Holes` says when."""
    paid = replace(paid, freshness=Freshness.REALTIME)
    start = AT - timedelta(days=4)
    days = [AT - timedelta(days=3), AT - timedelta(days=2), AT - timedelta(days=1)]
    for at, amount in zip(days, (5, 2**31 - 1, -(2**31 - 1)), strict=True):
        for visitor, paid_then in (("a", amount), ("b", 1), ("c", 1)):
            conn.execute(
                "INSERT INTO visits VALUES (%s, 'x', %s, %s, %s)", [visitor, paid_then, at, at]
            )
    done = backfill(conn, paid, start, AT)
    assert done.refused == 1
    rows = conn.execute(
        "SELECT event_timestamp, paid FROM visitor_paid_v1 WHERE visitor = 'a' ORDER BY 1"
    ).fetchall()
    assert rows == [(days[0], 5), (days[2], 5)]
    found = conn.execute(holes_sql("visitor_paid", 1, paid.log_table, paid.join_keys)).fetchall()
    assert found == [(["a"], days[1], days[2])]
    holes = Holes(Hole(tuple(entity), since, until) for entity, since, until in found)
    minute = timedelta(minutes=1)
    times = [days[0], days[1] - minute, days[1], days[2] - minute, days[2], days[1], None]
    keys = ["a", "a", "a", "a", "a", "b", "a"]
    flags = holes.flags([pa.chunked_array([keys])], pa.chunked_array([times]))
    assert flags.to_pylist() == [False, False, True, True, False, False, False]


def test_a_backfill_stops_at_a_view_that_fails_for_all_of_several(
    conn: psycopg.Connection, paid: Computation
) -> None:
    for visitor in ("a", "b"):
        pay(conn, visitor, 2**31 - 1)
        pay(conn, visitor, 1)
    conn.execute("UPDATE visits SET known_at = at")
    with pytest.raises(DefinitionError, match="integer out of range"):
        backfill(conn, paid, AT - timedelta(hours=1), AT + timedelta(hours=1))
    assert refused_entities(conn) == {}
    assert logged(conn) == {}
