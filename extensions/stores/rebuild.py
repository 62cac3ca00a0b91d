"""The rebuild: Redis made again from the logs while it serves, whatever it held before.

Newest-wins is not enough where Redis holds rows that the log has never had: rows of a future that
was lost with a restore of PostgreSQL, or of entities that are gone. So a rebuild *replaces*: what
was stored before it began gives way to the log, entities that the log does not know are taken
out, and only rows later than its beginning, which a running stream writes, win as ever. What the
stream logged meanwhile is published once more at the end. `reconcile` does so by itself where the
marks of both sides disagree (`extensions.stores.restore_detection`).
"""

import json
from collections.abc import Callable, Iterable
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from feast import FeatureStore, FeatureView
from psycopg import sql
from redis.cluster import RedisCluster
from redis.exceptions import ResponseError

from extensions.asof.computation import Computation
from extensions.asof.computation_loading import load_computations
from extensions.asof.watermarks import PATIENCE_SECONDS, advance_published, alone_on, read_watermark
from extensions.database import connect, connect_arrow
from extensions.database.connection import identifiers
from extensions.database.scalars import clock
from extensions.errors import InputError
from extensions.stores.log_publishing import latest, online_store, registered, write_query
from extensions.stores.offline.feast_source_connections import url_of
from extensions.stores.online_codec.redis_keys import control_key
from extensions.stores.restore_detection import (
    State,
    Verdict,
    begin_repair,
    check,
    client_of,
    end_repair,
    note_restart,
)
from extensions.stores.stray_rows import drop_strays
from extensions.suggestions import did_you_mean
from extensions.timestamps import EPOCH
from extensions.version_names import log_table, version_name

# Entities between two notes of how far it has come: what an interruption costs at most.
ENTITIES_PER_STEP = 50_000
# How long a step of the stream may take between its log and Redis.
IN_FLIGHT = timedelta(minutes=10)

_MICROSECOND = timedelta(microseconds=1)

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild of one view version did.

    ``written``: rows that Redis took (all but those of which the stream had a newer one).
    ``removed``: rows of entities that the log does not know. A view of one's own, which no
    computation fills, is materialized from its source instead, and counts nothing.
    """

    view: str
    version: int
    entities: int
    written: int
    resumed: bool
    removed: int = 0


def rebuild_online(
    store: FeatureStore,
    view: str | None = None,
    progress: Progress | None = None,
    computations: Iterable[Computation] | None = None,
) -> list[Rebuilt]:
    """Rewrite every entity's row in Redis from the newest row of its log.

    ``view``: a view's name (all its versions), or one version (``view.v1``); None: all.
    ``progress(version's name, entities so far)`` is called after every step. Interrupted, it
    goes on after its last whole step. Serving and the stream go on meanwhile; ticks and sweeps
    of a view wait.

    Raises:
        InputError: there is no such view, or Redis was restarted meanwhile.
    """
    if computations is None:
        computations = load_computations(Path(store.repo_path)).values()
    known = list(computations)
    own = _own_views(store, known)
    chosen = [c for c in known if view in (None, c.view, c.name, c.log_table)]
    mine = [v for v in own if view in (None, *_names(v))]
    if view is not None and not chosen and not mine:
        names = sorted({c.view for c in known} | {v.name for v in own})
        raise InputError(
            f"There is no view {view!r}: choose among {', '.join(names)}."
            f"{did_you_mean(view, [*names, *(c.name for c in known)])}"
        )
    done = []
    for computation in chosen:
        with closing(connect(url_of(store.config), autocommit=True)) as conn:
            done.append(_alone(store, conn, computation, progress))
    done.extend(_materialize(store, each, progress) for each in mine)
    return done


def reconcile(
    store: FeatureStore, conn: psycopg.Connection, computation: Computation
) -> tuple[Verdict, Rebuilt | None]:
    """Check that log and Redis have the same history; rebuild view versions where they differ.

    Returns what the marks said, and what was done about it. ``conn`` must be in autocommit.

    Raises:
        SkewlessError: another refresh or rebuild is at work on the view, or Redis was restarted
            meanwhile.
    """
    verdict = check(conn, store, computation)
    if verdict.agrees:
        return verdict, None
    with alone_on(conn, computation, patience=PATIENCE_SECONDS):
        verdict = check(conn, store, computation)
        if verdict.agrees:
            return verdict, None
        if verdict.state is not State.RESTARTED or isinstance(client_of(store), RedisCluster):
            return verdict, _rebuild(store, conn, computation, None)
        # The marks are in order, and so is all that was written before them.
        since = (verdict.confirmed_at or EPOCH) - IN_FLIGHT
        written = _publish_since(store, computation, since)
        note_restart(conn, store, computation, verdict)
    return verdict, Rebuilt(computation.view, computation.version, written, written, resumed=False)


def _alone(
    store: FeatureStore,
    conn: psycopg.Connection,
    computation: Computation,
    progress: Progress | None,
) -> Rebuilt:
    with alone_on(conn, computation, patience=PATIENCE_SECONDS):
        return _rebuild(store, conn, computation, progress)


def _rebuild(
    store: FeatureStore,
    conn: psycopg.Connection,
    computation: Computation,
    progress: Progress | None,
) -> Rebuilt:
    """The rebuild of one version; the caller holds it alone."""
    table = registered(store, computation)
    client = client_of(store)
    verdict = check(conn, store, computation)
    # 1. From here on, whoever looks knows that Redis is not to be relied on.
    repair = begin_repair(conn, computation).hex
    mark = read_watermark(conn, computation)
    began = clock(conn)

    # 2. The log's newest rows replace what was stored before.
    note = _Note(client, control_key(store.config, f"rebuild:{computation.log_table}"),
                 f"{repair} {verdict.run}")  # fmt: skip
    after, entities, resumed = note.read()
    written, before = 0, (began - EPOCH) // _MICROSECOND
    with connect_arrow(url_of(store.config)) as arrow:
        while True:
            step = _step(arrow, store, computation, after)
            if not step.num_rows:
                break
            written += online_store(store).write_arrow(store.config, table, step, before=before)
            after = [_plain(step[key][-1].as_py()) for key in computation.join_keys]
            entities += step.num_rows
            note.write(after, entities)
            if progress:
                progress(computation.name, entities)

    # 3. Whom the log does not know has no row.
    removed = 0
    if verdict.state is not State.ONLINE_EMPTY:
        removed = drop_strays(conn, store.config, client, computation, table, before)

    # 4. What steps of the stream logged meanwhile, and were perhaps too early to win with.
    _publish_since(store, computation, began - IN_FLIGHT)

    # 5. A new history, in which both sides agree.
    end_repair(conn, store, computation, verdict.run)
    note.delete()
    if mark is not None:
        advance_published(conn, computation, mark.processed_through)
    return Rebuilt(computation.view, computation.version, entities, written, resumed, removed)


@dataclass(frozen=True)
class _Note:
    """How far a rebuild came, kept in Redis: a server that lost the rows lost it as well.

    ``attempt``: a note of another attempt, or of another run of Redis, does not count.
    """

    client: Any
    key: str
    attempt: str

    def read(self) -> tuple[list[Any] | None, int, bool]:
        """The last entity, how many there were, and whether there was a note."""
        try:
            state = json.loads(self.client.get(self.key) or "{}")
        except (ValueError, ResponseError):  # not what was put there
            state = {}
        if not isinstance(state, dict) or state.get("attempt") != self.attempt:
            return None, 0, False
        return state["after"], state["entities"], True

    def write(self, after: list[Any], entities: int) -> None:
        """Come so far."""
        state = {"attempt": self.attempt, "after": after, "entities": entities}
        self.client.set(self.key, json.dumps(state))

    def delete(self) -> None:
        """Come to the end."""
        self.client.delete(self.key)


def _publish_since(store: FeatureStore, computation: Computation, since: datetime) -> int:
    recent = sql.SQL("(event_timestamp >= {0} OR created_timestamp >= {0})").format(
        sql.Literal(since)
    )
    query = latest(computation, recent, allowed=store.config)
    return write_query(store, registered(store, computation), query)


def _step(
    conn: dbapi.Connection, store: FeatureStore, computation: Computation, after: list[Any] | None
) -> pa.Table:
    condition: sql.Composable = sql.SQL("true")
    if after is not None:
        condition = sql.SQL("({}) > ({})").format(
            identifiers(computation.join_keys),
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(kind))
                for value, kind in zip(after, computation.key_types, strict=True)
            ),
        )
    with conn.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        query = latest(computation, condition, ENTITIES_PER_STEP, allowed=store.config)
        cursor.execute(query.as_string(None))
        table: pa.Table = cursor.fetch_arrow_table()
    return table


def _plain(key: Any) -> Any:
    """A key as JSON has it, and as PostgreSQL takes it."""
    return str(key) if isinstance(key, UUID) else key


def _own_views(store: FeatureStore, known: Iterable[Computation]) -> list[FeatureView]:
    """The views that are materialized from a source, since nothing computes them."""
    computed = {computation.view for computation in known}
    return [
        view
        for view in store.registry.list_feature_views(store.project)
        if view.name not in computed
        and "freshness" not in view.tags
        and view.online
        and view.batch_source is not None
    ]


def _names(view: FeatureView) -> tuple[str, ...]:
    number = view.current_version_number or 0
    return view.name, log_table(view.name, number), version_name(view.name, number)


def _materialize(store: FeatureStore, view: FeatureView, progress: Progress | None) -> Rebuilt:
    """Feast's materialization of all that the view's source has, without its chatter."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        store.materialize(EPOCH, datetime.now(UTC), feature_views=[view.name])
    if progress:
        progress(view.name, 0)
    return Rebuilt(view.name, view.current_version_number or 0, 0, 0, resumed=False)
