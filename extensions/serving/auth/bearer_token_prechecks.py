"""Checks of a bearer token without its issuer, and deadlines for the issuer.

Feast's own code verifies tokens (signature, audience, issuer, expiry). These checks come before
it: what they refuse costs the issuer no request and the worker no thread.
"""

import logging
import time
from typing import Any

import jwt
import requests
from feast.permissions.auth.oidc_token_parser import OidcTokenParser
from feast.permissions.auth_model import OidcAuthConfig
from feast.permissions.oidc_service import OIDCDiscoveryService
from feast.permissions.user import User

from extensions.feast_internals import review_service_accounts, wrap_key_client
from extensions.serving.auth.kubernetes_tokens import KubernetesTokens

LONGEST_TOKEN = 16_384
# The one algorithm that Feast's code accepts of an OIDC issuer.
ALGORITHM = "RS256"
# Seconds that Feast's code allows clocks to differ.
SKEW = 10
# Seconds between two reads of the issuer's keys because of an unknown key id.
LOOK_AGAIN_SECONDS = 5.0
# Seconds after which the issuer's discovery document is read again.
DISCOVERY_SECONDS = 3600.0


class Discovery(OIDCDiscoveryService):  # type: ignore[misc, unused-ignore]
    """The issuer's discovery document, read with a deadline and refreshed periodically."""

    def __init__(self, config: OidcAuthConfig) -> None:
        super().__init__(config.auth_discovery_url, config.verify_ssl, config.ca_cert_path)
        self._timeout = config.jwks_request_timeout_seconds
        self._held: dict[str, Any] = {}
        self._until = 0.0

    @property
    def discovery_data(self) -> dict[str, Any]:
        """The document; one that was read stays in use while the issuer is away.

        Raises:
            RuntimeError: it cannot be read, and never could.
        """
        if time.monotonic() < self._until:
            return self._held
        try:
            verify = self._get_verify()  # type: ignore[no-untyped-call]
            answer = requests.get(self.discovery_url, verify=verify, timeout=self._timeout)
            answer.raise_for_status()
            read = answer.json()
            if not (isinstance(read, dict) and isinstance(read.get("jwks_uri"), str)):
                raise requests.RequestException("It names no keys.")
            self._held, self._until = read, time.monotonic() + DISCOVERY_SECONDS
        except (requests.RequestException, ValueError) as error:
            if not self._held:
                raise RuntimeError(f"OIDC discovery failed: {type(error).__name__}") from error
        return self._held


def harden(parser: Any, config: Any) -> None:
    """Give Feast's OIDC token parser deadlines, and keep invalid tokens out of the log."""
    logging.getLogger("feast.permissions.auth").setLevel(logging.CRITICAL)
    if isinstance(parser, OidcTokenParser):
        parser.oidc_discovery_service = Discovery(config)
        wrap_key_client(parser, _look_again_soon)
        review_service_accounts(parser, _review)


async def _review(token: str) -> User:
    """Review a service account's token among those of an OIDC issuer: its namespace, no roles.

    As Feast's method of the name, with deadlines.
    """
    found = KubernetesTokens().review(token)
    account = found.service_account
    return User(found.username, [], [], [account[0]] if account else [])


def _look_again_soon(client: Any) -> None:
    # PyJWT's own 30 s would refuse, as long, every token of a key just rotated in.
    client.cooldown_duration = LOOK_AGAIN_SECONDS


def refused_at_sight(token: str, *, oidc: bool) -> str | None:
    """Why a token cannot be valid, whoever its issuer; None: it has to be verified.

    ``oidc``: it is of an OIDC issuer, so that it must be a signed JWT with an expiry. Nothing
    that is read here is believed: it can only refuse.
    """
    if len(token) > LONGEST_TOKEN:
        return f"A token may have at most {LONGEST_TOKEN} characters."
    return _refused_jwt(token) if oidc else None


def _refused_jwt(token: str) -> str | None:
    invalid = "Invalid or expired access token"
    try:
        read = jwt.api_jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.exceptions.PyJWTError, ValueError, RecursionError):
        return invalid
    header, claims = read["header"], read["payload"]
    if isinstance(claims.get("kubernetes.io"), dict):  # reviewed by Kubernetes, not here
        return None
    until = claims.get("exp")
    if isinstance(until, bool) or not isinstance(until, (int, float)):
        return "The access token has no expiry."
    known = header.get("alg") == ALGORITHM and isinstance(header.get("kid"), str)
    return None if known and until > time.time() - SKEW else invalid
