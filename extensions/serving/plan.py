"""The request plan: what one feature service needs, worked out once for its versions."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

from feast import FeatureService, FeatureStore, FeatureView, ValueType
from feast.utils import _get_feature_views_to_use

from extensions.asof.computation import COMPUTATIONS, Freshness, view_version
from extensions.serving.decoding import Decoder, default_of
from extensions.serving.transforms import Transform
from extensions.stores.keys import Place, place_of
from extensions.stores.online import layout_of


@dataclass(frozen=True)
class View:
    """One feature view version as a service reads it. ``features``: those it returns, in order.

    ``fingerprint``: of the computation's text, so that a reply says which definition made it.
    """

    name: str
    version: int
    place: Place
    decoder: Decoder
    features: tuple[str, ...]
    names: tuple[str, ...]
    budget: timedelta | None
    fingerprint: str | None

    @property
    def join_keys(self) -> tuple[str, ...]:
        """Whose values these are."""
        return self.place.join_keys


@dataclass(frozen=True)
class Plan:
    """One service: its views, its transforms, and the request's own fields with their types."""

    service: str
    views: tuple[View, ...]
    transforms: tuple[Transform, ...]
    request: Mapping[str, ValueType]
    key_types: Mapping[str, ValueType]
    resource: FeatureService

    @property
    def join_keys(self) -> tuple[str, ...]:
        """All join keys that a request must give, in order of first use."""
        return tuple(self.key_types)


@dataclass(frozen=True)
class Plans:
    """All services of one state of the registry; swapped as a whole."""

    number: int
    by_service: Mapping[str, Plan | str]


def compile_plans(store: FeatureStore, number: int) -> Plans:
    """A plan for each service; a sentence that says why where there can be none."""
    found: dict[str, Plan | str] = {}
    for service in store.registry.list_feature_services(store.project, allow_cache=True):
        try:
            found[service.name] = compile_plan(store, service)
        except Exception as error:  # noqa: BLE001 - one bad service must not stop the others
            found[service.name] = getattr(error, "message", None) or str(error)
    return Plans(number, found)


def compile_plan(store: FeatureStore, service: FeatureService) -> Plan:
    """Work out which rows a service reads, and how its features are made of them.

    Raises:
        SkewlessError: a transform of a kind that the hot path does not run.
        ValueError: what Feast says of a service it cannot serve.
    """
    tables, on_demand = _get_feature_views_to_use(
        store.registry, store.project, service, allow_cache=True, hide_dummy_entity=False
    )
    wanted = {
        _name(projection): tuple(field.name for field in projection.features)
        for projection in service.feature_view_projections
    }
    names = [name for features in wanted.values() for name in features]
    clashing = {name for name in names if names.count(name) > 1}
    views: dict[str, View] = {}
    for table in tables:
        # An on-demand view's source may be the same version that the service names itself.
        view = _view(store, table, wanted, clashing)
        views.setdefault(view.decoder.layout.view, view)
    transforms = tuple(
        Transform.of(view, wanted.get(_name(view.projection), ())) for view in on_demand
    )
    request = {
        field.name: field.dtype.to_value_type()
        for view in on_demand
        for source in view.source_request_sources.values()
        for field in source.schema
    }
    key_types: dict[str, ValueType] = {}
    for table in tables:
        for field in table.entity_columns:
            key_types.setdefault(field.name, field.dtype.to_value_type())
    return Plan(service.name, tuple(views.values()), transforms, request, key_types, service)


def _view(
    store: FeatureStore,
    table: FeatureView,
    wanted: Mapping[str, tuple[str, ...]],
    clashing: set[str],
) -> View:
    layout = layout_of(store.config, table)
    declared = {field.name: field.tags.get("default") for field in table.features}
    defaults = {c.name: default_of(c, declared.get(c.name)) for c in layout.columns}
    ttl = int(table.ttl.total_seconds() * 1_000_000) if table.ttl else None
    version = table.projection.version_tag or table.current_version_number or view_version(table)
    features = wanted.get(_name(table.projection), ())
    alias = table.projection.name_alias or table.name
    freshness = table.tags.get("freshness")
    return View(
        name=table.name,
        version=version,
        place=place_of(store.project, table, layout.view),
        decoder=Decoder(layout, defaults, ttl),
        features=features,
        names=tuple(f"{alias}__{name}" if name in clashing else name for name in features),
        budget=Freshness(freshness).budget if freshness else None,
        fingerprint=_definition(Path(store.repo_path), table.name, version),
    )


def _definition(repo: Path, view: str, version: int) -> str | None:
    path = repo / COMPUTATIONS / f"{view}.v{version}.sql"
    return blake2b(path.read_bytes(), digest_size=8).hexdigest() if path.is_file() else None


def _name(projection: Any) -> str:
    name: str = projection.name_to_use()
    return name
