"""Feast's retrieval job over Arrow: lazy, streamed, with transforms and saved datasets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import RepoConfig
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    SavedDatasetPostgreSQLStorage,
)
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.saved_dataset import SavedDatasetStorage, ValidationReference
from feast.types import FeastType

from extensions.errors import ConfigurationError, InputError
from extensions.feast_internals import dataset_reference
from extensions.feature_types import arrow_type
from extensions.stores.offline.arrow.adbc_session import arrow_session
from extensions.stores.offline.arrow.pandas_conversion import to_pandas
from extensions.stores.offline.job_html import point_in_time_html, rows_html
from extensions.stores.offline.join.entity_frame import EntityQuery
from extensions.stores.offline.join.label_coverage import (
    read_coverages,
    read_holes,
    warn_of_uncovered,
)
from extensions.stores.offline.join.label_name_collisions import check_names
from extensions.stores.offline.join.point_in_time import (
    HIDDEN,
)
from extensions.stores.offline.join.request_fields import check_request_fields
from extensions.stores.offline.join.versioned_transforms import VersionedTransform
from extensions.stores.offline.materialization import RowsToPublish
from extensions.stores.offline.retrieval_queries import PointInTimeRequest, RetrievalRequest
from extensions.stores.offline.writes.parquet_export import export
from extensions.stores.offline.writes.saved_dataset_table import DatasetTable


class SkewlessMetadata(RetrievalMetadata):
    """Feast's metadata; the time span of a query's labels is looked up on first use."""

    def __init__(self, features: list[str], keys: list[str], span: Any) -> None:
        self.features = features
        self.keys = keys
        self._span = span

    @property
    def min_event_timestamp(self) -> datetime | None:  # type: ignore[override]
        """The earliest label."""
        return self._span()[0]  # type: ignore[no-any-return]

    @property
    def max_event_timestamp(self) -> datetime | None:  # type: ignore[override]
        """The latest label."""
        return self._span()[1]  # type: ignore[no-any-return]


class SkewlessRetrievalJob(RetrievalJob):
    """A lazy retrieval job: nothing runs before its rows are requested.

    Besides Feast's own `to_df`, `to_arrow`, `to_sql` and `persist`: `to_batches` for results
    larger than memory, `in_full` and `as_known_at` for other results of the same join.
    """

    def __init__(
        self,
        config: RepoConfig,
        request: RetrievalRequest,
        *,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[VersionedTransform] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self.config = config
        self.request = request
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views: list[Any] = list(on_demand_feature_views or [])
        self._metadata = metadata

    def _repr_html_(self) -> str:
        """For notebooks: what would be read, from what is in memory; runs no query."""
        request = self.request
        if isinstance(request, PointInTimeRequest):
            return point_in_time_html(request, self.on_demand_feature_views)
        return rows_html(request.context, getattr(request, "query", None))

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are named ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The transforms that run on the joined rows."""
        return self._on_demand_feature_views

    @property
    def transforms(self) -> list[VersionedTransform]:
        """As `on_demand_feature_views`, with their own type."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features, keys and span of time; None for what materialization reads."""
        return self._metadata

    def in_full(self) -> "SkewlessRetrievalJob":
        """A copy that adds ``<view>__age_seconds`` and ``<view>__found`` after each view."""
        return self._other(full=True)

    def as_known_at(self, at: datetime) -> "SkewlessRetrievalJob":
        """A copy that uses only rows published by ``at``."""
        return self._other(known_at=at)

    def declared_as(self, types: Mapping[str, FeastType]) -> "SkewlessRetrievalJob":
        """A copy that reads these columns as the given Feast types, or refuses their values."""
        if not isinstance(self.request, RowsToPublish):
            return self
        return SkewlessRetrievalJob(self.config, replace(self.request, types=types))

    def _other(self, **changed: Any) -> "SkewlessRetrievalJob":
        request = self.request
        if not isinstance(request, PointInTimeRequest):
            raise InputError("Only a point-in-time join can be asked in full or as known at T.")
        return SkewlessRetrievalJob(
            self.config,
            replace(request, options=replace(request.options, **changed)),
            full_feature_names=self._full_feature_names,
            on_demand_feature_views=self._on_demand_feature_views,
            metadata=self._metadata,
        )

    def to_batches(self, timeout: float | None = None) -> Iterator[pa.Table]:
        """The rows of `to_arrow`, some megabytes at a time, transforms included.

        The connection is open until the iterator is used up or closed.
        """
        for chunk in self._chunks(timeout):
            yield _ChunkJob(self, chunk).to_arrow()

    def to_arrow(
        self,
        validation_reference: "ValidationReference | None" = None,
        timeout: int | None = None,
    ) -> pa.Table:
        """All rows; transforms have their declared types (float32 stays float32)."""
        table = super().to_arrow(validation_reference=validation_reference, timeout=timeout)
        hidden = [name for name in table.column_names if name.startswith(HIDDEN)]
        return self._declared(table.drop_columns(hidden))

    def to_df(
        self,
        validation_reference: "ValidationReference | None" = None,
        timeout: int | None = None,
    ) -> pd.DataFrame:
        """As `to_arrow`, for pandas: whole numbers beyond 2^53 beside a null keep their digits."""
        return to_pandas(self.to_arrow(validation_reference=validation_reference, timeout=timeout))

    def _declared(self, table: pa.Table) -> pa.Table:
        for view in self._on_demand_feature_views:
            used = view.projection.name_to_use()
            for declared in view.features:
                name = f"{used}__{declared.name}" if self._full_feature_names else declared.name
                place = table.schema.get_field_index(name)
                wanted = arrow_type(declared.dtype)
                if place >= 0 and table.schema.field(place).type != wanted:
                    cast = table.column(place).cast(wanted, safe=False)
                    table = table.set_column(place, name, cast)
        return table

    def check_names(self, asked: str, *, full: bool) -> None:
        """Refuse labels with a column that is called like what ``asked`` adds to them.

        Raises:
            InputError: it names the columns.
        """
        request = self.request
        if not isinstance(request, PointInTimeRequest):
            return
        made = [
            f"{view.projection.name_to_use()}__{field.name}"  # type: ignore[no-untyped-call]
            if self._full_feature_names
            else field.name
            for view in self.transforms
            for field in view.features
        ]
        check_names(asked, request.labels.columns, request.views, made, full=full)

    def to_sql(self) -> str:
        """The statement; over uploaded labels where they are a frame."""
        with arrow_session(self.config, self.request.context) as session:
            return self.request.to_sql(session)

    def supports_remote_storage_export(self) -> bool:
        """Whether the store's settings name a ``staging_location``."""
        return bool(self.config.offline_store.staging_location)

    def to_remote_storage(self) -> list[str]:
        """Write the rows as Parquet files to ``staging_location``; returns their URIs, in order.

        Raises:
            ConfigurationError: no location is set, or it cannot be written to.
        """
        location = self.config.offline_store.staging_location
        if not location:
            raise ConfigurationError(
                "Set staging_location of the offline store in feature_store.yaml to a folder or "
                "a bucket's URI: the result is written there."
            )
        return export(self.to_batches(), location)

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool | None = False,
        timeout: int | None = None,
    ) -> None:
        """Write the rows to a new table, which appears whole or not at all.

        Raises:
            InputError: the table exists and ``allow_overwrite`` is not set.
        """
        if not isinstance(storage, SavedDatasetPostgreSQLStorage):
            raise InputError(
                "A saved dataset of this store is a PostgreSQL table: use "
                "SavedDatasetPostgreSQLStorage."
            )
        reference = dataset_reference(storage.postgres_options)
        with arrow_session(self.config, f"writing the dataset {reference}") as session:
            table = DatasetTable.of(reference, session)
            if table.exists and not allow_overwrite:
                raise InputError(
                    f"The table {reference} exists: choose another name, or allow_overwrite=True."
                )
            # Read first: the labels or the sources may be what is overwritten.
            chunks = self.to_batches(timeout)
            first = next(chunks)
            table.write(
                session, pa.RecordBatchReader.from_batches(first.schema, _batches(first, chunks))
            )

    def _chunks(self, timeout: float | None) -> Iterator[pa.Table]:
        with arrow_session(self.config, self.request.context, timeout=timeout) as session:
            for chunk in self.request.chunks(session):
                self._check_query(chunk)
                yield chunk

    def _check_query(self, chunk: pa.Table) -> None:
        """What a query's columns hold is seen when its rows come; a frame's was, before."""
        request = self.request
        if isinstance(request, PointInTimeRequest) and isinstance(request.labels, EntityQuery):
            for transform in self._on_demand_feature_views:
                served = isinstance(transform, VersionedTransform)
                views = [version.view for version in transform.versions] if served else [transform]
                check_request_fields(views, chunk)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        request = self.request
        if not isinstance(request, PointInTimeRequest):
            # Feast's writer to the online store looks at the first chunk only.
            return pa.concat_tables(self._chunks(timeout)).combine_chunks()
        self.check_names("the request", full=request.options.full)
        with arrow_session(self.config, request.context, timeout=timeout) as session:
            table = pa.concat_tables(request.chunks(session))
            covered = read_coverages(session)
            logs = {view.table: [key.column for key in view.keys] for view in request.views}
            holes = read_holes(session, logs)
        warn_of_uncovered(request.views, covered, holes, table, request.labels.timestamp_column)
        return table

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return to_pandas(self._to_arrow_internal(timeout))


class _ChunkJob(SkewlessRetrievalJob):
    """A job over rows in memory, for Feast's transforms to run on."""

    def __init__(self, whole: SkewlessRetrievalJob, rows: pa.Table) -> None:
        super().__init__(
            whole.config,
            whole.request,
            full_feature_names=whole.full_feature_names,
            on_demand_feature_views=whole.transforms,
            metadata=whole.metadata,
        )
        self._rows = rows

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._rows


def _batches(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    yield from first.to_batches()
    for table in rest:
        yield from table.cast(first.schema).to_batches()
