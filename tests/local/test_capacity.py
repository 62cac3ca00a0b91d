"""What fills up or is lost without an error is noticed before it is missed."""

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
    [sizes] = capacity_checks.of_postgres(conn)
    assert sizes.ok
    assert "MiB in" in sizes.found
    monkeypatch.setattr(capacity_checks, "MOST_DEAD", 1_000)
    _, swollen = capacity_checks.of_postgres(conn)
    assert not swollen.ok
    assert "swollen has 2,000 dead rows beside 1,000 live ones" in swollen.found
    monkeypatch.setattr(capacity_checks, "MOST_TRANSACTIONS", 0)
    *_, numbers = capacity_checks.of_postgres(conn)
    assert "not frozen" in numbers.found
