"""Feast's own feature logging into ``served_features``: the destination, and the writing."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import RepoConfig
from feast.data_source import DataSource
from feast.feature_logging import (
    LOG_TIMESTAMP_FIELD,
    REQUEST_ID_FIELD,
    FeatureServiceLoggingSource,
    LoggingDestination,
    LoggingSource,
)
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.core.FeatureService_pb2 import LoggingConfig as LoggingConfigProto
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Bool, FeastType, Int32, Int64, String, UnixTimestamp

from extensions.database import connect, connect_arrow
from extensions.errors import InputError
from extensions.feast_internals import logged_service
from extensions.feature_types import UTC_MICROSECONDS
from extensions.stores.offline.feast_source_connections import url_of
from extensions.stores.offline.writes import serving_log_table
from extensions.stores.offline.writes.serving_log_table import column_name
from extensions.version_names import view_version

KIND = "served_features"


class ServedFeaturesDestination(LoggingDestination):
    """``LoggingConfig(destination=ServedFeaturesDestination(), sample_rate=0.01)``.

    It needs no settings: the table is the offline store's. Any Feast command that opens a
    repository with this project's offline store can read a service that names it.
    """

    _proto_kind = KIND

    @classmethod
    def from_proto(cls, config_proto: LoggingConfigProto) -> "ServedFeaturesDestination":  # noqa: ARG003
        """There is nothing to read."""
        return cls()

    def to_proto(self) -> LoggingConfigProto:
        """Feast's message for destinations that it does not know."""
        return LoggingConfigProto(
            custom_destination=LoggingConfigProto.CustomDestination(kind=KIND)
        )

    def to_data_source(self) -> DataSource:
        """The table, for Feast's own readers."""
        return PostgreSQLSource(table=serving_log_table.TABLE, timestamp_field="served_at")


def write_logged_features(
    config: RepoConfig, data: pa.Table | Path, source: LoggingSource, registry: BaseRegistry
) -> int:
    """Append rows in Feast's schema of logged features; returns how many.

    Feast logs no versions: rows get those that the service names. An as-of time is kept as
    it comes; Feast's own servers cut it to whole seconds.

    Raises:
        InputError: the source is not a feature service, or the rows lack the log's columns.
    """
    if not isinstance(source, FeatureServiceLoggingSource):
        raise InputError("Only a feature service's logs can be written.")
    rows = pq.read_table(data) if isinstance(data, Path) else data
    for name in (LOG_TIMESTAMP_FIELD, REQUEST_ID_FIELD):
        if name not in rows.column_names:
            raise InputError(f"The logged features lack the column {name}.")
    columns, types = _columns(config, rows, source, registry)
    url = url_of(config)
    bounds = pc.min_max(columns["served_at"])
    if not bounds["min"].is_valid:
        return 0
    with connect(url, autocommit=True, name="skewless served log") as conn:
        serving_log_table.ensure_partitions(conn, bounds["min"].as_py(), bounds["max"].as_py())
        named = serving_log_table.ensure_columns(conn, types)
    table = pa.table({named[name]: columns[name] for name in columns})
    with connect_arrow(url) as arrow:
        return serving_log_table.append_rows(arrow, table)


def _columns(
    config: RepoConfig, rows: pa.Table, source: FeatureServiceLoggingSource, registry: BaseRegistry
) -> tuple[dict[str, pa.Array], dict[str, FeastType]]:
    service = logged_service(source)
    count = rows.num_rows
    types: dict[str, FeastType] = {
        "served_at": UnixTimestamp, "service": String, "request_id": Int64,
        "row_number": Int32, "source": String,
    }  # fmt: skip
    ids = [_request_id(text) for text in rows[REQUEST_ID_FIELD].to_pylist()]
    seen: dict[int, int] = {}
    numbers = []
    for number in ids:
        numbers.append(seen.get(number, 0))
        seen[number] = numbers[-1] + 1
    values: dict[str, Any] = {
        "served_at": rows[LOG_TIMESTAMP_FIELD],
        "service": pa.array([service.name] * count),
        "request_id": pa.array(ids, pa.int64()),
        "row_number": pa.array(numbers, pa.int32()),
        "source": pa.array(["feast"] * count),
    }
    for projection in service.feature_view_projections:
        view: Any = registry.get_any_feature_view(
            projection.name, config.project, allow_cache=False
        )
        used = str(projection.name_to_use())  # type: ignore[no-untyped-call]
        if hasattr(view, "source_request_sources"):
            for request in view.source_request_sources.values():
                for field in request.schema:
                    column = column_name("request", field.name)
                    types[column], values[column] = field.dtype, rows[field.name]
        else:
            for key in view.entity_columns:
                name = projection.join_key_map.get(key.name, key.name)
                if name in rows.column_names:
                    types[name], values[name] = key.dtype, rows[name]
            version = column_name(projection.name, "version")
            number = projection.version_tag or view_version(view)
            types[version], values[version] = Int32, pa.array([number] * count, pa.int32())
            first = f"{used}__{projection.features[0].name}"
            times = rows[f"{first}__timestamp"].cast(UTC_MICROSECONDS)
            absent = pc.not_equal(rows[f"{first}__status"], FieldStatus.PRESENT)
            column = column_name(projection.name, "as_of")
            types[column] = UnixTimestamp
            values[column] = pc.if_else(absent, pa.scalar(None, times.type), times)
            stale = column_name(projection.name, "stale")
            late = pc.equal(rows[f"{first}__status"], FieldStatus.OUTSIDE_MAX_AGE)
            types[stale], values[stale] = Bool, late
        for field in projection.features:
            column = column_name(projection.name, field.name)
            types[column], values[column] = field.dtype, rows[f"{used}__{field.name}"]
    schema = serving_log_table.arrow_schema(types)
    return {name: values[name].cast(schema.field(name).type) for name in types}, types


def _request_id(text: str | None) -> int:
    """Feast's ids are UUIDs; anything else is hashed into one."""
    try:
        number = uuid.UUID(str(text)).int
    except ValueError:
        number = uuid.uuid5(uuid.NAMESPACE_URL, str(text)).int
    return int(np.uint64(number & (1 << 64) - 1).astype(np.int64))
