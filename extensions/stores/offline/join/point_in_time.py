"""The point-in-time join: for each label and view the latest row that was known by then."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

from feast import FeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.registry.base_registry import BaseRegistry
from feast.types import Array, Decimal, FeastType, String
from psycopg import sql

from extensions.errors import DefinitionError
from extensions.feast_internals import requested_features_by_view, requested_transforms
from extensions.stores.offline.arrow.adbc_session import ArrowSession
from extensions.stores.offline.arrow.source_column_types import SourceType
from extensions.stores.offline.join.key_matching import matches
from extensions.stores.offline.join.newest_row_rule import RowOrder, order_facts
from extensions.stores.registry.version_timeline import ServedEra
from extensions.stores.values.default_values import declared_defaults, default_text

# The uploaded labels: their place in the entity frame, their time, and the keys key_0, key_1…
ORDINAL = "_ordinal"
LABEL_TIME = "_at"
# What columns begin with that the join returns for transforms alone, and that nobody asked for.
HIDDEN = "_served_"

_EXACT = (String, Decimal, Array(String), Array(Decimal))


@dataclass(frozen=True)
class Key:
    """A join key: its column in the view's source, in the labels, and its Feast type."""

    column: str
    label_column: str
    dtype: FeastType


@dataclass(frozen=True)
class Feature:
    """A feature: its column in the source, its name in the result, what a missing entity has.

    ``name``: what its view calls it. ``exact``: declared as text or decimal, so that a numeric
    column keeps its digits. ``dtype``: as declared, None where the view does not say.
    """

    column: str
    output: str
    default: str | None
    exact: bool = False
    name: str = ""
    dtype: FeastType | None = None


@dataclass(frozen=True)
class ViewJoin:
    """What the join must know of one feature view; ``ttl`` None is unlimited.

    ``name`` is as the reference has it (``view``, ``view@vN`` or an alias); ``label`` leaves the
    version out where that is unambiguous; ``view`` is the view's own name. ``eras``: where the
    reference names no version and the default was another one at times, whose log counts when.
    """

    name: str
    label: str
    table: str
    keys: tuple[Key, ...]
    features: tuple[Feature, ...]
    event_time: str
    created_time: str | None
    ttl: timedelta | None
    eras: tuple[ServedEra, ...] = ()
    view: str = ""


@dataclass(frozen=True)
class Layout:
    """What the database says of a view's source: key types, and what orders its rows."""

    key_types: tuple[SourceType, ...]
    order: RowOrder


def view_joins(
    feature_refs: list[str],
    feature_views: list[FeatureView],
    registry: BaseRegistry,
    project: str,
    *,
    full_feature_names: bool,
    taken: Collection[str] = (),
) -> tuple[ViewJoin, ...]:
    """The views that ``feature_refs`` name (``view[@vN]:feature``), in the order of the refs.

    A service pins versions, and what its transforms read comes again without one: a column
    that is there already is not joined twice. A feature whose name in the result is another's
    (``taken``: what transforms make) is there for a transform, and gets a column of its own.
    """
    wanted, _ = requested_features_by_view(
        feature_refs,
        feature_views,
        requested_transforms(feature_refs, project, registry),
    )
    owner: dict[str, str] = dict.fromkeys(taken, "")
    joins: list[ViewJoin] = []
    hidden = 0
    for view, features in wanted.items():
        join = view_join(view, features, full_feature_names=full_feature_names)
        if view.projection.version_tag is None and hasattr(registry, "served_eras"):
            join = replace(join, eras=registry.served_eras(view.name))
        new = []
        own = join.name.partition("@")[0]
        for feature in join.features:
            first = owner.setdefault(feature.output, own)
            if first == own and all(feature.output != f.output for j in joins for f in j.features):
                new.append(feature)
            elif first != own:
                new.append(replace(feature, output=f"{HIDDEN}beside_{hidden}"))
                hidden += 1
        if new:
            joins.append(replace(join, features=tuple(new)))
    return with_labels(joins)


def with_labels(joins: Sequence[ViewJoin]) -> tuple[ViewJoin, ...]:
    """The joins with their labels: without the version where that is unambiguous."""
    bare = Counter(join.name.partition("@")[0] for join in joins)
    return tuple(
        replace(join, label=name if bare[name] == 1 else join.name)
        for join in joins
        for name in [join.name.partition("@")[0]]
    )


def view_join(view: FeatureView, features: Sequence[str], *, full_feature_names: bool) -> ViewJoin:
    """One view, its reference as its projection has it.

    Raises:
        DefinitionError: it has no batch source.
    """
    source = view.batch_source
    if source is None:
        raise DefinitionError(f"View {view.name} has no batch source to read training data from.")
    in_source = {output: column for column, output in source.field_mapping.items()}
    name = str(view.projection.name_to_use())  # type: ignore[no-untyped-call]
    defaults = declared_defaults(view)
    exact = exact_features(view)
    types = {field.name: field.dtype for field in view.features}
    return ViewJoin(
        name=name,
        label=name,
        table=source.get_table_query_string(),
        keys=tuple(
            Key(
                column=in_source.get(key.name, key.name),
                label_column=view.projection.join_key_map.get(key.name, key.name),
                dtype=key.dtype,
            )
            for key in view.entity_columns
            if key.name != DUMMY_ENTITY_ID
        ),
        features=tuple(
            Feature(
                column=in_source.get(feature, feature),
                output=f"{name}__{feature}" if full_feature_names else feature,
                default=_text(defaults[feature], types[feature]) if feature in defaults else None,
                exact=feature in exact,
                name=feature,
                dtype=types.get(feature),
            )
            for feature in dict.fromkeys(features)
        ),
        event_time=in_source.get(source.timestamp_field, source.timestamp_field),
        created_time=in_source.get(source.created_timestamp_column, source.created_timestamp_column)
        or None,
        ttl=view.ttl or None,
        view=view.name,
    )


def exact_features(view: FeatureView) -> frozenset[str]:
    """The features that are declared as text or decimals: a double would cost them digits."""
    return frozenset(field.name for field in view.features if field.dtype in _EXACT)


def _text(value: Any, dtype: FeastType | None) -> str | None:
    """A default in PostgreSQL's text form, which takes the type of the feature's column."""
    return default_text(value, dtype)


def join_keys(views: Sequence[ViewJoin]) -> tuple[Key, ...]:
    """The keys that the labels must carry: one for each of their columns."""
    return tuple({key.label_column: key for view in views for key in view.keys}.values())


def source_layout_query(views: Sequence[ViewJoin]) -> sql.Composed:
    """One row: for each view what orders its rows."""
    columns: list[sql.Composable] = []
    for view in views:
        keys = [key.column for key in view.keys]
        columns += order_facts(view.table, keys, view.event_time, view.created_time)
    return sql.SQL("SELECT {}").format(
        sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(column, sql.Identifier(f"c{i}"))
            for i, column in enumerate(columns)
        )
    )


def source_layouts(
    session: ArrowSession,
    views: Sequence[ViewJoin],
    types: Sequence[Mapping[str, SourceType]],
) -> list[Layout]:
    """What the database says of each view's source; ``types``: of its columns, by view."""
    if not views:
        return []
    [row] = session.table(source_layout_query(views)).to_pylist()
    cells = list(row.values())
    return [
        Layout(
            tuple(held[key.column] for key in view.keys),
            RowOrder(view.event_time, view.created_time, unique, dated),
        )
        for view, held, unique, dated in zip(views, types, cells[::2], cells[1::2], strict=True)
    ]


@dataclass(frozen=True)
class JoinOptions:
    """How much a training row may know.

    ``bitemporal``: only rows published by the label's time. ``known_at``: only rows published
    by that time, whatever was appended since. ``full``: also each view's age and presence.
    """

    bitemporal: bool = True
    known_at: datetime | None = None
    full: bool = False


def join_query(
    labels: sql.Composable,
    label_columns: Sequence[str],
    keys: Sequence[Key],
    views: Sequence[ViewJoin],
    source_layouts: Sequence[Layout],
    options: JoinOptions,
    *,
    beside: Sequence[sql.Composable] = (),
    cold: Mapping[str, str] = MappingProxyType({}),
    ordered: bool = True,
) -> sql.Composed:
    """One row per label, ``ordered`` as the labels are: ordinal, ``label_columns``, features.

    ``beside``: further columns, said of the label ``e``, which come last. ``cold``: by log, the
    temporary table with rows of it that PostgreSQL has no longer. With ``full`` each view's
    features are followed by ``<view>__age_seconds`` (double, null where there is no row) and
    ``<view>__found`` (boolean).
    """
    places = {key.label_column: f"key_{i}" for i, key in enumerate(keys)}
    columns: list[sql.Composable] = [sql.Identifier("e", ORDINAL)]
    columns += [sql.Identifier("e", column) for column in label_columns]
    joins = []
    for i, (view, layout) in enumerate(zip(views, source_layouts, strict=True)):
        alias = f"v{i}"
        columns += [_value(alias, j, feature, view) for j, feature in enumerate(view.features)]
        if options.full:
            columns += _details(alias, view)
        joins.append(_lateral(alias, view, layout, places, options, cold))
    columns += beside
    joined = sql.SQL("SELECT {columns} FROM {labels} AS e{joins}").format(
        columns=sql.SQL(", ").join(columns), labels=labels, joins=sql.SQL("").join(joins)
    )
    if not ordered:
        return joined
    # Materialized, since the planner would sort the labels first, which lie in key order.
    return sql.SQL(
        "WITH joined AS MATERIALIZED ({joined}) SELECT * FROM joined ORDER BY {ordinal}"
    ).format(joined=joined, ordinal=sql.Identifier(ORDINAL))


def _value(alias: str, place: int, feature: Feature, view: ViewJoin) -> sql.Composed:
    column = sql.Identifier(alias, f"f{place}")
    output = sql.Identifier(feature.output)
    if view.eras:
        defaults = [
            sql.SQL("WHEN {} THEN {}").format(
                label_time_in(era.valid_times),
                sql.Literal(_text(era.defaults[feature.column], feature.dtype)),
            )
            for era in view.eras
            if era.table is not None and feature.column in era.defaults
        ]
        return sql.SQL("CASE WHEN {} IS NOT NULL THEN {} {} END AS {}").format(
            sql.Identifier(alias, "at"), column, sql.SQL(" ").join(defaults), output
        )
    if feature.default is None:
        return sql.SQL("{} AS {}").format(column, output)
    return sql.SQL("CASE WHEN {} IS NULL THEN {} ELSE {} END AS {}").format(
        sql.Identifier(alias, "at"), sql.Literal(feature.default), column, output
    )


def _details(alias: str, view: ViewJoin) -> list[sql.Composable]:
    at = sql.Identifier(alias, "at")
    return [
        sql.SQL("extract(EPOCH FROM e.{} - {})::double precision AS {}").format(
            sql.Identifier(LABEL_TIME), at, sql.Identifier(f"{view.label}__age_seconds")
        ),
        sql.SQL("{} IS NOT NULL AS {}").format(at, sql.Identifier(f"{view.label}__found")),
    ]


def _lateral(
    alias: str,
    view: ViewJoin,
    layout: Layout,
    places: dict[str, str],
    options: JoinOptions,
    cold: Mapping[str, str],
) -> sql.Composed:
    """The latest row that was known; of the log of the version that was the default then."""
    there = [era for era in view.eras if era.table is not None]
    if there:
        found = sql.SQL(" UNION ALL ").join(
            sql.SQL("({})").format(_latest(view, layout, places, options, cold, era))
            for era in there
        )
    else:
        found = _latest(view, layout, places, options, cold)
    return sql.SQL(" LEFT JOIN LATERAL ({}) AS {} ON TRUE").format(found, sql.Identifier(alias))


def label_time_in(valid_times: str) -> sql.Composed:
    """Whether the label's time is in a tstzmultirange."""
    return sql.SQL("e.{} <@ {}::tstzmultirange").format(
        sql.Identifier(LABEL_TIME), sql.Literal(valid_times)
    )


def _latest(
    view: ViewJoin,
    layout: Layout,
    places: dict[str, str],
    options: JoinOptions,
    cold: Mapping[str, str],
    era: ServedEra | None = None,
) -> sql.Composed:
    at = sql.Identifier("e", LABEL_TIME)
    event = sql.Identifier("l", view.event_time)
    conditions: list[sql.Composable] = [
        matches(
            sql.Identifier("l", key.column),
            sql.Identifier("e", places[key.label_column]),
            key.dtype,
            key_type,
        )
        for key, key_type in zip(view.keys, layout.key_types, strict=True)
    ]
    conditions.append(sql.SQL("{} <= {}").format(event, at))
    if view.ttl is not None:
        # Seconds, since the length of a day depends on a session's time zone.
        seconds = f"{view.ttl // timedelta(microseconds=1)} microseconds"
        conditions.append(
            sql.SQL("{} >= {} - {}::interval").format(event, at, sql.Literal(seconds))
        )
    if view.created_time is not None:
        if options.bitemporal:
            conditions.append(layout.order.known_by(at))
        if options.known_at is not None:
            conditions.append(layout.order.known_by(sql.Literal(options.known_at)))
    columns: list[sql.Composable] = [
        sql.Identifier("l", feature.column)
        if era is None or feature.column in era.defaults
        else sql.NULL
        for feature in view.features
    ]
    if era is not None:
        conditions.append(label_time_in(era.valid_times))
    table = view.table if era is None else str(era.table)
    source = sql.SQL(view.table) if era is None else sql.Identifier(table)
    parts = {
        "event": event,
        "columns": sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(column, sql.Identifier(f"f{i}"))
            for i, column in enumerate(columns)
        ),
        "conditions": sql.SQL(" AND ").join(conditions),
        "order": sql.SQL(", ").join(layout.order.newest_first()),
    }
    if table not in cold:
        return sql.SQL(
            "SELECT {event} AS at, {columns} FROM {source} AS l "
            "WHERE {conditions} ORDER BY {order} LIMIT 1"
        ).format(source=source, **parts)
    # The latest of either side, and of these the later one; of a log no two rows are equal in both.
    sides = [
        sql.SQL(
            "(SELECT {event} AS at, {created} AS created, {columns} FROM {source} AS l "
            "WHERE {conditions} ORDER BY {order} LIMIT 1)"
        ).format(source=side, created=sql.Identifier("l", str(view.created_time)), **parts)
        for side in (source, sql.SQL("pg_temp.{}").format(sql.Identifier(cold[table])))
    ]
    return sql.SQL("SELECT s.* FROM ({}) AS s ORDER BY s.at DESC, s.created DESC LIMIT 1").format(
        sql.SQL(" UNION ALL ").join(sides)
    )
