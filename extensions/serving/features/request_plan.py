"""The request plan of a feature service: keys, layouts, defaults and transforms, compiled once."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from feast import FeatureService, FeatureStore, FeatureView, Field, ValueType
from feast.feature_view import DUMMY_ENTITY_ID

from extensions.asof.computation import Freshness
from extensions.errors import DefinitionError
from extensions.feast_internals import feature_views_to_use
from extensions.feature_types import BITS, FEATURE_TYPES, JSON_TYPES
from extensions.service_routes import DeclaredRoute, ReplyNames, leading_first
from extensions.serving.features.on_demand_transforms import Transform
from extensions.stores.online.view_settings import layout_of, lifetime_of, overwrite_policy_of
from extensions.stores.online_codec.redis_keys import KeyLayout, key_layout_of
from extensions.stores.online_codec.row_decoder import Decoder
from extensions.stores.online_codec.variable_length_decoder import default_of
from extensions.stores.request_fields import RequestField, request_fields
from extensions.stores.values.default_values import default_values
from extensions.version_names import sql_file, view_version

_COMMON_TYPES = {*JSON_TYPES, *(each.list_type for each in FEATURE_TYPES.values() if each.numeric)}


@dataclass(frozen=True)
class View:
    """One feature view version as a service reads it. ``features``: those it returns, in order.

    ``fingerprint``: of the computation's text, so that a reply says which definition made it.
    ``alias``: what the service calls it, which stands before its features' full names.
    ``near``: whether workers hold a copy of it (the view's tag). ``fields``: Feast's fields of
    its features by name, which say their types and descriptions.
    """

    name: str
    version: int
    place: KeyLayout
    decoder: Decoder
    features: tuple[str, ...]
    names: tuple[str, ...]
    budget: timedelta | None
    fingerprint: str | None
    alias: str
    near: bool = False
    fields: Mapping[str, Field] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def late_after(self) -> float:
        """Microseconds after which the pipeline counts as late; infinite without a budget."""
        return float("inf") if self.budget is None else self.budget.total_seconds() * 1e6

    @property
    def join_keys(self) -> tuple[str, ...]:
        """The join keys of the view's entities."""
        return self.place.join_keys


@dataclass(frozen=True)
class Group:
    """A service's views of one entity: their rows share keys.

    ``near``: all of them are read from a copy in the worker, where there is one.
    ``numbers``: the ids are whole numbers. ``signatures``: what a copy must hold.
    """

    join_keys: tuple[str, ...]
    views: tuple[View, ...]
    numbers: bool

    @cached_property
    def prefix(self) -> bytes:
        """The prefix of the group's Redis keys."""
        return self.views[0].place.prefix

    @cached_property
    def near(self) -> bool:
        """Whether no view of the entity needs Redis."""
        return len(self.join_keys) == 1 and all(view.near for view in self.views)

    @cached_property
    def signatures(self) -> frozenset[str]:
        """The views' layouts and defaults."""
        return frozenset(view.decoder.signature for view in self.views)


@dataclass(frozen=True)
class Plan:
    """One service: its views, its transforms, and the request's own fields.

    ``number``: of the state of the registry that it was compiled from. ``resource``: what a
    caller must be permitted to read; None where only references were given.
    ``feast_equivalent``: whether the plan gives Feast's own response to /get-online-features
    (see `routes.get_online_features`). ``route``: the route that the service's tags declare, and
    ``names`` what ids and features are called there.
    """

    service: str
    views: tuple[View, ...]
    transforms: tuple[Transform, ...]
    request: Mapping[str, RequestField]
    key_types: Mapping[str, ValueType]
    resource: FeatureService | None
    number: int = 0
    feast_equivalent: bool = False
    route: DeclaredRoute | None = None
    names: ReplyNames | None = None

    @cached_property
    def own_keys(self) -> tuple[str, ...]:
        """The join keys that requests give, of a pair the leading one of its rows first."""
        keys = tuple(key for key in self.key_types if key != DUMMY_ENTITY_ID)
        return leading_first(keys, (view.join_keys for view in self.views))

    @property
    def pair(self) -> tuple[str, str]:
        """The two join keys of a ranking: whose it is, and what is ranked."""
        leading, other = self.own_keys
        return leading, other

    @cached_property
    def own_names(self) -> ReplyNames:
        """The names on the generic routes: the join keys' own."""
        return ReplyNames.of(self.own_keys)

    @cached_property
    def own_clash(self) -> str | None:
        """A join key that is called like something else in the generic routes' replies."""
        return self.own_names.clash()

    @property
    def join_keys(self) -> tuple[str, ...]:
        """All join keys that a request must give, in order of first use."""
        return tuple(self.key_types)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The features that a reply has, by the names that it gives them."""
        return (
            *(name for view in self.views for name in view.names),
            *(name for transform in self.transforms for name in transform.features),
        )

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The views by entity, in order of first use."""
        groups: dict[tuple[str, ...], list[View]] = {}
        for view in self.views:
            groups.setdefault(view.join_keys, []).append(view)
        return tuple(
            Group(keys, tuple(views), self.key_types.get(keys[0]) in BITS)
            for keys, views in groups.items()
        )

    @cached_property
    def place(self) -> Mapping[int, int]:
        """Each view's place in the plan, by its identity."""
        return {id(view): i for i, view in enumerate(self.views)}

    @cached_property
    def read(self) -> Mapping[int, tuple[str, ...]]:
        """The features of each view, by its identity, that some transform reads."""
        inputs = {name for transform in self.transforms for name, _ in transform.inputs}
        return {
            id(view): tuple(c.name for c in view.decoder.layout.columns if c.name in inputs)
            for view in self.views
        }

    @cached_property
    def in_order(self) -> bool:
        """Whether the groups have the views in the plan's own order."""
        found = [self.place[id(view)] for group in self.groups for view in group.views]
        return found == sorted(found)


@dataclass(frozen=True)
class Plans:
    """The plans of all services for one state of the registry; swapped as a whole.

    ``by_service``: the plan, or why there is none. ``routes``: those that services declare.
    """

    number: int
    by_service: Mapping[str, Plan | str]
    routes: tuple[DeclaredRoute, ...] = ()

    @cached_property
    def rankings(self) -> Mapping[str, DeclaredRoute]:
        """The declared routes of rankings, by path."""
        return {route.path: route for route in self.routes if route.ranks}

    @cached_property
    def single(self) -> tuple[tuple[str, bytes, DeclaredRoute], ...]:
        """The declared routes of one entity, each with its path as text and as bytes."""
        return tuple((r.path, r.path.encode(), r) for r in self.routes if not r.ranks)


def compile_plans(store: FeatureStore, number: int) -> Plans:
    """Compile a plan for each service of the (cached) registry."""
    found: dict[str, Plan | str] = {}
    routes: dict[str, DeclaredRoute] = {}
    for service in store.registry.list_feature_services(store.project, allow_cache=True):
        try:
            if route := DeclaredRoute.of(service.name, service.tags or {}):
                routes.setdefault(route.path, route)
            found[service.name] = compile_plan(store, service, number)
        except Exception as error:  # noqa: BLE001 - one bad service must not stop the others
            found[service.name] = getattr(error, "message", None) or str(error)
    return Plans(number, found, tuple(routes.values()))


def compile_plan(store: FeatureStore, service: FeatureService | list[str], number: int = 0) -> Plan:
    """Compile the plan of a feature service, or of references to features (``view:feature``).

    Raises:
        SkewlessError: a transform of a kind that the hot path does not run.
        ValueError: what Feast says of a service it cannot serve.
    """
    tables, on_demand = feature_views_to_use(
        store.registry, store.project, service, allow_cache=True, hide_dummy_entity=False
    )
    requested = _requested_features(service)
    if isinstance(service, FeatureService):
        _check_read_once(service, [t for t in tables if _name(t.projection) in requested])
    occurrences = Counter(name for features in requested.values() for name in features)
    clashing = {name for name, n in occurrences.items() if n > 1}
    views: dict[str, View] = {}
    pinned = {
        table.name: {field.name for field in table.features}
        for table in tables
        if table.projection.version_tag is not None
    }
    for table in tables:
        if table.projection.version_tag is None and _name(table.projection) not in requested:
            read = {field.name for field in table.projection.features}
            if read <= pinned.get(table.name, set()) or not read:
                # A transform reads the version that its service names, as training does.
                continue
        # An on-demand view's source may be the same version that the service names itself, also
        # by another name: it is read once.
        view = _view(store, table, requested, clashing)
        if view.features or view.decoder.layout.view not in views:
            views[view.decoder.layout.view] = view
    transforms = tuple(
        Transform.of(view, requested.get(_name(view.projection), ())) for view in on_demand
    )
    request = request_fields(on_demand)
    key_types: dict[str, ValueType] = {}
    for table in tables:
        for column in table.entity_columns:
            key_types.setdefault(column.name, column.dtype.to_value_type())
    plan = Plan(
        service.name if isinstance(service, FeatureService) else "",
        tuple(views.values()),
        transforms,
        request,
        key_types,
        service if isinstance(service, FeatureService) else None,
        number,
    )
    if isinstance(service, FeatureService):
        route = DeclaredRoute.of(service.name, service.tags or {})
        names = None if route is None else route.reply_names(plan.own_keys)
        plan = replace(plan, route=route, names=names)
    return replace(plan, feast_equivalent=not clashing and _feast_equivalent(plan))


def _check_read_once(service: FeatureService, tables: Iterable[FeatureView]) -> None:
    """Check that the service reads no view by mapped join keys or under several names.

    Raises:
        DefinitionError: the service does; the sentence says where it is served.
    """
    names = Counter((table.name, table.projection.version_tag) for table in tables)
    aliases = {
        table.name
        for table in tables
        if table.projection.join_key_map
        or (table.projection.name_alias and names[table.name, table.projection.version_tag] > 1)
    }
    if aliases:
        raise DefinitionError(
            f"{service.name} reads {', '.join(sorted(aliases))} by other join keys, or under "
            "several names: /get-online-features serves it."
        )


def _requested_features(service: FeatureService | list[str]) -> dict[str, tuple[str, ...]]:
    """The requested features by the view's name."""
    if isinstance(service, FeatureService):
        return {
            _name(projection): tuple(field.name for field in projection.features)
            for projection in service.feature_view_projections
        }
    found: dict[str, list[str]] = {}
    for reference in service:
        view, _, feature = reference.partition(":")
        found.setdefault(view, []).append(feature)
    return {view: tuple(features) for view, features in found.items()}


def _feast_equivalent(plan: Plan) -> bool:
    """Whether the plan gives Feast's own response: common types, uniform defaults.

    A view without entities is read beside one with some, whose keys say how many rows there are.
    """
    for view in plan.views:
        declared = [default is not None for default in view.decoder.defaults.values()]
        if any(declared) != all(declared):
            return False
        if not view.features and not all(declared):
            return False
        if any(column.value_type not in _COMMON_TYPES for column in view.decoder.layout.columns):
            return False
        if not set(view.features) <= set(view.decoder.layout.names):
            return False
    if not plan.own_keys:
        return False
    return set(plan.key_types.values()) <= {*BITS, ValueType.STRING}


def _view(
    store: FeatureStore,
    table: FeatureView,
    requested: Mapping[str, tuple[str, ...]],
    clashing: set[str],
) -> View:
    layout = layout_of(store.config, table)
    declared = default_values(table)
    defaults = {c.name: default_of(c, declared.get(c.name)) for c in layout.columns}
    lifetime = lifetime_of(store.config, table)
    ttl = lifetime // timedelta(microseconds=1) if lifetime else None
    version = table.projection.version_tag or table.current_version_number or view_version(table)
    features = requested.get(_name(table.projection), ())
    alias = table.projection.name_alias or table.name
    freshness = table.tags.get("freshness")
    return View(
        name=table.name,
        version=version,
        place=key_layout_of(store.config, table, layout.view),
        decoder=Decoder(layout, defaults, ttl, overwrite_policy_of(store.config, layout).ahead),
        features=features,
        names=tuple(f"{alias}__{name}" if name in clashing else name for name in features),
        budget=Freshness(freshness).budget if freshness else None,
        fingerprint=_definition(Path(store.repo_path), table.name, version),
        alias=alias,
        near=table.tags.get("near") == "true",
        fields={field.name: field for field in table.features},
    )


def _definition(repo: Path, view: str, version: int) -> str | None:
    path = repo / sql_file(view, version)
    return blake2b(path.read_bytes(), digest_size=8).hexdigest() if path.is_file() else None


def _name(projection: Any) -> str:
    name: str = projection.name_to_use()
    return name
