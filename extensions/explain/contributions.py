"""What each event does to a value: it is left out, and the same text is asked again.

Nothing is written. For the length of one statement common table expressions stand in for the
tables that the text names: the entity's own rows, one of them hidden. Whether that may be done at
all is asked first: over those rows alone the text must give the value that it gives over the
tables, and without any of them the declared defaults.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from adbc_driver_manager import Error as AdbcError
from adbc_driver_postgresql import dbapi
from psycopg import sql

from extensions.asof.computation import Computation
from extensions.asof.engine import answers
from extensions.asof.spine import Spine
from extensions.bitwise_equality import same
from extensions.consistency.log_comparison import defaults, differing
from extensions.database.connection import identifiers
from extensions.engines.postgresql import fetched
from extensions.explain.events import MOST_ROWS
from extensions.explain.report import Effect, Event, SourceEvents
from extensions.explain.source_rows import OWN, WHOLE, SourceRows
from extensions.user_code_errors import user_sql

# Events that one statement leaves out, each once.
_BATCH = 50
# Places in `_asked` that hide no row, and every row.
_NONE, _ALL = 0, -1
_CANCELLED = "57014"


@dataclass(frozen=True)
class Contributions:
    """The sources with the effects of their events; see `report.Explanation` for ``additive``."""

    sources: tuple[SourceEvents, ...]
    additive: Mapping[str, bool | None]
    notes: tuple[str, ...] = ()


@dataclass
class LeaveOneOut:
    """Asks one entity's value as of ``at`` once for each event, without it.

    Attributes:
        conn: In a transaction that sees one state of the database.
        computation: The view version.
        key: The entity.
        at: The time.
        rows: The sources, as `source_rows` gives them.
        deadline: Of `time.monotonic`; what is not done by then is left.
    """

    conn: dbapi.Connection
    computation: Computation
    key: tuple[Any, ...]
    at: datetime
    rows: Sequence[SourceRows]
    deadline: float
    notes: list[str] = field(default_factory=list)

    def run(self, value: pa.Table, sources: Sequence[SourceEvents]) -> Contributions:
        """The effects of the events in ``sources`` on ``value`` (one row, a column a feature).

        Raises:
            DefinitionError: the text failed on some of the rows.
        """
        unknown: dict[str, bool | None] = dict.fromkeys(value.column_names)
        if reason := self._refusal(value, sources):
            return Contributions(tuple(sources), unknown, (reason,))
        found = dict(enumerate(sources))
        wanted = [
            (i, n)
            for i, each in enumerate(sources)
            if each.how != WHOLE
            for n in range(len(each.events))
        ]
        effects: dict[tuple[int, int], dict[str, Effect]] = {}
        for start in range(0, len(wanted), _BATCH):
            part = wanted[start : start + _BATCH]
            table = self._within_time([(i, n + 1) for i, n in part])
            if table is None:
                self.notes.append(
                    f"Of {len(wanted):,} events the time sufficed to leave out {start:,}."
                )
                break
            effects |= dict(zip(part, _effects(value, table), strict=True))
        for i, each in found.items():
            events = tuple(
                replace(event, effects=effects.get((i, n), {}))
                for n, event in enumerate(each.events)
            )
            found[i] = replace(each, events=events)
        result = tuple(found.values())
        return Contributions(result, _additive(value, result), tuple(self.notes))

    def _refusal(self, value: pa.Table, sources: Sequence[SourceEvents]) -> str | None:
        for each in sources:
            if each.known is None and each.how != WHOLE:
                return (
                    f"The entity has more than {MOST_ROWS:,} rows in {each.source}: what each "
                    "contributes was not worked out."
                )
        checked = self._within_time([(0, _NONE), (0, _ALL)])
        if checked is None:
            return "The time did not suffice to leave events out."
        whole, none = checked.slice(0, 1), checked.slice(1, 1)
        if differing(value, whole)[0]:
            return (
                "Over the entity's rows alone the text gives another value: it reads rows that "
                "its sources' keys do not name, so what an event contributes was not worked out."
            )
        if differing(none, defaults(self.computation, none))[0]:
            return (
                "Without any row the text does not give the declared defaults, so what an event "
                "contributes was not worked out."
            )
        return None

    def _within_time(self, hidden: Sequence[tuple[int, int]]) -> pa.Table | None:
        """The answers in the order of ``hidden``; None where the time was over."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            return None
        try:
            with self.conn.cursor() as cursor:
                cursor.execute(f"SET LOCAL statement_timeout = {max(1, int(1000 * left))}")
            with user_sql(self.computation.view, self.computation.version):
                table = fetched(self.conn, self._query(hidden))
        except AdbcError as error:
            if getattr(error, "sqlstate", None) != _CANCELLED:
                raise
            return None
        return table.sort_by("skewless_row").drop_columns("skewless_row")

    def _query(self, hidden: Sequence[tuple[int, int]]) -> sql.Composed:
        """One row for each (source, number of the row that is hidden)."""
        named = [(i, each) for i, each in enumerate(self.rows) if each.how != WHOLE]
        numbered = [
            sql.SQL("{} AS MATERIALIZED ({})").format(
                _rows_name(i),
                each.query(
                    sql.SQL("h AS r, row_number() OVER (ORDER BY {}) AS n").format(each.order),
                    each.known(self.at),
                ),
            )
            for i, each in named
        ]
        instead = {
            each.source.table: sql.SQL(
                "SELECT (x.r).* FROM {} AS x WHERE v.n <> {} AND NOT (v.source = {} AND x.n = v.n)"
            ).format(_rows_name(i), sql.Literal(_ALL), sql.Literal(i))
            for i, each in named
        }
        spine = Spine.of([(*self.key, self.at)], self.computation)
        names = [feature.name for feature in self.computation.features]
        return sql.SQL(
            "WITH {numbered} SELECT v.skewless_row, a.* FROM "
            "unnest({sources}::integer[], {numbers}::bigint[]) "
            "WITH ORDINALITY AS v (source, n, skewless_row) "
            "CROSS JOIN LATERAL ({answers} SELECT {features} FROM answered) AS a"
        ).format(
            numbered=sql.SQL(", ").join(numbered),
            sources=sql.Literal([i for i, _ in hidden]),
            numbers=sql.Literal([n for _, n in hidden]),
            answers=answers(self.computation, spine, instead),
            features=identifiers(names),
        )


def _rows_name(i: int) -> sql.Identifier:
    return sql.Identifier(f"skewless_rows_{i}")


def _effects(value: pa.Table, without: pa.Table) -> list[dict[str, Effect]]:
    """By row of ``without``, what the event did to each feature."""
    repeated = value.take(pa.array(np.zeros(without.num_rows, np.int64)))
    found: list[dict[str, Effect]] = [{} for _ in range(without.num_rows)]
    for name in value.column_names:
        equal = same(repeated[name], without[name])
        [whole] = value[name].to_pylist()
        for i, other in enumerate(without[name].to_pylist()):
            found[i][name] = Effect(not equal[i], other, _difference(whole, other))
    return found


def _difference(whole: Any, other: Any) -> int | float | None:
    if not (_is_number(whole) and _is_number(other)):
        return None
    if isinstance(whole, int) and isinstance(other, int):
        return whole - other
    return float(Fraction(whole) - Fraction(other))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _additive(value: pa.Table, sources: Sequence[SourceEvents]) -> dict[str, bool | None]:
    """Whether the differences of the entity's own events add up to the value exactly."""
    own = [each for each in sources if each.how == OWN]
    events: list[Event] = [event for each in own for event in each.events]
    whole = all(each.known == len(each.events) for each in own) and all(e.effects for e in events)
    found: dict[str, bool | None] = {}
    for name in value.column_names:
        [held] = value[name].to_pylist()
        told = [event.effects[name].without for event in events if event.effects]
        if not (_is_number(held) and all(map(_is_number, told))):
            found[name] = False
        elif not whole:
            found[name] = None
        else:
            # Exactly: a float is a fraction.
            total = sum((Fraction(held) - Fraction(each) for each in told), Fraction(0))
            found[name] = bool(events) and total == Fraction(held)
    return found
