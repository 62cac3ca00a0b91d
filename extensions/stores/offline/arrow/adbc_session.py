"""A PostgreSQL transaction over ADBC (Arrow), with temporary tables and streamed results."""

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from adbc_driver_postgresql import dbapi
from feast import RepoConfig
from psycopg import sql

from extensions.database import connect_arrow
from extensions.database.adbc_connections import record_batches
from extensions.errors import SkewlessError, UnavailableError
from extensions.failure_classification import Outage, outage
from extensions.stores.offline.arrow.adbc_extension_types import to_plain_types
from extensions.stores.offline.feast_source_connections import url_of

Opener = Callable[[str], AbstractContextManager["ArrowSession"]]


class ArrowSession:
    """An open transaction in UTC; `rows` and `chunks` stream, `upload` makes a temporary table."""

    def __init__(self, cursor: dbapi.Cursor, beside: Opener) -> None:
        self._cursor = cursor
        self._beside = beside

    @contextmanager
    def spread(self, lanes: int) -> Iterator[list["ArrowSession"]]:
        """Open ``lanes`` more sessions, on connections of their own, that share this snapshot."""
        state = str(self.table("SELECT pg_export_snapshot() AS state")["state"][0].as_py())
        with ExitStack() as stack:
            yield [stack.enter_context(self._beside(state)) for _ in range(lanes)]

    def cancel(self) -> None:
        """Cancel the running statement, from another thread."""
        with suppress(AdbcError):
            self._cursor.adbc_cancel()

    def run(self, statement: sql.Composable | str) -> None:
        """Execute a statement and discard its result."""
        self._cursor.execute(_text(statement))

    def table(self, statement: sql.Composable | str) -> pa.Table:
        """Execute a query and return its whole result."""
        self._cursor.execute(_text(statement))
        return self._cursor.fetch_arrow_table()

    def has(self, *tables: str) -> bool:
        """Whether all ``tables`` are visible on the session's search path."""
        there = sql.SQL(" AND ").join(
            sql.SQL("to_regclass({}) IS NOT NULL").format(
                sql.Literal(sql.Identifier(table).as_string(None))
            )
            for table in tables
        )
        return bool(self.table(sql.SQL("SELECT WHERE {}").format(there)).num_rows)

    def rows(self, statement: sql.Composable | str) -> pa.RecordBatchReader:
        """Execute a query and stream its result in batches of some megabytes."""
        self._cursor.execute(_text(statement))
        return record_batches(self._cursor)

    def chunks(
        self, statement: sql.Composable | str, exact: Collection[str] = ()
    ) -> Iterator[pa.Table]:
        """The result as it is read, at least one piece (perhaps empty), in plain Arrow types.

        Numerics are doubles, as in Feast's store; in the columns ``exact`` they are text.
        """
        reader = self.rows(statement)
        empty = True
        for batch in reader:
            if batch.num_rows:
                empty = False
                yield to_plain_types(pa.Table.from_batches([batch]), exact)
        if empty:
            # Arrow makes no empty arrays of lists of the driver's own types.
            yield to_plain_types(pa.Table.from_batches([], reader.schema), exact)

    def plan(self, statement: sql.Composable | str) -> dict[str, Any]:
        """The planner's plan for the statement, which is not run."""
        copying = "adbc.postgresql.use_copy"
        self._cursor.adbc_statement.set_options(**{copying: "false"})
        try:
            told = self.table(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(_composed(statement)))
        finally:
            self._cursor.adbc_statement.set_options(**{copying: "true"})
        plan: dict[str, Any] = json.loads(told.column(0)[0].as_py())[0]["Plan"]
        return plan

    def upload(self, name: str, table: pa.Table) -> None:
        """Create the temporary table ``name`` from ``table`` and analyze it."""
        self._cursor.adbc_ingest(name, table, mode="create", temporary=True)
        self.run(sql.SQL("ANALYZE pg_temp.{}").format(sql.Identifier(name)))

    def drop(self, name: str) -> None:
        """Drop an uploaded table."""
        self.run(sql.SQL("DROP TABLE pg_temp.{}").format(sql.Identifier(name)))

    def ingest(
        self, name: str, data: pa.Table | pa.RecordBatchReader, schema: str | None = None
    ) -> None:
        """Create the permanent table ``name`` from ``data``."""
        self._cursor.adbc_ingest(name, data, mode="create", db_schema_name=schema)


@contextmanager
def arrow_session(
    config: RepoConfig, context: str, *, timeout: float | None = None
) -> Iterator[ArrowSession]:
    """Open a session on the offline store's PostgreSQL; committed if the block succeeds.

    Args:
        config: The repository's configuration.
        context: What is done, for messages: completes "PostgreSQL … while …".
        timeout: Seconds that each statement may take; None: any time.

    Raises:
        SkewlessError: the server cannot be reached, the connection broke, or a statement
            failed; nothing was changed then.
    """
    with _transaction(connect_arrow(url_of(config)), config, context, timeout) as session:
        yield session


@contextmanager
def _transaction(
    conn: dbapi.Connection,
    config: RepoConfig,
    context: str,
    timeout: float | None,
    state: str | None = None,
) -> Iterator[ArrowSession]:
    """``state`` is another transaction's exported snapshot to look at."""
    try:
        with conn.cursor() as cursor:
            # A clone knows the database's types already: a tenth of a connection's time.
            session = ArrowSession(
                cursor,
                lambda state: _transaction(conn.adbc_clone(), config, context, timeout, state),
            )
            if state is not None:
                session.run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                session.run(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(state)))
            session.run("SET LOCAL timezone = 'UTC'")
            session.run("SET LOCAL jit = off")
            # One large sort of labels or of a log's rows: in memory where it fits.
            session.run("SET LOCAL work_mem = '128MB'")
            if timeout is not None:
                session.run(f"SET LOCAL statement_timeout = {int(timeout * 1000)}")
            schema = config.offline_store.db_schema
            if schema != "public":
                session.run(
                    sql.SQL("SET LOCAL search_path = {}, public").format(sql.Identifier(schema))
                )
            yield session
        conn.commit()
    except (AdbcError, OSError, pa.ArrowException) as error:
        raise failure(error, context) from error
    finally:
        # A connection that broke cannot be closed politely, and need not be.
        with suppress(AdbcError, RuntimeError):
            conn.close()


def failure(error: BaseException, context: str) -> SkewlessError:
    """Map a database error to one sentence: connection lost, timeout, or the server's message."""
    message, found = str(error), outage(error)
    if found in (Outage.LOST, Outage.NOT_READY) and "ERROR:" not in message:
        return UnavailableError(
            f"PostgreSQL's connection broke while {context}: nothing was changed; look at the "
            "server, then run it again."
        )
    if found is Outage.TIMEOUT:
        return UnavailableError(
            f"PostgreSQL took longer than the timeout while {context}: allow more time, or ask "
            "for fewer rows."
        )
    reason = message.partition("ERROR:")[2] or message
    return SkewlessError(f"PostgreSQL refused while {context}: {reason.strip().splitlines()[0]}.")


def _composed(statement: sql.Composable | str) -> sql.Composable:
    return sql.SQL(statement) if isinstance(statement, str) else statement


def _text(statement: sql.Composable | str) -> Any:
    return statement if isinstance(statement, str) else statement.as_string(None)
