"""The engine: runs a computation in PostgreSQL, to Arrow or appended to its feature log."""

from collections.abc import Iterable, Mapping

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.spine import Spine, collated
from extensions.database.binary_copy import copy_batch
from extensions.database.connection import identifiers
from extensions.database.identifier_limits import BACKFILLED
from extensions.database.one_zero import one_zero
from extensions.database.scalars import one_row
from extensions.errors import DefinitionError
from extensions.user_code_errors import user_sql

_ANSWERED_NAME = "skewless_answered"
_ANSWERED = sql.Identifier(_ANSWERED_NAME)


def answers(
    computation: Computation,
    spine: Spine,
    instead: Mapping[str, sql.Composable] | None = None,
) -> sql.Composed:
    """Common table expressions ``spine`` and ``answered`` (``computation.columns``).

    ``instead``: by table, a query that the computation reads in its place.

    The spine's texts have the default collation: in a comparison a table's own prevails over it,
    so that the table's indexes serve. Values have one zero: the sign of a zero depends on how an
    engine adds, and would be a difference that nobody can see.
    """
    query = spine.query
    if "text" in computation.key_types:
        keys = collated(computation.join_keys, computation.key_types, "default")
        query = sql.SQL("SELECT {}, as_of FROM ({}) AS s").format(keys, query)
    tables = [
        sql.SQL("{} AS MATERIALIZED ({}), ").format(sql.Identifier(table), rows)
        for table, rows in (instead or {}).items()
    ]
    return sql.SQL(
        "WITH {tables}spine AS MATERIALIZED ({spine}), answered AS MATERIALIZED ("
        "SELECT {keys}, as_of, {features} FROM (\n{computation}\n) AS computation)"
    ).format(
        tables=sql.SQL("").join(tables),
        spine=query,
        keys=identifiers(computation.join_keys),
        features=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(
                one_zero(sql.Identifier(each.name), each.pg_type), sql.Identifier(each.name)
            )
            for each in computation.features
        ),
        computation=sql.SQL(computation.sql),
    )


def compute(conn: dbapi.Connection, computation: Computation, spine: Spine) -> pa.Table:
    """Compute the values of a spine; returns ``computation.columns``, rows in no fixed order.

    ``conn`` is an ADBC connection (`extensions.database.connect_arrow`): values travel as
    PostgreSQL's binary COPY and never become Python objects.

    Raises:
        DefinitionError: the computation's SQL failed.
    """
    with user_sql(computation.view, computation.version), conn.cursor() as cursor:
        query = sql.SQL("{} SELECT * FROM answered").format(answers(computation, spine))
        cursor.execute(query.as_string(None))
        table: pa.Table = cursor.fetch_arrow_table()
    return table


def append(
    conn: psycopg.Connection,
    computation: Computation,
    spine: Spine,
    *,
    as_it_happened: bool = False,
) -> int:
    """Compute the values of a spine and append them to the view's log; returns rows appended.

    ``created_timestamp`` is the database's clock, or with ``as_it_happened`` (a backfill) the
    row's ``as_of``: a computation sees only what had arrived by then, so the row could have been
    published then. A row that the log already holds is not changed.

    Raises:
        DefinitionError: the computation's SQL failed, or did not return exactly one row per
            spine row; the caller must roll the transaction back.
    """
    return _appended(conn, computation, answers(computation, spine), as_it_happened=as_it_happened)


def append_answers(
    conn: psycopg.Connection,
    computation: Computation,
    asked: int,
    batches: Iterable[pa.RecordBatch],
    *,
    as_it_happened: bool = False,
) -> int:
    """Append to the view's log, as `append`, what another engine has answered.

    Args:
        conn: Within a transaction.
        computation: Whose answers they are.
        asked: Rows of the spine.
        batches: ``computation.columns`` in the log's types, with one zero.
        as_it_happened: As for `append`.

    Raises:
        DefinitionError: there is not exactly one row per spine row.
    """
    log = sql.Identifier(computation.log_table)
    names = [*computation.join_keys, "event_timestamp", *(f.name for f in computation.features)]
    # Cleared, since a savepoint that failed may have left it.
    conn.execute(sql.SQL("DROP TABLE IF EXISTS pg_temp.{}").format(_ANSWERED))
    conn.execute(
        sql.SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM {} LIMIT 0").format(
            _ANSWERED, identifiers(names), log
        )
    )
    for batch in batches:
        named = batch.rename_columns(
            ["event_timestamp" if name == "as_of" else name for name in batch.schema.names]
        )
        copy_batch(conn, _ANSWERED_NAME, named, names)
    given = sql.SQL(
        "WITH answered AS (SELECT {keys}, event_timestamp AS as_of, {features} FROM {table}), "
        "spine AS (SELECT FROM generate_series(1, {asked}))"
    ).format(
        keys=identifiers(computation.join_keys),
        features=identifiers([feature.name for feature in computation.features]),
        table=_ANSWERED,
        asked=sql.Literal(asked),
    )
    appended = _appended(conn, computation, given, as_it_happened=as_it_happened)
    conn.execute(sql.SQL("DROP TABLE {}").format(_ANSWERED))
    return appended


def _appended(
    conn: psycopg.Connection,
    computation: Computation,
    answers: sql.Composable,
    *,
    as_it_happened: bool,
) -> int:
    """Append the relation ``answered``; ``answers`` defines it, and ``spine``."""
    created = sql.SQL("as_of" if as_it_happened else "clock_timestamp()")
    backfilled = sql.SQL("TRUE" if as_it_happened else "FALSE")
    features = [feature.name for feature in computation.features]
    statement = sql.SQL(
        "{answers}, appended AS ("
        "INSERT INTO {log} ({keys}, event_timestamp, created_timestamp, {features}, {mark}) "
        "SELECT {keys}, as_of, {created}, {features}, {backfilled} FROM answered "
        "ON CONFLICT DO NOTHING RETURNING 1) "
        "SELECT (SELECT count(*) FROM spine), (SELECT count(*) FROM answered), "
        "(SELECT count(*) FROM appended)"
    ).format(
        answers=answers,
        log=sql.Identifier(computation.log_table),
        keys=identifiers(computation.join_keys),
        features=identifiers(features),
        created=created,
        mark=sql.Identifier(BACKFILLED),
        backfilled=backfilled,
    )
    with user_sql(computation.view, computation.version):
        asked, answered, appended = one_row(conn, statement)
    if asked != answered:
        raise DefinitionError(
            f"Computation {computation.name} returned {answered} rows for {asked} questions: "
            "it must return exactly one row for each row of the spine."
        )
    return int(appended)
