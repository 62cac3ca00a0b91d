"""Recomputation of served values: in PostgreSQL part by part, or in DuckDB over history read once.

The audit asks in parts of some thousand requests. Of many of them DuckDB recomputes portable texts:
a computation's history, of all instants that were served, is read when its first part comes.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Self

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof import Computation
from extensions.asof.definition_fingerprint import Definition
from extensions.database.connection import conninfo_of
from extensions.engines.bulk import Bulk, bulk
from extensions.engines.duckdb import quoted
from extensions.engines.portability import versions_of
from extensions.engines.postgresql import fetched
from extensions.engines.verdict import recorded
from extensions.errors import SkewlessError
from extensions.stores.offline.writes.serving_log_table import TABLE, column_name
from extensions.versions.engine_choice import EngineSettings
from monitoring.audit import reference_values
from monitoring.audit.reference_values import ROW, Slice, held_rows

# Served values of a view from which on `auto` reads its history once.
LEAST_SERVED = 100_000


class Recomputation:
    """Recomputes the parts of an audit of what was served in ``[since, until)``.

    Args:
        conn: In autocommit.
        arrow: For what PostgreSQL recomputes.
        definitions: By ``view.vN``; DuckDB recomputes those whose verdict is recorded as portable.
        settings: Which engine; PostgreSQL where None.
        since: Where the span begins.
        until: Where it ends.
    """

    def __init__(
        self,
        conn: psycopg.Connection,
        arrow: dbapi.Connection,
        definitions: Mapping[str, Definition],
        settings: EngineSettings | None,
        since: datetime,
        until: datetime,
    ) -> None:
        self._conn, self._arrow, self._settings = conn, arrow, settings
        self._definitions, self._since, self._until = definitions, since, until
        self._open = ExitStack()
        self._bulks: dict[str, Bulk | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    @property
    def in_duckdb(self) -> tuple[str, ...]:
        """The computations, as ``view.vN``, that DuckDB recomputed."""
        return tuple(sorted(name for name, held in self._bulks.items() if held is not None))

    def of(self, part: Slice, computation: Computation) -> pa.Table:
        """As `reference_values.recomputed`, in either engine."""
        if computation.name not in self._bulks:
            self._bulks[computation.name] = self._opened(computation)
        held = self._bulks[computation.name]
        if held is None:
            return reference_values.recomputed(self._arrow, part, computation)
        try:
            return _joined(held, fetched(self._arrow, held_rows(part, computation)))
        except SkewlessError:  # memory, or data that the text fails on: PostgreSQL says what
            self._bulks[computation.name] = None
            return reference_values.recomputed(self._arrow, part, computation)

    def _opened(self, computation: Computation) -> Bulk | None:
        if self._settings is None or self._settings.engine == "postgresql":
            return None
        definition = self._definitions.get(computation.name)
        verdict = None if definition is None else recorded(self._conn).get(definition.fingerprint)
        if (
            verdict is None
            or verdict.outcome != "portable"
            or verdict.versions != versions_of(self._conn)
        ):
            return None
        served, first, last = self._served(computation)
        if not served or (self._settings.engine == "auto" and served < LEAST_SERVED):
            return None
        try:
            return self._open.enter_context(
                bulk(conninfo_of(self._conn), computation, first, last, self._settings.limits)
            )
        except SkewlessError:
            return None

    def _served(self, computation: Computation) -> tuple[int, datetime, datetime]:
        """How many values of the view were served, and the first and last instant of one."""
        as_of = sql.SQL("coalesce({}, served_at - {}::interval)").format(
            sql.Identifier(column_name(computation.view, "as_of")),
            sql.Literal(computation.freshness.budget),
        )
        [row] = self._conn.execute(
            sql.SQL(
                "SELECT count(*), min({as_of}), max({as_of}) FROM {table} WHERE served_at >= %s "
                "AND served_at < %s AND source = 'http' AND {version} = %s"
            ).format(
                as_of=as_of,
                table=sql.Identifier(TABLE),
                version=sql.Identifier(column_name(computation.view, "version")),
            ),
            [self._since, self._until, computation.version],
        ).fetchall()
        return row


def _joined(held: Bulk, rows: pa.Table) -> pa.Table:
    """Each row with the answer to its question."""
    computation = held.computation
    asked = [*computation.join_keys, "as_of"]
    named = ", ".join(map(quoted, asked))
    held.session.register("skewless_held", rows)
    spine = held.session.sql(f"SELECT DISTINCT {named} FROM skewless_held").to_arrow_table()
    answered = held.ask(spine)
    held.session.register("skewless_answered", answered)
    columns = ", ".join(
        [*(f"h.{quoted(name)}" for name in ROW),
         *(f"a.{quoted(feature.name)}" for feature in computation.features)]
    )  # fmt: skip
    made: pa.Table = held.session.sql(
        f"SELECT {columns} FROM skewless_held AS h LEFT JOIN skewless_answered AS a USING ({named})"
    ).to_arrow_table()
    return made
