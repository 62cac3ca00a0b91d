"""What one entity's values are compared with, and the cause where they differ."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi

from extensions.asof.computation import Computation
from extensions.asof.engine import compute
from extensions.asof.log_coverage import coverage
from extensions.asof.spine import Spine
from extensions.asof.tick_schedule import last_tick
from extensions.asof.watermarks import read_watermark
from extensions.bitwise_equality import same
from extensions.consistency.consistency_report import (
    BUG,
    CAUSES,
    CLAIMED_ARRIVAL,
    LAG,
    LOG_GAP,
    OVERDUE,
)
from extensions.consistency.entity_sample import Key
from extensions.consistency.history_and_log_reads import evidence
from extensions.consistency.log_comparison import cause_of, defaults
from extensions.explain.log_rows import LogRows
from extensions.explain.report import NOW, OWN, Comparison

_LAG = "the value changed within the view's freshness budget"


@dataclass(frozen=True)
class Recomputed:
    """One entity's values as history gives them, by time: tables of one row."""

    at: dict[datetime, pa.Table]

    @classmethod
    def of(
        cls, conn: dbapi.Connection, computation: Computation, key: Key, times: set[datetime]
    ) -> "Recomputed":
        """Ask the engine; as in the audit, the published text over the tables.

        Raises:
            DefinitionError: the text failed.
        """
        spine = Spine.of([(*key, at) for at in sorted(times)], computation)
        table = compute(conn, computation, spine)
        asked = table["as_of"].cast(pa.timestamp("us", "UTC")).to_pylist()
        names = [feature.name for feature in computation.features]
        return cls({at: table.select(names).slice(i, 1) for i, at in enumerate(asked)})


@dataclass(frozen=True)
class LogComparison:
    """The log's row as of ``at`` against history; ``log``: the rows that a label would see."""

    conn: psycopg.Connection
    arrow: dbapi.Connection
    computation: Computation
    key: Key
    at: datetime
    log: LogRows

    def times(self) -> set[datetime]:
        """The times at which `compare` needs history's values."""
        return {self.at, *self.log.as_of[:1], *self._excused()}

    def compare(self, recomputed: Recomputed) -> list[Comparison]:
        """The log's row as of its own time, and as of ``at``."""
        found, own_cause = [], None
        now = recomputed.at[self.at]
        if not len(self.log):
            held = defaults(self.computation, now)
        else:
            held = self.log.values.slice(0, 1)
            own = self._own(recomputed, held)
            found.append(own)
            own_cause = own.cause
        differing = differing_features(now, held)
        if not differing:
            return [*found, Comparison(NOW)]
        if any(not differing_features(recomputed.at[each], held) for each in self._excused()) or (
            len(self.log) and self.log.as_of[0] >= self.at - self._budget and not own_cause
        ):
            return [*found, Comparison(NOW, differing, LAG, _LAG)]
        cause, why = self._cause(own_cause)
        return [*found, Comparison(NOW, differing, cause, why or CAUSES[cause].meaning)]

    def _own(self, recomputed: Recomputed, held: pa.Table) -> Comparison:
        logged_at = self.log.as_of[0]
        differing = differing_features(recomputed.at[logged_at], held)
        if not differing:
            return Comparison(OWN)
        [seen] = evidence(self.conn, self.computation, [(self.key, self.at, logged_at)])
        cause, why = cause_of(self.computation, seen, logged=True, own=False)
        assert cause in (BUG, CLAIMED_ARRIVAL)
        return Comparison(OWN, differing, cause, why or CAUSES[cause].meaning)

    def _cause(self, own: str | None) -> tuple[str, str | None]:
        logged_at = self.log.as_of[0] if len(self.log) else None
        [seen] = evidence(self.conn, self.computation, [(self.key, self.at, logged_at)])
        if own is None and not seen.rewritten:
            mark = read_watermark(self.conn, self.computation)
            spans = coverage(self.conn, self.computation).spans
            if not any(span.start <= self.at <= span.end + self._budget for span in spans):
                if spans and mark is not None and self.at > spans[-1].end:
                    return OVERDUE, None
                return LOG_GAP, "neither a backfill nor a live value covers that time"
        return cause_of(self.computation, seen, logged=logged_at is not None, own=own is None)

    @property
    def _budget(self) -> timedelta:
        return self.computation.freshness.budget

    def _excused(self) -> list[datetime]:
        """Times whose value the log may still have at ``at``."""
        times = [self.at - self._budget]
        tick, period = last_tick(self.computation, self.at), self.computation.freshness.period
        if tick is not None and period is not None:
            times += [tick, tick - period]
        return times


def differing_features(one: pa.Table, other: pa.Table) -> tuple[str, ...]:
    """The features whose bits differ between two tables of one row."""
    return tuple(
        name
        for name in one.column_names
        if not same(one[name], other[name].cast(one[name].type))[0]
    )
