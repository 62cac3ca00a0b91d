"""Retrieval without labels: the rows of a range of time, by Feast's own query."""

from dataclasses import asdict
from datetime import datetime

from feast import FeatureView
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN,
    build_point_in_time_query,
)
from feast.infra.offline_stores.offline_utils import get_feature_view_query_context
from feast.infra.registry.base_registry import BaseRegistry


def range_query(
    feature_refs: list[str],
    feature_views: list[FeatureView],
    registry: BaseRegistry,
    project: str,
    span: tuple[datetime, datetime],
    *,
    full_feature_names: bool,
) -> str:
    """The SQL that Feast's PostgreSQL store runs for ``start_date`` and ``end_date``."""
    contexts = get_feature_view_query_context(feature_refs, feature_views, registry, project, span)
    return str(
        build_point_in_time_query(
            [asdict(context) for context in contexts],
            left_table_query_string="",
            entity_df_event_timestamp_col="event_timestamp",
            entity_df_columns={}.keys(),
            query_template=MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN,
            full_feature_names=full_feature_names,
            start_date=span[0],
            end_date=span[1],
        )
    ).strip()
