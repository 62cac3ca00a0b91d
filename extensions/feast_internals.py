"""Feast's private members that Skewless uses: all of them are reached from here.

Feast is pinned, and these are what a new release of it may change without saying so.
`tests/test_feast_internals.py` has a test for each, and one that finds a private member of Feast
reached from anywhere else. What is overridden in a subclass of ours cannot stand here: `OVERRIDDEN`
names it, with what our subclasses call of their parents.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from feast import FeatureService, FeatureStore, utils
from feast.feature_logging import FeatureServiceLoggingSource
from feast.infra.offline_stores.contrib.postgres_offline_store import postgres_source
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.permissions.user import User

# Functions of feast.utils, by what they do without the underscore.
build_entity_keys = utils._build_entity_keys
cached_request_context = utils._get_cached_request_context
coerce_datetime: Callable[[Any], Any] = utils._coerce_datetime
column_names = utils._get_column_names
convert_arrow_to_proto = utils._convert_arrow_to_proto
entity_key_protos = utils._get_entity_key_protos
feature_views_to_use = utils._get_feature_views_to_use
populate_response = utils._populate_response_from_feature_data
requested_features_by_view = utils._get_requested_feature_views_to_features_dict
requested_transforms = utils._get_requested_on_demand_feature_views
run_field_mapping = utils._run_pyarrow_field_mapping
unique_entities = utils._get_unique_entities

# (module of Feast, class, member): overridden by a subclass of ours, or called on ``self`` there.
OVERRIDDEN = (
    ("feast.feature_store", "FeatureStore", "_fvs_for_push_source_or_raise"),
    ("feast.feature_store", "FeatureStore", "_precompute_for_push"),
    ("feast.infra.compute_engines.local.compute", "LocalComputeEngine", "_materialize_one"),
    ("feast.infra.offline_stores.offline_store", "RetrievalJob", "_to_arrow_internal"),
    ("feast.infra.offline_stores.offline_store", "RetrievalJob", "_to_df_internal"),
    ("feast.infra.online_stores.redis", "RedisOnlineStore", "_get_client"),
    ("feast.infra.online_stores.redis", "RedisOnlineStore", "_get_client_async"),
    ("feast.infra.online_stores.redis", "RedisOnlineStore", "_parse_connection_string"),
    ("feast.infra.online_stores.redis", "RedisOnlineStore", "_read_features_per_fv"),
    ("feast.infra.online_stores.redis", "RedisOnlineStore", "_read_features_per_fv_async"),
    ("feast.infra.registry.sql", "SqlRegistry", "_apply_object"),
    ("feast.infra.registry.sql", "SqlRegistry", "_ensure_feature_view_name_is_unique"),
    ("feast.infra.registry.sql", "SqlRegistry", "_initialize_project_if_not_exists"),
    ("feast.on_demand_feature_view", "OnDemandFeatureView", "_preprocess_arrow_table"),
    ("feast.on_demand_feature_view", "OnDemandFeatureView", "_preprocess_feature_dict"),
    ("feast.permissions.oidc_service", "OIDCDiscoveryService", "_get_verify"),
)


def provider_of(store: FeatureStore) -> Any:
    """The provider, which holds the stores that feature_store.yaml names."""
    return store._get_provider()


def view_and_frame_of_write(
    store: FeatureStore, view_name: str, frame: Any, **options: Any
) -> tuple[Any, Any]:
    """The view, and the frame as it is written online; ``options``: those of Feast's writes."""
    found: tuple[Any, Any] = store._get_feature_view_and_df_for_online_write(
        view_name, frame, **options
    )
    return found


def redis_client(online: RedisOnlineStore, config: Any) -> Any:
    """The store's blocking client; ``config``: the online store's settings."""
    return online._get_client(config)


async def redis_client_async(online: RedisOnlineStore, config: Any) -> Any:
    """The store's asyncio client; ``config``: the online store's settings."""
    return await online._get_client_async(config)


def redis_parts_of(connection_string: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Nodes (host, port) and redis-py's options of Feast's ``host:port,option=value,…``."""
    nodes, options = RedisOnlineStore._parse_connection_string(connection_string)
    return nodes, options


def written_features(service: FeatureService) -> list[Any]:
    """What a service was given as features, before Feast looks any of it up."""
    return list(service._features)


def logged_service(source: FeatureServiceLoggingSource) -> FeatureService:
    """The service whose requests a logging source describes."""
    return source._feature_service


def dataset_reference(options: Any) -> str:
    """The table's name in the options of a PostgreSQL source, None as text where it is a query."""
    return str(options._table)


def source_connection() -> Callable[[Any], Any]:
    """The function by which Feast's PostgreSQL sources connect to look at a table."""
    connect: Callable[[Any], Any] = postgres_source._get_conn  # type: ignore[attr-defined]
    return connect


def replace_source_connection(connect: Callable[[Any], Any]) -> None:
    """Let Feast's PostgreSQL sources connect by ``connect``."""
    postgres_source._get_conn = connect  # type: ignore[attr-defined,assignment]


def wrap_key_client(parser: Any, change: Callable[[Any], None]) -> None:
    """Let ``change`` see each client for an issuer's keys that a reader of OIDC tokens makes."""
    make = parser._get_jwks_client

    def client() -> Any:
        made = make()
        change(made)
        return made

    parser._get_jwks_client = client


def review_service_accounts(parser: Any, review: Callable[[str], Awaitable[User]]) -> None:
    """Let ``review`` say whose a service account's token is, for a reader of OIDC tokens."""
    assert callable(parser._validate_k8s_sa_token_and_extract_namespace)
    parser._validate_k8s_sa_token_and_extract_namespace = review
