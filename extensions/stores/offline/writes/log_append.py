"""Appending pushed rows to a view's log: all of them or none, and twice is as good as once.

A log is told the same row again (a retry), or another row for the same entity and times (a
correction). The first changes nothing. The second is kept beside the first with a created time
that is the least microsecond later which is free, so that both sides order the two alike: newest
(event time, created time) wins in the training join and in Redis. In a log without a created time
nothing could order them, so the correction takes the place of the row.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
from feast import FeatureView, RepoConfig
from psycopg import sql

from extensions.database.advisory_locks import transaction_lock_sql
from extensions.database.connection import identifiers
from extensions.database.one_zero import one_zero
from extensions.errors import InputError, SkewlessError
from extensions.feature_types import (
    JSONS,
    is_text,
)
from extensions.stores.offline.arrow.adbc_session import ArrowSession, arrow_session
from extensions.stores.offline.arrow.query_rows import read_exactly
from extensions.stores.offline.log_cut_checks import session_cuts
from extensions.stores.offline.writes.pushed_rows import (
    ROW,
    Log,
    empty_rows,
    log_columns,
    log_of,
    prepare_rows,
)
from extensions.stores.offline.writes.violated_constraint import constrained_columns
from extensions.stores.values.future_rows import refuse_future_rows
from extensions.value_text import exact_time_text

DONE = "_skewless_done"
# How many different rows one entity may be told for the same times.
MOST_CORRECTIONS = 1_000


def append(config: RepoConfig, feature_view: FeatureView, table: pa.Table) -> int:
    """Append ``table`` (the log's own columns) to the view's log; returns the rows sent.

    A time without a zone is UTC; a missing created time is the database's clock. A row that the
    log holds already is left alone.

    Raises:
        SkewlessError: the log refused a row or could not be reached; it holds none of them then.
    """
    with appended(config, [(feature_view, table)]):
        return int(table.num_rows)


@contextmanager
def appended(
    config: RepoConfig, pushes: Sequence[tuple[FeatureView, pa.Table]]
) -> Iterator[list[pa.Table]]:
    """Append each table to its view's log, all in one transaction, which the block can still stop.

    Yields for each view its rows as the log holds them (types, rounding and created times are the
    log's), under the view's own names: keys, event time, created time, features. Committed when
    the block ends without an error.

    Raises:
        SkewlessError: a log refused a row or could not be reached; none holds any of them then.
    """
    names = ", ".join(dict.fromkeys(log_of(view).table for view, _ in pushes))
    count = sum(table.num_rows for _, table in pushes)
    context = f"appending {count} rows to {names} (none of the rows is there now)"
    prepared = [(view, prepare_rows(view, table)) for view, table in pushes]
    for view, table in prepared:
        log = log_of(view)
        refuse_future_rows(
            config, view.name, table, [name for name in (log.event, log.created) if name]
        )
    if not count:
        yield [empty_rows(view) for view, _ in pushes]
        return
    try:
        with arrow_session(config, context) as session:
            yield [_append(session, view, table) for view, table in prepared]
    except SkewlessError as error:
        logs = [log_of(view).table for view, _ in pushes]
        if columns := constrained_columns(config, error.__cause__, logs):
            raise InputError(f"{error.message} It constrains {columns}.") from error
        raise


def _append(session: ArrowSession, view: FeatureView, table: pa.Table) -> pa.Table:
    log = log_of(view)
    name = f"push_{uuid.uuid4().hex}"
    session.upload(name, table)
    rows, uploaded = sql.Identifier(f"{name}_rows"), sql.Identifier(name)
    columns = [name for name in table.column_names if name != ROW]
    _as_the_logs(session, log, uploaded, rows, table.schema)
    values = [name for name in columns if name not in {*log.keys, log.event, log.created}]
    # One push at a time: two at once could each be the other's correction.
    session.run(transaction_lock_sql(f"skewless push {log.table}"))
    _refuse_cut(session, log, rows)
    if log.created is None or log.created not in columns:
        _replace(session, log, rows, columns, values)
    else:
        _correct(session, log, rows, columns, values)
        _note_late(session, log, rows)
    held = _read_back(session, view, rows, columns)
    for temporary in (rows, uploaded):
        session.run(sql.SQL("DROP TABLE pg_temp.{}").format(temporary))
    return held


def _refuse_cut(session: ArrowSession, log: Log, rows: sql.Composable) -> None:
    """Refuse rows of which it cannot be seen whether the log held them before it was cut.

    Raises:
        InputError: the push has such rows.
    """
    for cut in session_cuts(session, [log.table]).values():
        if log.created is None:
            continue
        [row] = session.table(
            sql.SQL("SELECT count(*) AS n FROM {} WHERE {} < {} AND {} <= {}").format(
                rows,
                sql.Identifier(log.event),
                sql.Literal(cut.before),
                sql.Identifier(log.created),
                sql.Literal(cut.exported_through),
            )
        ).to_pylist()
        if row["n"]:
            raise InputError(
                f"{row['n']} rows of a push to {log.table} are of times before "
                f"{exact_time_text(cut.before)}, from which on PostgreSQL has the log, and say "
                f"that they were published by {exact_time_text(cut.exported_through)}: whether "
                "they are corrections cannot be seen. Leave their created time out, which is now."
            )


def _as_the_logs(
    session: ArrowSession,
    log: Log,
    uploaded: sql.Composable,
    rows: sql.Composable,
    schema: pa.Schema,
) -> None:
    """The uploaded rows in the log's own types, as the log itself would hold them."""
    names = [name for name in schema.names if name != ROW]
    types = {
        column["name"]: column["kind"]
        for column in session.table(
            sql.SQL(
                "SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS kind "
                "FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid "
                "WHERE a.attrelid = to_regclass({}) AND a.attnum > 0 AND NOT a.attisdropped "
                # What text is not assigned to, and is written as.
                "AND t.typcategory <> 'S'"
            ).format(sql.Literal(log.table))
        ).to_pylist()
    }
    session.run(
        sql.SQL(
            "CREATE TEMPORARY TABLE {rows} AS SELECT {columns}, 0::bigint AS {row}, "
            "FALSE AS {done} FROM {log} AS l LIMIT 0"
        ).format(
            rows=rows,
            columns=identifiers(names, "l"),
            row=sql.Identifier(ROW),
            done=sql.Identifier(DONE),
            log=sql.SQL(log.table),
        )
    )
    session.run(
        sql.SQL("INSERT INTO {rows} ({columns}, {row}, {done}) SELECT {values}, {row}, FALSE "
                "FROM {uploaded}").format(
            rows=rows,
            columns=identifiers(names),
            row=sql.Identifier(ROW),
            done=sql.Identifier(DONE),
            values=sql.SQL(", ").join(_value(schema.field(name), types) for name in names),
            uploaded=uploaded,
        )
    )  # fmt: skip
    session.run(sql.SQL("ANALYZE {}").format(rows))


def _value(field: pa.Field, types: dict[str, str]) -> sql.Composable:
    # A column of nothing but nulls has no type that it could be sent as.
    if pa.types.is_null(field.type):
        return sql.SQL("NULL")
    kind = types.get(field.name)
    if kind is None:
        return sql.Identifier(field.name)
    return one_zero(_as(field, kind), kind)


def _as(field: pa.Field, kind: str) -> sql.Composable:
    value = sql.Identifier(field.name)
    if pa.types.is_list(field.type) and is_text(field.type.value_type):
        if kind in JSONS:  # a list of documents in one
            return sql.SQL("CAST(to_jsonb(CAST({} AS jsonb[])) AS {})").format(value, sql.SQL(kind))
        return sql.SQL("CAST({} AS {})").format(value, sql.SQL(kind))
    return sql.SQL("CAST({} AS {})").format(value, sql.SQL(kind)) if is_text(field.type) else value


def _correct(
    session: ArrowSession,
    log: Log,
    rows: sql.Composable,
    columns: list[str],
    values: list[str],
) -> None:
    """Insert what is new; step over equal times until each row is there."""
    assert log.created is not None
    names = {
        "rows": rows,
        "log": sql.SQL(log.table),
        "same": log.same,
        "instant": log.instant,
        "alike": _alike(values),
        "created": sql.Identifier(log.created),
        "done": sql.Identifier(DONE),
        "row": sql.Identifier(ROW),
        "columns": identifiers(columns),
        "times": identifiers([*log.keys, log.event, log.created]),
    }
    # A retry of rows without a created time: they are what the log's newest say already.
    session.run(
        sql.SQL(
            "UPDATE {rows} AS r SET {done} = TRUE, {created} = newest.{created} FROM {rows} AS p "
            "CROSS JOIN LATERAL (SELECT l.* FROM {log} AS l WHERE {newest_of} "
            "ORDER BY l.{created} DESC NULLS LAST LIMIT 1) AS newest "
            "WHERE p.{created} IS NULL AND p.{row} = r.{row} AND {alike_newest}"
        ).format(
            **names,
            newest_of=sql.SQL(" AND ").join(
                sql.SQL("l.{0} = p.{0}").format(sql.Identifier(name))
                for name in (*log.keys, log.event)
            ),
            alike_newest=_alike(values, "newest"),
        )
    )
    session.run(
        sql.SQL("UPDATE {rows} SET {created} = clock_timestamp() WHERE {created} IS NULL").format(
            **names
        )
    )
    for _ in range(MOST_CORRECTIONS):
        session.run(
            sql.SQL(
                "WITH new AS (UPDATE {rows} SET {done} = TRUE WHERE {row} IN ("
                "SELECT DISTINCT ON ({times}) r.{row} FROM {rows} AS r WHERE NOT r.{done} "
                "AND NOT EXISTS (SELECT FROM {log} AS l WHERE {same}) ORDER BY {times}, {row}) "
                "RETURNING {columns}) INSERT INTO {log} ({columns}) SELECT {columns} FROM new"
            ).format(**names)
        )
        if not _left(session, names):
            return
        session.run(
            sql.SQL(
                "UPDATE {rows} AS r SET {done} = TRUE FROM {log} AS l "
                "WHERE NOT r.{done} AND {same} AND {alike}"
            ).format(**names)
        )
        session.run(
            sql.SQL(
                "UPDATE {rows} AS r SET {created} = r.{created} + interval '1 microsecond' "
                "WHERE NOT r.{done} AND EXISTS (SELECT FROM {log} AS l WHERE {same})"
            ).format(**names)
        )
        if not _left(session, names):
            return
    raise InputError(
        f"An entity of {log.table} was told more than {MOST_CORRECTIONS} different rows for the "
        f"same times: give corrections a {log.created} of their own; none of the rows was appended."
    )


def _left(session: ArrowSession, names: dict[str, sql.Composable]) -> bool:
    left = sql.SQL("SELECT FROM {rows} WHERE NOT {done} LIMIT 1").format(**names)
    return bool(
        session.table(sql.SQL("SELECT EXISTS ({}) AS left").format(left))["left"][0].as_py()
    )


def _replace(
    session: ArrowSession,
    log: Log,
    rows: sql.Composable,
    columns: list[str],
    values: list[str],
) -> None:
    """The log holds one row of each entity and event time: the one that was pushed last."""
    names = {
        "rows": rows,
        "log": sql.SQL(log.table),
        "same": log.instant,
        "columns": identifiers(columns),
        "row": sql.Identifier(ROW),
        "earlier": sql.SQL(" AND ").join(
            sql.SQL("r.{0} = l.{0}").format(sql.Identifier(name)) for name in (*log.keys, log.event)
        ),
    }
    session.run(
        sql.SQL("DELETE FROM {rows} AS r USING {rows} AS l WHERE {earlier} AND l.{row} > r.{row}")
        .format(**names)
    )  # fmt: skip
    if values:
        session.run(
            sql.SQL(
                "UPDATE {log} AS l SET {changes} FROM {rows} AS r WHERE {same} AND NOT {alike}"
            ).format(
                **names,
                alike=_alike(values),
                changes=sql.SQL(", ").join(
                    sql.SQL("{0} = r.{0}").format(sql.Identifier(name)) for name in values
                ),
            )
        )
    session.run(
        sql.SQL(
            "INSERT INTO {log} ({columns}) SELECT {columns} FROM {rows} AS r "
            "WHERE NOT EXISTS (SELECT FROM {log} AS l WHERE {same})"
        ).format(**names)
    )


def _alike(values: list[str], held: str = "l") -> sql.Composable:
    """Whether the rows ``held`` and ``r`` have the same values; as texts, since json has no =."""
    return sql.SQL("ROW({})::text = ROW({})::text").format(
        identifiers(values, held), identifiers(values, "r")
    )


def _read_back(
    session: ArrowSession, view: FeatureView, rows: sql.Composable, columns: list[str]
) -> pa.Table:
    wanted = log_columns(view)
    statement = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
        sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(sql.Identifier(column), sql.Identifier(name))
            for name, column in wanted.items()
            if column in columns
        ),
        rows,
        sql.Identifier(ROW),
    )
    declared = {field.name: field.dtype for field in (*view.entity_columns, *view.features)}
    keys = [key.name for key in view.entity_columns if key.name in wanted]
    return pa.concat_tables(read_exactly(session, statement, declared, keys))


def _note_late(session: ArrowSession, log: Log, rows: sql.Composable) -> None:
    """Rows published before this transaction began: the next materialization must look back."""
    if not session.has("late_appends"):
        return
    assert log.created is not None
    session.run(
        sql.SQL(
            "INSERT INTO late_appends (log_table, oldest_created) "
            "SELECT {log}, min({created}) FROM {rows} HAVING min({created}) < now()"
        ).format(log=sql.Literal(log.table), created=sql.Identifier(log.created), rows=rows)
    )
