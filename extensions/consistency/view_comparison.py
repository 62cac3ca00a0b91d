"""The comparison: history recomputed, log, training's join and the online store, per entity, now.

The order of the reads makes a running store look right. Watermarks first: what they claim to be
complete must be so in all that is read afterwards. Then Redis, then the log: a value is logged
before it is published, so whatever Redis held must be in the log. Values are recomputed as of
the view's own watermark, so that ordinary freshness differs in nothing. What still differs is
looked at a second time before it counts.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import psycopg
from adbc_driver_manager import Error as AdbcError
from adbc_driver_postgresql import dbapi
from feast import FeatureStore
from redis.exceptions import RedisError

from extensions.asof.computation import Computation
from extensions.consistency.comparison_context import Context, Found, Marks, microseconds
from extensions.consistency.consistency_report import CAUSES, ViewComparison
from extensions.consistency.entity_sample import (
    EntitySample,
    Key,
    future_entities,
    history_entities,
    log_entities,
)
from extensions.consistency.label_coverage_gaps import compare_past
from extensions.consistency.log_comparison import compare_log
from extensions.consistency.online_comparison import compare_online
from extensions.consistency.online_rows import OnlineReader
from extensions.database import connect, connect_arrow
from extensions.database.connection import table_exists
from extensions.database.scalars import clock
from extensions.errors import SkewlessError
from extensions.failure_classification import first_line
from extensions.stores.log_publishing import registered
from extensions.stores.offline.feast_source_connections import url_of
from extensions.stores.registry.version_store import has_versions, published

# Entities of each view, and keys of Redis that are looked through for them.
ENTITIES, ONLINE_KEYS = 1_000, 20_000
# What differs must differ still after this long: a write that was under way has ended by then.
SECOND_LOOK_SECONDS = 1.5
# Differences of one cause that are told in full.
WORST = 5
_FAILURES = (SkewlessError, psycopg.Error, AdbcError, RedisError)


def compare_views(
    store: FeatureStore,
    computations: Iterable[Computation],
    *,
    entities: int = ENTITIES,
    online_keys: int = ONLINE_KEYS,
    seconds: float = 60.0,
) -> list[ViewComparison]:
    """Compare a random sample of ``entities`` of every view; what cannot be seen is said.

    ``seconds``: views that the time does not suffice for are left out, and said to be.

    Raises:
        SkewlessError: PostgreSQL cannot be reached.
    """
    url = url_of(store.config)
    deadline = time.monotonic() + seconds
    found = []
    with ExitStack() as stack:
        conn = stack.enter_context(connect(url, autocommit=True, name="skewless consistency"))
        arrow = stack.enter_context(connect_arrow(url))
        limit = f"SET statement_timeout = {int(1000 * seconds)}"
        conn.execute(limit)
        with arrow.cursor() as cursor:
            cursor.execute(limit)
        arrow.commit()
        reader = OnlineReader(store, online_keys, seconds / 4)
        filling = _filling(conn)
        for computation in computations:
            if computation.name in filling:
                found.append(_unseen(computation, "it is being filled", blind=False))
            elif time.monotonic() > deadline:
                found.append(_unseen(computation, f"the {seconds:g} s were over before"))
            else:
                found.append(_compared(store, conn, arrow, reader, computation, entities))
    return found


def _compared(
    store: FeatureStore,
    conn: psycopg.Connection,
    arrow: dbapi.Connection,
    reader: OnlineReader,
    computation: Computation,
    entities: int,
) -> ViewComparison:
    """One view version; a failure is part of what was not seen, and ends nothing else."""
    try:
        if not table_exists(conn, computation.log_table):
            return _unseen(computation, "it has no log: run `skewless migrate`")
        types = {
            column.name: column.dtype.to_value_type()
            for column in registered(store, computation).entity_columns
        }
        view = reader.view(computation)
        context = Context(store, conn, arrow, reader, computation, view, types)
        return _Comparison(context, entities).run()
    except _FAILURES as error:
        who = "Redis does not answer: " if isinstance(error, RedisError) else ""
        return _unseen(computation, who + first_line(error).rstrip("."))
    finally:
        # Each view sees the database as it is by then.
        arrow.rollback()


@dataclass
class _Comparison:
    context: Context
    entities: int
    left_out: dict[str, None] = field(default_factory=dict)
    blind: bool = False

    def run(self) -> ViewComparison:
        computation = self.context.computation
        sample = self._sample()
        if not sample.keys:
            return _unseen(computation, "history, log and Redis hold no entity of it", blind=False)
        marks, found = self._look(list(sample.keys))
        if found.differences:
            time.sleep(SECOND_LOOK_SECONDS)
            # A sentence on the view as a whole names no entity.
            named = dict.fromkeys(tuple(one.keys.values()) for one in found.differences)
            named.pop((), None)
            marks, again = self._look(list(named) or list(sample.keys))
            found = Found(again.differences, found.lag)
        if marks.processed is None:
            self.left_out[f"{computation.name} was never computed: it has no watermark."] = None
        return self._report(sample, marks, found)

    def _sample(self) -> EntitySample:
        context, size = self.context, self.entities
        conn, computation = context.conn, context.computation
        sample = EntitySample(size)
        sample.force(future_entities(conn, computation), "log")
        origins = [
            ("history", history_entities(conn, computation, size)),
            ("log", log_entities(conn, computation, size)),
        ]
        try:
            scanned = context.reader.scan(
                context.view, context.types, computation, microseconds(clock(conn))
            )
            sample.force(scanned.suspects, "online")
            self.left_out |= dict.fromkeys(scanned.left_out)
            origins.append(("online", scanned.random))
        except RedisError as error:
            self._redis_is_away(error)
        sample.fill(origins)
        return sample

    def _look(self, keys: Sequence[Key]) -> tuple[Marks, Found]:
        context = self.context
        context.arrow.rollback()
        marks = Marks.read(context.conn, context.computation)
        found = Found()
        try:
            found = compare_online(context, keys, marks)
        except RedisError as error:
            self._redis_is_away(error)
        found = found.and_also(compare_log(context, keys, marks))
        return marks, found.and_also(compare_past(context, keys, marks))

    def _redis_is_away(self, error: RedisError) -> None:
        self.blind = True
        reason = first_line(error)
        self.context.reader.away = reason
        self.left_out[
            f"Redis does not answer ({reason}): what {self.context.computation.name} serves was "
            "not seen."
        ] = None

    def _report(self, sample: EntitySample, marks: Marks, found: Found) -> ViewComparison:
        computation = self.context.computation
        gravity = list(CAUSES)
        differences = sorted(
            found.differences, key=lambda one: gravity.index(one.cause), reverse=True
        )
        counts: dict[str, int] = {}
        worst = []
        for one in differences:
            counts[one.cause] = counts.get(one.cause, 0) + 1
            if counts[one.cause] <= WORST:
                worst.append(one)
        return ViewComparison(
            view=computation.view,
            version=computation.version,
            as_of=marks.as_of,
            entities=len(sample.keys),
            origins=sample.origins,
            counts=counts,
            lag=found.lag,
            worst=tuple(worst),
            left_out=tuple(self.left_out),
            blind=self.blind,
        )


def _unseen(computation: Computation, why: str, *, blind: bool = True) -> ViewComparison:
    return ViewComparison(
        view=computation.view,
        version=computation.version,
        as_of=None,
        entities=0,
        origins={},
        counts={},
        lag=0,
        worst=(),
        left_out=(f"{computation.name} was not compared: {why}.",),
        blind=blind,
    )


def _filling(conn: psycopg.Connection) -> set[str]:
    """Versions that `skewless apply` is still filling."""
    if not has_versions(conn):
        return set()
    return {one.name for one in published(conn) if one.state == "staged"}
