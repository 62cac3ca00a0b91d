"""The rebuild: Redis, empty or partly lost, filled again from the logs while it serves."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from adbc_driver_postgresql import dbapi
from feast import FeatureStore
from psycopg import sql

from extensions.asof.computation import Computation, load_computations
from extensions.asof.watermarks import advance_published, read_watermark
from extensions.database import connect, connect_arrow
from extensions.database.connection import identifiers
from extensions.errors import SkewlessError
from extensions.stores.offline.address import url_of
from extensions.stores.online.keys import aside
from extensions.stores.publish import latest, online_store, registered

# Entities between two notes of how far it has come: what an interruption costs at most.
ENTITIES_PER_STEP = 50_000

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild of one view version did; ``written`` rows were newer than what was there."""

    view: str
    version: int
    entities: int
    written: int
    resumed: bool


def rebuild_online(
    store: FeatureStore,
    view: str | None = None,
    progress: Progress | None = None,
    computations: Iterable[Computation] | None = None,
) -> list[Rebuilt]:
    """Write the newest row of every entity's log to Redis.

    ``view``: a view's name (all its versions), or one version (``view.v1``); None: all.
    ``progress(version's name, entities so far)`` is called after every step. Interrupted, it
    goes on after its last whole step. Newest-wins holds throughout, so that serving, the stream
    and refreshes go on meanwhile.

    Raises:
        SkewlessError: there is no such view.
    """
    if computations is None:
        computations = load_computations(Path(store.repo_path)).values()
    known = list(computations)
    chosen = [c for c in known if view in (None, c.view, c.name, c.log_table)]
    if not chosen:
        names = ", ".join(sorted({c.view for c in known}))
        raise SkewlessError(f"There is no view {view!r}: choose among {names}.")
    return [_rebuild(store, computation, progress) for computation in chosen]


def _rebuild(store: FeatureStore, computation: Computation, progress: Progress | None) -> Rebuilt:
    table = registered(store, computation)
    online = online_store(store)
    client = online._get_client(store.config.online_store)  # noqa: SLF001
    # The note of how far it came is kept in Redis: a server that lost the rows lost it as well.
    note = aside(store.config, f"rebuild:{computation.log_table}")
    url = url_of(store.config)
    with connect(url, autocommit=True) as conn:
        mark = read_watermark(conn, computation)
    state: dict[str, Any] = json.loads(client.get(note) or "{}")
    after, entities, resumed = state.get("after"), state.get("entities", 0), bool(state)
    written = 0
    with connect_arrow(url) as conn:
        while True:
            step = _step(conn, computation, after)
            if not step.num_rows:
                break
            written += online.write_arrow(store.config, table, step)
            after = [step[key][-1].as_py() for key in computation.join_keys]
            entities += step.num_rows
            client.set(note, json.dumps({"after": after, "entities": entities}))
            if progress:
                progress(computation.name, entities)
    if mark is not None:
        with connect(url, autocommit=True) as conn:
            advance_published(conn, computation, mark.processed_through)
    client.delete(note)
    return Rebuilt(computation.view, computation.version, entities, written, resumed)


def _step(conn: dbapi.Connection, computation: Computation, after: list[Any] | None) -> pa.Table:
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
        cursor.execute(latest(computation, condition, ENTITIES_PER_STEP).as_string(None))
        table: pa.Table = cursor.fetch_arrow_table()
    return table
