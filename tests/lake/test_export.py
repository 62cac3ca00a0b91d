"""The export: the lake holds what PostgreSQL held by a safe time, whatever happened meanwhile."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extensions.asof import Computation
from extensions.asof.backfill import backfill
from extensions.asof.tick import tick
from extensions.database import connect
from extensions.errors import ConflictError, SkewlessError
from extensions.failpoints import VARIABLE, UnforeseenError
from extensions.lake.catalog import open_catalog
from extensions.lake.commits import exported_through
from extensions.lake.export import Exported, Fault, export
from extensions.lake.lake_tables import LakeTable, log_in_lake
from extensions.lake.lake_tables import _table as lake_table
from extensions.lake.settings import LakeSettings
from extensions.lake.upkeep import upkeep
from tests.asof.loading import watch
from tests.lake.conftest import PROJECT
from tests.lake.reading import files_on_disk, in_lake, in_postgres, named_files

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog

DAY = timedelta(days=1)
Export = Callable[[LakeTable], Exported]


@pytest.fixture
def odd(conn: psycopg.Connection) -> LakeTable:
    """A history of every kind of column."""
    conn.execute(
        "CREATE TABLE odd (id bigint, happened timestamptz NOT NULL, arrived timestamptz NOT NULL "
        "DEFAULT clock_timestamp(), a boolean, b smallint, c integer, d real, e double precision, "
        "f text, g bytea, h date, i timestamp, j uuid, k jsonb, l numeric(12, 2), m real[], "
        "n text[], o interval, p character varying(5), q double precision[])"
    )
    return lake_table(conn, "odd", ["id"], "happened", "arrived")


def fill(conn: psycopg.Connection, count: int, first: int = 0) -> None:
    conn.execute(
        "INSERT INTO odd SELECT n, now() - n * interval '7 hours', clock_timestamp(), n %% 2 = 0, "
        "n %% 7, -n, n / 3.0, CASE n %% 3 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE n / 3.0 "
        "END, 'é' || n, decode(lpad(n::text, 4, '0'), 'hex'), current_date - n, "
        "localtimestamp, gen_random_uuid(), jsonb_build_object('n', n), n / 3.0, "
        "ARRAY[n / 3.0, NULL]::real[], CASE n %% 3 WHEN 0 THEN NULL WHEN 1 THEN '{}' "
        "ELSE ARRAY['x', NULL] END, n * interval '1 month', 'abc', ARRAY[0.1, -n]::float8[] "
        "FROM generate_series(%s::integer, %s::integer) AS n",
        [first, first + count - 1],
    )


def check(url: str, catalog: "SqlCatalog", table: LakeTable) -> int:
    """The lake's table is PostgreSQL's up to where it says; returns the number of rows."""
    held = catalog.load_table((PROJECT, table.name))
    through = exported_through(held)
    assert through is not None
    rows = in_lake(held, table)
    assert list(map(repr, rows)) == list(map(repr, in_postgres(url, table, through)))
    return len(rows)


def test_every_kind_of_value_is_the_same_bit_by_bit(
    conn: psycopg.Connection,
    fresh_database: str,
    catalog: "SqlCatalog",
    exported: Export,
    odd: LakeTable,
) -> None:
    fill(conn, 100)
    first = exported(odd)
    assert (first.rows, first.since, first.back) == (100, None, False)
    assert check(fresh_database, catalog, odd) == 100
    fill(conn, 30, 100)
    again = exported(odd)
    assert (again.rows, again.since, again.back) == (30, first.through, False)
    assert check(fresh_database, catalog, odd) == 130
    nothing = exported(odd)
    assert (nothing.rows, nothing.files, nothing.snapshot) == (0, 0, again.snapshot)


def test_a_table_without_rows_and_a_column_that_comes_later(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", exported: Export,
    odd: LakeTable,
) -> None:  # fmt: skip
    assert exported(odd).rows == 0
    assert check(fresh_database, catalog, odd) == 0
    fill(conn, 5)
    exported(odd)
    conn.execute("ALTER TABLE odd ADD COLUMN later integer")
    fill_later = "INSERT INTO odd (id, happened, later) VALUES (9, now(), 9)"
    conn.execute(fill_later)
    wider = lake_table(conn, "odd", ["id"], "happened", "arrived")
    exported(wider)
    assert check(fresh_database, catalog, wider) == 6
    conn.execute("ALTER TABLE odd ALTER COLUMN later TYPE text")
    with pytest.raises(ConflictError, match="column later of odd has another type in the lake"):
        exported(lake_table(conn, "odd", ["id"], "happened", "arrived"))


def test_what_changes_behind_the_export_takes_it_back(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", exported: Export,
    odd: LakeTable,
) -> None:  # fmt: skip
    fill(conn, 100)
    last = exported(odd).through
    late = datetime.now(UTC) - 3 * DAY
    conn.execute("INSERT INTO odd (id, happened, arrived) VALUES (500, %s, %s)", [late, late])
    done = exported(odd)
    assert done.back
    assert done.since is not None
    assert done.since < late < last
    assert check(fresh_database, catalog, odd) == 101
    conn.execute("DELETE FROM odd WHERE id < 10")
    conn.execute("UPDATE odd SET f = 'changed' WHERE id = 50")
    assert exported(odd).since is None
    assert check(fresh_database, catalog, odd) == 91
    conn.execute("TRUNCATE odd")
    exported(odd)
    assert check(fresh_database, catalog, odd) == 0


def test_a_log_with_its_backfills_and_ticks(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", exported: Export,
    counts: Computation,
) -> None:  # fmt: skip
    now = datetime.now(UTC)
    for user in range(1, 30):
        watch(conn, f"event {user}", user, now - user * DAY / 4)
    log = log_in_lake(conn, counts)
    backfill(conn, counts, now - 2 * DAY, now - DAY)
    exported(log)
    assert check(fresh_database, catalog, log) > 0
    tick(conn, counts, full=True)
    assert not exported(log).back
    check(fresh_database, catalog, log)
    # Behind the export, with the created times of then.
    backfill(conn, counts, now - 5 * DAY, now - 3 * DAY)
    assert exported(log).back
    check(fresh_database, catalog, log)
    backfill(conn, counts, now - 5 * DAY, now - 3 * DAY, again=True)
    assert exported(log).back
    assert check(fresh_database, catalog, log) == len(
        conn.execute(f"SELECT FROM {counts.log_table}").fetchall()
    )


def test_a_transaction_that_is_open_is_neither_missed_nor_waited_for(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", exported: Export,
    odd: LakeTable,
) -> None:  # fmt: skip
    fill(conn, 10)
    exported(odd)
    with connect(fresh_database) as writer:
        fill(writer, 5, 100)
        fill(conn, 7, 200)
        during = exported(odd)
        writer.commit()
    assert during.rows == 0
    fill(conn, 1, 300)
    assert exported(odd).rows == 13
    assert check(fresh_database, catalog, odd) == 23


@pytest.mark.parametrize("fault", list(Fault))
def test_an_export_killed_anywhere_is_made_good_by_the_next(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", exported: Export,
    odd: LakeTable, monkeypatch: pytest.MonkeyPatch, fault: Fault,
) -> None:  # fmt: skip
    for round_ in range(2):  # a first export, and one that goes back
        fill(conn, 50, 100 * round_)
        conn.execute("DELETE FROM odd WHERE id = %s", [100 * round_ + 1])
        monkeypatch.setenv(VARIABLE, f"{fault.value}:1:raise")
        with pytest.raises(UnforeseenError):
            exported(odd)
        monkeypatch.delenv(VARIABLE)
        fill(conn, 5, 1000 * (round_ + 1))
        exported(odd)
        check(fresh_database, catalog, odd)
    # What was written and never committed goes, and nothing else.
    done = upkeep(conn, catalog, PROJECT, odd, timedelta(0), orphans_after=timedelta(seconds=-5))
    held = catalog.load_table((PROJECT, odd.name))
    assert files_on_disk(held) == named_files(catalog, held)
    assert done.removed > 0
    check(fresh_database, catalog, odd)


def test_two_exporters_at_once(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", odd: LakeTable,
    tmp_path: "object",
) -> None:  # fmt: skip
    fill(conn, 3000)
    results: list[Exported | SkewlessError] = []
    barrier = threading.Barrier(3)

    def run() -> None:
        with (
            connect(fresh_database, autocommit=True) as own,
            open_catalog(fresh_database, PROJECT, LakeSettings(f"file://{tmp_path}/lake")) as cat,
        ):
            barrier.wait()
            try:
                results.append(export(own, fresh_database, cat, PROJECT, odd))
            except SkewlessError as error:
                results.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [each for each in results if isinstance(each, SkewlessError)]
    assert len(refused) < 3
    assert all(isinstance(each, ConflictError) for each in refused)
    assert check(fresh_database, catalog, odd) == 3000


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(1, 6), st.integers(0, 4)),
        st.tuples(st.just("late"), st.integers(0, 5), st.integers(0, 90)),
        st.tuples(st.just("delete"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("update"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("export"), st.just(0), st.just(0)),
        st.tuples(st.just("upkeep"), st.just(0), st.just(0)),
    ),
    max_size=14,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[*HealthCheck])
@given(actions=ACTIONS)
def test_whatever_happens_between_exports_the_lake_is_a_prefix_of_what_was_known(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", exported: Export,
    actions: list[tuple[str, int, int]],
) -> None:  # fmt: skip
    """Key 0 is hot: most rows are its."""
    conn.execute("DROP TABLE IF EXISTS drawn")
    conn.execute("DELETE FROM history_changes WHERE source_table = 'drawn'")
    conn.execute(
        "CREATE TABLE drawn (id bigint, happened timestamptz NOT NULL, "
        "arrived timestamptz NOT NULL DEFAULT clock_timestamp(), v double precision)"
    )
    table = lake_table(conn, "drawn", ["id"], "happened", "arrived")
    if catalog.table_exists((PROJECT, "drawn")):
        catalog.drop_table((PROJECT, "drawn"))
    now = datetime.now(UTC)
    for action, n, hours in [*actions, ("export", 0, 0)]:
        if action == "insert":
            conn.execute(
                "INSERT INTO drawn (id, happened, v) SELECT greatest(0, g - 4), now() - g * "
                "interval '9 hours', random() FROM generate_series(1, %s) AS g",
                [n],
            )
        elif action == "late":
            at = now - timedelta(hours=hours)
            conn.execute("INSERT INTO drawn VALUES (%s, %s, %s, 1)", [n, at - DAY, at])
        elif action == "delete":
            conn.execute("DELETE FROM drawn WHERE id = %s AND v < 0.5", [n])
        elif action == "update":
            conn.execute("UPDATE drawn SET v = v + 1 WHERE id = %s", [n])
        elif action == "export":
            exported(table)
            check(fresh_database, catalog, table)
        elif catalog.table_exists((PROJECT, "drawn")):
            before = in_lake(catalog.load_table((PROJECT, "drawn")), table)
            upkeep(conn, catalog, PROJECT, table, timedelta(0), orphans_after=timedelta(seconds=-5))
            assert in_lake(catalog.load_table((PROJECT, "drawn")), table) == before
    # A row that arrived in the very microsecond of the last safe time is all that may be missing.
    count = check(fresh_database, catalog, table)
    assert conn.execute("SELECT count(*) FROM drawn").fetchone() == (count,)
