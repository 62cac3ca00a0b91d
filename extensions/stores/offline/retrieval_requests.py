"""What a retrieval job runs: a plain query, or the join of labels with views."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa
from feast.types import FeastType
from psycopg import sql

from extensions.errors import SkewlessError
from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.arrow.query_rows import read_exactly
from extensions.stores.offline.arrow.source_column_types import SourceType, column_types
from extensions.stores.offline.join.chunking import joined_in_parts
from extensions.stores.offline.join.entity_frame import EntityQuery, EntityTable
from extensions.stores.offline.join.output_columns import (
    answer_columns,
    answer_query,
    digits_kept,
    shortened,
    whole_columns,
)
from extensions.stores.offline.join.point_in_time import (
    ORDINAL,
    JoinOptions,
    ViewJoin,
    join_keys,
    join_query,
    layouts,
)


class Question(Protocol):
    """Something that PostgreSQL answers with rows."""

    @property
    def doing(self) -> str:
        """Completes "PostgreSQL … while …" in an error."""

    def pieces(self, session: ArrowSession) -> Iterator[pa.Table]:
        """The rows, at least one piece (perhaps empty), in order."""

    def to_sql(self, session: ArrowSession) -> str:
        """The statement."""


@dataclass(frozen=True)
class PlainQuery:
    """A query that needs nothing uploaded.

    ``declared``: the Feast types of its columns. ``whole_names``: by the query's name of a column,
    where the caller's is longer than PostgreSQL's names can be.
    """

    query: str
    doing: str
    declared: Mapping[str, FeastType] = field(default_factory=dict)
    whole_names: Mapping[str, str] = field(default_factory=dict)

    def pieces(self, session: ArrowSession) -> Iterator[pa.Table]:
        """The rows, some megabytes at a time."""
        for piece in read_exactly(session, sql.SQL(self.query), self.declared):
            yield piece.rename_columns(
                [self.whole_names.get(name, name) for name in piece.column_names]
            )

    def to_sql(self, session: ArrowSession) -> str:  # noqa: ARG002
        """The query itself."""
        return self.query


@dataclass(frozen=True)
class PointInTimeQuestion:
    """Labels and views; the answer has one row per label, in the labels' order.

    ``beside``: further columns of the answer, for transforms, and their names. ``connections``:
    over how many a large join is spread.
    """

    labels: EntityTable | EntityQuery
    views: tuple[ViewJoin, ...]
    options: JoinOptions
    beside: tuple[sql.Composable, ...] = ()
    beside_names: tuple[str, ...] = ()
    connections: int = 1
    doing: str = "joining features to labels"

    def pieces(self, session: ArrowSession) -> Iterator[pa.Table]:
        """The labels' columns as they came, then the features."""
        done = 0
        for answer in self._answers(session):
            yield self._piece(answer, done)
            done += answer.num_rows
        if self.labels.count is not None and done != self.labels.count:
            raise SkewlessError(
                f"The join returned {done} rows for {self.labels.count} labels: a label was "
                "lost or doubled, so nothing is returned; please report it."
            )

    def _answers(self, session: ArrowSession) -> Iterator[pa.Table]:
        types = self._types(session)
        keys = join_keys(self.views)
        labels = self.labels
        columns = answer_columns(
            labels.types if isinstance(labels, EntityQuery) else {},
            self.views,
            types,
            self.beside_names,
            full=self.options.full,
        )
        relation = (
            labels.relation if isinstance(labels, EntityTable) else labels.prepare(session, keys)
        )
        joined = self._joined(session, relation, shortened(self.views), types, ordered=False)
        statement = answer_query(joined, columns, ordered=isinstance(labels, EntityQuery))
        exact = digits_kept(columns)
        if isinstance(labels, EntityTable):
            yield from joined_in_parts(
                session,
                labels,
                keys,
                statement,
                exact,
                self.connections,
                lambda answer: whole_columns(answer, columns),
            )
        else:
            for answer in session.pieces(statement, exact):
                yield whole_columns(answer, columns)

    def to_sql(self, session: ArrowSession) -> str:
        """For a query's labels a statement to run as it is; else one over the uploaded labels."""
        keys = join_keys(self.views)
        relation = (
            self.labels.relation
            if isinstance(self.labels, EntityTable)
            else sql.SQL("({})").format(self.labels.numbered(keys))
        )
        types = self._types(session)
        return self._joined(session, relation, self.views, types, ordered=True).as_string(None)

    def _joined(
        self,
        session: ArrowSession,
        relation: sql.Composable,
        views: Sequence[ViewJoin],
        types: Sequence[Mapping[str, SourceType]],
        *,
        ordered: bool,
    ) -> sql.Composed:
        """The join itself, whose outputs have the names that ``views`` give them."""
        return join_query(
            relation,
            self.labels.columns if isinstance(self.labels, EntityQuery) else [],
            join_keys(views),
            views,
            layouts(session, self.views, types),
            self.options,
            beside=self.beside,
            ordered=ordered,
        )

    def _types(self, session: ArrowSession) -> list[dict[str, SourceType]]:
        """The types of the keys and features of each view's source."""
        columns = [
            [*(key.column for key in view.keys), *(feature.column for feature in view.features)]
            for view in self.views
        ]
        names = [list(dict.fromkeys(one)) for one in columns]
        tables = [view.table for view in self.views]
        return column_types(session, list(zip(tables, names, strict=True)))

    def _piece(self, answer: pa.Table, done: int) -> pa.Table:
        features = answer.drop_columns([ORDINAL])
        if isinstance(self.labels, EntityQuery):
            return features
        own = self.labels.rows.slice(done, answer.num_rows)
        return pa.Table.from_arrays(
            [*own.columns, *features.columns],
            schema=pa.schema([*own.schema, *features.schema], metadata=own.schema.metadata),
        )
