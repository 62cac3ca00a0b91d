"""What Feast gets back: a query that runs when somebody asks for its rows, as Arrow."""

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
from extensions.stores.offline.join.label_columns import check_names
from extensions.stores.offline.join.label_coverage import read_coverages, warn_of_uncovered
from extensions.stores.offline.join.point_in_time import (
    HIDDEN,
)
from extensions.stores.offline.join.request_fields import check_request_fields
from extensions.stores.offline.join.versioned_transforms import ServedTransform
from extensions.stores.offline.materialization import RowsToPublish
from extensions.stores.offline.retrieval_requests import PointInTimeQuestion, Question
from extensions.stores.offline.writes.parquet_export import export
from extensions.stores.offline.writes.saved_dataset_table import DatasetTable


class SkewlessMetadata(RetrievalMetadata):
    """As Feast's; a query's span of time is looked up only if somebody wants it."""

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
    """Feast's retrieval job over Arrow: nothing runs before somebody asks for rows.

    Besides Feast's own `to_df`, `to_arrow`, `to_sql` and `persist`: `to_batches` for results
    larger than memory, `in_full` and `as_known_at` for another answer to the same question.
    """

    def __init__(
        self,
        config: RepoConfig,
        question: Question,
        *,
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[ServedTransform] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self.config = config
        self.question = question
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views: list[Any] = list(on_demand_feature_views or [])
        self._metadata = metadata

    def _repr_html_(self) -> str:
        """For notebooks: what would be read, from what is in memory; runs no query."""
        question = self.question
        if isinstance(question, PointInTimeQuestion):
            return point_in_time_html(question, self.on_demand_feature_views)
        return rows_html(question.doing, getattr(question, "query", None))

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are named ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The transforms that run on the joined rows."""
        return self._on_demand_feature_views

    @property
    def transforms(self) -> list[ServedTransform]:
        """As `on_demand_feature_views`, as what they are."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features, keys and span of time; None for what materialization reads."""
        return self._metadata

    def in_full(self) -> "SkewlessRetrievalJob":
        """The same, with ``<view>__age_seconds`` and ``<view>__found`` after each view."""
        return self._other(full=True)

    def as_known_at(self, moment: datetime) -> "SkewlessRetrievalJob":
        """The same, from the rows that were published by ``moment`` only."""
        return self._other(known_at=moment)

    def declared_as(self, types: Mapping[str, FeastType]) -> "SkewlessRetrievalJob":
        """The same, with these columns as the Feast types that a view declares, or refused."""
        if not isinstance(self.question, RowsToPublish):
            return self
        return SkewlessRetrievalJob(self.config, replace(self.question, types=types))

    def _other(self, **changed: Any) -> "SkewlessRetrievalJob":
        question = self.question
        if not isinstance(question, PointInTimeQuestion):
            raise InputError("Only a point-in-time join can be asked in full or as known at T.")
        return SkewlessRetrievalJob(
            self.config,
            replace(question, options=replace(question.options, **changed)),
            full_feature_names=self._full_feature_names,
            on_demand_feature_views=self._on_demand_feature_views,
            metadata=self._metadata,
        )

    def to_batches(self, timeout: float | None = None) -> Iterator[pa.Table]:
        """The rows of `to_arrow`, some megabytes at a time, transforms included.

        The connection is open until the iterator is used up or closed.
        """
        for piece in self._pieces(timeout):
            yield _Piece(self, piece).to_arrow()

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
        question = self.question
        if not isinstance(question, PointInTimeQuestion):
            return
        made = [
            f"{one.projection.name_to_use()}__{f.name}" if self._full_feature_names else f.name  # type: ignore[no-untyped-call]
            for one in self.transforms
            for f in one.features
        ]
        check_names(asked, question.labels.columns, question.views, made, full=full)

    def to_sql(self) -> str:
        """The statement; over uploaded labels where they are a frame."""
        with arrow_session(self.config, self.question.doing) as session:
            return self.question.to_sql(session)

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
            pieces = self.to_batches(timeout)
            first = next(pieces)
            table.write(
                session, pa.RecordBatchReader.from_batches(first.schema, _batches(first, pieces))
            )

    def _pieces(self, timeout: float | None) -> Iterator[pa.Table]:
        with arrow_session(self.config, self.question.doing, timeout=timeout) as session:
            for piece in self.question.pieces(session):
                self._check_query(piece)
                yield piece

    def _check_query(self, piece: pa.Table) -> None:
        """What a query's columns hold is seen when its rows come; a frame's was, before."""
        question = self.question
        if isinstance(question, PointInTimeQuestion) and isinstance(question.labels, EntityQuery):
            for transform in self._on_demand_feature_views:
                served = isinstance(transform, ServedTransform)
                views = [one.view for one in transform.versions] if served else [transform]
                check_request_fields(views, piece)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        question = self.question
        if not isinstance(question, PointInTimeQuestion):
            # Feast's writer to the online store looks at the first chunk only.
            return pa.concat_tables(self._pieces(timeout)).combine_chunks()
        self.check_names("the request", full=question.options.full)
        with arrow_session(self.config, question.doing, timeout=timeout) as session:
            table = pa.concat_tables(question.pieces(session))
            covered = read_coverages(session)
        warn_of_uncovered(question.views, covered, table, question.labels.timestamp_column)
        return table

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return to_pandas(self._to_arrow_internal(timeout))


class _Piece(SkewlessRetrievalJob):
    """Rows that are here already, for Feast's transforms to run over."""

    def __init__(self, whole: SkewlessRetrievalJob, rows: pa.Table) -> None:
        super().__init__(
            whole.config,
            whole.question,
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
