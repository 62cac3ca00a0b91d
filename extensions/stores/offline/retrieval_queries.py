"""The requests behind retrieval jobs: a plain query, or a point-in-time join."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
from feast.types import FeastType
from psycopg import sql

from extensions.errors import SkewlessError
from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.arrow.query_rows import read_exactly
from extensions.stores.offline.arrow.source_column_types import SourceType, column_types
from extensions.stores.offline.join.both_sides import ColdSide, cold_side, cuts_of
from extensions.stores.offline.join.entity_frame import EntityQuery, EntityTable
from extensions.stores.offline.join.output_columns import (
    exact_numeric_columns,
    restore_names,
    result_columns,
    result_query,
    with_short_names,
)
from extensions.stores.offline.join.parallel_join import join_in_chunks
from extensions.stores.offline.join.point_in_time import (
    ORDINAL,
    JoinOptions,
    Layout,
    ViewJoin,
    join_keys,
    join_query,
    source_layouts,
)
from extensions.stores.offline.log_cut_checks import require_hot_rows

if TYPE_CHECKING:
    from extensions.lake.reader import LakeReader


class RetrievalRequest(Protocol):
    """A request that PostgreSQL answers with rows."""

    @property
    def context(self) -> str:
        """Completes "PostgreSQL … while …" in an error."""

    def chunks(self, session: ArrowSession) -> Iterator[pa.Table]:
        """Run it; yields at least one table (perhaps empty), in order."""

    def to_sql(self, session: ArrowSession) -> str:
        """The statement."""


@dataclass(frozen=True)
class PlainQuery:
    """A query that needs no uploaded labels.

    Attributes:
        query: The statement.
        context: What is read, for error messages.
        since: The logs that it reads, and from which event time on (None: all of it), which
            PostgreSQL must hold whole from there.
        declared: Feast types of its columns.
        whole_names: The result's names of columns that are too long for PostgreSQL, by the
            statement's names of them.
    """

    query: str
    context: str
    declared: Mapping[str, FeastType] = field(default_factory=dict)
    whole_names: Mapping[str, str] = field(default_factory=dict)
    since: Mapping[str, datetime | None] = field(default_factory=dict)

    def chunks(self, session: ArrowSession) -> Iterator[pa.Table]:
        """The rows, some megabytes at a time."""
        for table, start in self.since.items():
            require_hot_rows(session, table, start, "Reading a range of rows")
        for chunk in read_exactly(session, sql.SQL(self.query), self.declared):
            yield chunk.rename_columns(
                [self.whole_names.get(name, name) for name in chunk.column_names]
            )

    def to_sql(self, session: ArrowSession) -> str:  # noqa: ARG002
        """The query itself."""
        return self.query


@dataclass(frozen=True)
class PointInTimeRequest:
    """A point-in-time join; the result has one row per label, in the labels' order.

    Attributes:
        labels: The labels, from the client or from a query.
        views: The views to join.
        options: What the result may know and contain.
        beside: Further expressions to select, for transforms.
        beside_names: Their column names.
        connections: How many connections a large join may use.
        context: What is done, for error messages.
        lake: Where the older rows of logs are that were cut; None: such labels are refused.
    """

    labels: EntityTable | EntityQuery
    views: tuple[ViewJoin, ...]
    options: JoinOptions
    beside: tuple[sql.Composable, ...] = ()
    beside_names: tuple[str, ...] = ()
    connections: int = 1
    context: str = "joining features to labels"
    lake: "LakeReader | None" = None

    def chunks(self, session: ArrowSession) -> Iterator[pa.Table]:
        """The labels' columns as they came, then the features."""
        done = 0
        for answer in self._results(session):
            yield self._chunk(answer, done)
            done += answer.num_rows
        if self.labels.count is not None and done != self.labels.count:
            raise SkewlessError(
                f"The join returned {done} rows for {self.labels.count} labels: a label was "
                "lost or doubled, so nothing is returned; please report it."
            )

    def _results(self, session: ArrowSession) -> Iterator[pa.Table]:
        types = self._types(session)
        keys = join_keys(self.views)
        labels = self.labels
        columns = result_columns(
            labels.types if isinstance(labels, EntityQuery) else {},
            self.views,
            types,
            self.beside_names,
            full=self.options.full,
        )
        relation = (
            labels.relation if isinstance(labels, EntityTable) else labels.prepare(session, keys)
        )
        layouts = source_layouts(session, self.views, types)
        exact = exact_numeric_columns(columns)

        def sent() -> pa.Table:
            return labels.sent(keys) if isinstance(labels, EntityTable) else labels.sent(session)

        with cold_side(
            session, self.views, layouts, keys, self.options, sent, self.lake
        ) as cold:  # fmt: skip
            joined = self._joined(
                relation, with_short_names(self.views), layouts, cold, ordered=False
            )
            statement = result_query(joined, columns, ordered=isinstance(labels, EntityQuery))
            if isinstance(labels, EntityTable):
                yield from join_in_chunks(
                    session,
                    labels,
                    keys,
                    statement,
                    exact,
                    self.connections,
                    lambda answer: restore_names(answer, columns),
                    cold,
                )
                return
            if cold is not None:
                cold.upload(session, 0, 2**62)
            for answer in session.chunks(statement, exact):
                yield restore_names(answer, columns)

    def to_sql(self, session: ArrowSession) -> str:
        """The statement; where the labels are a frame, it reads their temporary table."""
        keys = join_keys(self.views)
        relation = (
            self.labels.relation
            if isinstance(self.labels, EntityTable)
            else sql.SQL("({})").format(self.labels.numbered(keys))
        )
        types = self._types(session)
        self._refuse_cold(session)
        layouts = source_layouts(session, self.views, types)
        return self._joined(relation, self.views, layouts, None, ordered=True).as_string(None)

    def _refuse_cold(self, session: ArrowSession) -> None:
        """Refuse to give a statement that would not find the older rows of a log."""
        cuts = cuts_of(session, self.views)
        if not cuts:
            return
        labels = self.labels
        first, _ = labels.span() if isinstance(labels, EntityTable) else labels.span(session)
        for cut in cuts.values():
            if first is not None and not cut.answers(first, self.options.known_at):
                raise cut.refusal(first, "The SQL of this join")

    def _joined(
        self,
        relation: sql.Composable,
        views: Sequence[ViewJoin],
        layouts: Sequence[Layout],
        cold: ColdSide | None,
        *,
        ordered: bool,
    ) -> sql.Composed:
        """The join, with output names from ``views``."""
        return join_query(
            relation,
            self.labels.columns if isinstance(self.labels, EntityQuery) else [],
            join_keys(views),
            views,
            layouts,
            self.options,
            beside=self.beside,
            cold=cold.tables if cold else {},
            ordered=ordered,
        )

    def _types(self, session: ArrowSession) -> list[dict[str, SourceType]]:
        """The types of the keys and features of each view's source."""
        columns = [
            [*(key.column for key in view.keys), *(feature.column for feature in view.features)]
            for view in self.views
        ]
        names = [list(dict.fromkeys(each)) for each in columns]
        tables = [view.table for view in self.views]
        return column_types(session, list(zip(tables, names, strict=True)))

    def _chunk(self, answer: pa.Table, done: int) -> pa.Table:
        features = answer.drop_columns([ORDINAL])
        if isinstance(self.labels, EntityQuery):
            return features
        own = self.labels.rows.slice(done, answer.num_rows)
        return pa.Table.from_arrays(
            [*own.columns, *features.columns],
            schema=pa.schema([*own.schema, *features.schema], metadata=own.schema.metadata),
        )
