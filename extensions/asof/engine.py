"""The engine: runs a computation in PostgreSQL, to Arrow or appended to its feature log."""

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.spine import Spine
from extensions.database.connection import identifiers
from extensions.database.identifier_limits import BACKFILLED
from extensions.database.scalars import one_row
from extensions.errors import DefinitionError
from extensions.user_code_errors import user_sql


def answers(computation: Computation, spine: Spine) -> sql.Composed:
    """Common table expressions ``spine`` and ``answered`` (``computation.columns``)."""
    return sql.SQL(
        "WITH spine AS MATERIALIZED ({spine}), answered AS MATERIALIZED ("
        "SELECT {columns} FROM (\n{computation}\n) AS computation)"
    ).format(
        spine=spine.query,
        columns=identifiers(computation.columns),
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
        answers=answers(computation, spine),
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
