"""The online store against the log: does serving answer what a training set would get now?"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from extensions.consistency.comparison_context import (
    Context,
    Found,
    Marks,
    instant,
    key_table,
    microseconds,
    values_of,
)
from extensions.consistency.consistency_report import (
    BUG,
    FUTURE_ROW,
    NOT_PUBLISHED,
    ONLINE_AHEAD,
    ONLINE_BEHIND,
)
from extensions.consistency.entity_sample import Key
from extensions.consistency.history_and_log_reads import (
    NEVER,
    LogTimes,
    log_times,
    training_answers,
)
from extensions.consistency.log_comparison import differing
from extensions.consistency.online_rows import OnlineRows
from extensions.database.scalars import clock

# A row this much ahead of the clock is one of the future.
AHEAD = timedelta(seconds=1)


@dataclass(frozen=True)
class Examined:
    """What entities are served beside what a training set would get now, in their order.

    ``shown``: the event times of the rows that are served, None of defaults. ``causes``: None
    where all is well, else the cause, itself None where it is ordinary lag, and what there is to
    say beyond its meaning.
    """

    rows: OnlineRows
    served: pa.Table
    shown: list[datetime | None]
    trained: pa.Table
    in_log: NDArray[np.bool_]
    times: LogTimes
    causes: list[tuple[str | None, str | None] | None]


def examine_online(context: Context, keys: Sequence[Key], marks: Marks) -> Examined:
    """Read the online store, then the log, and compare them.

    Raises:
        RedisError: Redis does not answer.
    """
    computation = context.computation
    # Redis before the log: what is online was logged before.
    read_at = microseconds(clock(context.conn))
    rows = context.reader.read(
        context.view, dict(context.types), key_table(computation, keys), read_at
    )
    now = clock(context.conn)
    online_at = np.where(rows.present, rows.events, NEVER)
    shown = [instant(int(at)) if at != NEVER else None for at in _representable(online_at)]
    times = log_times(context.arrow, computation, keys, now, [at or marks.safe for at in shown])
    trained, found_in_log = training_answers(context.store, computation, keys, now)
    served = served_values(rows, trained)
    differs = differing(_comparable(trained), _comparable(served))
    work = _Classification(context, marks, times, online_at, rows, now)
    suspects = set(work.suspects(differs).tolist())
    causes = [
        work.cause(i, differs=bool(differs[i])) if i in suspects else None for i in range(len(keys))
    ]
    return Examined(rows, served, shown, trained, found_in_log, times, causes)


def compare_online(context: Context, keys: Sequence[Key], marks: Marks) -> Found:
    """Entities that are served other values than a training set would get for them now.

    Raises:
        RedisError: Redis does not answer.
    """
    seen = examine_online(context, keys, marks)
    current = seen.times.current
    differences, lag = [], 0
    for i, told in enumerate(seen.causes):
        if told is None:
            continue
        cause, why = told
        if cause is None:
            lag += 1
            continue
        differences.append(
            context.difference(
                cause,
                keys[i],
                why,
                logged=values_of(seen.trained, i) if seen.in_log[i] else None,
                logged_as_of=instant(current[i]) if current[i] != NEVER else None,
                online=values_of(seen.served, i) if seen.rows.present[i] else None,
                online_as_of=seen.shown[i],
            )
        )
    return Found(differences, lag)


class _Classification:
    def __init__(
        self,
        context: Context,
        marks: Marks,
        times: LogTimes,
        online_at: NDArray[np.int64],
        rows: OnlineRows,
        now: datetime,
    ) -> None:
        self._context, self._marks, self._times, self._now = context, marks, times, now
        self._online_at, self._rows = online_at, rows
        ahead = microseconds(now + AHEAD)
        self._future = (rows.stored_at > ahead) | (times.newest > ahead)
        self._ahead = rows.present & (online_at > times.current) & ~times.holds_online

    def suspects(self, differs: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Entities to name: other values, or a row that must not be even if its value is right."""
        return np.flatnonzero(differs | self._future | self._ahead)

    def cause(self, i: int, *, differs: bool) -> tuple[str | None, str | None]:  # noqa: PLR0911 - a cause each
        """The cause, None where it is ordinary lag; and what there is to say beyond its meaning."""
        times, current, online = self._times, self._times.current[i], self._online_at[i]
        if self._future[i]:
            side = "the log" if times.newest[i] > microseconds(self._now + AHEAD) else "Redis"
            at = max(int(times.newest[i]), int(self._rows.stored_at[i]))
            return FUTURE_ROW, f"{side} holds a row of {_readable(at)}, ahead of the clock"
        if self._ahead[i]:
            return ONLINE_AHEAD, None
        if self._rows.stored[i] and not self._rows.present[i] and current != NEVER:
            return NOT_PUBLISHED, (
                "the row in Redis has another layout or is beyond its ttl: it counts as missing"
            )
        if online == current and current != NEVER:
            return BUG, "log and Redis hold different values of the same event time"
        if online > current:
            return BUG, "the log holds the row that is served, and training does not see it"
        if current == NEVER:
            return BUG, "neither log nor Redis holds a row, and their defaults differ"
        assert differs
        logged = instant(int(current))
        if self._marks.published is not None and self._marks.published >= logged:
            if times.backfilled[i] and online == NEVER and self._backfilled_since(logged):
                return NOT_PUBLISHED, "a backfill logged a row that was never published to Redis"
            return ONLINE_BEHIND, None
        if self._now - logged <= self._marks.budget:
            return None, None
        return NOT_PUBLISHED, None

    def _backfilled_since(self, logged: datetime) -> bool:
        """Whether a backfill of that time ended after the view had gone live."""
        computation = self._context.computation
        row = self._context.conn.execute(
            "SELECT EXISTS (SELECT FROM backfills WHERE view_name = %s AND version = %s "
            "AND range_start <= %s AND range_end >= %s AND updated_at > %s)",
            [
                computation.view,
                computation.version,
                logged,
                logged,
                self._marks.live_from or self._marks.published,
            ],
        ).fetchone()
        return bool(row and row[0])


def served_values(rows: OnlineRows, like: pa.Table) -> pa.Table:
    """The served columns, typed as the training set's."""
    return pa.table(
        {
            name: _array(rows.columns[name], like[name].type)
            for name in like.column_names
            if name in rows.columns
        }
    )


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    held = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if pa.types.is_timestamp(kind):  # Feast's times are whole seconds
        return pa.array(held, pa.int64()).cast(pa.timestamp("s", kind.tz))
    if pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
        whole = pa.list_(pa.timestamp("s", kind.value_type.tz))
        return pa.array(
            [None if one is None else list(one) for one in held], pa.list_(pa.int64())
        ).cast(whole)
    if pa.types.is_float32(kind):
        return pa.array(np.asarray(held, np.float32)) if None not in held else pa.array(held, kind)
    return pa.array([list(v) if isinstance(v, (set, np.ndarray)) else v for v in held], kind)


def _comparable(table: pa.Table) -> pa.Table:
    """Times cut to whole seconds, as Feast's online values have them."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        kind = column.type
        if pa.types.is_timestamp(kind):
            column = column.cast(pa.timestamp("s", kind.tz), safe=False)
        elif pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
            column = column.cast(pa.list_(pa.timestamp("s", kind.value_type.tz)), safe=False)
        columns[name] = column
    return pa.table(columns)


# What Python's datetime can hold, in microseconds since 1970; a wide row may lie beyond.
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999


def _representable(micros: NDArray[np.int64]) -> list[int]:
    there = micros != NEVER
    told: list[int] = np.where(there, np.clip(micros, _FIRST, _LAST), NEVER).tolist()
    return told


def _readable(micros: int) -> str:
    return f"{instant(min(max(micros, _FIRST), _LAST)):%Y-%m-%d %H:%M:%S}"
