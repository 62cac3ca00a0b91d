"""Whether a computation's text is portable: the same values in PostgreSQL and in DuckDB.

Both engines are asked the same questions of the real history, and their answers are compared bit
by bit, with one zero. What is found is a `Verdict`; one that is not ``portable`` has a reason, and
where two answers differ an example. Asking takes some seconds at most and changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import UTC
from time import monotonic
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof.aggregations.declaration import declared_filters
from extensions.asof.computation import Computation
from extensions.asof.definition_fingerprint import Definition
from extensions.bitwise_equality import same
from extensions.database.connection import connect_arrow, conninfo_of
from extensions.database.scalars import scalar
from extensions.engines import duckdb as engine
from extensions.engines.construct_lint import Finding, findings
from extensions.engines.dialect import prelude_hash
from extensions.engines.postgresql import compute_as_logged, fetched
from extensions.engines.questions import Questions, questions_of, slice_for
from extensions.engines.verdict import Example, Verdict, Versions, record, recorded
from extensions.errors import DefinitionError, UnavailableError
from extensions.failure_classification import first_line
from extensions.version_names import sql_file

QUESTIONS = 2_000
# Asked first, to see how long it takes.
FIRST_QUESTIONS = 100
# A verdict of fewer is asked again: it is quick, and the history may have grown.
FEW_QUESTIONS = 250
# What one text may take of both engines, and all texts of a plan; and the memory of DuckDB's part.
SECONDS, ALL_SECONDS = 10.0, 30.0
MEMORY = "1GB"
_TIMED_OUT = "57014"


def versions_of(conn: psycopg.Connection) -> Versions:
    """The versions that are at work."""
    number = conn.info.server_version
    return Versions(f"{number // 10_000}.{number % 10_000}", engine.ENGINE_VERSION, prelude_hash())


def verdicts(
    conn: psycopg.Connection,
    definitions: Iterable[Definition],
    *,
    count: int = QUESTIONS,
    seconds: float = ALL_SECONDS,
) -> dict[str, Verdict]:
    """The verdict on each computation, by its fingerprint: as recorded, else asked and recorded.

    A verdict counts for the versions of the engines and the prelude that it was made with, and
    where it was made of few questions only until the next time. Nothing is raised: whatever keeps
    the engines from being asked is the reason of a verdict ``not asked``.

    Args:
        conn: In autocommit; its role may be one that only reads.
        definitions: Computations.
        count: Questions for each.
        seconds: What all of them may take.
    """
    known, versions, deadline = recorded(conn), versions_of(conn), monotonic() + seconds
    found = {}
    for definition in definitions:
        held = known.get(definition.fingerprint)
        if held is None or held.versions != versions or not _enough(held):
            left = min(deadline - monotonic(), SECONDS)
            held = judge(conn, definition.computation(), count=count, seconds=left)
            record(conn, definition, held)
        found[definition.fingerprint] = held
    return found


def _enough(held: Verdict) -> bool:
    """Whether a verdict stands though the history has grown since."""
    return held.outcome == "not portable" or (
        held.outcome == "portable" and held.questions >= FEW_QUESTIONS
    )


def judge(
    conn: psycopg.Connection,
    computation: Computation,
    *,
    count: int = QUESTIONS,
    seconds: float = SECONDS,
    seed: int = 0,
) -> Verdict:
    """Ask both engines about ``count`` questions of the real history; raises nothing.

    ``seed`` chooses which, and which come first where the time does not suffice for all.
    ``conn``, in autocommit, says which database; both engines read by a connection of their own.
    """
    versions = versions_of(conn)
    if seconds <= 0:
        return Verdict("not asked", 0, versions, "there was no time left to ask")
    try:
        if _is_empty(conn, computation):
            return Verdict("not asked", 0, versions, "there is no history to ask about")
        with connect_arrow(conninfo_of(conn)) as arrow:
            return _Judge(arrow, computation, versions, monotonic() + seconds).ask(count, seed)
    except Exception as error:  # noqa: BLE001 - nothing that publishes may fail for the sake of it
        if getattr(error, "sqlstate", None) == _TIMED_OUT or isinstance(error, UnavailableError):
            reason = f"both engines together took longer than {seconds:.0f} seconds"
        else:
            reason = f"it could not be asked ({first_line(error).rstrip('.')})"
        return Verdict("not asked", 0, versions, reason)


def _is_empty(conn: psycopg.Connection, computation: Computation) -> bool:
    table = sql.Identifier(computation.reads[0].table)
    return not scalar(conn, sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table))


class _Judge:
    def __init__(
        self,
        conn: dbapi.Connection,
        computation: Computation,
        versions: Versions,
        deadline: float,
    ) -> None:
        self._conn, self._computation = conn, computation
        self._versions, self._deadline = versions, deadline

    def ask(self, count: int, seed: int) -> Verdict:
        """Ask about some, and then about as many of the others as there is time for."""
        # One state of the database for the questions, the history and the answers.
        self._execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self._execute(f"SET LOCAL statement_timeout = {int(self._left() * 1000)}")
        self._execute("SET LOCAL timezone = 'UTC'")
        questions = questions_of(self._conn, self._computation, count, seed)
        if not questions.rows:
            return self._not_asked("there is no history to ask about")
        few, others = questions.parts(FIRST_QUESTIONS)
        began = monotonic()
        first = self._compare(few)
        took = monotonic() - began
        # The others cost what the first ones did, and get half of the time that is left.
        left = max(self._deadline - monotonic(), 0.0)
        number = int(first.questions * left / 2 / took)
        if first.outcome != "portable" or not (rest := others.first(number)).rows:
            return first
        try:
            then = self._compare(rest)
        except (UnavailableError, AdbcError):
            return first
        if then.outcome == "not asked":
            return first
        return replace(then, questions=first.questions + then.questions)

    def _compare(self, questions: Questions) -> Verdict:
        """Compare the answers; with fewer entities where their history is too large."""
        computation = self._computation
        width = len(computation.join_keys)
        while (history := slice_for(self._conn, computation, questions)) is None:
            fewer = questions.of_fewer_entities(width)
            if not fewer.rows or len(fewer.rows) == len(questions.rows):
                return self._not_asked("the history of one entity is too large to compare")
            questions = fewer
        expected = compute_as_logged(self._conn, computation, questions.spine(computation))
        try:
            got = self._by_duckdb(questions, history)
        except DefinitionError as error:
            return self._not_portable(len(questions.rows), error.message.rstrip("."), None)
        example = first_difference(computation, expected, got)
        if example is None:
            return Verdict("portable", len(questions.rows), self._versions)
        return self._not_portable(len(questions.rows), example.sentence(), example)

    def _by_duckdb(self, questions: Questions, history: dict[str, pa.Table]) -> pa.Table:
        spine = fetched(self._conn, questions.spine(self._computation).query)
        limits = engine.Limits(threads=1, memory=MEMORY)
        with engine.session(limits) as session, engine.interrupted_after(session, self._left()):
            engine.use_history(session, history)
            return engine.answers(session, self._computation, spine).read_all()

    def _execute(self, statement: str) -> None:
        with self._conn.cursor() as cursor:
            cursor.execute(statement)

    def _left(self) -> float:
        left = self._deadline - monotonic()
        if left <= 0:
            raise UnavailableError("Comparing the engines took too long.")
        return left

    def _not_asked(self, reason: str) -> Verdict:
        return Verdict("not asked", 0, self._versions, reason)

    def _not_portable(self, count: int, reason: str, example: Example | None) -> Verdict:
        found = constructs(self._computation, self._reals())
        hint = None
        if found:
            hint = (
                f"line {found[0].line}: {found[0].construct} {found[0].differs}; {found[0].instead}"
            )
        return Verdict("not portable", count, self._versions, reason, hint, example)

    def _reals(self) -> set[str]:
        return real_columns(
            self._computation,
            lambda query: [row["attname"] for row in fetched(self._conn, query).to_pylist()],
        )


def constructs(computation: Computation, reals: Collection[str] = ()) -> list[Finding]:
    """The known differences in what a user wrote: the text, or the filters of aggregations."""
    if computation.declaration is None:
        return findings(computation.sql, reals)
    return [each for text in declared_filters(computation.declaration) for each in findings(text)]


def construct_warnings(conn: psycopg.Connection, definition: Definition) -> tuple[str, ...]:
    """A sentence for each construct in a computation that is known to differ, with its file."""
    computation = definition.computation()
    file = sql_file(computation.view, computation.version).as_posix()
    if computation.declaration is not None:
        file = f"a filter of {computation.view}"
    reals = real_columns(computation, lambda query: [row[0] for row in conn.execute(query)])
    return tuple(found.sentence(file) for found in constructs(computation, reals))


def real_columns(computation: Computation, names: Callable[[sql.Composed], list[str]]) -> set[str]:
    """Columns of type real in the tables that a computation reads; ``names`` runs a query."""
    tables = [
        sql.SQL("to_regclass({})").format(sql.Literal(sql.Identifier(source.table).as_string(None)))
        for source in computation.reads
    ]
    query = sql.SQL(
        "SELECT attname::text AS attname FROM pg_attribute WHERE attrelid IN ({}) "
        "AND atttypid = 'real'::regtype AND NOT attisdropped"
    ).format(sql.SQL(", ").join(tables))
    return set(names(query))


def first_difference(computation: Computation, expected: pa.Table, got: pa.Table) -> Example | None:
    """A question whose answers differ in a bit; None if all are the same.

    Args:
        computation: Whose answers they are.
        expected: PostgreSQL's, ``computation.columns`` in any order of rows.
        got: Another engine's.
    """
    asked = [*computation.join_keys, "as_of"]
    left, right = _in_order(expected, asked), _in_order(got, asked)
    if left.select(asked) != right.select(asked):
        return _missing(computation, left, right)
    wrong = {
        each.name: ~same(left[each.name], _cast(right[each.name], left[each.name].type))
        for each in computation.features
    }
    for name, rows in wrong.items():
        if rows.any():
            place = int(np.flatnonzero(rows)[0])
            row = left.slice(place, 1).to_pylist()[0]
            other = right.slice(place, 1).to_pylist()[0]
            return _example(computation, row, name, row[name], other[name])
    return None


def _in_order(table: pa.Table, asked: list[str]) -> pa.Table:
    """Sorted by the question, times in UTC microseconds; rows of one question have one answer."""
    columns = {name: _stored(table[name]) for name in table.column_names}
    columns["as_of"] = columns["as_of"].cast(pa.timestamp("us", "UTC"))
    table = pa.table(columns)
    return table.sort_by([(name, "ascending") for name in asked])


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without an extension type, such as that of UUIDs, which Arrow cannot sort."""
    if isinstance(column.type, pa.BaseExtensionType):
        kind = column.type.storage_type
        return pa.chunked_array([chunk.storage for chunk in column.chunks], kind)
    return column


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == kind else column.cast(kind)


def _missing(computation: Computation, left: pa.Table, right: pa.Table) -> Example:
    width = len(computation.join_keys) + 1
    names = [*computation.join_keys, "as_of"]
    counts = [
        Counter(zip(*(table[name].to_pylist() for name in names), strict=True))
        for table in (left, right)
    ]
    odd = next(row for row in [*counts[0], *counts[1]] if counts[0][row] != counts[1][row])
    row = dict(zip(names, odd[:width], strict=True))
    return _example(computation, row, "the number of rows", counts[0][odd], counts[1][odd])


def _example(
    computation: Computation, row: dict[str, Any], feature: str, one: Any, other: Any
) -> Example:
    keys = {name: row[name] for name in computation.join_keys}
    return Example(keys, row["as_of"].astimezone(UTC), feature, one, other)
