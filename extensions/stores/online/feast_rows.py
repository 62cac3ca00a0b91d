"""Conversion between packed rows and the rows that Feast passes to and from an online store."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from extensions.errors import InputError
from extensions.feast_internals import convert_arrow_to_proto
from extensions.feast_internals import populate_response as feast_populate_response
from extensions.stores.online.view_settings import MICROSECOND, from_micros, oldest_event, to_micros
from extensions.stores.online_codec.column_format import AnotherLayoutError
from extensions.stores.online_codec.row_format import Layout
from extensions.stores.values.default_values import default_values
from extensions.stores.values.future_rows import latest_time, refuse_future
from extensions.timestamps import EPOCH

Row = tuple[datetime | None, dict[str, Value] | None]
WriteRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


def to_messages(table: FeatureView, batch: pa.RecordBatch) -> list[WriteRow]:
    """Feast's own conversion of an Arrow batch, value by value."""
    kinds = {field.name: field.dtype.to_value_type() for field in table.entity_columns}
    rows: list[WriteRow] = convert_arrow_to_proto(batch, table, kinds)
    return rows


def pack_feast_rows(
    config: RepoConfig, layout: Layout, data: Sequence[WriteRow], *, sections: bool
) -> list[bytes]:
    """Pack rows; with ``sections``, each with its header before it.

    Raises:
        SkewlessError: a row has no event time, or a time is from the future.
    """
    events = [to_micros(at) for _, _, at, _ in data]
    if None in events:
        raise InputError(f"A row for {layout.view} has no event time: give each one.")
    created = [to_micros(at) for *_, at in data]
    for what, times in (("event time", events), ("created time", created)):
        latest = max((time for time in times if time is not None), default=0)
        refuse_future(config, layout.view, what, from_micros(latest))
    rows = [
        layout.pack(values, event or 0, at)
        for (_, values, *_), event, at in zip(data, events, created, strict=True)
    ]
    return [layout.header(len(row)) + row for row in rows] if sections else rows


def populate_response(
    config: RepoConfig,
    found: Any,
    views: Iterable[Any],
    response: Any,
    full_feature_names: bool,
    include_versions: bool = False,
) -> None:
    """Add what one round trip found to Feast's response.

    Args:
        config: The repository's configuration.
        found: The reply of the round trip.
        views: For each view its layout, the view, the features asked for, the function that
            takes its rows from ``found``, and Feast's indexes and number of rows.
        response: Feast's response, which is added to.
        full_feature_names: Whether names are ``view__feature``.
        include_versions: Feast's option of that name.
    """
    for layout, table, features, taken, indexes, length in views:
        read = unpack_rows(config, layout, table, features, taken(found))
        feast_populate_response(
            features, read, indexes, response, full_feature_names, table, length, include_versions
        )


def unpack_rows(
    config: RepoConfig,
    layout: Layout,
    table: FeatureView,
    requested: list[str] | None,
    found: list[bytes | None],
) -> list[Row]:
    """Unpack one row per entity; defaults where there is none, or one too old or from the future.

    Returns:
        (event time, values) each; (epoch, defaults) where none counts and a default is declared,
        else (None, None).
    """
    wanted = requested or [field.name for field in table.features]
    defaults = default_values(table)
    # A feature without a default is null beside one that has its own, as training has it.
    declared = any(name in defaults for name in wanted)
    filled = {name: defaults.get(name, Value()) for name in wanted}
    missing: Row = (EPOCH, filled) if declared else (None, None)
    too_old = oldest_event(config, table)
    latest = (latest_time(config) - EPOCH) // MICROSECOND
    rows = []
    for packed in found:
        row = missing
        if packed is not None:
            try:
                event, _, _ = layout.times(packed)
                if (too_old is None or event >= too_old) and event <= latest:
                    values = layout.unpack(packed)
                    # A feature that is newer than the row has its default, or none.
                    row = (
                        from_micros(event),
                        {
                            name: values[name] if name in values else defaults.get(name, Value())
                            for name in wanted
                        },
                    )
            except (AnotherLayoutError, OverflowError):
                layout.refuse()
        rows.append(row)
    return rows
