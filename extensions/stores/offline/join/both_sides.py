"""The join over both sides of a cut: rows of the lake beside those that PostgreSQL still has.

The lake's rows that the labels need are uploaded, as rows of the log, beside each part of the
labels; the join takes the latest row of the two.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from extensions.asof.log_cuts import Cut
from extensions.errors import ConfigurationError, DefinitionError
from extensions.lake.lake_tables import LakeTable, columns_sql, described
from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.join.point_in_time import (
    LABEL_TIME,
    JoinOptions,
    Key,
    Layout,
    ViewJoin,
)
from extensions.stores.offline.log_cut_checks import session_cuts

if TYPE_CHECKING:
    from extensions.lake.cold_rows import ColdRows
    from extensions.lake.reader import LakeReader

# How key columns of the log are declared that the lake compares as PostgreSQL does.
_KEYS = ("INT32", "INT64", "STRING")


@dataclass(frozen=True)
class ColdSide:
    """The lake's rows of some logs.

    Attributes:
        tables: For each table that the join names, the temporary table that its rows come in.
        logs: By temporary table, the log.
        rows: What the labels need of the logs.
    """

    tables: Mapping[str, str]
    logs: Mapping[str, LakeTable]
    rows: "ColdRows"

    def upload(self, session: ArrowSession, first: int, end: int) -> None:
        """Put what the labels with ordinals in ``[first, end)`` need into the temporary tables."""
        for name, table in self.logs.items():
            raw = f"{name}_raw"
            session.run(
                sql.SQL("CREATE TEMPORARY TABLE {} (LIKE {})").format(
                    sql.Identifier(name), sql.Identifier(table.name)
                )
            )
            session.upload(raw, self.rows.of(table.name, first, end))
            columns = [sql.Identifier(column.name) for column in table.columns]
            session.run(
                sql.SQL("INSERT INTO pg_temp.{} ({}) SELECT {} FROM pg_temp.{}").format(
                    sql.Identifier(name),
                    sql.SQL(", ").join(columns),
                    sql.SQL(", ").join(
                        sql.SQL("{}::{}").format(column, sql.SQL(one.pg_type))
                        for column, one in zip(columns, table.columns, strict=True)
                    ),
                    sql.Identifier(raw),
                )
            )
            session.drop(raw)
            session.run(
                sql.SQL("CREATE INDEX ON pg_temp.{} ({}, {} DESC, {} DESC)").format(
                    sql.Identifier(name),
                    sql.SQL(", ").join(sql.Identifier(key) for key in table.keys),
                    sql.Identifier(table.event),
                    sql.Identifier(table.arrival),
                )
            )
            session.run(sql.SQL("ANALYZE pg_temp.{}").format(sql.Identifier(name)))

    def drop(self, session: ArrowSession) -> None:
        """Drop the temporary tables."""
        for name in self.logs:
            session.drop(name)


def cuts_of(session: ArrowSession, views: Sequence[ViewJoin]) -> dict[str, Cut]:
    """The cuts of all logs that the join reads, by the table as the join names it."""
    return session_cuts(session, {table for view in views for table in tables_of(view)})


def tables_of(view: ViewJoin) -> list[str]:
    """The tables that a view's rows come from: its own, or those of the versions served."""
    return [era.table for era in view.eras if era.table is not None] or [view.table]


@contextmanager
def cold_side(
    session: ArrowSession,
    views: Sequence[ViewJoin],
    layouts: Sequence[Layout],
    keys: Sequence[Key],
    options: JoinOptions,
    labels: Callable[[], pa.Table],
    lake: "LakeReader | None",
) -> Iterator[ColdSide | None]:
    """What the labels need of the lake; None where PostgreSQL answers alone.

    Args:
        session: Its transaction keeps the logs from being cut further meanwhile.
        views: What is joined.
        layouts: Of the views' sources.
        keys: The labels' keys, by place.
        options: What the result may know.
        labels: Returns the labels: ordinals, times and keys.
        lake: Where older rows are.

    Raises:
        SkewlessError: older rows are needed, and cannot be read.
    """
    cuts = cuts_of(session, views)
    if not cuts:
        yield None
        return
    sent = labels()
    needed = [table for table, cut in cuts.items() if _needed(cut, sent, options).num_rows]
    if not needed:
        yield None
        return
    if lake is None:
        raise ConfigurationError(
            f"The labels need rows of {', '.join(sorted(needed))} that are in the lake alone, and "
            "the feature store has no repository that says where the lake is."
        )
    # Not for servers, which read no training data and have no DuckDB.
    from extensions.engines.spill import spilling_session  # noqa: PLC0415
    from extensions.lake.cold_rows import ColdRows, Known  # noqa: PLC0415

    places = {key.label_column: f"key_{i}" for i, key in enumerate(keys)}
    known = Known(options.bitemporal, options.known_at)
    of_log = {cuts[table].log: cuts[table] for table in needed}
    names = {log: f"cold_{i}" for i, log in enumerate(of_log)}
    logs: dict[str, LakeTable] = {}
    with lake.tables(of_log.values()) as held, spilling_session() as duck:
        rows = ColdRows(duck)
        for log, cut in of_log.items():
            tables = {table for table in needed if cuts[table].log == log}
            readers = [
                (view, layout)
                for view, layout in zip(views, layouts, strict=True)
                if tables & set(tables_of(view))
            ]
            for view, layout in readers:
                _check(view, layout)
            described_log = logs[names[log]] = _log(session, log, readers[0][0])
            asked = [
                (
                    _needed(cut, sent, options),
                    [places[_of_column(view, key).label_column] for key in described_log.keys],
                )
                for view, _ in readers
            ]
            of_lake, snapshot = held[log]
            rows.look_up(of_lake, described_log, cut.before, asked, known, snapshot)
        yield ColdSide({table: names[cuts[table].log] for table in needed}, logs, rows)


def _needed(cut: Cut, labels: pa.Table, options: JoinOptions) -> pa.Table:
    """The labels to which PostgreSQL alone does not know the answer."""
    if options.known_at is not None and options.known_at < cut.before:
        return labels
    before = pa.scalar(cut.before, pa.timestamp("us", "UTC"))
    return labels.filter(pc.less(labels[LABEL_TIME].cast(before.type), before))


def _check(view: ViewJoin, layout: Layout) -> None:
    if not (layout.order.unique and layout.order.dated) or view.created_time is None:
        raise DefinitionError(
            f"The log {view.table} was cut, and is no log of this project's any more: its unique "
            "index by keys and times, or its column of created times, is missing."
        )
    for key in view.keys:
        if str(getattr(key.dtype, "name", key.dtype)) not in _KEYS:
            raise DefinitionError(
                f"The log {view.table} was cut, and its key {key.column} is declared as "
                f"{key.dtype}: what is read from both sides has keys of {', '.join(_KEYS)}."
            )


def _of_column(view: ViewJoin, column: str) -> Key:
    return next(key for key in view.keys if key.column == column)


def _log(session: ArrowSession, name: str, view: ViewJoin) -> LakeTable:
    columns = session.table(columns_sql(name)).to_pylist()
    types = {column["name"]: column["pg_type"] for column in columns}
    keys = [key.column for key in view.keys]
    return described(name, keys, view.event_time, str(view.created_time), types)
