"""`skewless versions`: state, services, log rows, Redis bytes and lag of each version."""

from dataclasses import dataclass
from datetime import datetime

import psycopg
import redis
from feast import FeatureStore
from psycopg import sql

from extensions.asof.watermarks import read_watermark
from extensions.database.connection import identifiers, table_exists
from extensions.database.scalars import clock, one_row
from extensions.engines.verdict import recorded
from extensions.errors import SkewlessError
from extensions.stores.registry.version_store import (
    Published,
    promotions,
    published,
    versions_of,
)
from extensions.versions.online_sample import sample
from extensions.versions.retirement import users_of

SAMPLED_ENTITIES = 200
PATIENCE = "10s"


@dataclass(frozen=True)
class Version:
    """One version. ``log_rows`` and ``entities``: None where counting them took too long;
    ``redis_bytes``: of its rows, by a sample of them; ``reason``: of the pointer's last move here;
    ``engines``: whether its text gives the same values in every engine, as recorded.
    """

    view: str
    version: int
    state: str
    since: datetime
    fingerprint: str
    services: tuple[str, ...]
    log_rows: int | None
    entities: int | None
    redis_bytes: int | None
    behind_seconds: float | None
    moved_by: str | None
    reason: str | None
    engines: str | None = None


def overview(
    store: FeatureStore, conn: psycopg.Connection, *, view: str | None = None, retired: bool = False
) -> list[Version]:
    """All versions that are kept, and with ``retired`` those that are not. ``conn``: autocommit.

    Raises:
        InputError: there is no such view.
    """
    moves = {(move.view_name, move.to_version): move for move in promotions(conn, view)}
    verdicts = {name: verdict.sentence() for name, verdict in recorded(conn).items()}
    found = []
    for one in published(conn) if view is None else versions_of(conn, view):
        if not one.kept and not retired:
            continue
        move = moves.get((one.view_name, one.version))
        rows, entities, size, behind = _cost(store, conn, one)
        found.append(
            Version(
                view=one.view_name,
                version=one.version,
                state=one.state,
                since=one.state_since,
                fingerprint=one.fingerprint,
                services=tuple(users_of(conn, store.project, one)) if one.kept else (),
                log_rows=rows,
                entities=entities,
                redis_bytes=size,
                behind_seconds=behind,
                moved_by=move.moved_by if move and one.state == "active" else None,
                reason=move.reason if move and one.state == "active" else None,
                engines=verdicts.get(one.fingerprint),
            )
        )
    return found


def _cost(
    store: FeatureStore, conn: psycopg.Connection, one: Published
) -> tuple[int | None, int | None, int | None, float | None]:
    """(log rows, entities, bytes in Redis, seconds behind); None where it does not apply."""
    if one.kind == "transform" or not table_exists(conn, one.log_table):
        return None, None, None, None
    computation = one.definition.computation()
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(PATIENCE)))
            row = one_row(
                conn,
                sql.SQL(
                    "SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT {keys} FROM {log}) "
                    "AS e) FROM {log}"
                ).format(
                    keys=identifiers(computation.join_keys), log=sql.Identifier(one.log_table)
                ),
            )
    except psycopg.errors.QueryCanceled:
        row = (None, None)
    mark = read_watermark(conn, computation)
    if mark is None or mark.published_through is None:
        return row[0], row[1], None, None
    behind = (clock(conn) - mark.processed_through).total_seconds()
    return (
        row[0],
        row[1],
        _bytes(store, conn, one, mark.published_through, row[1]),
        round(behind, 1),
    )


def _bytes(
    store: FeatureStore,
    conn: psycopg.Connection,
    one: Published,
    through: datetime,
    entities: int | None,
) -> int | None:
    if not one.kept or entities is None:
        return None
    try:
        held = sample(store, conn, one, through, SAMPLED_ENTITIES)
    except (redis.RedisError, SkewlessError):
        return None
    sizes = [len(each.layout.header(len(each.row))) + len(each.row) for each in held if each.row]
    return round(entities * sum(sizes) / len(held)) if held else 0
