"""Spines of change: the entities whose values may have changed, and the times at which they did.

Changes are found from the history tables alone, so that a tick costs what changed and not the
whole population. With t the time of the request, a row that happened at ``time``, became known at
``arrival`` and counts for the horizon h, is part of the value while
max(time, arrival) <= t < time + h. So a value can change at max(time, arrival), where the row
enters, and at time + h, where it leaves; and so for each shorter window that the text has.
"""

from datetime import datetime

from psycopg import sql

from extensions.asof.computation import Computation, HistorySource
from extensions.asof.spine import (
    Spine,
    SpineFragments,
    active,
    collated,
    named,
    span_literal,
)
from extensions.database.connection import identifiers
from extensions.errors import DefinitionError
from extensions.timestamps import EPOCH


def touched(computation: Computation, after: datetime, through: datetime) -> Spine:
    """The entities whose value as of ``through`` may differ from that as of ``after``.

    Decaying values differ for every active entity.
    """
    build = SpineFragments(computation)
    changed = _change_times(build, after, through)
    query = sql.SQL("SELECT {keys} FROM ({changed}) AS p").format(
        keys=identifiers(computation.join_keys, "p"), changed=changed
    )
    if computation.decays:
        query = sql.SQL("{} UNION SELECT {} FROM ({}) AS p").format(
            query, identifiers(computation.join_keys, "p"), active(computation, through).query
        )
    return Spine(
        sql.SQL("SELECT DISTINCT {keys}, {at}::timestamptz AS as_of FROM ({query}) AS p").format(
            keys=identifiers(computation.join_keys, "p"), at=sql.Literal(through), query=query
        )
    )


def changes(computation: Computation, after: datetime, through: datetime) -> Spine:
    """Every (entity, time) in ``(after, through]`` at which the log would hold a new row.

    For a realtime view the times of change themselves; for one computed by ticks the first tick
    at or after the change. Ticks lie on whole periods since the Unix epoch.
    """
    build = SpineFragments(computation)
    period = computation.freshness.period
    keys = identifiers(computation.join_keys, "p")
    if period is None:
        if computation.decays:
            raise DefinitionError(
                f"View {computation.view} decays and is realtime: there is no moment at which "
                "its value does not change; make it hourly or daily."
            )
        times = _change_times(build, after, through)
        return Spine(
            sql.SQL("SELECT DISTINCT {keys}, p.changed_at AS as_of FROM ({times}) AS p").format(
                keys=keys, times=times
            )
        )
    # A change up to one period before `after` may first show at a tick within the range.
    times = _change_times(build, after - period, through)
    epoch = sql.SQL("timestamptz '1970-01-01 00:00:00+00'")
    every = sql.Literal(period)
    query = sql.SQL(
        "SELECT DISTINCT {keys}, "
        "date_bin({every}, p.changed_at - interval '1 microsecond', {epoch}) "
        "+ {every} AS as_of FROM ({times}) AS p"
    ).format(keys=keys, every=every, epoch=epoch, times=times)
    if computation.decays:  # the active entities, tick by tick
        ticks = sql.SQL(" UNION ").join(
            sql.SQL(
                "SELECT DISTINCT {keys}, g.tick AS as_of FROM generate_series("
                "date_bin({every}, {after}, {epoch}) + {every}, {through}, {every}) AS g (tick) "
                "INNER JOIN {table} AS p ON {within}"
            ).format(
                **build.names(source) | {"keys": build.keys_of(source)},
                every=every,
                epoch=epoch,
                after=sql.Literal(after),
                through=sql.Literal(through),
                within=build.within(sql.SQL("g.tick"), source),
            )
            for source in build.bearing
        )
        query = sql.SQL("{} UNION {}").format(query, named(computation, ticks))
    return Spine(
        sql.SQL("SELECT * FROM ({query}) AS c WHERE as_of > {after} AND as_of <= {through}").format(
            query=query, after=sql.Literal(after), through=sql.Literal(through)
        )
    )


def unanswered(computation: Computation, after: datetime, through: datetime) -> Spine:
    """The entities that changed in ``(after, through]`` and have no row in the log since.

    Changes that a worker's step computed are in the log already. The others were made by time
    alone (rows that left a window, or whose own time came) or by another writer.
    """
    return Spine(
        sql.SQL(
            "SELECT DISTINCT {keys}, {through}::timestamptz AS as_of FROM ({changes}) AS c "
            "WHERE NOT EXISTS (SELECT FROM {log} AS l WHERE ({logged}) = ({keys}) "
            "AND l.event_timestamp >= c.as_of)"
        ).format(
            keys=identifiers(computation.join_keys, "c"),
            through=sql.Literal(through),
            # The log's texts are in order of their bytes.
            changes=sql.SQL("SELECT {}, as_of FROM ({}) AS t").format(
                collated(computation.join_keys, computation.key_types, "C"),
                changes(computation, after, through).query,
            ),
            log=sql.Identifier(computation.log_table),
            logged=identifiers(computation.join_keys, "l"),
        )
    )


def _change_times(build: SpineFragments, after: datetime, through: datetime) -> sql.Composable:
    """SQL of (join keys, changed_at) in ``(after, through]``: when rows entered and left."""
    parts: list[sql.Composable] = []
    bounds: dict[str, sql.Composable] = {
        "after": sql.Literal(after),
        "through": sql.Literal(through),
    }
    for source in build.bearing:
        names = build.names(source) | bounds | {"keys": build.keys_of(source)}
        parts.extend(
            sql.SQL(
                "SELECT {keys}, {p_time} + {span} AS changed_at FROM {table} AS p "
                "WHERE {p_time} > {after} - {span} AND {p_time} <= {through} - {span} "
                "AND {p_arrival} < {p_time} + {span}"
            ).format(**names, span=span_literal(span))
            for span in build.computation.windows
        )
        # Two range scans: rows that arrived in the range, and earlier ones whose time came in it.
        parts.append(
            sql.SQL(
                "SELECT {keys}, greatest({p_time}, {p_arrival}) AS changed_at FROM {table} AS p "
                "WHERE {p_arrival} > {after} AND {p_arrival} <= {through} "
                "AND {p_time} <= {through}"
            ).format(**names)
        )
        parts.append(
            sql.SQL(
                "SELECT {keys}, {p_time} AS changed_at FROM {table} AS p "
                "WHERE {p_time} > {after} AND {p_time} <= {through} AND {p_arrival} <= {p_time}"
            ).format(**names)
        )
    parts += _turns_of_the_calendar(build, after, through)
    others = [source for source in build.computation.reads if source not in build.bearing]
    parts.extend(_change_times_by(build, source, bounds) for source in others)
    return named(build.computation, sql.SQL(" UNION ALL ").join(parts))


def _turns_of_the_calendar(
    build: SpineFragments, after: datetime, through: datetime
) -> list[sql.Composable]:
    """Where the text asks for the day of ``as_of``, midnights change all active entities."""
    step = build.computation.calendar_step
    if step is None or build.computation.decays:
        return []
    turn = EPOCH + ((after - EPOCH) // step + 1) * step
    if turn > through:
        return []
    return [
        sql.SQL(
            "SELECT DISTINCT {keys}, g.tick AS changed_at FROM generate_series("
            "{turn}::timestamptz, {through}, {step}) AS g (tick) "
            "INNER JOIN {table} AS p ON {within}"
        ).format(
            **build.names(source) | {"keys": build.keys_of(source)},
            turn=sql.Literal(turn),
            through=sql.Literal(through),
            step=span_literal(step),
            within=build.within(sql.SQL("g.tick"), source),
        )
        for source in build.bearing
    ]


def _change_times_by(
    build: SpineFragments, source: HistorySource, bounds: dict[str, sql.Composable]
) -> sql.Composable:
    """Changes of another source (an item's price): they change the entities that refer to it.

    A source that shares no key with the primary one changes every active entity; such sources
    (exchange rates) change rarely.
    """
    news = sql.SQL(
        "SELECT {keys} greatest({time}, {arrival}) AS changed_at FROM {table} "
        "WHERE ({arrival} > {after} AND {arrival} <= {through} AND {time} <= {through}) "
        "OR ({time} > {after} AND {time} <= {through} AND {arrival} <= {time})"
    )
    left = sql.SQL(
        " UNION ALL SELECT {keys} {time} + {span} FROM {table} WHERE {time} > {after} - {span} "
        "AND {time} <= {through} - {span} AND {arrival} < {time} + {span}"
    )
    computation = build.computation
    spans = computation.windows if computation.has_windows_over(source) else ()
    shared = build.shared_keys(source)
    own = {**build.names(source), **bounds}
    own["keys"] = sql.SQL("").join(sql.SQL("{}, ").format(sql.Identifier(key)) for key in shared)
    joined = sql.SQL(" AND ").join(
        [
            build.within(sql.SQL("n.changed_at")),
            *(sql.SQL("p.{k} = n.{k}").format(k=sql.Identifier(key)) for key in shared),
        ]
    )
    return sql.SQL(
        "SELECT {keys}, n.changed_at FROM (SELECT DISTINCT * FROM ({news}) AS every) AS n "
        "INNER JOIN {primary} AS p ON {joined}"
    ).format(
        **build.names(source),
        news=sql.SQL("").join(
            [news.format(**own), *(left.format(**own, span=span_literal(span)) for span in spans)]
        ),
        joined=joined,
    )
