"""Appending pushed rows to a view's log: all of them or none, and twice is as good as once."""

import uuid
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, RepoConfig
from feast.types import Array, FeastType, Set
from psycopg import sql

from extensions.database.connection import identifiers
from extensions.errors import SkewlessError
from extensions.stores.exact_cast import exactly
from extensions.stores.offline.arrow_session import ArrowSession, arrow_session
from extensions.stores.offline.arrow_types import is_text
from extensions.stores.offline.moments import parsed
from extensions.stores.row_times import refuse_future_rows


def append(config: RepoConfig, feature_view: FeatureView, table: pa.Table) -> int:
    """Append ``table`` (the log's own columns) to the view's log; returns the rows sent.

    A time without a zone is UTC; a missing created time is the database's clock. A row whose
    keys and times the log holds already is left alone.

    Raises:
        SkewlessError: the log refused a row or could not be reached; it holds none of them then.
    """
    source = feature_view.batch_source
    if source is None:
        raise SkewlessError(f"View {feature_view.name} has no batch source to append to.")
    log = source.get_table_query_string()
    if log.startswith("("):
        raise SkewlessError(
            f"View {feature_view.name} reads a query, which cannot be appended to: give its "
            "source a table."
        )
    if table.num_rows == 0:
        return 0
    in_source = {output: column for column, output in source.field_mapping.items()}
    times = (source.timestamp_field, source.created_timestamp_column)
    table = _typed(feature_view, _in_utc(_parsed(table, times))).rename_columns(
        [in_source.get(column, column) for column in table.column_names]
    )
    name = f"push_{uuid.uuid4().hex}"
    doing = (
        f"appending {table.num_rows} rows to {log} (none of them is there now; if they were "
        "pushed online too, Redis holds them already, and pushing again is harmless)"
    )
    created = source.created_timestamp_column
    refuse_future_rows(
        config, feature_view.name, table, [in_source.get(name, name) for name in times if name]
    )
    with arrow_session(config, doing) as session:
        session.upload(name, table)
        session.run(
            sql.SQL(
                "INSERT INTO {log} ({columns}) SELECT {values} FROM pg_temp.{rows} "
                "ON CONFLICT DO NOTHING"
            ).format(
                log=sql.SQL(log),
                columns=identifiers(table.column_names),
                values=sql.SQL(", ").join(_value(field, created) for field in table.schema),
                rows=sql.Identifier(name),
            )
        )
        if created in table.column_names:
            _note_late(session, log, name, created)
        session.drop(name)
    return int(table.num_rows)


def _value(field: pa.Field, created: str) -> sql.Composable:
    # A column of nothing but nulls has no type that it could be sent as.
    value = sql.SQL("NULL") if pa.types.is_null(field.type) else sql.Identifier(field.name)
    return (
        sql.SQL("coalesce({}, clock_timestamp())").format(value)
        if (field.name == created)
        else value
    )


def _typed(view: FeatureView, table: pa.Table) -> pa.Table:
    """Columns in their declared types, exactly: the database would round, and say nothing."""
    for field in [*view.entity_columns, *view.features]:
        place = table.schema.get_field_index(field.name)
        kind, depth = _primitive(field.dtype)
        if place < 0 or kind not in _CAST:
            continue
        try:
            what = f"The column {field.name}"
            column = exactly(table.column(place), kind, depth, what, str(field.dtype))
        except SkewlessError as error:
            raise SkewlessError(
                f"{error} It is so in view {view.name}; none of the {table.num_rows} rows was "
                "appended."
            ) from error
        table = table.set_column(place, field.name, column)
    return table


_CAST = ("INT32", "INT64", "FLOAT32", "FLOAT64")


def _primitive(dtype: FeastType) -> tuple[str, int]:
    depth = 0
    while isinstance(dtype, Array | Set):
        dtype, depth = dtype.base_type, depth + 1
    return str(getattr(dtype, "name", "")), depth


def _note_late(session: ArrowSession, log: str, rows: str, created: str) -> None:
    """Rows published before this transaction began: the next materialization must look back."""
    if not session.has("late_appends"):
        return
    session.run(
        sql.SQL(
            "INSERT INTO late_appends (log_table, oldest_created) "
            "SELECT {log}, min({created}) FROM pg_temp.{rows} HAVING min({created}) < now()"
        ).format(log=sql.Literal(log), created=sql.Identifier(created), rows=sql.Identifier(rows))
    )


def _parsed(table: pa.Table, times: Sequence[str]) -> pa.Table:
    """Times that came as text, as JSON brings them over HTTP."""
    for place, field in enumerate(table.schema):
        if field.name not in times or not is_text(field.type):
            continue
        try:
            moments = parsed(table.column(place).to_pandas())
        except (ValueError, TypeError) as error:
            raise SkewlessError(
                f"The column {field.name} does not hold times ({error}): write them as "
                f"2026-01-31T12:00:00Z; none of the {table.num_rows} rows was appended."
            ) from error
        table = table.set_column(
            place, field.name, moments.cast(pa.timestamp("us", "UTC"), safe=False)
        )
    return table


def _in_utc(table: pa.Table) -> pa.Table:
    for place, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type) and column.type.tz is None:
            zoned = pc.assume_timezone(table.column(place), "UTC")
            table = table.set_column(place, column.name, zoned)
    return table
