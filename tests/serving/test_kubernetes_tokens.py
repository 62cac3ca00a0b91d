"""Kubernetes tokens under attack, with a stand-in for the API server."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from feast import FeatureStore

from extensions.errors import ConfigurationError
from extensions.serving.auth import kubernetes_tokens
from extensions.serving.auth.authorization import MAX_VERIFYING
from extensions.serving.auth.kubernetes_tokens import KubernetesTokens
from extensions.serving.settings import Settings
from tests.serving.api_server import ACCOUNT, OWN_TOKEN, ApiServer, Known, binding
from tests.serving.authorized import (
    HOME,
    RANK,
    ask,
    assert_only_these_wait,
    bearer,
    permit_reader_and_ranker,
    serving_with,
)  # fmt: skip
from tests.serving.redis_nodes import until
from tests.serving.test_auth import FEASTS, RANKING

AUDIENCE = "the-features"
CACHED = 1.0


def service_account_token(name: str = "pages", secret: str = "s" * 32, **more: object) -> str:
    """A JWT as the token of a service account looks; the stand-in knows it or does not."""
    claims = {
        "sub": f"system:serviceaccount:shop:{name}",
        "exp": time.time() + 3_600,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": name}},
    }
    return jwt.encode(claims | more, secret, "HS256")


GOOD = service_account_token()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    made = ApiServer(tmp_path_factory.mktemp("pod") / "serviceaccount")
    yield made
    made.close()


@pytest.fixture
def api(server: ApiServer) -> Iterator[ApiServer]:
    """Knows the pages' token, and that they are readers; nothing that was cached before counts."""
    time.sleep(CACHED)
    server.reset()
    server.tokens[GOOD] = Known(audiences=(AUDIENCE,))
    server.bind("reader")
    yield server
    server.reset()


@pytest.fixture(scope="module")
def http(feast_store: FeatureStore, repo_root: Path, server: ApiServer) -> Iterator[httpx.Client]:
    """A server that knows the roles reader (the home page) and ranker (the rankings)."""
    permit_reader_and_ranker(feast_store)
    auth = {"type": "kubernetes", "audience": AUDIENCE, "cache_seconds": CACHED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_tokens, "POD_FOLDER", server.folder)
        patch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        patch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        with serving_with(auth, Settings(repo=repo_root, poll=0.2)) as client:
            yield client


def test_a_service_account_reads_what_its_roles_may(http: httpx.Client, api: ApiServer) -> None:
    assert ask(http, GOOD) == 200
    assert http.post("/get-online-features", json=FEASTS, headers=bearer(GOOD)).status_code == 200
    assert http.post(RANK, json=RANKING, headers=bearer(GOOD)).status_code == 403
    reviews = api.asked.count("tokenreviews")
    assert ask(http, GOOD) == 200
    assert api.asked.count("tokenreviews") == reviews, "a review is believed for a while"


def test_what_the_review_refuses_is_nobody_whatever_it_says_of_itself(
    http: httpx.Client, api: ApiServer
) -> None:
    forged = service_account_token(secret="another" * 8)
    none = jwt.encode({"sub": ACCOUNT, "exp": time.time() + 60}, None, "none")
    expired = service_account_token(jti="1")
    api.tokens[expired] = Known(audiences=(AUDIENCE,), lasts=-1)
    elsewhere = service_account_token(jti="2")
    api.tokens[elsewhere] = Known(audiences=("the-shop",))
    nobody = service_account_token(jti="3")
    api.tokens[nobody] = Known(username="", audiences=(AUDIENCE,))
    cut = GOOD[:-6]
    for token in (forged, none, expired, elsewhere, nobody, cut, "opaque", "a.b.c", "{}"):
        assert ask(http, token) == 401, token
        answer = http.post("/get-online-features", json=FEASTS, headers=bearer(token))
        assert answer.status_code == 401, token
    assert ask(http, GOOD) == 200


def test_the_subject_is_the_reviews_not_the_tokens(http: httpx.Client, api: ApiServer) -> None:
    """A genuine token of another account that says it is the pages'."""
    token = service_account_token("pages", jti="other")
    api.tokens[token] = Known("system:serviceaccount:shop:other", audiences=(AUDIENCE,))
    assert ask(http, token) == 403
    for account in ("system:serviceaccount:else:pages", "system:serviceaccount:shop:pages2",
                    "shop:pages", "pages"):  # fmt: skip
        token = service_account_token(jti=account)
        api.tokens[token] = Known(account, audiences=(AUDIENCE,))
        assert ask(http, token) == 403, account


def test_an_api_server_that_knows_no_audiences_has_not_checked_them(
    http: httpx.Client, api: ApiServer
) -> None:
    api.knows_audiences = False
    assert ask(http, GOOD) == 401


def test_users_and_groups_have_roles_of_this_namespace_and_of_the_cluster(
    http: httpx.Client, api: ApiServer
) -> None:
    api.tokens |= {
        "opaque-ann": Known("ann", ("team",), (AUDIENCE,)),
        "opaque-bob": Known("bob", (), (AUDIENCE,)),
        "opaque-eve": Known("eve", ("pages",), (AUDIENCE,)),
    }
    assert [ask(http, f"opaque-{name}") for name in ("ann", "bob", "eve")] == [403] * 3
    api.bindings.append(binding("reader", {"kind": "Group", "name": "team"}))
    api.cluster_bindings.append(binding("reader", {"kind": "User", "name": "bob"}))
    time.sleep(CACHED)
    assert [ask(http, f"opaque-{name}") for name in ("ann", "bob", "eve")] == [200, 200, 403]


def test_roles_and_tokens_that_are_taken_back_end_within_the_cache(
    http: httpx.Client, api: ApiServer
) -> None:
    assert ask(http, GOOD) == 200
    api.bindings.clear()
    assert until(lambda: ask(http, GOOD) == 403, 10) < CACHED + 4
    api.bind("reader")
    assert until(lambda: ask(http, GOOD) == 200, 10) < CACHED + 4
    del api.tokens[GOOD]
    assert until(lambda: ask(http, GOOD) == 401, 10) < CACHED + 4


def test_a_token_ends_also_for_who_is_remembered(http: httpx.Client, api: ApiServer) -> None:
    token = service_account_token(exp=time.time() + 0.5)
    api.tokens[token] = Known(audiences=(AUDIENCE,))
    began = time.monotonic()
    assert ask(http, token) == 200
    if time.monotonic() - began < 0.4:
        assert ask(http, token) == 200
    api.tokens[token].lasts = -1
    time.sleep(0.6)
    assert ask(http, token) == 401


def test_the_pods_own_token_is_rotated_without_a_restart(
    http: httpx.Client, api: ApiServer
) -> None:
    assert ask(http, GOOD) == 200
    api.own_tokens = {"renewed"}
    assert until(lambda: ask(http, GOOD) == 503, 10) < CACHED + 4
    (api.folder / "token").write_text("renewed")
    assert ask(http, GOOD) == 200
    (api.folder / "token").write_text(OWN_TOKEN)


@pytest.mark.parametrize("path", ["tokenreviews", "rolebindings"])
@pytest.mark.parametrize("status", [302, 401, 403, 404, 429, 500, 503])
def test_an_api_server_that_refuses_us_says_nothing_about_the_token(
    http: httpx.Client, api: ApiServer, path: str, status: int
) -> None:
    api.status[path] = status
    answer = http.get(HOME, headers=bearer(GOOD))
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1")
    api.status.clear()
    assert ask(http, GOOD) == 200


@pytest.mark.parametrize("path", ["tokenreviews", "rolebindings"])
@pytest.mark.parametrize(
    "broken",
    [
        *(b"<html>", b"[]", b"{}", b"[" * 50_000, b'{"status": 5, "items": 5}'),
        *(b'{"items": [5], "status": []}', b'{"items": [{"subjects": [5]}]}'),
        b'{"status": {"authenticated": true, "audiences": ["the-features"], "user": [7]}}',
    ],
)
def test_an_api_server_that_talks_nonsense(
    http: httpx.Client, api: ApiServer, path: str, broken: bytes
) -> None:
    api.broken[path] = broken
    assert ask(http, GOOD) == 503
    api.broken.clear()
    assert ask(http, GOOD) == 200


def test_an_api_server_that_is_away_comes_back(http: httpx.Client, api: ApiServer) -> None:
    api.close()
    began = time.monotonic()
    assert ask(http, GOOD) == 503
    assert time.monotonic() - began < 10
    api.listen()
    assert ask(http, GOOD) == 200


@pytest.mark.parametrize("how", ["hangs", "drips"])
def test_an_api_server_that_is_slow_holds_up_nobody_else(
    http: httpx.Client, api: ApiServer, how: str
) -> None:
    """It accepts and says nothing, or a byte now and then: the event loop goes on meanwhile."""
    if how == "hangs":
        api.answering.clear()
    else:
        api.pause_between_bytes = 0.2
    asked = [service_account_token(jti=str(number)) for number in range(12)]
    assert len(asked) < MAX_VERIFYING
    assert_only_these_wait(http, asked)
    api.pause_between_bytes = 0.0
    api.answering.set()
    assert until(lambda: ask(http, GOOD) == 200, 20) < 15


def test_a_certificate_of_another_authority_is_not_believed(
    http: httpx.Client, api: ApiServer, tmp_path: Path
) -> None:
    other = ApiServer(tmp_path / "other")
    mine = (api.folder / "ca.crt").read_bytes()
    (api.folder / "ca.crt").write_bytes((other.folder / "ca.crt").read_bytes())
    assert ask(http, GOOD) == 503
    (api.folder / "ca.crt").write_bytes(mine)
    assert ask(http, GOOD) == 200
    other.close()


def test_outside_a_pod_the_server_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigurationError, match="KUBERNETES_SERVICE_HOST"):
        KubernetesTokens(folder=tmp_path)


def test_nothing_of_a_token_is_logged(
    http: httpx.Client, api: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ask(http, service_account_token("private-account"))
    api.status["tokenreviews"] = 500
    ask(http, "opaque-private")
    assert "private" not in caplog.text
    assert "Traceback" not in caplog.text
