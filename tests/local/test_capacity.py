"""What fills up or is lost without an error is noticed before it is missed."""

import shutil
from collections.abc import Iterator

import psycopg
import pytest
import redis

from extensions.operations import capacity_checks


@pytest.fixture
def client(redis_server: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_server) as client:
        before = {name: client.config_get(name)[name] for name in ("maxmemory-policy", "maxmemory")}
        yield client
        for name, value in before.items():
            client.config_set(name, value)


def test_a_redis_that_is_well_is_not_mentioned(client: "redis.Redis") -> None:
    assert list(capacity_checks.of_redis(client)) == []


def test_an_eviction_policy_that_loses_rows(client: "redis.Redis") -> None:
    client.config_set("maxmemory-policy", "allkeys-lru")
    [noticed] = capacity_checks.of_redis(client)
    assert not noticed.ok
    assert "allkeys-lru" in noticed.found
    assert "noeviction" in str(noticed.advice)


def test_memory_that_is_nearly_full(client: "redis.Redis") -> None:
    used = int(client.info("memory")["used_memory"])  # type: ignore[index]
    client.config_set("maxmemory", int(used * 1.02))
    [noticed] = capacity_checks.of_redis(client)
    assert "writes will be refused" in noticed.found


def test_copies_that_could_not_be_written(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = client.info

    def failed(section: str) -> object:
        found = dict(asked(section))  # type: ignore[call-overload]
        if section == "persistence":
            found |= {"rdb_last_bgsave_status": "err", "aof_last_write_status": "err"}
        return found

    monkeypatch.setattr(client, "info", failed)
    assert [noticed.ok for noticed in capacity_checks.of_redis(client)] == [False, False]


def test_tables_and_what_is_dead_in_them(
    conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute("CREATE TABLE swollen AS SELECT n FROM generate_series(1, 3000) AS n")
    conn.execute("ALTER TABLE swollen SET (autovacuum_enabled = FALSE)")
    conn.execute("DELETE FROM swollen WHERE n > 1000")
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT 1")
    sizes, disk = capacity_checks.of_postgres(conn)
    assert sizes.ok
    assert disk.ok
    assert "GiB free on the disk of PostgreSQL" in disk.found
    assert "MiB in" in sizes.found
    monkeypatch.setattr(capacity_checks, "MOST_DEAD", 1_000)
    _, _, swollen = capacity_checks.of_postgres(conn)
    assert not swollen.ok
    assert "swollen has 2,000 dead rows beside 1,000 live ones" in swollen.found
    monkeypatch.setattr(capacity_checks, "MOST_TRANSACTIONS", 0)
    *_, numbers = capacity_checks.of_postgres(conn)
    assert "not frozen" in numbers.found


def test_a_table_is_as_large_as_all_of_its_partitions(conn: psycopg.Connection) -> None:
    conn.execute("CREATE TABLE parted (n integer) PARTITION BY RANGE (n)")
    for first in (0, 1000):
        conn.execute(
            f"CREATE TABLE parted_{first} PARTITION OF parted FOR VALUES FROM ({first}) "
            f"TO ({first + 1000})"
        )
    conn.execute("INSERT INTO parted SELECT n % 2000 FROM generate_series(1, 400000) AS n")
    conn.execute("SELECT pg_stat_force_next_flush()")
    sizes, _ = capacity_checks.of_postgres(conn)
    size = sum(
        conn.execute("SELECT pg_total_relation_size(%s)", [f"parted_{first}"]).fetchone()[0]  # type: ignore[index]
        for first in (0, 1000)
    )
    assert f"(parted {size / 2**20:.0f} MiB, about " in sizes.found


def test_a_disk_that_will_be_full_soon(
    conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute("CREATE TABLE filling AS SELECT n FROM generate_series(1, 100000) AS n")
    conn.execute("SELECT pg_stat_force_next_flush()")
    used = shutil.disk_usage("/")
    _, disk = capacity_checks.of_postgres(conn)
    assert "grow" not in disk.found  # this server was started minutes ago
    monkeypatch.setattr(capacity_checks, "LEAST_OBSERVED", 0.0)
    monkeypatch.setattr(
        capacity_checks.shutil, "disk_usage", lambda _: used._replace(free=100 * 2**20)
    )
    _, disk = capacity_checks.of_postgres(conn)
    assert not disk.ok
    assert "full in about" in disk.found
