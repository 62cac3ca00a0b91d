"""What the database and Redis hold, and whether it is what the oracle says."""

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
from feast import FeatureStore, FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from psycopg import sql

from extensions.asof import Computation, Freshness
from extensions.database import connect
from extensions.stores.log_publishing import online_store, registered
from tests.faults.platform import ITEMS, USERS
from tests.online.repository import EPOCH
from tests.oracle.answers import VIEWS, Answer, ViewOracle, agrees
from tests.oracle.examples import SECOND_VERSIONS
from tests.oracle.features import Keys
from tests.oracle.records import Classification, GenrePlace, History, Watch

# Rows of each log, and moments of the past, that are compared with the oracle each time.
SAMPLE = 60
_GRID = {Freshness.HOURLY: timedelta(hours=1), Freshness.DAILY: timedelta(days=1)}


@dataclass(frozen=True)
class Row:
    """An entity's row of a log, or what Redis holds of it."""

    as_of: datetime
    answer: Answer


def oracle_of(computation: Computation) -> ViewOracle:
    """The first version is the repository's; all later ones are the documentation's example."""
    return (VIEWS if computation.version == 1 else SECOND_VERSIONS)[computation.view]


def history(url: str) -> History:
    """All that the database holds, as the oracle reads it."""
    with connect(url) as conn:
        watches = conn.execute(
            "SELECT event_id, user_id, item_id, watched_at, ingested_at, duration_ms, progress "
            "FROM watch_events ORDER BY ingested_at"
        ).fetchall()
        items = conn.execute("SELECT item_id, genre, valid_from, ingested_at FROM items").fetchall()
        places = conn.execute("SELECT genre, embedding, ingested_at FROM genres").fetchall()
    return History(
        tuple(Watch(*row) for row in watches),
        tuple(Classification(*row) for row in items),
        tuple(GenrePlace(genre, tuple(at), known) for genre, at, known in places),
    )


@dataclass(frozen=True)
class Oracle:
    """The oracle's answers over one history, each entity's events found once."""

    whole: History
    by_user: Mapping[int, History]
    by_item: Mapping[int, History]

    @classmethod
    def of(cls, whole: History) -> "Oracle":
        users, items = defaultdict(list), defaultdict(list)
        for watch in whole.deliveries:
            users[watch.user_id].append(watch)
            items[watch.item_id].append(watch)

        def narrowed(parts: Mapping[int, list[Watch]]) -> dict[int, History]:
            return {
                key: History(tuple(part), whole.classifications, whole.places)
                for key, part in parts.items()
            }

        return cls(whole, narrowed(users), narrowed(items))

    def answer(self, oracle: ViewOracle, keys: Keys, as_of: datetime) -> Answer:
        parts = self.by_user if oracle.join_keys[0] == "user_id" else self.by_item
        known = parts.get(keys[0]) or History((), self.whole.classifications, self.whole.places)
        return oracle(known, keys, as_of)

    def agrees(self, computation: Computation, keys: Keys, row: Row) -> bool:
        """Whether the row is what the oracle answers for its own time."""
        oracle = oracle_of(computation)
        return agrees(row.answer, self.answer(oracle, keys, row.as_of), oracle.float32_steps)

    def default(self, computation: Computation, keys: Keys, as_of: datetime) -> Answer:
        """The answer of an entity without any history."""
        return oracle_of(computation)(History((), (), self.whole.places), keys, as_of)

    def active(self, computation: Computation, keys: Keys, as_of: datetime) -> bool:
        """Whether the oracle's answer differs from that over no history at all."""
        answer = self.answer(oracle_of(computation), keys, as_of)
        return answer != self.default(computation, keys, as_of)


def everyone(computation: Computation) -> list[Keys]:
    """The keys of every entity of the platform."""
    match computation.join_keys:
        case ("user_id",):
            return [(user,) for user in range(1, USERS + 1)]
        case ("item_id",):
            return [(item,) for item in range(1, ITEMS + 1)]
        case _:
            return [(u, i) for u in range(1, USERS + 1) for i in range(1, ITEMS + 1)]


def assert_view(
    conn: psycopg.Connection,
    store: FeatureStore,
    oracle: Oracle,
    computation: Computation,
    where: str,
) -> None:
    """Log = Redis = oracle for every entity, now; and a sample of the whole log is right."""
    logged = latest_rows(conn, computation)
    entities = everyone(computation)
    online = online_rows(store, computation, entities)
    now = datetime.now(UTC)
    for keys in entities:
        row, served = logged.get(keys), online[keys]
        of = f"{where}: {computation.name} {keys}"
        if row is None:
            assert not oracle.active(computation, keys, now), f"{of} has no row in the log"
            assert served is None, f"{of} is online and not in the log"
            continue
        assert oracle.agrees(computation, keys, row), f"{of}: the log has {row}"
        assert served == row, f"{of}: Redis has {served}, the log {row}"
    for keys, row in sampled_rows(conn, computation):
        assert oracle.agrees(computation, keys, row), (
            f"{where}: {computation.name} {keys}: the log has {row}"
        )
    assert doubled(conn, computation) == 0, f"{where}: {computation.name} has rows twice"


def assert_backfilled(
    conn: psycopg.Connection,
    oracle: Oracle,
    computation: Computation,
    between: tuple[datetime, datetime],
    draw: random.Random,
    where: str,
) -> None:
    """At moments of the past the log says what the oracle says: nothing of it is missing.

    Of views that are computed by the hour or day, at the ends of hours and days.
    """
    start, end = between
    grid = _GRID.get(computation.freshness)
    for keys in draw.choices(everyone(computation), k=SAMPLE):
        at = start + (end - start) * draw.random()
        if grid is not None:
            at = (
                datetime.fromtimestamp(0, UTC)
                + (at - datetime.fromtimestamp(0, UTC)) // grid * grid
            )
        if at < start:
            continue
        row = row_at(conn, computation, keys, at)
        of = f"{where}: {computation.name} {keys} at {at}"
        if row is None:
            assert not oracle.active(computation, keys, at), f"{of} has no row in the log"
            continue
        moment = row.as_of if oracle_of(computation).decays else at
        assert oracle.agrees(computation, keys, Row(moment, row.answer)), f"{of}: the log has {row}"


def latest_rows(conn: psycopg.Connection, computation: Computation) -> dict[Keys, Row]:
    """Each entity's latest row of the view's log."""
    keys = [sql.Identifier(key) for key in computation.join_keys]
    return dict(
        _rows(
            conn,
            computation,
            sql.SQL(
                "SELECT DISTINCT ON ({keys}) {columns} FROM {log} "
                "ORDER BY {keys}, event_timestamp DESC, created_timestamp DESC"
            ).format(
                keys=sql.SQL(", ").join(keys), columns=_columns(computation), log=_log(computation)
            ),
        )
    )


def sampled_rows(conn: psycopg.Connection, computation: Computation) -> list[tuple[Keys, Row]]:
    """Some rows of the view's log, of any time."""
    return _rows(
        conn,
        computation,
        sql.SQL("SELECT {columns} FROM {log} ORDER BY random() LIMIT {n}").format(
            columns=_columns(computation), log=_log(computation), n=sql.Literal(SAMPLE)
        ),
    )


def row_at(
    conn: psycopg.Connection, computation: Computation, keys: Keys, at: datetime
) -> Row | None:
    """The entity's row that was the latest at ``at``, of what was known by then."""
    same = sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(key))
        for name, key in zip(computation.join_keys, keys, strict=True)
    )
    found = _rows(
        conn,
        computation,
        sql.SQL(
            "SELECT {columns} FROM {log} WHERE {same} AND event_timestamp <= {at} "
            "AND created_timestamp <= {at} "
            "ORDER BY event_timestamp DESC, created_timestamp DESC LIMIT 1"
        ).format(
            columns=_columns(computation), log=_log(computation), same=same, at=sql.Literal(at)
        ),
    )
    return found[0][1] if found else None


def doubled(conn: psycopg.Connection, computation: Computation) -> int:
    """Rows that the log has more than once."""
    row = conn.execute(
        sql.SQL(
            "SELECT count(*) - count(DISTINCT ({keys}, event_timestamp, created_timestamp)) "
            "FROM {log}"
        ).format(
            keys=sql.SQL(", ").join(map(sql.Identifier, computation.join_keys)),
            log=_log(computation),
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


def online_rows(
    store: FeatureStore,
    computation: Computation,
    entities: list[Keys],
    view: FeatureView | None = None,
) -> dict[Keys, Row | None]:
    """What Redis holds of each entity, by Feast's own way to read it; None: nothing.

    ``view``: Feast's view of the version, where its registry may no longer know it.
    """
    view = view or registered(store, computation)
    asked = [
        EntityKey(join_keys=computation.join_keys, entity_values=[Value(int64_val=k) for k in keys])
        for keys in entities
    ]
    found: dict[Keys, Row | None] = {}
    read = online_store(store).online_read(store.config, view, asked)
    for keys, (as_of, values) in zip(entities, read, strict=True):
        if as_of is None or values is None or as_of.replace(tzinfo=UTC) == EPOCH:
            found[keys] = None
            continue
        plain = [_plain(values[feature.name]) for feature in computation.features]
        found[keys] = Row(as_of.replace(tzinfo=as_of.tzinfo or UTC), _answer(computation, plain))
    return found


def _log(computation: Computation) -> sql.Identifier:
    return sql.Identifier(computation.log_table)


def _columns(computation: Computation) -> sql.Composed:
    names = (*computation.join_keys, "event_timestamp", *(f.name for f in computation.features))
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _rows(
    conn: psycopg.Connection, computation: Computation, query: sql.Composed
) -> list[tuple[Keys, Row]]:
    width = len(computation.join_keys)
    return [
        (row[:width], Row(row[width], _answer(computation, row[width + 1 :])))
        for row in conn.execute(query).fetchall()
    ]


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("val")
    held = getattr(value, kind)
    return list(held.val) if hasattr(held, "val") else held


def _answer(computation: Computation, values: Any) -> Answer:
    """Values in the oracle's own types: float32 where the log has real."""
    return tuple(
        _typed(value, feature.pg_type)
        for value, feature in zip(values, computation.features, strict=True)
    )


def _typed(value: Any, pg_type: str) -> Any:
    if pg_type == "real[]":
        return tuple(np.float32(each) for each in value)
    return np.float32(value) if pg_type == "real" else value
