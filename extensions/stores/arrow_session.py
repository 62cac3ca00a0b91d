"""One transaction on one Arrow connection: temporary tables live and die with it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from adbc_driver_postgresql import dbapi
from feast import RepoConfig
from psycopg import sql

from extensions.database import connect_arrow
from extensions.errors import SkewlessError
from extensions.stores.address import url_of


class ArrowSession:
    """A transaction that speaks UTC; `rows` streams, `upload` makes a temporary table."""

    def __init__(self, cursor: dbapi.Cursor) -> None:
        self._cursor = cursor

    def run(self, statement: sql.Composable | str) -> None:
        """Execute a statement whose rows nobody wants."""
        self._cursor.execute(_text(statement))

    def table(self, statement: sql.Composable | str) -> pa.Table:
        """The whole result."""
        self._cursor.execute(_text(statement))
        return self._cursor.fetch_arrow_table()

    def rows(self, statement: sql.Composable | str) -> pa.RecordBatchReader:
        """The result, read as it is consumed: batches of some megabytes."""
        self._cursor.execute(_text(statement))
        return self._cursor.fetch_record_batch()

    def upload(self, name: str, table: pa.Table) -> None:
        """Make the temporary table ``name`` from ``table`` and tell the planner about it."""
        self._cursor.adbc_ingest(name, table, mode="create", temporary=True)
        self.run(sql.SQL("ANALYZE pg_temp.{}").format(sql.Identifier(name)))

    def ingest(self, name: str, data: pa.Table | pa.RecordBatchReader) -> None:
        """Make the lasting table ``name`` from ``data``."""
        self._cursor.adbc_ingest(name, data, mode="create")


@contextmanager
def arrow_session(
    config: RepoConfig, doing: str, *, timeout: float | None = None
) -> Iterator[ArrowSession]:
    """Open a session on the offline store's PostgreSQL; committed if the block succeeds.

    ``doing`` completes the sentence "PostgreSQL … while …"; ``timeout`` (seconds) bounds each
    statement.

    Raises:
        SkewlessError: the server cannot be reached, the connection broke, or a statement
            failed; nothing was changed then.
    """
    conn = connect_arrow(url_of(config))
    try:
        with conn.cursor() as cursor:
            session = ArrowSession(cursor)
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
        raise failure(error, doing) from error
    finally:
        # A connection that broke cannot be closed politely, and need not be.
        with suppress(AdbcError, RuntimeError):
            conn.close()


def failure(error: BaseException, doing: str) -> SkewlessError:
    """The one sentence for a database error: broken connection, time out, or what it says."""
    message = str(error)
    if any(sign in message for sign in _BROKEN):
        return SkewlessError(
            f"PostgreSQL's connection broke while {doing}: nothing was changed; look at the "
            "server, then run it again."
        )
    if "statement timeout" in message:
        return SkewlessError(
            f"PostgreSQL took longer than the timeout while {doing}: allow more time, or ask "
            "for fewer rows."
        )
    reason = message.partition("ERROR:")[2] or message
    return SkewlessError(f"PostgreSQL refused while {doing}: {reason.strip().splitlines()[0]}.")


_BROKEN = (
    "server closed the connection",
    "terminating connection",
    "connection not open",
    "no connection to the server",
    "could not receive data",
    "could not send data",
    "connection to server",
    "connection pointer is NULL",
    "SSL SYSCALL",
    "lost synchronization",
    "Connection reset",
)


def _text(statement: sql.Composable | str) -> Any:
    return statement if isinstance(statement, str) else statement.as_string(None)
