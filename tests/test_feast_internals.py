"""What Feast keeps private is as we found it, and is reached from one module only.

A test here that fails after Feast was upgraded names the member that changed: read it in Feast's
source, mend `extensions.feast_internals` (or the subclass that overrides it), then the test.
"""

import ast
import asyncio
import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pandas as pd
import pyarrow as pa
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    ValueType,
)
from feast.feature_logging import FeatureServiceLoggingSource
from feast.infra.offline_stores.contrib.postgres_offline_store import postgres_source
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.permissions.auth.oidc_token_parser import OidcTokenParser
from feast.permissions.user import User
from feast.types import Int64

from extensions import feast_internals
from tests.conftest import REPO_ROOT

FUNCTIONS = {
    "build_entity_keys": "num_rows join_keys proto_values",
    "cached_request_context": "registry project features full_feature_names",
    "coerce_datetime": "ts",
    "column_names": "feature_view entities",
    "convert_arrow_to_proto": "table feature_view join_keys",
    "entity_key_protos": "entity_rows",
    "feature_views_to_use": "registry project features allow_cache hide_dummy_entity",
    "populate_response": "requested_features read_rows indexes online_features_response "
    "full_feature_names table output_len include_feature_view_version_metadata",
    "requested_features_by_view": "feature_refs feature_views on_demand_feature_views",
    "requested_transforms": "feature_refs project registry allow_cache",
    "run_field_mapping": "table field_mapping",
    "unique_entities": "table join_key_values entity_name_to_join_key_map",
}
OVERRIDDEN = {
    "_fvs_for_push_source_or_raise": "self push_source_name allow_cache",
    "_precompute_for_push": "self feature_view_name df",
    "_materialize_one": "self registry task kwargs",
    "_to_arrow_internal": "self timeout",
    "_to_df_internal": "self timeout",
    "_get_client": "self online_store_config",
    "_get_client_async": "self online_store_config",
    "_parse_connection_string": "connection_string",
    "_read_features_per_fv": "self config grouped_refs join_key_values "
    "entity_name_to_join_key_map online_features_response full_feature_names "
    "include_feature_view_version_metadata",
    "_read_features_per_fv_async": "self config grouped_refs join_key_values "
    "entity_name_to_join_key_map online_features_response full_feature_names "
    "include_feature_view_version_metadata",
    "_apply_object": "self table project id_field_name obj proto_field_name name",
    "_ensure_feature_view_name_is_unique": "self feature_view project allow_cache",
    "_initialize_project_if_not_exists": "self project_name",
    "_preprocess_arrow_table": "self pa_table",
    "_preprocess_feature_dict": "self feature_dict",
    "_get_verify": "self",
}


def parameters(function: Any) -> str:
    return " ".join(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_we_give_it(name: str) -> None:
    assert parameters(getattr(feast_internals, name)) == FUNCTIONS[name]


@pytest.mark.parametrize(("module", "owner", "member"), feast_internals.OVERRIDDEN)
def test_what_is_overridden_is_still_called_so(module: str, owner: str, member: str) -> None:
    found = getattr(getattr(importlib.import_module(module), owner), member)
    assert parameters(found) == OVERRIDDEN[member]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(
        config=RepoConfig(
            project="internals",
            provider="local",
            registry=str(tmp_path / "registry.db"),
            online_store={"type": "redis", "connection_string": "127.0.0.1:1"},
            entity_key_serialization_version=3,
        )
    )


def test_a_provider_holds_the_online_store(store: FeatureStore) -> None:
    assert isinstance(feast_internals.provider_of(store).online_store, RedisOnlineStore)


def test_the_frame_of_a_write_is_found_by_the_view_s_name(
    store: FeatureStore, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"u_id": [1], "f": [None], "event_timestamp": [pd.Timestamp.now("UTC")]})
    frame.to_parquet(tmp_path / "f.parquet")
    user = Entity(name="u", join_keys=["u_id"], value_type=ValueType.INT64)
    source = FileSource(path=str(tmp_path / "f.parquet"), timestamp_field="event_timestamp")
    fields = [Field(name="u_id", dtype=Int64), Field(name="f", dtype=Int64)]
    store.registry.apply_entity(user, "internals")
    store.registry.apply_feature_view(
        FeatureView(name="v", entities=[user], schema=fields, source=source), "internals"
    )
    view, written = feast_internals.view_and_frame_of_write(
        store, "v", frame, allow_registry_cache=False
    )
    assert view.name == "v"
    assert written.equals(frame)


def test_clients_are_made_without_connecting(store: FeatureStore) -> None:
    online = feast_internals.provider_of(store).online_store
    settings = store.config.online_store
    client = feast_internals.redis_client(online, settings)
    assert client.connection_pool.connection_kwargs["port"] == "1"
    aside = asyncio.run(feast_internals.redis_client_async(online, settings))
    assert aside.connection_pool.connection_kwargs["port"] == "1"


def test_a_connection_string_is_nodes_and_options() -> None:
    nodes, options = feast_internals.redis_parts_of("a.b:6380,db=3,ssl=true,password=x")
    assert nodes == [{"host": "a.b", "port": "6380"}]
    assert options == {"db": 3, "ssl": True, "password": "x"}


def test_a_service_keeps_what_was_written() -> None:
    view = FeatureView(
        name="view",
        entities=[Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)],
        schema=[Field(name="user_id", dtype=Int64), Field(name="n", dtype=Int64)],
        source=postgres_source.PostgreSQLSource(name="t", table="t", timestamp_field="at"),
    )
    service = FeatureService(name="service", features=["one@v1", view])
    assert feast_internals.written_features(service) == ["one@v1", view]
    source = FeatureServiceLoggingSource(service, "project")
    assert feast_internals.logged_service(source) is service


def test_a_dataset_knows_its_table() -> None:
    storage = postgres_source.SavedDatasetPostgreSQLStorage("archive.winter")
    assert feast_internals.dataset_reference(storage.postgres_options) == "archive.winter"


def test_sources_connect_by_the_function_that_is_put_there(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_source, "_get_conn", feast_internals.source_connection())
    asked = []

    def connect(config: Any) -> Any:
        asked.append(config)
        raise ConnectionError

    feast_internals.replace_source_connection(connect)
    source = postgres_source.PostgreSQLSource(name="t", table="t", timestamp_field="at")
    with pytest.raises(ConnectionError):
        list(source.get_table_column_names_and_types(store.config))
    assert asked == [store.config.offline_store]


def test_the_client_for_an_issuers_keys_is_seen() -> None:
    parser = object.__new__(OidcTokenParser)
    made = SimpleNamespace()
    parser._get_jwks_client = lambda: made  # type: ignore[method-assign]
    feast_internals.wrap_key_client(parser, lambda client: setattr(client, "seen", True))
    assert parser._get_jwks_client() is made
    assert made.seen
    assert parameters(OidcTokenParser._get_jwks_client) == "self"
    assert "_get_jwks_client()" in inspect.getsource(OidcTokenParser)


def test_a_service_accounts_token_is_reviewed_by_ours() -> None:
    parser = object.__new__(OidcTokenParser)

    async def review(token: str) -> User:
        return User(token)

    feast_internals.review_service_accounts(parser, review)
    token = jwt.encode({"kubernetes.io": {}}, "s" * 32)
    assert asyncio.run(parser.user_details_from_access_token(token)).username == token


def test_functions_do_what_we_need_of_them() -> None:
    table = pa.table({"a": [1]})
    assert feast_internals.run_field_mapping(table, {"a": "b"}).column_names == ["b"]
    assert parameters(postgres_source._get_conn).split()[0] == "config"


def test_nothing_else_reaches_for_what_feast_keeps_private() -> None:
    """Imports of private names; attributes are ruff's matter (SLF001), but for those of modules."""
    found = [
        f"{path.relative_to(REPO_ROOT)}: {node.module}.{alias.name}"
        for room in ("extensions", "streaming", "monitoring", "feature_repo")
        for path in (REPO_ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "feast"
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert found == []
