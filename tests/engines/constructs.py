"""Constructs that both engines run and that differ, or that DuckDB cannot run, and other ways.

Each is an expression over the events ``e`` of a user, all that happened and arrived by ``s.as_of``.
"""

from dataclasses import dataclass, replace

from extensions.asof import Computation, FeatureColumn

TEXT = """SELECT s.user_id, s.as_of, w.value
FROM spine AS s
CROSS JOIN LATERAL (
    SELECT {expression} AS value
    FROM {events} AS e
    WHERE e.user_id = s.user_id AND e.watched_at <= s.as_of AND e.ingested_at <= s.as_of
) AS w"""
EVENTS = "watch_events"
_PROGRESS = "e.progress::double precision"
_ORDER = "ORDER BY e.watched_at, e.event_id"


@dataclass(frozen=True)
class Construct:
    """``kind``: the type of the value. ``runs``: whether DuckDB runs it, with another value."""

    expression: str
    kind: str
    instead: str
    runs: bool = True


CONSTRUCTS: dict[str, Construct] = {
    "sum of a real": Construct(
        f"sum(e.progress {_ORDER})", "real", f"sum({_PROGRESS} {_ORDER})::real"
    ),
    "stddev": Construct(
        "stddev(e.duration_ms)", "double precision",
        "sqrt(sum(e.duration_ms::double precision) / count(*)::double precision)",
    ),
    "corr": Construct(
        "corr(e.progress, e.duration_ms)", "double precision",
        f"sum({_PROGRESS} * e.duration_ms::double precision {_ORDER})",
    ),
    "regr_slope": Construct(
        "regr_slope(e.progress, e.duration_ms)", "double precision",
        f"sum({_PROGRESS} {_ORDER}) / sum(e.duration_ms)::double precision",
    ),
    "percentile_cont": Construct(
        "percentile_cont(0.3) WITHIN GROUP (ORDER BY e.progress)", "double precision",
        "percentile_disc(0.3) WITHIN GROUP (ORDER BY e.progress)::double precision",
    ),
    "round of a double": Construct(
        "round(count(*)::double precision / 2)", "double precision",
        "floor(count(*)::double precision / 2 + 0.5)",
    ),
    "numeric to bigint": Construct(
        "(sum(e.duration_ms)::numeric / 2)::bigint", "bigint",
        "floor(sum(e.duration_ms)::double precision / 2 + 0.5)::bigint",
    ),
    "array_length of nothing": Construct(
        "coalesce(array_length(coalesce(array_agg(e.item_id) FILTER (WHERE e.item_id < 0), "
        "ARRAY[]::bigint[]), 1), -1)::bigint", "bigint",
        "cardinality(coalesce(array_agg(e.item_id) FILTER (WHERE e.item_id < 0), "
        "ARRAY[]::bigint[]))::bigint",
    ),
    "lower beyond ASCII": Construct(
        "max(lower('ÄÉ' || e.event_id))", "text", "max('ÄÉ' || e.event_id)"
    ),
    "a negative start": Construct(
        "max(substring(e.event_id FROM -1 FOR 3))", "text", "max(right(e.event_id, 1))"
    ),
    "SIMILAR TO": Construct(
        "bool_or(e.event_id SIMILAR TO '(1|2)%')", "boolean",
        "bool_or(e.event_id LIKE '1%' OR e.event_id LIKE '2%')",
    ),
    "to_hex": Construct("max(to_hex(e.duration_ms))", "text", "max(e.duration_ms)::text"),
    "format": Construct("max(format('%s', e.event_id))", "text", "max(e.event_id || '')"),
    "initcap": Construct("max(initcap(e.event_id))", "text", "max(e.event_id)", runs=False),
    "make_interval": Construct(
        "count(*) FILTER (WHERE e.watched_at > s.as_of - make_interval(days => 3))", "bigint",
        "count(*) FILTER (WHERE e.watched_at > s.as_of - 3 * interval '24 hours')", runs=False,
    ),
    "an array as text": Construct(
        "coalesce(array_agg(e.item_id ORDER BY e.event_id), '{}'::bigint[])", "bigint[]",
        "coalesce(array_agg(e.item_id ORDER BY e.event_id), ARRAY[]::bigint[])", runs=False,
    ),
    "jsonb": Construct(
        "max(('{\"a\": 1}'::jsonb #>> '{a}'))", "text", "max('1')", runs=False
    ),
}  # fmt: skip


def computation(like: Computation, expression: str, kind: str) -> Computation:
    """A view of one feature ``value`` by user."""
    feature = FeatureColumn("value", kind, None)
    sql = TEXT.format(expression=expression, events=EVENTS)
    return replace(like, sql=sql, horizon=None, features=(feature,))
