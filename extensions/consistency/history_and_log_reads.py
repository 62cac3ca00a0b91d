"""History and log side by side: recomputed values, the log's rows, and what training would get."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from feast import FeatureStore
from numpy.typing import NDArray
from psycopg import sql

from extensions.asof.computation import Computation, HistorySource
from extensions.asof.engine import answers
from extensions.asof.spine import Spine, span_literal
from extensions.consistency.entity_sample import Key
from extensions.database.connection import identifiers
from extensions.errors import ConfigurationError, DefinitionError
from extensions.stores.offline.retrieval_job import SkewlessRetrievalJob

# The least moment that there is stands for a row that is not there.
NEVER = np.iinfo(np.int64).min
_ROW = "skewless_row"
# PostgreSQL's greatest moment, for "whenever it was logged".
_EVER = "infinity"


@dataclass(frozen=True)
class Question:
    """An entity as of an instant, and the log's newest row with event time <= ``until``.

    ``known``: only rows that had been logged by then, as a label of that time sees it; None: all.
    """

    key: Key
    as_of: datetime
    until: datetime
    known: datetime | None = None


@dataclass(frozen=True)
class Answers:
    """One row per question. ``logged_at``: microseconds, the least integer where there is none."""

    recomputed: pa.Table
    logged: pa.Table
    logged_at: NDArray[np.int64]

    @property
    def in_log(self) -> NDArray[np.bool_]:
        """Which questions the log has a row for."""
        there: NDArray[np.bool_] = self.logged_at != NEVER
        return there


def ask(conn: dbapi.Connection, computation: Computation, asked: Sequence[Question]) -> Answers:
    """Recompute each question from history, and look up the log's row beside it.

    Raises:
        DefinitionError: the computation did not answer each question exactly once.
    """
    rows = _rows(computation, asked)
    keys = identifiers(computation.join_keys)
    spine = sql.SQL("SELECT DISTINCT {keys}, as_of FROM {rows}").format(keys=keys, rows=rows)
    query = sql.SQL(
        "{answers} SELECT {recomputed}, {logged}, l.event_timestamp AS logged_at "
        "FROM {rows} LEFT JOIN answered USING ({keys}, as_of) LEFT JOIN LATERAL ("
        "SELECT * FROM {log} AS l WHERE {same} AND l.event_timestamp <= u.skewless_until "
        "AND l.created_timestamp <= u.skewless_known "
        "ORDER BY l.event_timestamp DESC, l.created_timestamp DESC LIMIT 1) AS l ON TRUE "
        "ORDER BY u.skewless_row"
    ).format(
        answers=answers(computation, Spine(spine)),
        rows=rows,
        keys=keys,
        log=sql.Identifier(computation.log_table),
        same=_same(computation.join_keys, "l"),
        recomputed=_aliased("answered", computation, "r"),
        logged=_aliased("l", computation, "l"),
    )
    table = _fetched(conn, query)
    if table.num_rows != len(asked):
        raise DefinitionError(
            f"{computation.name} returned {table.num_rows} rows for {len(asked)} entities: its "
            "computation must return exactly one row for each row of the spine."
        )
    names = [feature.name for feature in computation.features]
    recomputed, logged = (
        pa.table([table[f"{letter}{i}"].combine_chunks() for i in range(len(names))], names=names)
        for letter in "rl"
    )
    return Answers(recomputed, logged, _micros(table["logged_at"]))


@dataclass(frozen=True)
class LogTimes:
    """Times in the log by entity, in microseconds; the least integer where there is none.

    ``current``: of the row that training gets now; ``newest``: of any row, the future's too;
    ``oldest``: of the first one. ``holds_online``: the log has a row of the time that Redis
    shows. ``backfilled``: the current row says that it was logged at its own event time.
    """

    current: NDArray[np.int64]
    newest: NDArray[np.int64]
    oldest: NDArray[np.int64]
    holds_online: NDArray[np.bool_]
    backfilled: NDArray[np.bool_]


def log_times(
    conn: dbapi.Connection,
    computation: Computation,
    keys: Sequence[Key],
    now: datetime,
    online: Sequence[datetime],
) -> LogTimes:
    """Look the entities up in the log at ``now``; ``online``: the event times that Redis shows."""
    questions = [Question(key, at, now, now) for key, at in zip(keys, online, strict=True)]
    rows = "SELECT l.event_timestamp, l.created_timestamp FROM {log} AS l WHERE {same}"
    newest_first = " ORDER BY l.event_timestamp DESC, l.created_timestamp DESC LIMIT 1"
    query = sql.SQL(
        "SELECT c.event_timestamp AS current, top.event_timestamp AS newest, "
        "first.event_timestamp AS oldest, c.created_timestamp = c.event_timestamp AS backfilled, "
        f"EXISTS ({rows} AND l.event_timestamp = u.as_of) AS holds_online FROM {{rows}} "
        f"LEFT JOIN LATERAL ({rows} AND l.event_timestamp <= u.skewless_until "
        f"AND l.created_timestamp <= u.skewless_known{newest_first}) AS c ON TRUE "
        f"LEFT JOIN LATERAL ({rows}{newest_first}) AS top ON TRUE "
        f"LEFT JOIN LATERAL ({rows}{newest_first.replace('DESC', 'ASC')}) AS first ON TRUE "
        "ORDER BY u.skewless_row"
    ).format(
        rows=_rows(computation, questions),
        log=sql.Identifier(computation.log_table),
        same=_same(computation.join_keys, "l"),
    )
    table = _fetched(conn, query)
    holds_online, backfilled = (
        np.asarray(table[name].fill_null(False).to_numpy(), np.bool_)
        for name in ("holds_online", "backfilled")
    )
    return LogTimes(
        _micros(table["current"]),
        _micros(table["newest"]),
        _micros(table["oldest"]),
        holds_online,
        backfilled,
    )


def training_answers(
    store: FeatureStore, computation: Computation, keys: Sequence[Key], at: datetime
) -> tuple[pa.Table, NDArray[np.bool_]]:
    """What a training set would get for labels at ``at``: features by name, and who has a row.

    The same point-in-time join as any training set's.
    """
    questions = [Question(key, at, at) for key in keys]
    labels = sql.SQL(
        "SELECT u.skewless_row AS {row}, {keys}, u.as_of AS event_timestamp FROM {rows}"
    ).format(
        row=sql.Identifier(_ROW),
        keys=identifiers(computation.join_keys, "u"),
        rows=_rows(computation, questions),
    )
    name = f"{computation.view}@v{computation.version}"
    refs = [f"{name}:{feature.name}" for feature in computation.features]
    job = store.get_historical_features(entity_df=labels.as_string(None), features=refs)
    if not isinstance(job, SkewlessRetrievalJob):
        raise ConfigurationError("This comparison needs the project's own offline store.")
    table = pa.concat_tables(list(job.in_full().to_batches())).sort_by(_ROW)
    there: NDArray[np.bool_] = table[f"{computation.view}__found"].to_numpy()
    return table.select([feature.name for feature in computation.features]), there


@dataclass(frozen=True)
class Evidence:
    """What history's rows say about an entity whose log row of ``logged_at`` is not current.

    ``active``: it has a row in the horizon. ``left``: rows left the window since.
    ``rewritten``: some row that claims to have been known when the log's row was computed was
    stored after it.
    """

    active: bool
    left: bool
    rewritten: bool


def evidence(
    conn: psycopg.Connection,
    computation: Computation,
    asked: Sequence[tuple[Key, datetime, datetime | None]],
) -> list[Evidence]:
    """For each (key, as of, the log row's time or None): why the log may lag behind history."""
    primary = computation.reads[0]
    build = {
        "table": sql.Identifier(primary.table),
        "time": sql.Identifier("p", primary.time),
        "arrival": sql.Identifier("p", primary.arrival),
        "same": _same(computation.join_keys, "p"),
    }
    horizon: sql.Composable = sql.SQL("TRUE")
    if computation.horizon is not None:
        horizon = sql.SQL("{time} > u.as_of - {span}").format(
            **build, span=span_literal(computation.horizon)
        )
    left = [
        sql.SQL(
            "EXISTS (SELECT FROM {table} AS p WHERE {same} AND {time} > u.skewless_until - {span} "
            "AND {time} <= u.as_of - {span} AND {arrival} <= u.skewless_until)"
        ).format(**build, span=span_literal(span))
        for span in computation.windows
    ]
    active = sql.SQL(
        "EXISTS (SELECT FROM {table} AS p WHERE {same} AND {time} <= u.as_of "
        "AND {arrival} <= u.as_of AND {horizon})"
    ).format(**build, horizon=horizon)
    late = [
        part for source in computation.reads if (part := _stored_later(conn, computation, source))
    ]
    questions = [Question(key, at, logged or at) for key, at, logged in asked]
    query = sql.SQL(
        "SELECT {active}, ({left}), coalesce(({late}), FALSE) FROM {rows} "
        "LEFT JOIN LATERAL (SELECT age(l.xmin) AS age FROM {log} AS l WHERE {same} "
        "AND l.event_timestamp = u.skewless_until ORDER BY l.created_timestamp DESC LIMIT 1) "
        "AS row ON TRUE ORDER BY u.skewless_row"
    ).format(
        active=active,
        left=sql.SQL(" OR ").join(left) if left else sql.SQL("FALSE"),
        late=sql.SQL(" OR ").join(late) if late else sql.SQL("FALSE"),
        rows=_rows(computation, questions),
        log=sql.Identifier(computation.log_table),
        same=_same(computation.join_keys, "l"),
    )
    return [Evidence(*row) for row in conn.execute(query).fetchall()]


def _stored_later(
    conn: psycopg.Connection, computation: Computation, source: HistorySource
) -> sql.Composable | None:
    """Condition: a row that claims to have been there when the log's row was computed was not.

    Transactions are numbered as they begin to write, and each row knows its own. One that began
    before the log's row was written may have ended after it: then its note of earlier arrivals is
    later than the moment that was asked about, since safe moments precede whoever holds the
    ingest lock.
    """
    kind = conn.execute(
        "SELECT relkind IN ('r', 'p') FROM pg_class WHERE oid = to_regclass(%s)",
        [sql.Identifier(source.table).as_string(None)],
    ).fetchone()
    if not kind or not kind[0]:
        return None
    shared = [key for key in source.keys if key in computation.join_keys]
    return sql.SQL(
        "EXISTS (SELECT FROM {table} AS h WHERE {same} AND h.{arrival} <= u.skewless_until "
        "AND h.{time} <= u.skewless_until AND (age(h.xmin) < row.age OR EXISTS ("
        "SELECT FROM history_changes AS n WHERE n.source_table = {name} "
        "AND n.operation = 'insert' AND n.changed_at > u.skewless_until "
        "AND n.claimed_from <= h.{arrival} AND age(n.xmin) >= age(h.xmin))))"
    ).format(
        name=sql.Literal(source.table),
        table=sql.Identifier(source.table),
        same=_same(shared, "h"),
        arrival=sql.Identifier(source.arrival),
        time=sql.Identifier(source.time),
    )


def _rows(computation: Computation, asked: Sequence[Question]) -> sql.Composed:
    """``unnest(…) AS u (row, keys…, as_of, until, known)``: one row per question, in order."""
    types = ("bigint", *computation.key_types, "timestamptz", "timestamptz", "timestamptz")
    columns = zip(
        *((n, *one.key, one.as_of, one.until, one.known or _EVER) for n, one in enumerate(asked)),
        strict=True,
    )
    arrays = [
        sql.SQL("{}::text[]::{}[]" if kind == "timestamptz" else "{}::{}[]").format(
            sql.Literal([str(v) for v in values] if kind == "timestamptz" else list(values)),
            sql.SQL(kind),
        )
        for values, kind in zip(columns, types, strict=True)
    ]
    return sql.SQL(
        "unnest({}) AS u (skewless_row, {}, as_of, skewless_until, skewless_known)"
    ).format(sql.SQL(", ").join(arrays), identifiers(computation.join_keys))


def _same(keys: Sequence[str], alias: str) -> sql.Composable:
    if not keys:
        return sql.SQL("TRUE")
    return sql.SQL(" AND ").join(
        sql.SQL("{} = {}").format(sql.Identifier(alias, key), sql.Identifier("u", key))
        for key in keys
    )


def _aliased(table: str, computation: Computation, letter: str) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{}.{} AS {}").format(
            sql.Identifier(table), sql.Identifier(feature.name), sql.Identifier(f"{letter}{i}")
        )
        for i, feature in enumerate(computation.features)
    )


def _micros(column: pa.ChunkedArray) -> NDArray[np.int64]:
    whole = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(whole.fill_null(int(NEVER)).to_numpy(), np.int64)


def _fetched(conn: dbapi.Connection, query: sql.Composed) -> pa.Table:
    with conn.cursor() as cursor:
        cursor.execute("SET timezone = 'UTC'")
        cursor.execute(query.as_string(None))
        table: pa.Table = cursor.fetch_arrow_table()
    return table
