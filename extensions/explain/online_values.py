"""What is served of one entity now, read as the server reads it."""

from collections.abc import Sequence
from datetime import datetime

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from feast import FeatureStore
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from psycopg import sql

from extensions.consistency.comparison_context import Context, Marks, instant, microseconds
from extensions.consistency.consistency_report import BUG, CAUSES, LAG, ONLINE_AHEAD
from extensions.consistency.online_comparison import examine_online, served_values
from extensions.consistency.online_rows import OnlineReader, OnlineRows
from extensions.database.scalars import clock
from extensions.errors import ConfigurationError
from extensions.explain.comparing import differing_features
from extensions.explain.log_rows import Log, LogRows
from extensions.explain.report import ONLINE, Comparison, Served
from extensions.explain.subject import Subject
from extensions.feature_types import pg_type
from extensions.serving.features.request_plan import compile_plan

# Seconds that a scan of Redis may take, which is none here.
_NO_SCAN = 0.0


def served_now(
    store: FeatureStore, conn: psycopg.Connection, arrow: dbapi.Connection, subject: Subject
) -> tuple[Served, Comparison]:
    """The row of a version that is computed, and whether a training set would get the same now.

    Raises:
        RedisError: Redis does not answer.
        ConfigurationError: the version is not in the registry.
    """
    computation = subject.computation
    assert computation is not None
    reader = OnlineReader(store, 0, _NO_SCAN)
    view = reader.view(computation)
    context = Context(store, conn, arrow, reader, computation, view, subject.types)
    seen = examine_online(context, [subject.key], Marks.read(conn, computation))
    served = _served(seen.rows, seen.served, seen.shown[0])
    [told] = seen.causes
    if told is None:
        return served, Comparison(ONLINE)
    cause, why = told
    differing = differing_features(seen.trained, seen.served)
    if cause is None:
        return served, Comparison(
            ONLINE, differing, LAG, "a later row was logged within the freshness budget"
        )
    return served, Comparison(ONLINE, differing, cause, why or CAUSES[cause].meaning)


def pushed_now(
    store: FeatureStore, conn: psycopg.Connection, subject: Subject, newest: LogRows
) -> tuple[Served, Comparison | None]:
    """The row of a view without a computation, against the newest one of its source.

    Raises:
        RedisError: Redis does not answer.
        ConfigurationError: the view cannot be served.
    """
    names = [field.name for field in subject.feast.features]
    try:
        plan = compile_plan(store, [f"{subject.view}:{name}" for name in names])
    except Exception as error:
        raise ConfigurationError(f"{subject.view} is not served: {error}") from error
    [view] = plan.views
    keys = pa.table({name: [value] for name, value in subject.entity.items()})
    rows = OnlineReader(store, 0, _NO_SCAN).read(
        view, subject.types, keys, microseconds(clock(conn))
    )
    online_at = instant(int(rows.events[0])) if rows.present[0] else None
    values = served_values(rows, newest.values)
    served = _served(rows, values, online_at)
    if not len(newest):
        what = Comparison(ONLINE, (), ONLINE_AHEAD, "the source has no row of what is served")
        return served, what if online_at is not None else None
    differing = differing_features(newest.values.slice(0, 1), values)
    logged_at = newest.as_of[0]
    if online_at == logged_at:
        why = "the source and Redis hold different values of the same event time"
        return served, Comparison(ONLINE, differing, BUG, why) if differing else Comparison(ONLINE)
    if online_at is None or online_at < logged_at:
        why = "the source has a newer row that was not materialized"
        return served, Comparison(ONLINE, differing, LAG, why)
    return served, Comparison(ONLINE, differing, ONLINE_AHEAD, "the source lacks what is served")


def source_log(subject: Subject) -> Log | None:
    """Where the rows of a view without a computation lie; None: not in PostgreSQL."""
    source = subject.feast.batch_source
    if not isinstance(source, PostgreSQLSource):
        return None
    columns = {name: column for column, name in (source.field_mapping or {}).items()}
    types = {column.name: pg_type(column.dtype) for column in subject.feast.entity_columns}
    return Log(
        relation=sql.SQL(source.get_table_query_string()),
        keys={key: (columns.get(key, key), types[key]) for key in subject.entity},
        features={
            field.name: columns.get(field.name, field.name) for field in subject.feast.features
        },
        time=source.timestamp_field,
        created=source.created_timestamp_column or None,
    )


def _served(rows: OnlineRows, values: pa.Table, at: datetime | None) -> Served:
    status = "PRESENT" if rows.present[0] else "NOT_COUNTED" if rows.stored[0] else "NOT_FOUND"
    told: Sequence[dict[str, object]] = values.to_pylist()
    return Served(status, at, told[0])
