"""Prepare pushed rows for a view's log: the log's column names, declared types, times in UTC."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from psycopg import sql

from extensions.errors import DefinitionError, InputError, SkewlessError
from extensions.feature_types import (
    FEATURE_TYPES,
    UTC_MICROSECONDS,
    arrow_type,
    is_text,
    unwrapped,
)
from extensions.stores.offline.arrow.nested_array_text import nested_arrays_to_text
from extensions.stores.values.exact_cast import cast_exactly
from extensions.stores.values.key_value_casts import cast_key
from extensions.timestamp_column_parsing import in_utc, parse_column

# The column of row numbers in the temporary table.
ROW = "_skewless_row"


@dataclass(frozen=True)
class Log:
    """The table of a view's log, with its key columns, event time and created time."""

    table: str
    keys: tuple[str, ...]
    event: str
    created: str | None

    @property
    def same(self) -> sql.Composable:
        """SQL: the log's row ``l`` and the pushed row ``r`` have equal keys and times."""
        names = [*self.keys, self.event, *([self.created] if self.created else [])]
        return sql.SQL(" AND ").join(
            sql.SQL("l.{0} = r.{0}").format(sql.Identifier(name)) for name in names
        )

    @property
    def instant(self) -> sql.Composable:
        """SQL: as ``same``, but the created times may differ."""
        return sql.SQL(" AND ").join(
            sql.SQL("l.{0} = r.{0}").format(sql.Identifier(name))
            for name in (*self.keys, self.event)
        )


def log_columns(view: FeatureView) -> dict[str, str]:
    """The log's column for each key, feature and time of the view, by the view's name of it."""
    source = view.batch_source
    assert source is not None
    in_source = {output: column for column, output in source.field_mapping.items()}
    names = [field.name for field in (*view.entity_columns, *view.features)]
    names += [source.timestamp_field, source.created_timestamp_column]
    return {
        name: in_source.get(name, name)
        for name in dict.fromkeys(names)
        if name and name != DUMMY_ENTITY_ID
    }


def log_of(view: FeatureView) -> Log:
    """The log that a view's batch source names.

    Raises:
        SkewlessError: there is none, or it is a query.
    """
    source = view.batch_source
    if source is None:
        raise DefinitionError(f"View {view.name} has no batch source to append to.")
    table = source.get_table_query_string()
    if table.startswith("("):
        raise DefinitionError(
            f"View {view.name} reads a query, which cannot be appended to: give its source a table."
        )
    in_source = {output: column for column, output in source.field_mapping.items()}
    created = source.created_timestamp_column
    return Log(
        table,
        tuple(
            in_source.get(key.name, key.name)
            for key in view.entity_columns
            if key.name != DUMMY_ENTITY_ID
        ),
        in_source.get(source.timestamp_field, source.timestamp_field),
        in_source.get(created, created) or None,
    )


def prepare_rows(view: FeatureView, table: pa.Table) -> pa.Table:
    """The rows in declared types, with the log's column names and a column of row numbers.

    Raises:
        SkewlessError: a key or event time is null, or a value is not of its declared type.
    """
    source = view.batch_source
    assert source is not None
    in_source = {output: column for column, output in source.field_mapping.items()}
    times = (source.timestamp_field, source.created_timestamp_column)
    typed = _with_declared_types(view, _in_utc(_with_parsed_times(table, times)))
    keys = [key.name for key in view.entity_columns if key.name != DUMMY_ENTITY_ID]
    for name in (*keys, source.timestamp_field):
        if name in typed.column_names and typed[name].null_count:
            raise InputError(
                f"The column {name} of a push to view {view.name} has {typed[name].null_count} "
                "nulls: give every row its keys and its event time; none of the "
                f"{table.num_rows} rows was appended."
            )
    typed = nested_arrays_to_text(view.name, typed)
    typed = typed.rename_columns([in_source.get(name, name) for name in typed.column_names])
    return typed.append_column(ROW, pa.array(range(table.num_rows), pa.int64()))


def empty_rows(view: FeatureView) -> pa.Table:
    """A table of the view's columns without rows."""
    return pa.table({name: pa.array([], pa.null()) for name in log_columns(view)})


def _with_declared_types(view: FeatureView, table: pa.Table) -> pa.Table:
    """Cast columns to their declared types exactly; PostgreSQL would round without an error."""
    for key in view.entity_columns:
        place = table.schema.get_field_index(key.name)
        if place >= 0:
            column = cast_key(
                table.column(place), key.dtype, key.name, f"the push to view {view.name}"
            )
            table = table.set_column(place, key.name, column)
    for field in view.features:
        place = table.schema.get_field_index(field.name)
        name, depth = unwrapped(field.dtype)
        if place < 0:
            continue
        held = table.schema.field(place).type
        if depth and pa.types.is_list(held) and pa.types.is_null(held.value_type):
            # Empty lists alone do not say what they are lists of.
            empty = table.column(place).cast(arrow_type(field.dtype))
            table = table.set_column(place, field.name, empty)
            continue
        if name not in FEATURE_TYPES or not FEATURE_TYPES[name].numeric:
            continue
        try:
            what = f"The column {field.name}"
            column = cast_exactly(table.column(place), name, depth, what, str(field.dtype))
        except SkewlessError as error:
            raise InputError(
                f"{error} It is so in view {view.name}; none of the {table.num_rows} rows was "
                "appended."
            ) from error
        table = table.set_column(place, field.name, column)
    return table


def _with_parsed_times(table: pa.Table, times: Sequence[str]) -> pa.Table:
    """Parse time columns that are text, as in JSON over HTTP."""
    for place, field in enumerate(table.schema):
        if field.name not in times or not is_text(field.type):
            continue
        try:
            parsed = parse_column(table.column(place).to_pandas(), field.name)
        except SkewlessError as error:
            raise InputError(
                f"{error.message} (none of the {table.num_rows} rows was appended)"
            ) from error
        table = table.set_column(place, field.name, parsed.cast(UTC_MICROSECONDS, safe=False))
    return table


def _in_utc(table: pa.Table) -> pa.Table:
    for place, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type) and column.type.tz is None:
            table = table.set_column(place, column.name, in_utc(table.column(place)))
    return table
