"""Capacity checks: Redis memory, eviction and snapshots; PostgreSQL table growth and vacuum."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
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
# The disk: what is too short a time to get a larger one, and what is too long to say.
LEAST_DAYS, MOST_DAYS = 14, 3650
# Days of insertions that a growth must be known from.
LEAST_OBSERVED = 2.0

_TABLES = """
SELECT
    quote_ident(t.relname), pg_total_relation_size(t.relid) AS bytes, t.n_live_tup, t.n_dead_tup,
    t.n_tup_ins / greatest(extract(epoch FROM now() - d.since) / 86400, 1.0 / 24) AS daily,
    quote_ident(coalesce(r.relname, t.relname)) AS whole
FROM pg_stat_user_tables AS t
LEFT JOIN pg_class AS r ON r.oid = pg_partition_root(t.relid)
CROSS JOIN (
    SELECT coalesce(stats_reset, pg_postmaster_start_time()) AS since
    FROM pg_stat_database WHERE datname = current_database()
) AS d
"""


_OBSERVED = """
SELECT extract(EPOCH FROM now() - coalesce(stats_reset, pg_postmaster_start_time()))::float8
/ 86400 FROM pg_stat_database WHERE datname = current_database()
"""


class Table(NamedTuple):
    """A table or partition: bytes with indexes, live and dead rows, rows inserted a day.

    ``whole``: the table that it is a partition of, or itself.
    """

    name: str
    size: int
    live: int
    dead: int
    daily: float
    whole: str

    @property
    def daily_bytes(self) -> float:
        """What a day's rows take, at the size of those that are there; 0: hardly any."""
        daily = float(self.daily)
        return daily * self.size / self.live if self.live and daily >= 1 else 0.0


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
    """The largest tables and their growth; the disk; tables not vacuumed; transaction numbers."""
    rows = [Table(*row) for row in conn.execute(_TABLES).fetchall()]
    tables = _whole(rows)
    yield Noticed(True, _growth(tables))
    [[observed]] = conn.execute(_OBSERVED).fetchall()
    # A day of a bulk load says nothing of the days to come.
    steady = observed >= LEAST_OBSERVED
    yield from _disk(conn, sum(table.daily_bytes for table in tables) if steady else 0.0)
    for table in rows:
        if table.dead > max(table.live, MOST_DEAD):
            yield Noticed(
                False,
                f"{table.name} has {table.dead:,} dead rows beside {table.live:,} live ones: it "
                "grows and slows down",
                f"Run VACUUM ANALYZE {table.name}, and see that autovacuum is on and no "
                "transaction stays open for hours.",
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


def _whole(rows: Iterable[Table]) -> list[Table]:
    """The tables by size, each with all of its partitions."""
    parts: dict[str, list[Table]] = {}
    for row in rows:
        parts.setdefault(row.whole, []).append(row)
    sums = [
        Table(
            whole,
            sum(each.size for each in held),
            sum(each.live for each in held),
            sum(each.dead for each in held),
            sum(each.daily for each in held),
            whole,
        )
        for whole, held in parts.items()
    ]
    return sorted(sums, key=lambda table: table.size, reverse=True)


def _growth(tables: Sequence[Table]) -> str:
    total = sum(table.size for table in tables)
    shown = [
        f"{table.name} {table.size / 2**20:.0f} MiB"
        + (f", about {table.daily_bytes / 2**20:.0f} MiB a day" if table.daily_bytes else "")
        for table in tables[:SHOWN]
    ]
    return f"{total / 2**20:.0f} MiB in {len(tables)} tables ({'; '.join(shown)})"


def _disk(conn: psycopg.Connection, daily: float) -> Iterator[Noticed]:
    """When the server's disk is full at this growth, where it is a disk of this machine."""
    if conn.info.hostaddr not in ("", "127.0.0.1", "::1"):
        return
    try:
        [[folder]] = conn.execute("SHOW data_directory").fetchall()
        free = shutil.disk_usage(folder).free
    except (psycopg.errors.InsufficientPrivilege, OSError):
        return  # it may not be told, or is another container's
    days = free / daily if daily else float("inf")
    enough = days >= LEAST_DAYS
    when = f", full in about {days:,.0f} days" if days < MOST_DAYS else ""
    yield Noticed(
        enough,
        f"{free / 2**30:.0f} GiB free on the disk of PostgreSQL"
        + (f"; all tables grow by about {daily / 2**20:,.0f} MiB a day{when}" if daily else ""),
        None if enough else "Give PostgreSQL more disk, or retire versions that nobody uses.",
    )
