"""Capacity checks: Redis memory, eviction and snapshots; PostgreSQL table growth and vacuum."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import psycopg
import redis

# Shares at which there is still time to do something.
MEMORY_SHARE = 0.9
# Rows that no transaction sees any more: a table with as many as this, and more than live ones.
MOST_DEAD = 100_000
# PostgreSQL stops at 2^31 transactions that it has not frozen; its own alarms begin at 1.6e9.
MOST_TRANSACTIONS = 1_500_000_000
SHOWN = 3

_TABLES = """
SELECT
    quote_ident(t.relname), pg_total_relation_size(t.relid) AS bytes, t.n_live_tup, t.n_dead_tup,
    t.n_tup_ins / greatest(extract(epoch FROM now() - d.since) / 86400, 1.0 / 24) AS daily
FROM pg_stat_user_tables AS t
CROSS JOIN (
    SELECT coalesce(stats_reset, pg_postmaster_start_time()) AS since
    FROM pg_stat_database WHERE datname = current_database()
) AS d
ORDER BY bytes DESC
"""


class Noticed(NamedTuple):
    """The result of a capacity check: ok or not, what was found, what to do."""

    ok: bool
    found: str
    advice: str | None = None


def of_redis(client: "redis.Redis") -> Iterator[Noticed]:
    """Rows that would be evicted, memory that is nearly full, copies that could not be written.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    memory: dict[str, Any] = client.info("memory")  # type: ignore[assignment]
    saved: dict[str, Any] = client.info("persistence")  # type: ignore[assignment]
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Noticed(
            False,
            f"the eviction policy is {policy}: rows vanish when memory is full, and are served as "
            "defaults",
            "Set maxmemory-policy to noeviction; then writes fail instead, and are tried again.",
        )
    limit = memory.get("maxmemory") or memory.get("total_system_memory") or 0
    if limit and memory["used_memory"] > MEMORY_SHARE * limit:
        yield Noticed(
            False,
            f"{memory['used_memory'] / 2**20:.0f} of {limit / 2**20:.0f} MiB are used: writes will "
            "be refused",
            "Give Redis more memory, or retire versions that nobody uses.",
        )
    for key, what in (
        ("rdb_last_bgsave_status", "snapshot"),
        ("aof_last_bgrewrite_status", "rewriting of the append-only file"),
        ("aof_last_write_status", "write to the append-only file"),
    ):
        if saved.get(key, "ok") != "ok":
            yield Noticed(
                False,
                f"its last {what} failed",
                "Look for a full disk or a missing permission in Redis's log.",
            )


def of_postgres(conn: psycopg.Connection) -> Iterator[Noticed]:
    """The largest tables and their growth; tables that are not vacuumed; transaction numbers."""
    tables = conn.execute(_TABLES).fetchall()
    yield Noticed(True, _growth(tables))
    for name, _, live, dead, _ in tables:
        if dead > max(live, MOST_DEAD):
            yield Noticed(
                False,
                f"{name} has {dead:,} dead rows beside {live:,} live ones: it grows and slows down",
                f"Run VACUUM ANALYZE {name}, and see that autovacuum is on and no transaction "
                "stays open for hours.",
            )
    [age] = conn.execute(
        "SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()"
    ).fetchone() or [0]
    if age > MOST_TRANSACTIONS:
        yield Noticed(
            False,
            f"{age:,} transactions are not frozen: PostgreSQL will stop taking writes",
            "Run VACUUM FREEZE, and see that autovacuum is on.",
        )


def _growth(tables: Iterable[tuple[Any, ...]]) -> str:
    rows = list(tables)
    total = sum(size for _, size, *_ in rows)
    shown = [
        f"{name} {size / 2**20:.0f} MiB"
        + (f", about {daily * size / live / 2**20:.0f} MiB a day" if live and daily >= 1 else "")
        for name, size, live, _, daily in rows[:SHOWN]
    ]
    return f"{total / 2**20:.0f} MiB in {len(rows)} tables ({'; '.join(shown)})"
