"""The doctor: checks every server and part of the store, and says what to repair."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, Protocol

import psycopg
import redis
from feast import FeatureStore

from extensions import addresses
from extensions.asof import Computation, Freshness, load_computations
from extensions.asof.feature_log_tables import missing_log_tables
from extensions.asof.history_changes import FOLLOW, NOT_FOLLOWED, not_followed
from extensions.asof.log_partitions import NOT_PARTITIONED, unpartitioned
from extensions.asof.refused_entities import refused_entities
from extensions.asof.watermarks import read_watermark
from extensions.database import connect, pending_migrations
from extensions.database.refused_of_views import REFUSED_ADVICE, entity_text
from extensions.database.scalars import clock
from extensions.errors import SkewlessError
from extensions.failure_classification import first_line
from extensions.history.declared_tables import declared_sources
from extensions.history.reference_spelling import unknown_values
from extensions.operations import capacity_checks
from extensions.repository import repo_root
from extensions.stores.registry.version_store import has_versions, published
from extensions.stores.restore_detection import check as check_epoch
from extensions.version_names import HISTORY, version_name
from extensions.versions.maintained_versions import live_computations
from extensions.versions.version_state_check import disagreements

# The joins of keys ask pg_input_is_valid(), which came with it.
OLDEST_POSTGRES = 160_000
# Entities of each view whose values are compared, and how long all of that may take.
SAMPLED, COMPARISON_SECONDS = 200, 20.0
# How long the rows may be looked through for values that nothing explains.
REFERENCE_SECONDS = 20
MOST_CLOCK_SKEW = timedelta(seconds=1)


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``advice`` says what to do if it is not ``ok``."""

    what: str
    ok: bool
    found: str
    advice: str | None = None


class Broker(Protocol):
    """What was found of a broker."""

    @property
    def ok(self) -> bool:
        """Whether it answers."""

    @property
    def found(self) -> str:
        """What it has, or what failed."""

    @property
    def advice(self) -> str | None:
        """What to do if it does not."""


def examine(
    entities: int = SAMPLED,
    *,
    check_brokers: Callable[[], Iterable[tuple[str, Broker]]] | None = None,
) -> list[Finding]:
    """Run all checks; a server that cannot be reached is a finding and skips only its checks.

    Args:
        entities: How many of each view are compared in history, log and Redis; 0: none.
        check_brokers: Looks at each broker that a stream reads, as the stream's clients reach it.
    """
    findings = [
        Finding(
            "packages", True, f"feast {version('feast')}, kafka-python {version('kafka-python')}"
        )
    ]
    for name, check in (
        ("postgres", lambda: _postgres(entities)),
        ("redis", _redis),
        ("kafka", lambda: _kafka(check_brokers)),
    ):
        findings.extend(_guarded(name, check))
    return findings


def _guarded(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except SkewlessError as error:
        yield Finding(name, False, "no answer", error.message)
    except redis.RedisError as error:
        yield Finding(name, False, first_line(error), "Start Redis, or check SKEWLESS_REDIS_URL.")


def _epochs(
    store: FeatureStore, conn: psycopg.Connection, computations: dict[str, Computation]
) -> Iterator[Finding]:
    """Redis is neither older nor newer than the log."""
    for computation in computations.values():
        verdict = check_epoch(conn, store, computation)
        if not verdict.agrees:
            yield Finding(
                f"epoch of {verdict.name}", False, verdict.why,
                f"Run `skewless rebuild-online --view {verdict.name}`.",
            )  # fmt: skip


def _values(
    store: FeatureStore, computations: dict[str, Computation], entities: int
) -> Iterator[Finding]:
    """History, log and Redis say the same of a random sample of each view's entities."""
    from extensions.consistency import compare_views  # noqa: PLC0415 - it imports the server

    for found in compare_views(
        store, computations.values(), entities=entities, seconds=COMPARISON_SECONDS
    ):
        name = f"values of {found.name}"
        for said in found.left_out:
            yield Finding(name, not found.blind, said, None)
        for difference in found.worst:
            yield Finding(name, False, difference.sentence(), difference.advice)
        if not found.counts and found.entities and not found.blind:
            yield Finding(
                name, True,
                f"history, log and Redis agree on {found.entities} entities "
                f"({found.lag} of them lag within the freshness budget)",
            )  # fmt: skip


def _postgres(entities: int) -> Iterator[Finding]:
    url = addresses.postgres_url()
    with connect(url, autocommit=True, name="skewless doctor") as conn:
        number = conn.info.server_version
        yield Finding(
            "postgres",
            number >= OLDEST_POSTGRES,
            f"version {number // 10000}.{number % 10000}",
            None if number >= OLDEST_POSTGRES else "Use PostgreSQL 16 or newer.",
        )
        yield _clock(conn)
        yield from (Finding("tables", *one) for one in capacity_checks.of_postgres(conn))
        pending = pending_migrations(url, repo_root() / HISTORY)
        yield Finding(
            "migrations",
            not pending,
            f"{len(pending)} pending" if pending else "all applied",
            "Run `skewless migrate`." if pending else None,
        )
        declared = load_computations(repo_root())
        computations = live_computations(conn, declared)
        missing = missing_log_tables(conn, computations.values())
        yield Finding(
            "logs",
            not missing,
            f"missing: {', '.join(missing)}" if missing else f"{len(computations)} in place",
            "Run `skewless migrate`." if missing else None,
        )
        plain = unpartitioned(conn, [one.log_table for one in computations.values()])
        for table, why in plain.items():
            found = NOT_PARTITIONED.format(why) if why else "has no partitions by time"
            yield Finding(f"log {table}", False, found, None if why else "Run `skewless migrate`.")
        for table in not_followed(conn, computations.values()):
            yield Finding(f"history {table}", False, NOT_FOLLOWED, FOLLOW)
        store = FeatureStore(str(repo_root()))
        yield _registry(store, declared, conn)
        yield from _guarded("versions", lambda: _versions(store, conn))
        if pending:
            return
        yield from (_watermark(conn, computation) for computation in computations.values())
        yield from _refused(conn)
        yield from _holes(conn)
        yield from _guarded("reference values", lambda: _references(url, conn))
        if entities:
            yield from _guarded("epochs", lambda: _epochs(store, conn, computations))
            yield from _guarded("values", lambda: _values(store, computations, entities))


def _clock(conn: psycopg.Connection) -> Finding:
    before = datetime.now(UTC)
    there = clock(conn)
    after = datetime.now(UTC)
    skew = max(before - there, there - after, timedelta(0))
    return Finding(
        "clock",
        skew <= MOST_CLOCK_SKEW,
        f"{skew.total_seconds():.3f} s from the database's",
        None if skew <= MOST_CLOCK_SKEW else "Run NTP on this machine and the database's.",
    )


def _registry(
    store: FeatureStore, computations: dict[str, Computation], conn: psycopg.Connection
) -> Finding:
    applied = {
        f"{view.name}.{version['version']}"
        for view in store.list_feature_views()
        for version in store.list_feature_view_versions(view.name)
    }
    missing = sorted(computations.keys() - applied)
    known = published(conn) if has_versions(conn) else []
    if retired := sorted({one.name for one in known if one.state == "retired"} & set(missing)):
        return Finding(
            "registry",
            ok=False,
            found=f"the files name what was retired: {', '.join(retired)}",
            advice="`skewless plan` says which version they may name.",
        )
    return Finding(
        "registry",
        not missing,
        f"not applied: {', '.join(missing)}" if missing else f"{len(applied)} views applied",
        "Run `skewless apply`." if missing else None,
    )


def _versions(store: FeatureStore, conn: psycopg.Connection) -> Iterator[Finding]:
    """Feast's registry, PostgreSQL and Redis agree on every published version."""
    if not has_versions(conn):
        return
    found = disagreements(store, conn, repo_root())
    if not found:
        yield Finding("versions", True, "registry, PostgreSQL and Redis agree")
    for each in found:
        yield Finding(f"versions of {each.view}", False, each.what, each.advice)


def _watermark(conn: psycopg.Connection, computation: Computation) -> Finding:
    mark = read_watermark(conn, computation)
    name = f"freshness of {computation.name}"
    if mark is None:
        return Finding(name, False, "never computed", "Run `skewless refresh`.")
    lag = datetime.now(UTC) - mark.processed_through
    fresh = lag <= computation.freshness.budget
    budget = computation.freshness.budget
    return Finding(
        name,
        fresh,
        f"{str(lag).partition('.')[0]} behind, of {budget} allowed",
        None if fresh else _late(computation),
    )


def _refused(conn: psycopg.Connection) -> Iterator[Finding]:
    """Views that go on without some of their entities."""
    for (view, number), refused in refused_entities(conn).items():
        first = "; ".join(f"{entity_text(keys)}: {why}" for keys, why in list(refused.items())[:3])
        yield Finding(
            f"refused entities of {version_name(view, number)}", False,
            f"{len(refused)} ({first})", REFUSED_ADVICE,
        )  # fmt: skip


def _holes(conn: psycopg.Connection) -> Iterator[Finding]:
    """What backfills left out: known, counted in training sets, and no fault of the present."""
    for view, number, count, since in conn.execute(
        "SELECT view_name, version, count(DISTINCT digest), min(since) FROM backfill_refusals "
        "GROUP BY view_name, version ORDER BY view_name, version"
    ).fetchall():
        yield Finding(
            f"backfilled values of {version_name(view, number)}", True,
            f"{count} entities lack values of {since:%Y-%m-%d} or later, which could not be "
            "computed; once the rows behind them are mended, the same backfill fills them in",
        )  # fmt: skip


def _references(url: str, conn: psycopg.Connection) -> Iterator[Finding]:
    """Values that came by whatever way and that the table which explains them does not know."""
    tables = {table.table: table for table in declared_sources(url, repo_root()).tables.values()}
    try:
        with conn.transaction():
            conn.execute(
                "SELECT set_config('statement_timeout', %s, TRUE)", [f"{REFERENCE_SECONDS}s"]
            )
            unknown = unknown_values(conn, tables)
    except psycopg.errors.QueryCanceled:
        yield Finding("reference values", True, f"not looked through within {REFERENCE_SECONDS} s")
        return
    for each in unknown:
        of = each.reference
        samples = ", ".join(f"{value!r}" for value, _ in each.samples)
        yield Finding(
            f"reference values of {of.table}.{of.column}", False,
            f"{each.rows} rows hold a value that {of.reference_table} does not know (such as "
            f"{samples}): features that look it up count them for nothing",
            f"Add the values to {of.reference_table}, or bring rows that spell them as it does.",
        )  # fmt: skip


def _late(computation: Computation) -> str:
    if computation.freshness is Freshness.REALTIME:
        return "See `skewless status`, and that `skewless ingest` runs."
    return "Run `skewless refresh`, and see why `skewless refresh --due` does not."


def _redis() -> Iterator[Finding]:
    client = redis.Redis.from_url(addresses.redis_url(), socket_connect_timeout=2, socket_timeout=2)
    try:
        info: dict[str, Any] = client.info("server")  # type: ignore[assignment]
        memory: dict[str, Any] = client.info("memory")  # type: ignore[assignment]
        noticed = list(capacity_checks.of_redis(client))
    except redis.RedisError as error:
        yield Finding("redis", False, str(error), "Start it, or check SKEWLESS_REDIS_URL.")
        return
    finally:
        client.close()
    name = "Valkey" if "valkey_version" in info else "Redis"
    number = info.get("valkey_version") or info.get("redis_version")
    yield Finding("redis", True, f"{name} {number}, {memory['used_memory'] / 2**20:.0f} MiB used")
    yield from (Finding("redis", *one) for one in noticed)


def _kafka(
    check_brokers: Callable[[], Iterable[tuple[str, Broker]]] | None,
) -> Iterator[Finding]:
    if check_brokers is not None:
        for name, broker in check_brokers():
            yield Finding(name, broker.ok, broker.found, broker.advice)
