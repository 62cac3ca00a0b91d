"""ADBC connections that share the driver's cache of a database's types.

The driver reads all of pg_type before a first connection, which takes ten times as long as the
connection itself. So a process keeps that cache, by URL, and each further connection first checks
that the types have not changed: values of a type that is not cached would come as raw bytes.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pyarrow as pa
from adbc_driver_manager import AdbcConnection
from adbc_driver_manager._reader import AdbcRecordBatchReader
from adbc_driver_manager.dbapi import _SharedDatabase
from adbc_driver_postgresql import connect as open_database
from adbc_driver_postgresql import dbapi

# One number for all types that a result can have. Temporary tables, which come and go in other
# sessions, are left out. Composite types count with their columns.
_TYPES = """
SELECT coalesce(bit_xor(hash_record_extended(
    (t.oid, t.xmin, t.typname, t.typreceive, t.typbasetype, a.attnum, a.xmin), 0)), 0)
    AS types
FROM pg_type AS t
LEFT JOIN pg_type AS e ON e.oid = t.typelem AND e.typarray = t.oid
LEFT JOIN pg_class AS c ON c.oid = coalesce(nullif(e.typrelid, 0), t.typrelid)
LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND c.relkind = 'c'
WHERE c.relpersistence IS DISTINCT FROM 't'
"""
# URLs whose types a process keeps; a process speaks with one or two databases.
_KEPT = 4


@dataclass(frozen=True)
class _Known:
    """A cached ADBC database; it holds no connection, so forked processes may share it."""

    database: _SharedDatabase
    types: int

    def connection(self) -> dbapi.Connection:
        made: AdbcConnection = AdbcConnection(self.database._db)  # noqa: SLF001
        return dbapi.Connection(self.database, made)


_known: "OrderedDict[str, _Known]" = OrderedDict()
_lock = threading.Lock()


def arrow_connection(url: str) -> dbapi.Connection:
    """A new connection with a current type cache.

    Raises:
        adbc_driver_manager.Error: the server cannot be reached or refuses.
        psycopg.OperationalError: likewise.
    """
    with _held(url) as known:
        if known is None:
            # Asked before the driver reads them: what is changed in between is then noticed.
            with psycopg.connect(url, autocommit=True) as asking:
                [types] = asking.execute(_TYPES).fetchone() or [0]
        else:
            conn = known.connection()
            types = _types(conn)
            if types == known.types:
                return conn
            conn.close()
    _keep(url, _Known(_SharedDatabase(open_database(url)), types))
    with _held(url) as known:
        assert known is not None  # kept a moment ago, and the newest of all
        return known.connection()


def record_batches(cursor: dbapi.Cursor) -> pa.RecordBatchReader:
    """The result of ``cursor``, read as it is consumed: batches of some megabytes.

    Iterate over it; what fails meanwhile is the driver's own error, with its SQLSTATE. From the
    reader that `Cursor.fetch_record_batch` gives it is an OSError that says nothing of the cause.

    Raises:
        adbc_driver_manager.Error: the statement fails, or the connection breaks.
    """
    # Importing moves the stream out of the handle, which has to live until then.
    handle = cursor.fetch_arrow()
    made: pa.RecordBatchReader = AdbcRecordBatchReader._import_from_c(handle.address)  # noqa: SLF001
    return made


@contextmanager
def _held(url: str) -> Iterator[_Known | None]:
    """The cached database, protected from being closed by another thread."""
    with _lock:
        known = _known.get(url)
        if known is not None:
            known.database.clone()
    try:
        yield known
    finally:
        if known is not None:
            known.database.close()


def _types(conn: dbapi.Connection) -> int:
    with conn.cursor() as cursor:
        cursor.execute(_TYPES)
        types: int = cursor.fetch_arrow_table()["types"][0].as_py()
    conn.rollback()  # the caller's transaction begins with the caller
    return types


def _keep(url: str, known: _Known) -> None:
    """Replace the cached database; a database is closed with the last connection to it."""
    with _lock:
        gone = [_known.pop(url)] if url in _known else []
        _known[url] = known
        while len(_known) > _KEPT:
            gone.append(_known.popitem(last=False)[1])
    for one in gone:
        one.database.close()
