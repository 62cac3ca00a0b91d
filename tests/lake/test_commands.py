"""`skewless lake export` and `status`, and the refresh loop's share of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from extensions.asof import Computation
from extensions.asof.tick import tick
from extensions.errors import ConfigurationError, InputError, SkewlessError
from extensions.lake.settings import LakeSettings
from extensions.operations import lake_export
from extensions.operations.lake_export import (
    cut_tables,
    export_due,
    export_tables,
    lake_status,
)
from tests.asof.loading import watch
from tests.conftest import REPO_ROOT
from tests.lake.logs import MONTHS, append_row, monthly, rows_of_log


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The repository with a lake in a folder of this test."""
    monkeypatch.setattr(
        lake_export,
        "read_settings",
        lambda _: LakeSettings(f"file://{tmp_path}/lake", configured=True),
    )
    monkeypatch.setattr(lake_export, "_looked", {})
    return tmp_path / "lake"


@pytest.mark.usefixtures("configured")
def test_all_tables_one_table_and_their_status(
    conn: psycopg.Connection, fresh_database: str, counts: Computation
) -> None:
    watch(conn, "an event", 7, datetime.now(UTC) - timedelta(days=1))
    tick(conn, counts, full=True)
    [first] = export_tables(conn, fresh_database, REPO_ROOT, counts.log_table)
    assert (first.table, first.rows) == (counts.log_table, 1)
    done = {each.table: each for each in export_tables(conn, fresh_database, REPO_ROOT)}
    assert done["watch_events"].rows == 1
    assert done[counts.log_table].rows == 0
    _, found = lake_status(conn, fresh_database, REPO_ROOT)
    rows = {each.table: each.rows for each in found}
    assert rows.keys() == done.keys()
    assert (rows["watch_events"], rows[counts.log_table]) == (1, 1)
    assert all(each.through is not None for each in found)
    with pytest.raises(InputError, match=r"no log or history watch_event: .* Did you mean watch_e"):
        list(export_tables(conn, fresh_database, REPO_ROOT, "watch_event"))


def test_the_loop_exports_what_is_due_and_no_large_table_for_the_first_time(
    conn: psycopg.Connection,
    fresh_database: str,
    configured: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not configured.exists()
    done = export_due(conn, fresh_database, REPO_ROOT)
    assert "watch_events" in {each.table for each in done}
    # It looks every five minutes, and finds each table exported within the hour.
    assert export_due(conn, fresh_database, REPO_ROOT) == []
    lake_export._looked.clear()
    assert export_due(conn, fresh_database, REPO_ROOT) == []
    monkeypatch.setattr(lake_export, "EVERY", timedelta(0))
    lake_export._looked.clear()
    assert len(export_due(conn, fresh_database, REPO_ROOT)) == len(done)


@pytest.mark.usefixtures("configured")
def test_a_large_table_is_left_to_the_command(
    conn: psycopg.Connection, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(conn, "an event", 7, datetime.now(UTC))
    monkeypatch.setattr(lake_export, "LARGE", 0)
    with pytest.raises(SkewlessError, match="run `skewless lake export watch_events` once"):
        export_due(conn, fresh_database, REPO_ROOT)


def test_what_is_older_than_its_hot_window_is_cut(
    conn: psycopg.Connection,
    fresh_database: str,
    counts: Computation,
    configured: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigurationError, match="No log has a hot window"):
        list(cut_tables(conn, fresh_database, REPO_ROOT))

    def with_windows(**hot: timedelta) -> None:
        found = LakeSettings(f"file://{configured}", hot=hot, configured=True)
        monkeypatch.setattr(lake_export, "read_settings", lambda _: found)

    with_windows(user_watch_stat=timedelta(days=1))
    with pytest.raises(ConfigurationError, match=r"for user_watch_stat, .* user_watch_stats\?"):
        list(cut_tables(conn, fresh_database, REPO_ROOT))
    monthly(conn, counts.log_table)
    for day in range(1, 5):
        append_row(conn, counts, 7, MONTHS[0] + timedelta(days=day), day)
    with_windows(user_watch_stats=timedelta(days=1), default=timedelta(days=36_500))
    done = {each.table: each for each in cut_tables(conn, fresh_database, REPO_ROOT)}
    assert (done[counts.log_table].rows, done[counts.log_table].before) == (3, MONTHS[-1])
    assert {each.before for log, each in done.items() if log != counts.log_table} == {None}
    with pytest.raises(InputError, match="no log or history watch_events"):
        list(cut_tables(conn, fresh_database, REPO_ROOT, "watch_events"))
    _, found = lake_status(conn, fresh_database, REPO_ROOT)
    status = {each.table: each for each in found}
    assert (status[counts.log_table].cut_before, status[counts.log_table].rows) == (MONTHS[-1], 4)
    assert status["watch_events"].cut_before is None


def test_the_loop_cuts_after_its_export(
    conn: psycopg.Connection,
    fresh_database: str,
    counts: Computation,
    configured: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monthly(conn, counts.log_table)
    for day in range(1, 5):
        append_row(conn, counts, 7, MONTHS[0] + timedelta(days=day), day)
    hot = {"user_watch_stats": timedelta(days=1)}
    settings = LakeSettings(f"file://{configured}", hot=hot, configured=True)
    monkeypatch.setattr(lake_export, "read_settings", lambda _: settings)
    export_due(conn, fresh_database, REPO_ROOT)
    assert [row[2] for row in rows_of_log(conn, counts.log_table)] == [4]


def test_nothing_is_exported_where_no_lake_is_configured(
    conn: psycopg.Connection, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_export, "_looked", {})
    assert export_due(conn, fresh_database, REPO_ROOT) == []
    assert conn.execute("SELECT to_regclass('iceberg_tables')").fetchone() == (None,)
