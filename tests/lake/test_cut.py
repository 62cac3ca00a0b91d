"""The cut: what leaves PostgreSQL is in the lake, and what stays answers as before."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from extensions.asof import Computation
from extensions.asof.log_cuts import Cut, cut_of
from extensions.database import connect
from extensions.errors import ConflictError, UnavailableError
from extensions.failpoints import VARIABLE, UnforeseenError
from extensions.lake.catalog import open_catalog
from extensions.lake.commits import data_files, exported_through, replace_files
from extensions.lake.cut import CutDone, Fault, cut
from extensions.lake.export import Exported
from extensions.lake.lake_tables import LakeTable, log_in_lake
from extensions.lake.parquet_files import day_of
from extensions.lake.settings import LakeSettings
from tests.lake.conftest import PROJECT
from tests.lake.logs import MONTHS, append_row, monthly, rows_of_log
from tests.lake.reading import in_lake, in_postgres

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog

Export = Callable[[LakeTable], Exported]
JAN, FEB, MAR, APR = MONTHS
DAY = timedelta(days=1)


@pytest.fixture
def log(conn: psycopg.Connection, counts: Computation) -> LakeTable:
    """A log of three months: two rows of user 1 a month, one of user 2, and a late one."""
    monthly(conn, counts.log_table)
    for month in (JAN, FEB, MAR):
        append_row(conn, counts, 1, month + DAY, 1)
        append_row(conn, counts, 1, month + 2 * DAY, 2)
    append_row(conn, counts, 2, JAN + DAY, 7)
    append_row(conn, counts, 1, FEB + 3 * DAY, 9, created=MAR + 5 * DAY)
    return log_in_lake(conn, counts)


@pytest.fixture
def at(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog"
) -> Callable[[LakeTable, datetime], CutDone]:
    """Cuts a log."""
    return lambda table, before: cut(conn, fresh_database, catalog, PROJECT, table, before)


Cutter = Callable[[LakeTable, datetime], CutDone]


def lake_rows(catalog: "SqlCatalog", log: LakeTable) -> list[tuple[object, ...]]:
    return in_lake(catalog.load_table((PROJECT, log.name)), log)


def test_a_cut_keeps_the_last_row_of_each_and_what_became_known_later(
    conn: psycopg.Connection, catalog: "SqlCatalog", exported: Export, log: LakeTable, at: Cutter
) -> None:
    exported(log)
    whole = lake_rows(catalog, log)
    done = at(log, MAR + DAY)
    assert (done.before, done.partitions, done.rows, done.kept) == (MAR, 3, 3, 3)
    assert rows_of_log(conn, log.name) == [
        (1, FEB + 2 * DAY, 2),
        (1, FEB + 3 * DAY, 9),
        (1, MAR + DAY, 1),
        (1, MAR + 2 * DAY, 2),
        (2, JAN + DAY, 7),
    ]
    known = cut_of(conn, log.name)
    assert known is not None
    assert (known.before, known.first_event) == (MAR, JAN + DAY)
    assert lake_rows(catalog, log) == whole
    # Twice is as good as once.
    assert at(log, MAR + DAY) == CutDone(log.name, MAR, 0, 0, 0)
    # The next month goes, too, and what was kept for this one with it.
    append_row(conn, None, 3, FEB + DAY, 5, log=log.name)
    exported(log)
    again = at(log, APR + DAY)
    assert (again.before, again.rows) == (APR, 3)
    assert rows_of_log(conn, log.name) == [
        (1, MAR + 2 * DAY, 2),
        (2, JAN + DAY, 7),
        (3, FEB + DAY, 5),
    ]
    assert len(lake_rows(catalog, log)) == len(whole) + 1


def test_rows_that_came_after_the_export_stay(
    conn: psycopg.Connection, exported: Export, log: LakeTable, at: Cutter
) -> None:
    exported(log)
    append_row(conn, None, 1, JAN + 3 * DAY, 5, created=None, log=log.name)
    at(log, MAR + DAY)
    assert (1, JAN + 3 * DAY, 5) in rows_of_log(conn, log.name)


def test_what_the_lake_does_not_hold_is_not_cut(
    conn: psycopg.Connection, catalog: "SqlCatalog", exported: Export, log: LakeTable, at: Cutter
) -> None:
    with pytest.raises(ConflictError, match="the lake does not hold it so far"):
        at(log, MAR)
    exported(log)
    whole = rows_of_log(conn, log.name)
    # A row that says that it arrived before the export.
    append_row(conn, None, 8, JAN + 3 * DAY, 5, created=JAN + 4 * DAY, log=log.name)
    with pytest.raises(ConflictError, match=r"changed behind its last export \(insert\)"):
        at(log, MAR)
    exported(log)
    # Another writer of the lake's table.
    held = catalog.load_table((PROJECT, log.name))
    through = exported_through(held)
    assert through is not None
    day = (JAN + DAY).timestamp() // 86_400
    lost = [file for file in data_files(held) if day_of(file) == day]
    replace_files(held, lost, [], through)
    with pytest.raises(ConflictError, match=r"first on 2024-01-02 \(2 rows here, 0 there"):
        at(log, MAR)
    assert len(rows_of_log(conn, log.name)) == len(whole) + 1
    assert cut_of(conn, log.name) is None


def test_a_value_that_differs_is_seen(
    conn: psycopg.Connection, exported: Export, log: LakeTable, at: Cutter
) -> None:
    exported(log)
    conn.execute(f"ALTER TABLE {log.name} DISABLE TRIGGER USER")
    conn.execute(
        f"UPDATE {log.name} SET user_watch_count_7d = 8 WHERE event_timestamp = %s", [FEB + DAY]
    )
    with pytest.raises(ConflictError, match="first on 2024-02-02"):
        at(log, MAR)
    assert cut_of(conn, log.name) is None


def test_a_tick_that_is_behind_keeps_its_rows(
    conn: psycopg.Connection, counts: Computation, exported: Export, log: LakeTable, at: Cutter
) -> None:
    conn.execute(
        "INSERT INTO watermarks (view_name, version, processed_through) VALUES (%s, %s, %s)",
        [counts.view, counts.version, FEB],
    )
    exported(log)
    with pytest.raises(ConflictError, match="was refreshed through 2024-02-01T00:00:00Z only"):
        at(log, MAR)
    assert at(log, FEB).before == FEB


def cut_here(url: str, warehouse: str, log: LakeTable) -> None:
    """In a process of its own."""
    with (
        open_catalog(url, PROJECT, LakeSettings(warehouse)) as catalog,
        connect(url, autocommit=True) as conn,
    ):
        cut(conn, url, catalog, PROJECT, log, MAR)


@pytest.mark.parametrize("fault", list(Fault))
def test_a_cut_killed_anywhere_is_made_good_by_the_next(
    conn: psycopg.Connection, fresh_database: str, catalog: "SqlCatalog", tmp_path: Path,
    exported: Export, log: LakeTable, at: Cutter, monkeypatch: pytest.MonkeyPatch, fault: Fault,
) -> None:  # fmt: skip
    exported(log)
    before, whole = rows_of_log(conn, log.name), lake_rows(catalog, log)
    with monkeypatch.context() as armed:
        armed.setenv(VARIABLE, fault.value)
        child = get_context("spawn").Process(
            target=cut_here, args=(fresh_database, f"file://{tmp_path}/lake", log)
        )
        child.start()
        child.join(60)
    assert child.exitcode == -signal.SIGKILL
    # The old or the new.
    done = fault is Fault.COMMITTED
    assert (cut_of(conn, log.name) is not None) == done
    assert len(rows_of_log(conn, log.name)) == len(before) - (3 if done else 0)
    assert lake_rows(catalog, log) == whole
    again = at(log, MAR)
    assert (again.before, again.rows) == (MAR, 0 if done else 3)
    assert len(rows_of_log(conn, log.name)) == len(before) - 3
    assert conn.execute("SELECT to_regclass(%s)", [f"{log.name}_kept"]).fetchone() == (None,)
    check(fresh_database, catalog, log, 3)


def test_an_error_within_a_cut_leaves_no_copy(
    conn: psycopg.Connection, exported: Export, log: LakeTable, at: Cutter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    exported(log)
    before = rows_of_log(conn, log.name)
    monkeypatch.setenv(VARIABLE, f"{Fault.SWAPPED.value}:1:raise")
    with pytest.raises(UnforeseenError):
        at(log, MAR)
    assert rows_of_log(conn, log.name) == before
    assert conn.execute("SELECT to_regclass(%s)", [f"{log.name}_kept"]).fetchone() == (None,)


def test_one_cuts_at_a_time_and_a_reader_is_not_cut_off(
    conn: psycopg.Connection,
    fresh_database: str,
    catalog: "SqlCatalog",
    exported: Export,
    log: LakeTable,
    at: Cutter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported(log)
    monkeypatch.setattr("extensions.asof.log_partitions._TRIES", 1)
    monkeypatch.setattr("extensions.asof.log_partitions.LOCK_TIMEOUT", "100ms")
    with connect(fresh_database) as reader:
        [[rows]] = reader.execute(f"SELECT count(*) FROM {log.name}").fetchall()
        with pytest.raises(UnavailableError, match="was in use throughout"):
            at(log, MAR)
        assert cut_of(reader, log.name) is None
        assert reader.execute(f"SELECT count(*) FROM {log.name}").fetchone() == (rows,)
    key = f"skewless lake {PROJECT} {log.name}"
    with connect(fresh_database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [key])
        with pytest.raises(ConflictError, match="exported or cut, or its files rewritten"):
            at(log, MAR)
        other.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [key])
    assert at(log, MAR).before == MAR


def check(url: str, catalog: "SqlCatalog", log: LakeTable, missing: int) -> None:
    """The lake holds every row of PostgreSQL as it is there, and ``missing`` more."""
    lake = list(map(repr, lake_rows(catalog, log)))
    assert len(set(lake)) == len(lake)
    here = set(map(repr, in_postgres(url, log, datetime.now(UTC))))
    assert here <= set(lake)
    assert len(lake) - len(here) == missing


def test_an_export_after_a_cut_loses_nothing_of_what_the_lake_alone_holds(
    conn: psycopg.Connection,
    fresh_database: str,
    catalog: "SqlCatalog",
    exported: Export,
    log: LakeTable,
    at: Cutter,
) -> None:
    exported(log)
    at(log, MAR)
    check(fresh_database, catalog, log, 3)
    # New rows on both sides of the cut, as they come and dated back.
    append_row(conn, None, 1, APR + DAY, 1, log=log.name)
    append_row(conn, None, 4, FEB + DAY, 4, created=FEB + DAY, log=log.name)
    append_row(conn, None, 4, MAR + DAY, 4, created=MAR + DAY, log=log.name)
    append_row(conn, None, 5, JAN + DAY, 4, log=log.name)
    assert exported(log).back
    check(fresh_database, catalog, log, 3)
    # A value that is corrected, before the cut and after it.
    for day in (FEB + 2 * DAY, MAR + DAY):
        conn.execute(
            f"UPDATE {log.name} SET user_watch_count_7d = 99 WHERE event_timestamp = %s "
            "AND user_id = 1",
            [day],
        )
    assert exported(log).back
    check(fresh_database, catalog, log, 3)
    # An entity that is deleted is gone from both sides, also of what the lake alone held.
    conn.execute(f"DELETE FROM {log.name} WHERE user_id = 1")
    exported(log)
    assert not [row for row in lake_rows(catalog, log) if row[0] == 1]
    check(fresh_database, catalog, log, 0)


def test_a_part_of_what_a_cut_left_cannot_be_deleted(
    conn: psycopg.Connection, exported: Export, log: LakeTable, at: Cutter
) -> None:
    exported(log)
    at(log, MAR)
    conn.execute(f"DELETE FROM {log.name} WHERE event_timestamp = %s", [FEB + 2 * DAY])
    with pytest.raises(ConflictError, match=r"Of user_id=1 some rows of .* were deleted or dated"):
        exported(log)


def test_a_lake_that_was_lost_is_not_begun_anew(
    conn: psycopg.Connection, catalog: "SqlCatalog", exported: Export, log: LakeTable, at: Cutter
) -> None:
    exported(log)
    at(log, MAR)
    known = cut_of(conn, log.name)
    assert isinstance(known, Cut)
    catalog.drop_table((PROJECT, log.name))
    with pytest.raises(ConflictError, match=f"bring back the lake's .*snapshot {known.snapshot}"):
        exported(log)
