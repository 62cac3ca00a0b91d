"""The result columns of a join: short aliases in SQL, full names and declared types in Arrow.

PostgreSQL cuts names after 63 bytes, so that ``view__feature`` of two features may become one.
Within the statement features therefore have names of their own, and get theirs back here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from psycopg import sql

from extensions.stores.offline.arrow.exact_column_reading import ColumnReader
from extensions.stores.offline.arrow.source_column_types import SourceType
from extensions.stores.offline.join.point_in_time import ORDINAL, ViewJoin

_SHORT = "_skewless_"
_DETAILS = ("__age_seconds", "__found")


@dataclass(frozen=True)
class ResultColumn:
    """A result column: alias in SQL, full name, and its reader (None: as the driver gives it)."""

    alias: str
    name: str
    reading: ColumnReader | None = None

    @property
    def guard(self) -> str | None:
        """The alias of its guard column (`ColumnReader.guard`); None: it has none."""
        return f"{self.alias}_guard" if self.reading and self.reading.has_guard else None


def with_short_names(views: Sequence[ViewJoin]) -> tuple[ViewJoin, ...]:
    """The views with short aliases for outputs and labels."""
    count = 0
    short = []
    for number, view in enumerate(views):
        features = []
        for feature in view.features:
            features.append(replace(feature, output=f"{_SHORT}{count}"))
            count += 1
        short.append(replace(view, features=tuple(features), label=f"{_SHORT}view_{number}"))
    return tuple(short)


def result_columns(
    labels: Mapping[str, SourceType],
    views: Sequence[ViewJoin],
    types: Sequence[Mapping[str, SourceType]],
    beside: Sequence[str],
    *,
    full: bool,
) -> tuple[ResultColumn, ...]:
    """The result columns in order: labels, each view's features and details, extra columns.

    ``labels``: a query's own columns with their types. ``types``: of each view's columns.

    Raises:
        SkewlessError: a feature's column cannot be read as declared.
    """
    columns = [
        ResultColumn(name, name, ColumnReader(name, kind, None)) for name, kind in labels.items()
    ]
    for view, short, held in zip(views, with_short_names(views), types, strict=True):
        for feature, alias in zip(view.features, short.features, strict=True):
            known = held.get(feature.column)
            reading = None
            if known is not None:
                reading = ColumnReader(f"{feature.column} of {view.name}", known, feature.dtype)
            columns.append(ResultColumn(alias.output, feature.output, reading))
        if full:
            columns += [
                ResultColumn(f"{short.label}{end}", f"{view.label}{end}") for end in _DETAILS
            ]
    return (*columns, *(ResultColumn(name, name) for name in beside))


def result_query(
    joined: sql.Composable, columns: Sequence[ResultColumn], *, ordered: bool
) -> sql.Composed:
    """The statement around a join with short names, in the labels' order where ``ordered``."""
    select_expression: list[sql.Composable] = [sql.Identifier("j", ORDINAL)]
    for column in columns:
        value = sql.Identifier("j", column.alias)
        read = value if column.reading is None else column.reading.select_expression(value)
        select_expression.append(sql.SQL("{} AS {}").format(read, sql.Identifier(column.alias)))
        if column.reading is not None and column.guard:
            select_expression.append(
                sql.SQL("{} AS {}").format(
                    column.reading.guard(value), sql.Identifier(column.guard)
                )
            )
    read_columns = sql.SQL(", ").join(select_expression)
    if not ordered:
        return sql.SQL("SELECT {} FROM ({}) AS j").format(read_columns, joined)
    # Materialized, since the planner would sort the labels first, which lie in key order.
    return sql.SQL(
        "WITH joined AS MATERIALIZED ({joined}) SELECT {columns} FROM joined AS j "
        "ORDER BY j.{ordinal}"
    ).format(joined=joined, columns=read_columns, ordinal=sql.Identifier(ORDINAL))


def exact_numeric_columns(columns: Sequence[ResultColumn]) -> list[str]:
    """The columns whose numerics come as text: all that declare a type."""
    return [c.alias for c in columns if c.reading is not None and c.reading.dtype is not None]


def restore_names(answer: pa.Table, columns: Sequence[ResultColumn]) -> pa.Table:
    """The answer with whole names and declared types; the ordinal, if there, comes first.

    Raises:
        SkewlessError: a value is not of its declared type.
    """
    names, arrays = [], []
    if ORDINAL in answer.column_names:
        names.append(ORDINAL)
        arrays.append(answer[ORDINAL])
    for column in columns:
        values = answer[column.alias]
        if column.reading is not None:
            guard = answer[column.guard] if column.guard else None
            values = column.reading.convert(values, guard)
        names.append(column.name)
        arrays.append(values)
    return pa.Table.from_arrays(arrays, names=names)
