"""With `auth` configured, who may read what: by token, by key, and while others are away."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from feast import FeatureStore

from extensions.serving.settings import Settings
from tests.databases import cut
from tests.serving.authorized import (
    HOME,
    RANK,
    bearer,
    permit,
    permit_reader_and_ranker,
    serving_with,
)  # fmt: skip
from tests.serving.issuer import Issuer
from tests.serving.redis_nodes import until

RANKING = {"userId": 1, "itemIds": [1, 2]}
FEASTS = {"feature_service": "home_page", "entities": {"user_id": [1]}}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def http(feast_store: FeatureStore, repo_root: Path, issuer: Issuer) -> Iterator[httpx.Client]:
    permit_reader_and_ranker(feast_store)
    auth = {
        "type": "oidc",
        "client_id": "skewless",
        "auth_discovery_url": f"{issuer.url}/.well-known/openid-configuration",
        "jwks_request_timeout_seconds": 2,
    }
    settings = Settings(repo=repo_root, api_key="secret", poll=0.2)
    with serving_with(auth, settings, timeout=10) as client:
        yield client


def test_warm_and_open_to_operators(http: httpx.Client) -> None:
    assert http.get("/ready").json()["warm"] is True
    assert http.get("/health").status_code == http.get("/metrics").status_code == 200
    assert http.get("/docs").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer a b"},
        {"authorization": "Bearer rubbish"},
        {"authorization": "Bearer a.b.c"},
        {"authorization": "Basic YTpi"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
    ],
)
def test_without_a_valid_token_nothing(http: httpx.Client, headers: dict[str, str]) -> None:
    for answer in (
        http.get(HOME, headers=headers),
        http.post(RANK, json=RANKING, headers=headers),
        http.post("/v1/features", json={"service": "nothing"}, headers=headers),
        http.post("/get-online-features", json=FEASTS, headers=headers),
        http.post("/push", json={"push_source_name": "x", "df": {}}, headers=headers),
    ):
        assert answer.status_code == 401, answer.text


def test_tokens_that_are_forged_expired_or_of_another_key(http, issuer) -> None:
    whole = issuer.token("reader")
    head, body, seal = whole.split(".")
    bad = [
        issuer.token("reader", key=issuer.other_key),
        issuer.token("reader", lasts=-60),
        issuer.token("reader", kid="two"),
        f"{head}.{body}.{seal[:-8]}AAAAAAAA",
        f"eyJhbGciOiJub25lIn0.{body}.",
        f"{head}.{issuer.token('ranker').split('.')[1]}.{seal}",
    ]
    for token in bad[:2] + bad[3:]:
        assert http.get(HOME, headers=bearer(token)).status_code == 401
        answer = http.post("/get-online-features", json=FEASTS, headers=bearer(token))
        assert answer.status_code == 401


def test_a_token_reads_what_its_roles_may(http: httpx.Client, issuer: Issuer) -> None:
    reader, ranker = bearer(issuer.token("reader")), bearer(issuer.token("ranker"))
    assert http.get(HOME, headers=reader).status_code == 200
    assert http.post(RANK, json=RANKING, headers=ranker).status_code == 200
    refused = http.post(RANK, json=RANKING, headers=reader)
    assert refused.status_code == 403
    assert refused.json()["error"]["message"]
    assert http.get(HOME, headers=ranker).status_code == 403
    asked = {"service": "home_page", "entities": [{"user_id": 1}]}
    assert http.post("/v1/features", json=asked, headers=reader).status_code == 200
    assert http.post("/v1/features", json=asked, headers=ranker).status_code == 403


def test_feasts_own_routes_agree(http: httpx.Client, issuer: Issuer) -> None:
    reader, ranker = bearer(issuer.token("reader")), bearer(issuer.token("ranker"))
    assert http.post("/get-online-features", json=FEASTS, headers=reader).status_code == 200
    assert http.post("/get-online-features", json=FEASTS, headers=ranker).status_code == 403
    by_name = {"features": ["user_habits:user_preferred_hour"], "entities": {"user_id": [1]}}
    assert http.post("/get-online-features", json=by_name, headers=reader).status_code == 403
    frame = {"user_id": [1], "user_preferred_hour": [3], "event_timestamp": ["2026-01-01"]}
    written = {"feature_view_name": "user_habits", "df": frame}
    assert http.post("/write-to-online-store", json=written, headers=reader).status_code == 403
    for path in ("/materialize-incremental", "/materialize"):
        asked = {"end_ts": "2026-01-01T00:00:00", "start_ts": "2025-01-01T00:00:00"}
        assert http.post(path, json=asked, headers=reader).status_code == 403


def test_another_projects_permissions_do_not_count(http: httpx.Client, issuer: Issuer) -> None:
    """Where a project has no permissions, Feast grants all: it must not be the client's choice."""
    ranker = bearer(issuer.token("ranker"))
    for query in ("?project=nothing", "?project="):
        assert http.get(HOME + query, headers=ranker).status_code == 403
        answer = http.post("/get-online-features" + query, json=FEASTS, headers=ranker)
        assert answer.status_code == 403


def test_a_service_shows_the_key_on_our_routes_only(http: httpx.Client) -> None:
    key = {"x-api-key": "secret"}
    assert http.get(HOME, headers=key).status_code == 200
    assert http.post(RANK, json=RANKING, headers=key).status_code == 200
    assert http.post("/get-online-features", json=FEASTS, headers=key).status_code == 401


def test_permissions_that_change_are_in_force_within_a_second(http, issuer, feast_store) -> None:
    guest = bearer(issuer.token("guest"))
    assert http.get(HOME, headers=guest).status_code == 403
    permit(feast_store, "guests", "guest", "^home_page$")
    assert until(lambda: http.get(HOME, headers=guest).status_code == 200) < 3
    feast_store.registry.delete_permission("guests", feast_store.project)
    assert until(lambda: http.get(HOME, headers=guest).status_code == 403) < 3


def test_postgres_away_changes_no_permission(http, issuer, database, postgres_server) -> None:
    reader, ranker = bearer(issuer.token("reader")), bearer(issuer.token("ranker"))
    name = database.rpartition("/")[2]
    with psycopg.connect(postgres_server, autocommit=True) as conn:
        conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        cut(conn, name)
        time.sleep(0.5)
        assert http.get(HOME, headers=reader).status_code == 200
        assert http.get(HOME, headers=ranker).status_code == 403
        conn.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_an_issuer_that_hangs_holds_up_nobody_who_is_known(http, issuer, monkeypatch) -> None:
    known, unknown = bearer(issuer.token("reader")), bearer(issuer.token("reader", name="new"))
    assert http.get(HOME, headers=known).status_code == 200
    asked = issuer.asked
    assert http.get(HOME, headers=known).status_code == 200
    assert issuer.asked == asked
    from feast.permissions.auth.auth_manager import get_auth_manager  # noqa: PLC0415

    parser: Any = get_auth_manager().token_parser
    monkeypatch.setattr(parser, "_jwks_client", None)  # its keys are too old
    issuer.answering.clear()
    seen: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: seen.append(http.get(HOME, headers=unknown)))
    asking.start()
    try:
        until(lambda: issuer.asked > asked)
        began = time.monotonic()
        for _ in range(20):
            assert http.get(HOME, headers=known).status_code == 200
        assert time.monotonic() - began < 1.5
        asking.join(10)
        assert [answer.status_code for answer in seen] == [503]
        assert seen[0].headers["retry-after"] == "1"
    finally:
        issuer.answering.set()
        asking.join(10)
    assert http.get(HOME, headers=unknown).status_code == 200
