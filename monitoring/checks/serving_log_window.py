"""One window of the served log, as relations that Great Expectations can read."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from extensions.asof.log_cuts import require_hot
from extensions.database.connection import identifiers, table_exists
from extensions.errors import InputError
from extensions.stores.offline.writes import serving_log_table
from extensions.stores.offline.writes.serving_log_table import column_name
from extensions.version_names import log_table
from monitoring.baseline import EMBEDDING, LARGEST, Baseline, FeatureBaseline
from monitoring.baselines.stratified_baselines import HOUR, REQUEST, WEEKDAY
from monitoring.statistics.repeated_entities import live_counts
from monitoring.statistics.shared_by_requests import LiveRequests, live_requests
from monitoring.suite import IS_DEFAULT, IS_STALE

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Window:
    """``[start, end)`` of the requests of one service."""

    service: str
    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        """The window's length."""
        return self.end - self.start


@dataclass(frozen=True)
class Relation:
    """A view of the window: its name, and the columns that it has."""

    name: str
    columns: frozenset[str]


@dataclass(frozen=True)
class Relations:
    """The window's relations: by feature view, by embedding (its anchors), and its requests."""

    views: Mapping[str, Relation]
    anchors: Mapping[str, Relation]
    requests: Relation


def whole_windows(
    service: str, length: timedelta, after: datetime | None, now: datetime
) -> list[Window]:
    """The windows of ``length`` (laid from the epoch on) that ended by ``now``, after ``after``.

    With ``after`` None only the last one.
    """
    if length <= timedelta(0):
        raise InputError("A window must be longer than nothing, as in --window 1h.")
    last = EPOCH + (now - EPOCH) // length * length
    first = last - length if after is None else EPOCH + -(-(after - EPOCH) // length) * length
    windows = []
    while first + length <= last:
        windows.append(Window(service, first, first + length))
        first += length
    return windows


@contextmanager
def relations(conn: psycopg.Connection, baseline: Baseline, window: Window) -> Iterator[Relations]:
    """Create the window's temporary relations and drop them. ``conn`` must be in autocommit.

    They are ordinary views, since Great Expectations reads on connections of its own; the
    service's lock is held, so that what an interrupted check left can be dropped first.
    """
    prefix = "drift_" + hashlib.sha256(window.service.encode()).hexdigest()[:12]
    _drop(conn, prefix)
    try:
        present = serving_log_table.present_columns(conn)
        where = _where(window)
        views = {}
        for place, view in enumerate(
            dict.fromkeys(feature.feature.view for feature in baseline.features)
        ):
            own = [feature for feature in baseline.features if feature.feature.view == view]
            views[view] = _view(conn, f"{prefix}_{place}", own, present, where)
        anchors = {}
        for place, one in enumerate(baseline.features):
            if one.feature.kind == EMBEDDING and one.content["anchors"]:
                result = _anchors(conn, f"{prefix}_a{place}", one, present, window)
                if result is not None:
                    anchors[one.feature.label] = result
        requests = _create(
            conn,
            f"{prefix}_r",
            sql.SQL("SELECT request_id FROM {} WHERE {} AND row_number = 0").format(
                sql.Identifier(serving_log_table.TABLE), where
            ),
            {"request_id"},
        )
        yield Relations(views, anchors, requests)
    finally:
        if not conn.closed:
            _drop(conn, prefix)


def count_requests(conn: psycopg.Connection, window: Window) -> int:
    """Requests of the window that are in the log."""
    query = sql.SQL("SELECT count(*) FROM {} WHERE {} AND row_number = 0").format(
        sql.Identifier(serving_log_table.TABLE), _where(window)
    )
    row = conn.execute(query).fetchone()
    return int(row[0]) if row else 0


def rows_by(conn: psycopg.Connection, window: Window, view: str, by: str) -> dict[str, int]:
    """The rows of a view in the window, by hour, weekday or field of the request, as text."""
    present = serving_log_table.present_columns(conn)
    moment = sql.SQL("served_at AT TIME ZONE 'UTC'")
    hour = sql.SQL("extract(hour FROM {})::integer::text").format(moment)
    day = sql.SQL("extract(isodow FROM {})::integer::text").format(moment)
    version = column_name(view, "version")
    code: sql.Composable
    if by.startswith(REQUEST + ":"):
        column = column_name(REQUEST, by.removeprefix(REQUEST + ":"))
        code = sql.SQL("{}::text").format(sql.Identifier(column))
        if column not in present:
            return {}
    elif by in (HOUR, WEEKDAY):
        code = hour if by == HOUR else day
    else:
        code = sql.SQL("{} || ' ' || {}").format(day, hour)
    where = _where(window)
    if version in present:
        where = sql.SQL("{} AND {} IS NOT NULL").format(where, sql.Identifier(version))
    rows = conn.execute(
        sql.SQL("SELECT coalesce({}, '') AS code, count(*) FROM {} WHERE {} GROUP BY 1").format(
            code, sql.Identifier(serving_log_table.TABLE), where
        )
    ).fetchall()
    return dict(rows)


def entities_in(
    conn: psycopg.Connection, window: Window, view: str, keys: Sequence[str]
) -> list[int] | None:
    """A view's rows in the window by bucket of their entities; None where the log has no keys."""
    present = serving_log_table.present_columns(conn)
    if not set(keys) <= set(present):
        return None
    where, version = _where(window), column_name(view, "version")
    if version in present:
        where = sql.SQL("{} AND {} IS NOT NULL").format(where, sql.Identifier(version))
    return live_counts(conn, keys, serving_log_table.TABLE, where)


def requests_in(
    conn: psycopg.Connection, window: Window, fields: Sequence[str], keys: Sequence[str]
) -> LiveRequests:
    """The window's requests: how they share its rows, and which keys they have one of.

    Args:
        conn: A connection to the database.
        window: The window.
        fields: What requests bring.
        keys: The join keys that a request may have one or several of.
    """
    present = serving_log_table.present_columns(conn)
    brought = [column_name(REQUEST, field) for field in fields]
    return live_requests(
        conn,
        serving_log_table.TABLE,
        _where(window),
        [column for column in brought if column in present],
        {key: key for key in keys if key in present},
    )


def _where(window: Window) -> sql.Composed:
    return sql.SQL("service = {} AND served_at >= {} AND served_at < {}").format(
        sql.Literal(window.service), sql.Literal(window.start), sql.Literal(window.end)
    )


def _view(
    conn: psycopg.Connection,
    name: str,
    features: list[FeatureBaseline],
    present: Mapping[str, str],
    where: sql.Composed,
) -> Relation:
    """Rows that carry this view: where its value is one for all rows, the answer's first."""
    view = features[0].feature.view
    parts: list[sql.Composable] = []
    columns = set()
    for one in features:
        feature = one.feature
        column = serving_log_table.resolve(present, column_name(view, feature.name), feature.type)
        if column is None:
            continue
        parts.append(
            sql.SQL("{} AS {}").format(
                _comparable(sql.Identifier(column), serving_log_table.column_type(feature.type)),
                sql.Identifier(feature.name),
            )
        )
        columns.add(feature.name)
    version = column_name(view, "version")
    if version in present:
        where = sql.SQL("{} AND {} IS NOT NULL").format(where, sql.Identifier(version))
        parts.append(
            sql.SQL("({} IS NULL)::integer::double precision AS {}").format(
                sql.Identifier(column_name(view, "as_of")), sql.Identifier(IS_DEFAULT)
            )
        )
        parts.append(
            sql.SQL("{}::integer::double precision AS {}").format(
                sql.Identifier(column_name(view, "stale")), sql.Identifier(IS_STALE)
            )
        )
        columns |= {IS_DEFAULT, IS_STALE}
    parts.append(sql.SQL("request_id"))
    query = sql.SQL("SELECT {} FROM {} WHERE {}").format(
        sql.SQL(", ").join(parts), sql.Identifier(serving_log_table.TABLE), where
    )
    return _create(conn, name, query, columns)


def _comparable(column: sql.Composable, kind: str) -> sql.Composable:
    """NaN, infinities and numbers without a square count as missing: no mean survives them.

    PostgreSQL has the first two as values, and NaN as the greatest of all.
    """
    if kind in ("real", "double precision"):
        return sql.SQL("CASE WHEN abs({}) < {} THEN {} END::double precision").format(
            column, sql.Literal(LARGEST), column
        )
    if kind in ("real[]", "double precision[]"):
        return sql.SQL(
            "CASE WHEN NOT {} && {}::{} AND array_position({}, NULL) IS NULL THEN {} END"
        ).format(
            column, sql.Literal(["NaN", "Infinity", "-Infinity"]), sql.SQL(kind), column, column
        )
    if kind in ("integer[]", "bigint[]"):
        return sql.SQL("CASE WHEN array_position({}, NULL) IS NULL THEN {} END").format(
            column, column
        )
    if kind in ("integer", "bigint"):  # its mean would be an exact decimal
        return sql.SQL("{}::double precision").format(column)
    return sql.SQL("{}::text").format(column) if kind == "boolean" else column


def _anchors(
    conn: psycopg.Connection,
    name: str,
    one: FeatureBaseline,
    present: Mapping[str, str],
    window: Window,
) -> Relation | None:
    """The anchors' vectors at the window's end, of the version that was served in it."""
    feature = one.feature
    version = column_name(feature.view, "version")
    if version not in present:
        return None
    row = conn.execute(
        sql.SQL("SELECT max({}) FROM {} WHERE {}").format(
            sql.Identifier(version), sql.Identifier(serving_log_table.TABLE), _where(window)
        )
    ).fetchone()
    log = log_table(feature.view, row[0]) if row and row[0] is not None else ""
    if not log or not table_exists(conn, log):
        return None
    require_hot(conn, log, window.end, "The drift of a vector against its anchors")
    keys = feature.keys
    kinds: dict[str, str] = dict(
        conn.execute(
            "SELECT a.attname, t.typname FROM pg_attribute AS a INNER JOIN pg_type AS t "
            "ON t.oid = a.atttypid WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0",
            [sql.Identifier(log).as_string(None)],
        ).fetchall()
    )
    values = sql.SQL(", ").join(
        sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(v) for v in (place, *anchor["keys"])))
        for place, anchor in enumerate(one.content["anchors"])
    )
    same = sql.SQL(" AND ").join(
        sql.SQL("l.{k} = a.{k}::{kind}").format(
            k=sql.Identifier(key), kind=sql.Identifier(kinds[key])
        )
        for key in keys
    )
    query = sql.SQL(
        "SELECT a.place, v.{feature} FROM (VALUES {values}) AS a (place, {keys}) "
        "INNER JOIN LATERAL (SELECT l.{feature} FROM {log} AS l WHERE {same} "
        "AND l.event_timestamp <= {end} AND l.created_timestamp <= {end} "
        "ORDER BY l.event_timestamp DESC, l.created_timestamp DESC LIMIT 1) AS v ON TRUE"
    ).format(
        feature=sql.Identifier(feature.name),
        values=values,
        keys=identifiers(keys),
        log=sql.Identifier(log),
        same=same,
        end=sql.Literal(window.end),
    )
    return _create(conn, name, query, {feature.name})


def _create(
    conn: psycopg.Connection, name: str, query: sql.Composable, columns: set[str]
) -> Relation:
    conn.execute(sql.SQL("CREATE VIEW {} AS {}").format(sql.Identifier(name), query))
    return Relation(name, frozenset(columns))


def _drop(conn: psycopg.Connection, prefix: str) -> None:
    names = conn.execute(
        "SELECT c.relname FROM pg_class AS c WHERE c.relkind = 'v' "
        "AND starts_with(c.relname, %s) AND pg_table_is_visible(c.oid)",
        [prefix + "_"],
    ).fetchall()
    for (name,) in names:
        conn.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(name)))
