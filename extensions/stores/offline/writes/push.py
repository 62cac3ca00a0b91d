"""Pushes to both stores: the log first, then Redis, with the rows as the log holds them.

Feast 0.67 writes online first, from the frame as it came. A push that the log then refuses would be
served and never trained on, and one that the log rounds (a double in a `real` column) would be
served as another number. So nothing is served before the log's transaction is sure of the rows,
and what is served is what a materialization of them would bring: the log's own values and times.

A row whose values are all null ends the values before it. Feast warns of a frame of such rows,
writes nothing and reports success, though it writes them beside others; here they are written.

Feast has no place to say so, so this module puts its functions in the place of
`FeatureStore.push`, `push_async` and its writes to one store when our offline store is imported; a
store of another kind is left to Feast's own.
"""

import asyncio
from collections.abc import Callable
from functools import wraps
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.data_source import PushMode
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

from extensions.errors import ConfigurationError, DefinitionError
from extensions.feast_internals import provider_of, view_and_frame_of_write
from extensions.stores.offline.writes.log_append import appended
from extensions.stores.values.json_documents import documents_as_text


def push_to_both(store: FeatureStore, views: list[FeatureView], df: pd.DataFrame) -> None:
    """Append ``df`` to the logs of all ``views``, then write it online; all views or none.

    Raises:
        ConfigurationError: a log refused a row, or could not be reached; then nothing is served.
        ValueError: the frame's columns are not the log's.
    """
    provider: Any = provider_of(store)
    online, config = provider.online_store, store.config
    if not hasattr(online, "write_table"):
        raise ConfigurationError(
            "A push to both stores needs the online store "
            "extensions.stores.online.store.SkewlessRedisOnlineStore in feature_store.yaml."
        )
    pushes = [(view, _table(provider, config, view, df)) for view in views]
    with appended(config, pushes) as logged:
        held = [(view, _with_keys(view, rows)) for view, rows in zip(views, logged, strict=True)]
        # What Redis could not hold is refused while the log can still let go of it.
        for view, rows in held:
            online.check_table(config, view, rows)
    for view, rows in held:
        if view.online and rows.num_rows:
            online.write_table(config, view, rows)


def _table(provider: Any, config: Any, view: FeatureView, df: pd.DataFrame) -> pa.Table:
    """The frame as the log takes it: the log's columns, under the view's names."""
    source = view.batch_source
    if source is None:
        raise DefinitionError(f"View {view.name} has no batch source to append to.")
    columns = [
        name
        for name, _ in provider.get_table_column_names_and_types_from_data_source(config, source)
    ]
    missing, unknown = sorted({*columns} - {*df.columns}), sorted({*df.columns} - {*columns})
    if missing or unknown:
        raise ValueError(
            f"The push to view {view.name} must have the columns of its log "
            f"{source.get_table_query_string()}: it lacks {missing or 'none'} and has unknown "
            f"{unknown or 'none'}; nothing was written."
        )
    table = pa.Table.from_pandas(
        documents_as_text(view, df.reindex(columns=columns)), preserve_index=False
    )
    return table.rename_columns([source.field_mapping.get(name, name) for name in columns])


def _with_keys(view: FeatureView, rows: pa.Table) -> pa.Table:
    """A view without entities has one row, of the key that Feast gives it."""
    if any(field.name != DUMMY_ENTITY_ID for field in view.entity_columns):
        return rows
    return rows.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * rows.num_rows))


def _ours(store: FeatureStore) -> bool:
    kind = store.config.offline_store.type
    return bool(kind == "extensions.stores.offline.store.SkewlessPostgresOfflineStore")


def _log_first(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def push(
        self: FeatureStore,
        push_source_name: str,
        df: pd.DataFrame,
        allow_registry_cache: bool = True,
        to: PushMode = PushMode.ONLINE,
        transform_on_write: bool = True,
    ) -> None:
        if to != PushMode.ONLINE_AND_OFFLINE or not _ours(self):
            original(self, push_source_name, df, allow_registry_cache, to, transform_on_write)
            return
        views: Any = self._fvs_for_push_source_or_raise(push_source_name, allow_registry_cache)
        push_to_both(self, list(views), df)
        self._precompute_for_push(next(iter(views)).name, df)

    return push


def _log_first_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def push_async(
        self: FeatureStore,
        push_source_name: str,
        df: pd.DataFrame,
        allow_registry_cache: bool = True,
        to: PushMode = PushMode.ONLINE,
        **kwargs: Any,
    ) -> None:
        if to != PushMode.ONLINE_AND_OFFLINE or not _ours(self):
            await original(self, push_source_name, df, allow_registry_cache, to, **kwargs)
            return
        await asyncio.to_thread(self.push, push_source_name, df, allow_registry_cache, to)

    return push_async


def _with_documents(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def write_to_offline_store(
        self: FeatureStore,
        feature_view_name: str,
        df: pd.DataFrame,
        allow_registry_cache: bool = True,
        reorder_columns: bool = True,
    ) -> None:
        if _ours(self):
            view: Any = self.registry.get_any_feature_view(
                feature_view_name, self.project, allow_cache=allow_registry_cache
            )
            df = documents_as_text(view, df)
        original(self, feature_view_name, df, allow_registry_cache, reorder_columns)

    return write_to_offline_store


def _rows_of_nulls(
    self: FeatureStore, feature_view_name: str, df: pd.DataFrame | None, options: dict[str, Any]
) -> tuple[FeatureView, pd.DataFrame] | None:
    """What Feast would not write, as it would be written; None where it writes by itself."""
    if df is None or df.empty or not _ours(self) or not df.isna().all().any():
        return None
    view, frame = view_and_frame_of_write(self, feature_view_name, df, **options)
    names = [field.name for field in view.features]
    whole = set(names) <= set(frame.columns) and frame[names].isna().all(axis=None)
    return (view, frame) if names and whole else None


def _with_nulls(original: Callable[..., None]) -> Callable[..., None]:
    @wraps(original)
    def write_to_online_store(
        self: FeatureStore,
        feature_view_name: str,
        df: pd.DataFrame | None = None,
        inputs: Any = None,
        **options: Any,
    ) -> None:
        nulls = _rows_of_nulls(self, feature_view_name, df, options) if inputs is None else None
        if nulls is None:
            original(self, feature_view_name, df, inputs, **options)
        else:
            provider_of(self).ingest_df(*nulls)

    return write_to_online_store


def _with_nulls_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def write_to_online_store_async(
        self: FeatureStore,
        feature_view_name: str,
        df: pd.DataFrame | None = None,
        inputs: Any = None,
        **options: Any,
    ) -> None:
        nulls = _rows_of_nulls(self, feature_view_name, df, options) if inputs is None else None
        if nulls is None:
            await original(self, feature_view_name, df, inputs, **options)
        else:
            await provider_of(self).ingest_df_async(*nulls)

    return write_to_online_store_async


def install() -> None:
    """Replace the methods of `FeatureStore`, once per process."""
    if not hasattr(FeatureStore.push, "__wrapped__"):
        FeatureStore.push = _log_first(FeatureStore.push)  # type: ignore[method-assign]
        FeatureStore.write_to_offline_store = _with_documents(  # type: ignore[method-assign]
            FeatureStore.write_to_offline_store
        )
        FeatureStore.write_to_online_store = _with_nulls(  # type: ignore[method-assign]
            FeatureStore.write_to_online_store
        )
        FeatureStore.write_to_online_store_async = _with_nulls_async(  # type: ignore[method-assign]
            FeatureStore.write_to_online_store_async
        )
        FeatureStore.push_async = _log_first_async(FeatureStore.push_async)  # type: ignore[method-assign]
