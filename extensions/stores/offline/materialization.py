"""The rows that a materialization reads: those that may not be online yet.

Feast remembers the end of the last run's range and asks next time for event times from there.
A tick's rows carry the time they were computed for, which is earlier than their commit; a run
in between covers that time without seeing the rows. So each run here notes up to when every
publication was visible to it, and the run that goes on from its end also reads all rows that
were published since, whatever their event time.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyarrow as pa
from feast import RepoConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.types import FeastType
from psycopg import sql

from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.arrow.query_rows import read_exactly
from extensions.stores.offline.join.latest_rows import latest_rows, sorted_rows
from extensions.stores.offline.join.newest_row_rule import RowOrder
from extensions.stores.offline.log_cut_checks import require_hot_rows
from extensions.stores.values.future_rows import future, not_future_condition
from extensions.version_names import log_table_sql

logger = logging.getLogger(__name__)

# A role that may not see other roles' transactions in pg_stat_activity assumes that none of
# them is open longer than this.
UNSEEN_TRANSACTION = timedelta(hours=1)
FORGET_AFTER = timedelta(days=90)

# The time before which every publication is visible to the next statement: rows are stamped
# while their transaction is open, so no earlier than its start. A transaction is known to write
# from its first row on, which it stamps just before: hence the second.
SETTLED = sql.SQL(
    "SELECT least(now.at - interval '1 second', "
    "(SELECT min(a.xact_start) FROM pg_stat_activity AS a "
    "WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() "
    "AND a.backend_xid IS NOT NULL), "
    "CASE WHEN EXISTS (SELECT FROM pg_stat_activity AS a WHERE a.datname = current_database() "
    "AND a.query = '<insufficient privilege>') THEN now.at - {unseen}::interval END) AS settled "
    "FROM (SELECT clock_timestamp() AS at) AS now"
).format(unseen=sql.Literal(UNSEEN_TRANSACTION))


@dataclass(frozen=True)
class Source:
    """A log as materialization names it; ``created_time`` None: it cannot be late."""

    table: str
    keys: tuple[str, ...]
    features: tuple[str, ...]
    event_time: str
    created_time: str | None


@dataclass(frozen=True)
class RowsToPublish:
    """The rows whose event time lies in ``[start, end]`` or that came late.

    ``latest``: only the latest of each entity among them. ``types``: as which Feast types the
    columns are declared; such a column comes as that type or is refused. ``allowed``: the
    configuration that says how far ahead of now a row may be; what is further ahead is passed
    over, and said.
    """

    project: str
    source: Source
    start: datetime
    end: datetime
    latest: bool
    types: Mapping[str, FeastType] = field(default_factory=dict)
    allowed: RepoConfig | None = None
    context: str = "reading rows to materialize"

    def chunks(self, session: ArrowSession) -> Iterator[pa.Table]:
        """The rows, some megabytes at a time, and a note of what was visible after the last."""
        since = self.start
        self._refuse_cut(session)
        self._say_future(session)
        marked = self.source.created_time is not None and _has_marks(session)
        if marked:
            settled = _settled(session)
            since = self._published_since(session)
        yield from read_exactly(session, self._query(since, session), self.types, self.source.keys)
        if marked:
            self._note(session, settled)

    def to_sql(self, session: ArrowSession) -> str:  # noqa: ARG002
        """The statement, without what came late."""
        return self._query(self.start).as_string(None)

    def _refuse_cut(self, session: ArrowSession) -> None:
        """Refuse rows that a log no longer has: of each entity the latest one is there by any end.

        Raises:
            ColdRowsError: the log was cut later than that.
        """
        asked = self.end if self.latest else self.start
        require_hot_rows(session, self.source.table, asked, "A materialization")

    def _say_future(self, session: ArrowSession) -> None:
        """Name the rows that are passed over, which another tool must have put there."""
        source = self.source
        event = sql.Identifier("l", source.event_time)
        times = [source.event_time, *([source.created_time] if source.created_time else [])]
        late = session.table(
            sql.SQL(
                "SELECT count(*) AS n, max({event})::text AS latest FROM {table} AS l "
                "WHERE {event} >= {start} AND {event} <= {end} AND {future}"
            ).format(
                event=event,
                table=sql.SQL(source.table),
                start=sql.Literal(self.start),
                end=sql.Literal(self.end),
                future=future(self.allowed, times),
            )
        ).to_pylist()[0]
        if late["n"]:
            logger.warning(
                "%d rows of %s are from the future (the latest: %s %s, or published later) and "
                "were not materialized: correct them, or wait until their time has come.",
                late["n"], source.table, source.event_time, late["latest"],
            )  # fmt: skip

    def _published_since(self, session: ArrowSession) -> datetime:
        """From which publication on rows may be missing online."""
        table = session.table(
            sql.SQL(
                "SELECT least(m.settled, "
                "(SELECT min(a.oldest_created) FROM late_appends AS a "
                "WHERE a.log_table = {table} AND a.appended_at >= m.settled), "
                # A backfill's rows say that they were published when they would have been.
                "(SELECT min(b.range_start) FROM backfills AS b WHERE b.updated_at >= m.settled "
                f"AND {log_table_sql('b')} = {{table}})) AS since "
                "FROM materializations AS m "
                "WHERE m.project = {project} AND m.log_table = {table} AND m.range_end = {start}"
            ).format(
                table=sql.Literal(self.source.table),
                project=sql.Literal(self.project),
                start=sql.Literal(self.start),
            )
        )
        since: datetime = table["since"][0].as_py() if table.num_rows else self.start
        return since

    def _note(self, session: ArrowSession, settled: datetime) -> None:
        """Remember this run by its end, which is the start of the next if it succeeds.

        A run that went on from an end in the future leaves that end's note as it is: Feast goes
        on naming it as the start until the clock has passed it.
        """
        if self.end <= self.start:
            return
        session.run(
            sql.SQL(
                "INSERT INTO materializations AS m (project, log_table, range_end, settled) "
                "VALUES ({project}, {table}, {end}, {settled}) "
                "ON CONFLICT (project, log_table, range_end) DO UPDATE "
                "SET settled = least(m.settled, excluded.settled), read_at = clock_timestamp()"
            ).format(
                project=sql.Literal(self.project),
                table=sql.Literal(self.source.table),
                end=sql.Literal(self.end),
                settled=sql.Literal(settled),
            )
        )
        for table, column in (("materializations", "read_at"), ("late_appends", "appended_at")):
            session.run(
                sql.SQL("DELETE FROM {} WHERE {} < clock_timestamp() - {}::interval").format(
                    sql.Identifier(table), sql.Identifier(column), sql.Literal(FORGET_AFTER)
                )
            )

    def _query(self, since: datetime, session: ArrowSession | None = None) -> sql.Composable:
        """With a ``session`` the cheaper of two statements for the same rows."""
        source = self.source
        event = sql.Identifier("l", source.event_time)
        wanted: sql.Composable = sql.SQL("{} >= {}").format(event, sql.Literal(self.start))
        times = [source.event_time]
        if source.created_time is not None:
            created = sql.Identifier("l", source.created_time)
            wanted = sql.SQL("({} OR {} >= {})").format(wanted, created, sql.Literal(since))
            times.append(source.created_time)
        wanted = sql.SQL("{} <= {} AND {} AND {}").format(
            event, sql.Literal(self.end), not_future_condition(self.allowed, times), wanted
        )
        columns = _columns(source)
        if not self.latest:
            return sql.SQL("SELECT {} FROM {} AS l WHERE {}").format(
                columns, sql.SQL(source.table), wanted
            )
        if session is None:
            by = RowOrder(source.event_time, source.created_time, unique=False, dated=False)
            return sorted_rows(source.table, source.keys, by, columns, wanted)
        return latest_rows(session, source.table, source.keys, times, columns, wanted)


def all_rows(source: Source, start: datetime | None, end: datetime | None) -> str:
    """Every row whose event time lies in ``[start, end]``; None is open."""
    event = sql.Identifier("l", source.event_time)
    conditions: list[sql.Composable] = [
        sql.SQL("{} {} {}").format(event, sql.SQL(operator), sql.Literal(bound))
        for operator, bound in ((">=", start), ("<=", end))
        if bound is not None
    ]
    return (
        sql.SQL("SELECT {columns} FROM {table} AS l WHERE {conditions}")
        .format(
            columns=_columns(source),
            table=sql.SQL(source.table),
            conditions=sql.SQL(" AND ").join(conditions or [sql.SQL("TRUE")]),
        )
        .as_string(None)
    )


def _columns(source: Source) -> sql.Composable:
    if not source.features:
        # Feast's way to ask for all columns of the source, for transforms that read them.
        columns: sql.Composable = sql.SQL("l.*")
    else:
        times = [source.event_time, *([source.created_time] if source.created_time else [])]
        columns = sql.SQL(", ").join(
            sql.Identifier("l", name)
            for name in dict.fromkeys([*source.keys, *source.features, *times])
        )
    if source.keys:
        return columns
    return sql.SQL("{}, {} AS {}").format(
        columns, sql.Literal(DUMMY_ENTITY_VAL), sql.Identifier(DUMMY_ENTITY_ID)
    )


def _has_marks(session: ArrowSession) -> bool:
    """Whether the migration is there; without it, materialization is as Feast's."""
    return session.has("materializations")


def _settled(session: ArrowSession) -> datetime:
    at: datetime = session.table(SETTLED)["settled"][0].as_py()
    return at
