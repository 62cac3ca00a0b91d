"""Changes of history before a log's cut, brought to the lake, which alone holds the rest there.

PostgreSQL has of these rows what the cut left (`extensions.asof.log_cuts`) and what came since. So
a row that the lake lacks is new; an entity of which PostgreSQL has no row left was deleted, since
the cut left at least one of each; and where only some of the rows that the cut left are gone, what
the next older ones mean cannot be known, which is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from extensions.engines.duckdb import duckdb_failures, quoted
from extensions.engines.spill import spilling_session
from extensions.errors import ConflictError
from extensions.lake.export_rows import rows
from extensions.lake.lake_tables import LakeTable
from extensions.lake.relations import given, rows_before, time_literal
from extensions.value_text import exact_time_text

if TYPE_CHECKING:
    from pyiceberg.table import Table


class ColdMerge:
    """The rows before a cut: the lake's, and PostgreSQL's beside them."""

    def __init__(
        self,
        duck: duckdb.DuckDBPyConnection,
        table: LakeTable,
        before: datetime,
    ) -> None:
        self._duck, self._table, self._before = duck, table, before
        self._keys = ", ".join(quoted(key) for key in table.keys)
        self._identity = f"{self._keys}, {quoted(table.event)}, {quoted(table.arrival)}"
        self._early = f"{quoted(table.event)} < {time_literal(before)}"

    def new(self) -> Iterator[pa.RecordBatch]:
        """The rows of PostgreSQL that the lake lacks."""
        yield from self._batches(
            f"SELECT here.* FROM here ANTI JOIN (SELECT {self._identity} FROM lake "
            f"WHERE {self._early}) AS there USING ({self._identity})"
        )

    def is_rewritten(self) -> bool:
        """Whether rows that the lake holds were updated or deleted in PostgreSQL.

        Raises:
            ConflictError: of an entity only some of the rows that the cut left are gone.
        """
        arrival = quoted(self._table.arrival)
        cut = time_literal(self._before)
        # What the cut left: the last row of each entity that was known by it, and all since.
        self._duck.execute(
            f"CREATE TEMP TABLE left_there AS SELECT {self._identity} FROM lake WHERE "
            f"{self._early} QUALIFY {arrival} >= {cut} OR row_number() OVER (PARTITION BY "
            f"{self._keys}, {arrival} >= {cut} ORDER BY {quoted(self._table.event)} DESC, "
            f"{arrival} DESC) = 1"
        )
        self._duck.execute(
            f"CREATE TEMP TABLE gone AS SELECT DISTINCT {self._keys} FROM ("
            f"SELECT * FROM left_there ANTI JOIN here USING ({self._identity}))"
        )
        partly = self._duck.execute(
            f"SELECT * FROM gone SEMI JOIN here USING ({self._keys}) LIMIT 1"
        ).fetchone()
        if partly:
            named = ", ".join(f"{k}={v}" for k, v in zip(self._table.keys, partly, strict=True))
            raise ConflictError(
                f"Of {named} some rows of {self._table.name} before "
                f"{exact_time_text(self._before)} were deleted or dated anew in PostgreSQL, and "
                "the older ones are in the lake alone: delete all rows of that entity, or put "
                "these back, and export again."
            )
        every = ", ".join(quoted(name) for name in self._table.schema.names)
        [[changed]] = self._duck.execute(
            f"SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM (SELECT {every} FROM here "
            f"SEMI JOIN left_there USING ({self._identity})) AS h WHERE hash({every}) NOT IN "
            f"(SELECT hash({every}) FROM lake WHERE {self._early}))"
        ).fetchall()
        return bool(changed)

    def all(self) -> Iterator[pa.RecordBatch]:
        """All rows before the cut as they are now, in the order of the lake's files."""
        order = f"epoch_us({quoted(self._table.event)}) // 86400000000, {self._identity}"
        yield from self._batches(
            f"SELECT * FROM (SELECT lake.* FROM lake ANTI JOIN gone USING ({self._keys}) "
            f"ANTI JOIN here USING ({self._identity}) WHERE {self._early} "
            f"UNION ALL SELECT * FROM here) ORDER BY {order}"
        )

    def _batches(self, query: str) -> Iterator[pa.RecordBatch]:
        order = f"epoch_us({quoted(self._table.event)}) // 86400000000, {self._identity}"
        names = ", ".join(quoted(name) for name in self._table.schema.names)
        with duckdb_failures(f"The export of {self._table.name}"):
            for batch in self._duck.sql(
                f"SELECT {names} FROM ({query}) AS q ORDER BY {order}"
            ).to_arrow_reader():
                yield batch.cast(self._table.schema)


@contextmanager
def cold_merge(
    url: str, held: "Table", table: LakeTable, before: datetime, through: datetime
) -> Iterator[ColdMerge]:
    """Open the rows of a log before its cut; the session spills what memory does not hold."""
    with spilling_session() as duck, duckdb_failures(f"The export of {table.name}"):
        duck.register("lake", rows_before(held, table, before))
        with given(duck, "arriving", table, rows(url, table, None, through, event_before=before)):
            duck.execute("CREATE TEMP TABLE here AS SELECT * FROM arriving")
        yield ColdMerge(duck, table, before)
