"""DuckDB as an engine: runs a computation's text over history that is given as relations.

A session sees the relations that it is given and nothing else, unless files are allowed: no file
system, no network, no extensions, no variables of this program.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.spine import Spine
from extensions.engines.dialect import one_zero, prepare
from extensions.engines.sandbox import Setting, open_sandbox
from extensions.errors import DefinitionError, UnavailableError

# An Arrow table or dataset, or SQL that selects the rows, such as from Parquet files.
Relation: TypeAlias = pa.Table | Any | str
ENGINE_VERSION = duckdb.__version__


@dataclass(frozen=True)
class Limits:
    """What a session may use.

    Attributes:
        threads: Processor threads; None: all.
        memory: As DuckDB reads it, such as ``1500MB``; None: its default, 80 % of the machine's.
        spill: A folder for what does not fit into memory; None: such a query fails.
        files: Whether relations may read files.
    """

    threads: int | None = None
    memory: str | None = None
    spill: Path | None = None
    files: bool = False


@contextmanager
def session(limits: Limits | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A session with the prelude, in memory; closed at the end."""
    limits = limits or Limits()
    config: dict[str, Setting] = {"temp_directory": str(limits.spill) if limits.spill else ""}
    if limits.threads:
        config["threads"] = limits.threads
    if limits.memory:
        config["memory_limit"] = limits.memory
    with open_sandbox(_prepare, config, files=limits.files) as conn:
        yield conn


def _prepare(conn: duckdb.DuckDBPyConnection) -> None:
    prepare(conn)
    conn.execute("SET arrow_lossless_conversion = true")  # a UUID is one, no text


def use_history(conn: duckdb.DuckDBPyConnection, history: Mapping[str, Relation]) -> None:
    """Give the session its history tables, by the names that a text calls them."""
    for table, relation in history.items():
        if isinstance(relation, str):
            conn.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(table)} AS {relation}")
        else:
            conn.register(table, relation)


def answers(
    conn: duckdb.DuckDBPyConnection, computation: Computation, spine: Relation
) -> pa.RecordBatchReader:
    """Compute the values of a spine over the session's history (`use_history`).

    Args:
        conn: A session.
        computation: Its text is run as it is.
        spine: Columns: the join keys and ``as_of``, of the computation's types.

    Returns:
        ``computation.columns`` in the log's types and with one zero, rows in no fixed order; a
        row for each of the spine, if the computation keeps its contract. Read it before the
        session is used again.

    Raises:
        DefinitionError: DuckDB cannot run the text, or it failed on its data.
        UnavailableError: the session's memory did not suffice, or it was interrupted.
    """
    use_history(conn, {"spine": spine})
    types = {
        "as_of": "timestamptz",
        **dict(zip(computation.join_keys, computation.key_types, strict=True)),
    }
    types |= {feature.name: feature.pg_type for feature in computation.features}
    columns = ", ".join(
        f"{one_zero(f'CAST({quoted(name)} AS {types[name]})', types[name])} AS {quoted(name)}"
        for name in computation.columns
    )
    with duckdb_failures(f"The SQL of {computation.name}"):
        query = f"SELECT {columns} FROM (\n{computation.sql}\n) AS computation"
        made: pa.RecordBatchReader = conn.sql(query).to_arrow_reader()
        return pa.RecordBatchReader.from_batches(made.schema, _guarded(made, computation.name))


def spine_rows(conn: duckdb.DuckDBPyConnection, spine: Spine) -> pa.Table:
    """The rows of a spine that one of the builders made, over the session's history.

    Raises:
        DefinitionError: DuckDB cannot run it.
    """
    with duckdb_failures("The spine"):
        table: pa.Table = conn.sql(spine.query.as_string(None)).to_arrow_table()
        return table


@contextmanager
def interrupted_after(conn: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt what the session runs in the block when its time is up."""
    timer = threading.Timer(max(seconds, 0.0), conn.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def duckdb_failures(what: str) -> Iterator[None]:
    """Around DuckDB's work: its errors become ours.

    Raises:
        DefinitionError: the SQL cannot be run, or failed on its data.
        UnavailableError: memory or time did not suffice.
    """
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.InterruptException) as error:
        raise UnavailableError(f"{what} was ended in DuckDB: {_first_line(error)}.") from error
    except duckdb.Error as error:
        raise DefinitionError(f"{what} cannot be run by DuckDB: {_first_line(error)}.") from error


def _guarded(made: pa.RecordBatchReader, name: str) -> Iterator[pa.RecordBatch]:
    while True:
        with duckdb_failures(f"The SQL of {name}"):
            try:
                batch = made.read_next_batch()
            except StopIteration:
                return
            except (OSError, pa.ArrowException) as error:
                raise _of_arrow(error) from error
        yield batch


def _of_arrow(error: Exception) -> duckdb.Error:
    """The error that DuckDB raised while Arrow read its result, which makes an OSError of it."""
    text = str(error)
    kinds = {"Out of Memory": duckdb.OutOfMemoryException, "INTERRUPT": duckdb.InterruptException}
    return next((kind for word, kind in kinds.items() if word in text), duckdb.Error)(text)


def quoted(identifier: str) -> str:
    """An identifier in double quotes."""
    return sql.Identifier(identifier).as_string(None)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
