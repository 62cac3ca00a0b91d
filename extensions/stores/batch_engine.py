"""The batch engine: Feast's materialization from PostgreSQL to Redis in Arrow, newest wins.

Named in feature_store.yaml as ``batch_engine``. A view that only reads its source goes from
binary COPY to packed rows without a message per value; what transforms, aggregates, joins or
validates is Feast's own local engine's work.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Literal

import pyarrow as pa
from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry

from extensions.feast_internals import column_names
from extensions.stores.offline.retrieval_job import SkewlessRetrievalJob
from extensions.stores.offline.store import SkewlessPostgresOfflineStore
from extensions.stores.online.store import SkewlessRedisOnlineStore

# Rows that one writer takes at a time, where feature_store.yaml does not say.
ROWS_PER_WRITE = 25_000
# While one waits for Redis another packs; more only compete for the processor.
WRITERS = 2


class SkewlessBatchEngineConfig(LocalComputeEngineConfig):
    """``backend`` is for the views that Feast's local engine materializes."""

    type: Literal["extensions.stores.batch_engine.SkewlessBatchEngine"] = (
        "extensions.stores.batch_engine.SkewlessBatchEngine"  # type: ignore[assignment]
    )


class SkewlessBatchEngine(LocalComputeEngine):
    """Feast's local engine, with a way of its own for views that need no engine."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        if not self._only_moves_rows(task):
            return super()._materialize_one(registry, task, **kwargs)
        view = task.feature_view
        name = f"{view.name}-{task.start_time}-{task.end_time}"
        try:
            if view.online or view.offline:
                self._move(registry, task)
        except Exception as error:  # noqa: BLE001 - Feast raises what a job carries
            return LocalMaterializationJob(name, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(name, MaterializationJobStatus.SUCCEEDED)

    def _only_moves_rows(self, task: MaterializationTask) -> bool:
        """Whether the newest row of each entity goes online as it stands in the source."""
        view = task.feature_view
        return (
            isinstance(self.online_store, SkewlessRedisOnlineStore)
            and isinstance(self.offline_store, SkewlessPostgresOfflineStore)
            and task.only_latest
            and view.batch_source is not None
            and not view.source_views
            and not any(
                getattr(view, extra, None)
                for extra in (
                    "feature_transformation",
                    "aggregations",
                    "enable_validation",
                    "filter",
                )
            )
        )

    def _move(self, registry: BaseRegistry, task: MaterializationTask) -> None:
        view, config = task.feature_view, self.repo_config
        rows = config.materialization_config.online_write_batch_size or ROWS_PER_WRITE
        waiting: deque[Future[None]] = deque()
        with (
            ThreadPoolExecutor(WRITERS, "materialize") as writers,
            closing(_parts(self._rows(registry, task), rows)) as parts,
        ):
            for part in parts:
                if view.online:
                    waiting.append(writers.submit(self._write, view, part))
                if view.offline:
                    self.offline_store.offline_write_batch(config, view, part, None)
                # What is read waits for what is written: memory stays at a few parts.
                while len(waiting) > WRITERS:
                    waiting.popleft().result()
            for one in waiting:
                one.result()

    def _rows(self, registry: BaseRegistry, task: MaterializationTask) -> Generator[pa.Table]:
        view = task.feature_view
        source = view.batch_source
        assert source is not None
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        keys, features, event, created = column_names(view, entities)
        job = self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=source,
            join_key_columns=keys,
            feature_name_columns=features,
            timestamp_field=event,
            created_timestamp_column=created,
            start_date=task.start_time,
            end_date=task.end_time,
        )
        assert isinstance(job, SkewlessRetrievalJob)
        in_source = {output: column for column, output in source.field_mapping.items()}
        types = {
            in_source.get(field.name, field.name): field.dtype
            for field in (*view.entity_columns, *view.features)
            if field.name != DUMMY_ENTITY_ID
        }
        for piece in job.declared_as(types).to_batches():
            yield piece.rename_columns(
                [source.field_mapping.get(name, name) for name in piece.column_names]
            )

    def _write(self, view: FeatureView, part: pa.Table) -> None:
        assert isinstance(self.online_store, SkewlessRedisOnlineStore)
        self.online_store.write_table(self.repo_config, view, part)


def _parts(pieces: Generator[pa.Table], rows: int) -> Generator[pa.Table]:
    with closing(pieces):
        for piece in pieces:
            for at in range(0, piece.num_rows, rows):
                yield piece.slice(at, rows)
