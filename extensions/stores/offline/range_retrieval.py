"""Retrieval without labels: the rows of a range of time, by Feast's own query.

That query takes a view's names for its table's. Here it reads, instead of the table, a selection
that has the view's names: join keys as the projection maps them, features, and times.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from feast import FeatureView
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN,
    build_point_in_time_query,
)
from feast.infra.offline_stores.offline_utils import get_feature_view_query_context
from feast.infra.registry.base_registry import BaseRegistry
from feast.types import FeastType
from psycopg import sql

from extensions.database.identifier_limits import LONGEST_NAME
from extensions.errors import InputError
from extensions.stores.offline.join.newest_row_rule import RowOrder
from extensions.stores.offline.join.point_in_time import ViewJoin, view_join

_EVENT, _CREATED = "event_timestamp", "created_timestamp"


@dataclass(frozen=True)
class RangeQuery:
    """The statement, its columns' Feast types, whole names of those with short ones, its tables.

    PostgreSQL cuts names after 63 bytes, so that ``view__feature`` of two features may become one.
    Where a name is longer, the statement has names of its own.
    """

    query: str
    types: Mapping[str, FeastType]
    whole_names: Mapping[str, str]
    tables: tuple[str, ...]


def range_query(
    feature_refs: list[str],
    feature_views: list[FeatureView],
    registry: BaseRegistry,
    project: str,
    span: tuple[datetime, datetime],
    *,
    full_feature_names: bool,
) -> RangeQuery:
    """The SQL that Feast's PostgreSQL store runs for ``start_date`` and ``end_date``.

    Raises:
        SkewlessError: several views, and not all have the same join keys.
    """
    views = {str(view.projection.name_to_use()): view for view in feature_views}  # type: ignore[no-untyped-call]
    contexts, joins = [], []
    for context in get_feature_view_query_context(
        feature_refs, feature_views, registry, project, span
    ):
        mapping = context.field_mapping
        features = [mapping.get(column, column) for column in context.features]
        contexts.append(asdict(context))
        joins.append(view_join(views[context.name], features, full_feature_names=False))
    _check_keys(joins)
    outputs = _outputs(joins, full=full_feature_names)
    names = [*outputs, *(f"{join.name}__data" for join in joins)]  # as the statement has them
    whole_names = {}
    if any(len(name.encode()) > LONGEST_NAME for name in names):
        joins = _with_short_names(joins)
        full_feature_names = False
        whole_names = dict(zip(_outputs(joins, full=False), outputs, strict=True))
    query = str(
        build_point_in_time_query(
            [
                _by_its_names(context, join, alone=len(joins) == 1)
                for context, join in zip(contexts, joins, strict=True)
            ],
            left_table_query_string="",
            entity_df_event_timestamp_col=_EVENT,
            entity_df_columns={}.keys(),
            query_template=MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN,
            full_feature_names=full_feature_names,
            start_date=span[0],
            end_date=span[1],
        )
    ).strip()
    return RangeQuery(
        query,
        _declared(joins, full=full_feature_names),
        whole_names,
        tuple(join.table for join in joins),
    )


def _with_short_names(joins: Sequence[ViewJoin]) -> list[ViewJoin]:
    numbers = itertools.count()
    return [
        replace(
            join,
            name=f"view_{place}",
            features=tuple(
                replace(feature, name=f"_skewless_{next(numbers)}") for feature in join.features
            ),
        )
        for place, join in enumerate(joins)
    ]


def _outputs(joins: Sequence[ViewJoin], *, full: bool) -> list[str]:
    """The features' columns in the statement's result, in order."""
    return [
        f"{join.name}__{feature.name}" if full else feature.name
        for join in joins
        for feature in join.features
    ]


def _declared(joins: Sequence[ViewJoin], *, full: bool) -> dict[str, FeastType]:
    keys = {key.label_column: key.dtype for join in joins for key in join.keys}
    features = [feature for join in joins for feature in join.features]
    return keys | {
        name: feature.dtype
        for name, feature in zip(_outputs(joins, full=full), features, strict=True)
        if feature.dtype is not None
    }


def _check_keys(joins: Sequence[ViewJoin]) -> None:
    """Feast's query unites the ids of several views by their places."""
    keys = [[key.label_column for key in join.keys] for join in joins]
    for join, own in zip(joins, keys, strict=True):
        if len(joins) > 1 and (own != keys[0] or not own):
            raise InputError(
                f"Without labels, the rows of several views are joined by their keys: "
                f"{joins[0].name} and {join.name} have other keys "
                f"({', '.join(keys[0]) or 'none'}; {', '.join(own) or 'none'}): ask for each "
                "alone, or give labels."
            )


def _by_its_names(context: dict[str, Any], join: ViewJoin, *, alone: bool) -> dict[str, Any]:
    """The context over a selection of the view's names.

    Alone, a view gives each of its rows. Beside others it gives what was known at each time: of
    the rows of one time the newest, which Feast's query leaves open.
    """
    event, created = join.event_time, join.created_time
    names = [(event, _EVENT), *([(created, _CREATED)] if created else [])]
    names += [(key.column, key.label_column) for key in join.keys]
    names += [(feature.column, feature.name) for feature in join.features]
    columns = [
        sql.SQL("{} AS {}").format(sql.Identifier("l", column), sql.Identifier(name))
        for column, name in names
    ]
    last: sql.Composable = sql.SQL("")
    order: sql.Composable = sql.SQL("")
    if not alone:
        keys = sql.SQL(", ").join(sql.Identifier("l", key.column) for key in join.keys)
        newest = RowOrder(event, created, unique=False, dated=False).newest_first()
        last = sql.SQL("DISTINCT ON ({}, {}) ").format(keys, sql.Identifier("l", event))
        order = sql.SQL(" ORDER BY {}, {}").format(keys, sql.SQL(", ").join(newest))
    selection = sql.SQL("(SELECT {}{} FROM {} AS l{})").format(
        last, sql.SQL(", ").join(columns), sql.SQL(join.table), order
    )
    return {
        **context,
        "name": join.name,
        "table_subquery": selection.as_string(None),
        "entities": [key.label_column for key in join.keys],
        "features": [feature.name for feature in join.features],
        "field_mapping": {},
        "timestamp_field": _EVENT,
        "created_timestamp_column": _CREATED if created else None,
    }
