"""The offline store: Feast's PostgreSQL store with a point-in-time join of its own, in Arrow."""

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from feast import FeatureView, RepoConfig
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.utils import compute_non_entity_date_range
from psycopg import sql
from pydantic import Field, PositiveInt, model_validator

from extensions.addresses import PostgresAddress, postgres_url
from extensions.database import connect
from extensions.database.connection import table_exists
from extensions.database.identifier_limits import BACKFILLED
from extensions.errors import ConfigurationError, InputError
from extensions.lake.reader import LakeReader
from extensions.repository import STORE_FILE
from extensions.stores import config_repository, transform_inputs, transform_rows
from extensions.stores.offline.arrow.adbc_session import arrow_session
from extensions.stores.offline.feast_source_connections import url_of, use_own_connections
from extensions.stores.offline.join.entity_frame import EntityQuery, EntityTable
from extensions.stores.offline.join.point_in_time import JoinOptions, view_joins
from extensions.stores.offline.join.request_fields import check_request_fields
from extensions.stores.offline.join.versioned_transforms import by_label_time, by_names
from extensions.stores.offline.materialization import RowsToPublish, Source, all_rows
from extensions.stores.offline.range_retrieval import range_query
from extensions.stores.offline.retrieval_job import SkewlessMetadata, SkewlessRetrievalJob
from extensions.stores.offline.retrieval_queries import PlainQuery, PointInTimeRequest
from extensions.stores.offline.writes import push
from extensions.stores.offline.writes.feature_logging import write_logged_features
from extensions.stores.offline.writes.log_append import append
from extensions.stores.registry.store import SkewlessSqlRegistry

__all__ = [
    "SkewlessPostgresOfflineStore",
    "SkewlessPostgresOfflineStoreConfig",
    "SkewlessSqlRegistry",
    "url_of",
]

push.install()
transform_inputs.install()
transform_rows.install()
config_repository.install()

use_own_connections()

# An address that is looked for again when it is used, or else missed.
NOT_FOUND = {"host": "", "database": "", "user": "", "password": ""}


class SkewlessPostgresOfflineStoreConfig(PostgreSQLOfflineStoreConfig):
    """PostgreSQL's address may be left out: see extensions/addresses.py."""

    type: Literal["extensions.stores.offline.store.SkewlessPostgresOfflineStore"] = (
        "extensions.stores.offline.store.SkewlessPostgresOfflineStore"  # type: ignore[assignment]
    )

    bitemporal: bool = True
    """Use only what had been published by a label's time. Feast's own
    ``filter_by_created_timestamp`` cannot say so: it passes False whether or not it was asked."""

    full: bool = False
    """Return each view's age in seconds and whether a row was found, after its features."""

    connections: PositiveInt = 2
    """Over how many connections a large join is spread; all see one state of the database."""

    parameters: dict[str, str] = Field(default_factory=dict)
    """What libpq knows beyond Feast's settings: connect_timeout, options, …"""

    staging_location: str | None = None
    """Where `to_remote_storage` puts its files: a folder, or a URI that Arrow knows."""

    engine: Literal["auto", "postgresql", "duckdb"] = "auto"
    """What computes ranges of history; auto: DuckDB for texts that are portable."""

    engine_memory: str = "2GB"
    """What DuckDB may use; what does not fit is cut smaller, or spilled."""

    engine_spill: str | None = None
    """A folder for what DuckDB spills; the system's for temporary files if left."""

    @model_validator(mode="before")
    @classmethod
    def _find_address(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "host" in values:
            return values
        url = config_repository.found_or_later(postgres_url)
        found = PostgresAddress.parse(url).settings() if url else NOT_FOUND
        return {**found, **values}


class SkewlessPostgresOfflineStore(PostgreSQLOfflineStore):
    """One row out per label, of what was known at its time; Arrow both ways; pushes appended."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **kwargs: Any,
    ) -> SkewlessRetrievalJob:
        """The features of each label as of its time.

        ``entity_df``: a pandas frame, an Arrow table or a SQL query, with the views' join keys
        and a column of times (``event_timestamp``; without a zone: UTC); other columns are kept.
        None with ``start_date`` and ``end_date``: the logs' own rows of that range, as Feast's.

        Raises:
            SkewlessError: the frame lacks a time column, or a view a batch source.
        """
        transforms = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        if entity_df is None:
            start, end = compute_non_entity_date_range(
                feature_views,
                start_date=kwargs.get("start_date"),
                end_date=kwargs.get("end_date"),
            )
            served = by_names(transforms, full_feature_names=full_feature_names)
            read = range_query(
                feature_refs,
                feature_views,
                registry,
                project,
                (start, end),
                full_feature_names=full_feature_names,
            )
            return SkewlessRetrievalJob(
                config,
                PlainQuery(
                    read.query,
                    "reading features of a range",
                    read.types,
                    read.whole_names,
                    dict.fromkeys(read.tables, start),
                ),
                full_feature_names=full_feature_names,
                on_demand_feature_views=served,
                metadata=SkewlessMetadata(feature_refs, [], lambda: (start, end)),
            )
        labels = _labels(config, entity_df)
        _check_request_data(transforms, labels)
        served, views = by_label_time(
            transforms,
            view_joins(
                feature_refs,
                feature_views,
                registry,
                project,
                full_feature_names=full_feature_names,
                taken=_outputs(transforms, feature_refs, full_feature_names=full_feature_names),
            ),
            registry,
            project,
        )
        return SkewlessRetrievalJob(
            config,
            PointInTimeRequest(
                labels=labels,
                views=views,
                options=JoinOptions(
                    bitemporal=config.offline_store.bitemporal or filter_by_created_timestamp,
                    full=config.offline_store.full,
                ),
                beside=tuple(
                    transform.chosen() for transform in served if transform.column is not None
                ),
                beside_names=tuple(
                    transform.column for transform in served if transform.column is not None
                ),
                connections=config.offline_store.connections,
                lake=_lake(config, project),
            ),
            full_feature_names=full_feature_names,
            on_demand_feature_views=served,
            metadata=SkewlessMetadata(
                feature_refs,
                [name for name in labels.columns if name != labels.timestamp_column],
                lambda: _span(config, labels),
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Each entity's latest row of the range or published since the range's start was read."""
        source = _source(
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
        )
        return SkewlessRetrievalJob(
            config,
            RowsToPublish(
                config.project, source, start_date, end_date, latest=True, allowed=config
            ),
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row of the range; with both bounds and a created time, also what came late.

        Feast's materialization reads by this way too, unless ``pull_latest_features`` is set.
        """
        source = _source(
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
        )
        if start_date is None or end_date is None or source.created_time is None:
            query = all_rows(source, start_date, end_date)
            return SkewlessRetrievalJob(
                config, PlainQuery(query, "reading a log", since={source.table: start_date})
            )
        return SkewlessRetrievalJob(
            config,
            RowsToPublish(
                config.project, source, start_date, end_date, latest=False, allowed=config
            ),
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append ``table`` to the view's log; a row that the log holds already is left alone.

        Raises:
            SkewlessError: nothing was appended.
        """
        rows = append(config, feature_view, table)
        if progress:
            progress(rows)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """As Feast's, which compares a push with it, but for the column of our own in a log."""
        columns = super().get_table_column_names_and_types_from_data_source(config, data_source)
        return [(name, pg_type) for name, pg_type in columns if name != BACKFILLED]

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,  # noqa: ARG004 - there is one destination
        registry: BaseRegistry,
    ) -> None:
        """Append Feast's logged features to ``served_features``."""
        write_logged_features(config, data, source, registry)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Refuse a source whose table is not there, in one sentence.

        Raises:
            ConfigurationError: the table is missing.
        """
        query = getattr(data_source, "get_table_query_string", lambda: "")()
        if query.startswith("("):
            return
        table = query or data_source.name
        with connect(url_of(config)) as conn:
            schema = config.offline_store.db_schema
            if schema != "public":
                conn.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(schema)))
            if not table_exists(conn, table):
                raise ConfigurationError(
                    f"The table {table} of source {data_source.name} is not there: "
                    "run `skewless migrate` first."
                )


def _lake(config: RepoConfig, project: str) -> LakeReader | None:
    """Where the older rows of logs are that were cut; None: the store has no repository."""
    repository = config.repo_path
    if repository is None or not (repository / STORE_FILE).is_file():
        return None
    return LakeReader(repository, url_of(config), project)


def _check_request_data(
    transforms: list[OnDemandFeatureView], labels: EntityTable | EntityQuery
) -> None:
    """Feast looks for what a request brings in pandas frames only."""
    for transform in transforms:
        for name in transform.get_request_data_schema():
            if name not in labels.columns:
                raise InputError(
                    f"The transform {transform.name} needs {name}, which a request brings: add "
                    f"the column {name} to the labels."
                )
    if isinstance(labels, EntityTable):
        check_request_fields(transforms, labels.rows)


def _outputs(
    transforms: list[OnDemandFeatureView], feature_refs: list[str], *, full_feature_names: bool
) -> set[str]:
    """What the result calls the transforms' features that were asked for."""
    made = set()
    for transform in transforms:
        name = transform.projection.name_to_use()  # type: ignore[no-untyped-call]
        for ref in feature_refs:
            view, _, feature = ref.partition(":")
            if view in (name, transform.name):
                made.add(f"{name}__{feature}" if full_feature_names else feature)
    return made


def _labels(
    config: RepoConfig, entity_df: pd.DataFrame | pa.Table | str
) -> EntityTable | EntityQuery:
    if isinstance(entity_df, str):
        with arrow_session(config, "reading the labels' query") as session:
            return EntityQuery.of(entity_df, session)
    return EntityTable.of(entity_df)


def _span(
    config: RepoConfig, labels: EntityTable | EntityQuery
) -> tuple[datetime | None, datetime | None]:
    if isinstance(labels, EntityTable):
        return labels.span()
    with arrow_session(config, "reading the labels' span of time") as session:
        return labels.span(session)


def _source(
    data_source: DataSource,
    keys: list[str],
    features: list[str],
    timestamp_field: str,
    created: str | None,
) -> Source:
    table = data_source.get_table_query_string()
    return Source(table, tuple(keys), tuple(features), timestamp_field, created or None)
