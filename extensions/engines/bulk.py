"""Many questions at once to DuckDB, over history that is read once: a diff's, an audit's.

The spine is given, other than a backfill's; it is cut by time so that its pairs fit into memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from extensions.asof.computation import Computation
from extensions.database.connection import connect_arrow
from extensions.engines.backfill import memory_of, pairs_of_memory
from extensions.engines.duckdb import Limits, answers, quoted
from extensions.engines.history_tables import HistoryTables, Instants
from extensions.engines.spill import out_of_memory, spilling_session
from extensions.errors import UnavailableError


@dataclass(frozen=True)
class Bulk:
    """One computation over the history of a span of instants; ``pairs``: the most at once."""

    session: duckdb.DuckDBPyConnection
    computation: Computation
    history: HistoryTables
    pairs: int

    def ask(self, spine: pa.Table) -> pa.Table:
        """The answers to a spine.

        Args:
            spine: The join keys and ``as_of``, of the computation's types, within the span.

        Returns:
            ``computation.columns`` in the log's types, a row for each of the spine, in no order.

        Raises:
            DefinitionError: DuckDB cannot run the text, or it failed on its data.
            UnavailableError: the memory does not suffice for one row's answer.
        """
        spine = spine.select([*self.computation.join_keys, "as_of"]).sort_by("as_of")
        return pa.concat_tables(list(self._parts(spine)))

    def _parts(self, spine: pa.Table) -> Iterator[pa.Table]:
        # What is counted is what is shown.
        if self._pairs_of(spine) > self.pairs and spine.num_rows > 1:
            yield from self._halves(spine)
            return
        if not spine.num_rows:
            now = datetime.now(UTC)
            self.history.show(Instants(now, now))
        try:
            yield answers(self.session, self.computation, spine).read_all()
        except UnavailableError as error:
            if not out_of_memory(error) or spine.num_rows < 2:
                raise
            yield from self._halves(spine)

    def _halves(self, spine: pa.Table) -> Iterator[pa.Table]:
        middle = spine.num_rows // 2
        yield from self._parts(spine.slice(0, middle))
        yield from self._parts(spine.slice(middle))

    def _pairs_of(self, spine: pa.Table) -> int:
        if not spine.num_rows:
            return 0
        first, last = spine["as_of"][0].as_py(), spine["as_of"][-1].as_py()
        self.history.show(Instants(first, last))
        self.session.register("skewless_asked", spine)
        keys = ", ".join(map(quoted, self.computation.join_keys))
        [[pairs]] = self.session.execute(
            f"SELECT coalesce(sum(rows), 0) FROM skewless_asked INNER JOIN "
            f"({self.history.counts_of_keys()}) AS h USING ({keys})"
        ).fetchall()
        self.session.unregister("skewless_asked")
        return int(pairs)


@contextmanager
def bulk(
    url: str,
    computation: Computation,
    first: datetime,
    last: datetime,
    limits: Limits | None = None,
) -> Iterator[Bulk]:
    """Read the history of the instants from ``first`` to ``last``, and keep it for the block.

    Raises:
        UnavailableError: memory and spill folder do not suffice for it.
    """
    with spilling_session(limits) as made:
        with connect_arrow(url) as arrow:
            history = HistoryTables.read(arrow, made, computation, Instants(first, last))
        yield Bulk(made, computation, history, pairs_of_memory(memory_of(made)))
