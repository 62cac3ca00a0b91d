"""Tokens and keys under attack: forged, confused, oversized, rotated; issuers that misbehave."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from feast import FeatureStore

from extensions.errors import SkewlessError
from extensions.serving.auth.api_keys import ApiKeys
from extensions.serving.settings import Settings
from tests.served import serving
from tests.serving.attack import Raw
from tests.serving.authorized import HOME, ask, assert_only_these_wait, bearer, serving_with
from tests.serving.issuer import Issuer
from tests.serving.redis_nodes import until

AUDIENCE = "the-features"
ENDLESS = b'{"exp": 1e999}'


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.close()


@pytest.fixture
def http(feast_store: FeatureStore, repo_root: Path, issuer: Issuer) -> Iterator[httpx.Client]:
    """A server that has asked its issuer nothing yet; no permissions, so that every user may."""
    auth = {
        "type": "oidc",
        "client_id": "skewless",
        "audience": AUDIENCE,
        "issuer": issuer.url,
        "auth_discovery_url": f"{issuer.url}/.well-known/openid-configuration",
        "jwks_request_timeout_seconds": 1,
    }
    with serving_with(auth, Settings(repo=repo_root, poll=0.2)) as client:
        yield client


def good(issuer: Issuer, **more: Any) -> str:
    return issuer.token("reader", **{"aud": AUDIENCE, **more})


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value: Any) -> str:
    return encoded(json.dumps(value).encode())


def by_secret(issuer: Issuer, algorithm: str, secret: bytes) -> str:
    """Signed with a secret that everybody knows: the issuer's public key."""
    signed = f"{part({'alg': algorithm, 'kid': 'one'})}.{good(issuer).split('.')[1]}"
    digest = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encoded(digest)}"


def test_forged_and_confused_tokens(http: httpx.Client, issuer: Issuer) -> None:
    assert ask(http, good(issuer)) == 200
    head, body, seal = good(issuer).split(".")
    pem = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = issuer.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    own = {"kty": "RSA", "n": "AQAB", "e": "AQAB"}
    bad = {
        "none": f"{part({'alg': 'none', 'kid': 'one'})}.{body}.",
        "None with a seal": f"{part({'alg': 'None', 'kid': 'one'})}.{body}.{seal}",
        "HS256 by PEM": by_secret(issuer, "HS256", pem),
        "HS256 by DER": by_secret(issuer, "HS256", der),
        "RS256 by HMAC": by_secret(issuer, "RS256", pem),
        "PS256": f"{part({'alg': 'PS256', 'kid': 'one'})}.{body}.{seal}",
        "its own key": f"{part({'alg': 'RS256', 'kid': 'one', 'jwk': own})}.{body}.{seal}",
        "another's key": good(issuer, key=issuer.other_key),
        "an unknown key": good(issuer, kid="two"),
        "no key named": f"{part({'alg': 'RS256'})}.{body}.{seal}",
        "a key that is no name": f"{part({'alg': 'RS256', 'kid': ['one']})}.{body}.{seal}",
        "a critical header": f"{part({'alg': 'RS256', 'kid': 'one', 'crit': ['x']})}.{body}.{seal}",
        "expired": good(issuer, lasts=-60),
        "no claims": f"{head}.{part({})}.{seal}",
        "expiry as a text": f"{head}.{part({'exp': 'never'})}.{seal}",
        "expiry without end": f"{head}.{encoded(ENDLESS)}.{seal}",
        "not valid yet": good(issuer, nbf=time.time() + 600),
        "issued in the future": good(issuer, iat=time.time() + 600),
        "another audience": good(issuer, aud="somebody"),
        "no audience": good(issuer, aud=[]),
        "another issuer": good(issuer, iss="http://127.0.0.1:1"),
        "another's claims": f"{head}.{good(issuer, name='root').split('.')[1]}.{seal}",
        "a list": f"{head}.{part([1])}.{seal}",
        "a number": f"{head}.{part(5)}.{seal}",
        "deep": f"{head}.{encoded(b'[' * 9_000)}.{seal}",
        "a reviewed one": f"{head}.{part({'kubernetes.io': {'namespace': 'x'}})}.{seal}",
        "four parts": f"{head}.{body}.{seal}.{seal}",
        "nothing but dots": "..",
        "huge": f"{head}.{body}.{'A' * 20_000}",
    }  # fmt: skip
    for name, token in bad.items():
        assert ask(http, token) == 401, name
    assert ask(http, good(issuer)) == 200


def test_a_token_without_an_expiry_is_refused(http: httpx.Client, issuer: Issuer) -> None:
    import jwt  # noqa: PLC0415

    claims = {"preferred_username": "ann", "aud": AUDIENCE, "iss": issuer.url}
    endless = jwt.encode(claims, issuer.key, "RS256", headers={"kid": "one"})
    answer = http.get(HOME, headers=bearer(endless))
    assert (answer.status_code, "expiry" in answer.text) == (401, True)


def test_clocks_that_differ_a_little(http: httpx.Client, issuer: Issuer) -> None:
    assert ask(http, good(issuer, nbf=time.time() + 5, iat=time.time() + 5)) == 200
    assert ask(http, good(issuer, lasts=-3)) == 200
    assert ask(http, good(issuer, lasts=-30)) == 401


def test_a_token_ends_also_for_who_is_remembered(http: httpx.Client, issuer: Issuer) -> None:
    token = good(issuer, lasts=-8.5)  # within the skew, for another second and a half
    assert ask(http, token) == 200
    time.sleep(2.5)
    assert ask(http, token) == 401


def test_garbage_asks_the_issuer_for_nothing(http: httpx.Client, issuer: Issuer) -> None:
    assert ask(http, good(issuer)) == 200
    before = issuer.asked
    for i in range(60):
        assert ask(http, good(issuer, kid=f"made-up-{i}")) == 401
        assert ask(http, good(issuer, key=issuer.other_key, name=f"{i}")) == 401
        assert ask(http, f"a.b.{i}") == 401
    assert issuer.asked - before <= 3


def test_keys_that_are_rotated_are_known_in_seconds(http: httpx.Client, issuer: Issuer) -> None:
    assert ask(http, good(issuer)) == 200
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer.keys["two"] = key
    token = good(issuer, key=key, kid="two")
    assert until(lambda: ask(http, token) == 200, 12) < 8
    assert ask(http, good(issuer)) == 200


@pytest.mark.parametrize("path", ["/keys", "/.well-known/openid-configuration"])
@pytest.mark.parametrize("broken", [b"<html>", b"[]", b"{}", b'{"keys": []}', b'{"keys": 5}'])
def test_an_issuer_that_talks_nonsense_is_no_fault_of_the_token(
    http: httpx.Client, issuer: Issuer, path: str, broken: bytes
) -> None:
    issuer.broken[path] = broken
    answer = http.get(HOME, headers=bearer(good(issuer)))
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1")
    issuer.broken.clear()
    assert until(lambda: ask(http, good(issuer)) == 200, 10) < 8


def test_an_issuer_that_hangs_from_the_beginning(http: httpx.Client, issuer: Issuer) -> None:
    """It accepts and says nothing: requests are answered in time, and it may come back."""
    issuer.answering.clear()
    assert_only_these_wait(http, [good(issuer, name=f"user{number}") for number in range(12)])
    issuer.answering.set()
    assert until(lambda: ask(http, good(issuer)) == 200, 15) < 12


def test_a_flood_of_unknown_tokens_does_not_wait_in_line(http, issuer: Issuer) -> None:
    assert ask(http, good(issuer)) == 200
    known = good(issuer)
    assert ask(http, known) == 200
    issuer.answering.clear()
    raws = []
    try:
        for i in range(400):
            unsigned = f"{part({'alg': 'RS256', 'kid': f'k{i}'})}.{part({'exp': 9e9, 'n': i})}.AAAA"
            token = unsigned if i % 50 else good(issuer, kid=f"k{i}")
            raws.append(Raw(str(http.base_url)).head("GET", HOME, Authorization=f"Bearer {token}"))
        began = time.monotonic()
        for _ in range(10):
            assert ask(http, known) == 200
        assert time.monotonic() - began < 3
    finally:
        issuer.answering.set()
        for raw in raws:
            raw.close()


def test_nothing_of_a_token_is_logged(http, issuer: Issuer, caplog) -> None:
    caplog.set_level("INFO")
    for token in (
        good(issuer, name="ann.private"),
        good(issuer, kid="kid-private"),
        "aa.bb.private",
    ):
        ask(http, token)
    assert "private" not in caplog.text
    assert "Traceback" not in caplog.text


# Static keys.


@pytest.fixture
def keyed(feast_store, repo_root: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    file = tmp_path / "keys"
    file.write_text("# of the pages\nfirst\n\n")
    for url in serving(Settings(repo=repo_root, api_key_file=file, poll=0.1), feast_store):
        with httpx.Client(base_url=url, timeout=10) as client:
            yield client, file


def home_with(http: httpx.Client, key: str) -> int:
    return http.get(HOME, headers={"x-api-key": key}).status_code


def with_key(http: httpx.Client, key: str) -> int:
    """On both kinds of routes; not while the keys change, which may be between the two."""
    status = home_with(http, key)
    feasts = http.get("/v1/vector_stores", headers={"x-api-key": key}).status_code
    assert feasts == status
    return status


def test_keys_are_rotated_without_a_restart(keyed) -> None:
    http, file = keyed
    assert with_key(http, "first") == 200
    for wrong in ("second", "", "# of the pages", "firs", "first\tsecond"):
        assert with_key(http, wrong) == 401
    file.write_text("first\nsecond\n")
    assert until(lambda: home_with(http, "second") == 200, 5) < 2
    assert with_key(http, "first") == 200
    other = file.with_suffix(".new")
    other.write_text("second\r\n")
    other.replace(file)
    assert until(lambda: home_with(http, "first") == 401, 5) < 2
    assert with_key(http, "second") == 200


@pytest.mark.parametrize("spoil", ["gone", "empty", "folder", "comments", "binary"])
def test_a_spoilt_file_changes_no_key_and_opens_nothing(keyed, caplog, spoil: str) -> None:
    http, file = keyed
    file.unlink()
    if spoil == "folder":
        file.mkdir()
    elif spoil != "gone":
        text = {"empty": b"", "comments": b"# nothing\n", "binary": b"\0\xff" * 40_000}
        file.write_bytes(text[spoil])
    time.sleep(0.5)
    assert with_key(http, "first") == 200
    assert http.get(HOME).status_code == 401
    assert caplog.text.count("stay in force") == 1
    assert "first" not in caplog.text


def test_a_server_does_not_start_without_the_keys_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for file, says in ((tmp_path / "none", "cannot be read"), (tmp_path / "empty", "no keys"),
                       (tmp_path, "regular file")):  # fmt: skip
        with pytest.raises(SkewlessError, match=says):
            ApiKeys(None, file, 1.0)
    both = ApiKeys("own", None, 1.0)
    assert (both.valid(b"own"), both.valid(None), both.valid(b"")) == (True, False, False)
