"""Kubernetes tokens: who a bearer token is by the API server's TokenReview, and its roles (RBAC).

Takes the place of Feast's `KubernetesTokenParser`, which believes the subject of a token that the
review refused. Here nothing is read from the token itself: user and groups are the review's, roles
are the names that RoleBindings refer to.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from feast.permissions.auth.token_parser import TokenParser
from feast.permissions.user import User
from starlette.authentication import AuthenticationError

from extensions.errors import ConfigurationError

# What Kubernetes mounts into each pod: ``token`` (renewed while the pod runs), ``ca.crt`` and
# ``namespace``.
POD_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Seconds that one request to the API server may take, its whole response included.
REQUEST_SECONDS = 3.0
# Bytes of one response.
MOST_BYTES = 16_000_000
# Seconds that a reviewed token is believed where feature_store.yaml has no ``cache_seconds``.
CACHE_SECONDS = 10.0
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_SERVICE_ACCOUNT = "system:serviceaccount:"


class ApiServerUnavailableError(Exception):
    """The API server did not say who a token is; that says nothing about the token."""


@dataclass(frozen=True)
class Reviewed:
    """Whom a review found: its user's name, and its groups."""

    username: str
    groups: tuple[str, ...]

    @property
    def service_account(self) -> tuple[str, str] | None:
        """Namespace and name, of a service account."""
        if not self.username.startswith(_SERVICE_ACCOUNT):
            return None
        namespace, _, name = self.username.removeprefix(_SERVICE_ACCOUNT).partition(":")
        return namespace, name


class KubernetesTokens(TokenParser):  # type: ignore[misc, unused-ignore]
    """Reviews tokens. ``audience``: one that they must be made for; without, the API server's."""

    def __init__(self, audience: str | None = None, folder: Path | None = None) -> None:
        """Find the API server of the pod that this process runs in.

        Raises:
            ConfigurationError: it runs in none.
        """
        self._folder = folder or POD_FOLDER
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}") for name in ("HOST", "PORT"))
        if not host or not port or not (self._folder / "token").is_file():
            raise ConfigurationError(
                "auth: {type: kubernetes} in feature_store.yaml needs a pod of Kubernetes with a "
                "service account: KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT and "
                f"{self._folder}/token."
            )
        self._url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        self._audience = audience
        self._namespace = (self._folder / "namespace").read_text().strip()

    async def user_details_from_access_token(self, access_token: str) -> User:
        """The token's user, with the roles that the bindings give.

        Blocks; a thread of its own calls it.

        Raises:
            AuthenticationError: the review refuses the token.
            ApiServerUnavailableError: there was no review.
        """
        found = self.review(access_token)
        account = found.service_account
        return User(
            username=":".join(account) if account else found.username,
            roles=sorted(self._roles(found)),
            groups=list(found.groups),
            namespaces=[account[0]] if account else [],
        )

    def review(self, token: str) -> Reviewed:
        """Ask the API server who a token is.

        Raises:
            AuthenticationError: nobody, or one for another audience.
            ApiServerUnavailableError: it does not say.
        """
        spec: dict[str, Any] = {"token": token}
        if self._audience:
            spec["audiences"] = [self._audience]
        answer = self._request(
            "POST",
            _REVIEWS,
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec},
        )
        status = answer.get("status")
        if not isinstance(status, dict):
            raise ApiServerUnavailableError("a review without a status")
        if status.get("authenticated") is not True:
            raise AuthenticationError("The review refuses the token.")
        # An API server that knows no audiences leaves them out, and has not looked at them.
        if self._audience and self._audience not in (status.get("audiences") or ()):
            raise AuthenticationError("The token is for another audience.")
        try:
            name, groups = status["user"]["username"], status["user"].get("groups") or ()
            found = Reviewed(str(name), tuple(map(str, groups)))
        except (AttributeError, KeyError, TypeError) as error:
            raise ApiServerUnavailableError("a review of another form") from error
        if not found.username:
            raise AuthenticationError("The review names no user.")
        return found

    def _roles(self, found: Reviewed) -> set[str]:
        """Names that the bindings of this namespace give, and of users also the cluster's.

        As Feast has it, but for bindings in other namespaces: whoever may make one there would
        make any role.
        """
        bindings = self._items(f"{_RBAC}/namespaces/{self._namespace}/rolebindings")
        if found.service_account is None:
            bindings += self._items(f"{_RBAC}/clusterrolebindings")
        try:
            return {
                str(binding["roleRef"]["name"])
                for binding in bindings
                if any(_names(subject, found) for subject in binding.get("subjects") or ())
            }
        except (AttributeError, KeyError, TypeError) as error:
            raise ApiServerUnavailableError("bindings of another form") from error

    def _items(self, path: str) -> list[dict[str, Any]]:
        items = self._request("GET", path).get("items")
        if not isinstance(items, list):
            raise ApiServerUnavailableError("a list without items")
        return items

    def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One request; its deadline holds for the whole response."""
        ends = time.monotonic() + REQUEST_SECONDS
        try:
            token = (self._folder / "token").read_text().strip()
            with requests.request(
                method,
                self._url + path,
                json=body,
                headers={"Authorization": f"Bearer {token}"},
                verify=str(self._folder / "ca.crt"),
                timeout=REQUEST_SECONDS,
                allow_redirects=False,
                stream=True,
            ) as response:
                # Also 401 and 403: they are about this pod's own service account.
                if response.status_code not in (200, 201):
                    raise ApiServerUnavailableError(f"status {response.status_code}")
                read = bytearray()
                for part in response.iter_content(65_536):
                    read += part
                    if len(read) > MOST_BYTES or time.monotonic() > ends:
                        raise ApiServerUnavailableError("a response that does not end")
            found = json.loads(read)
        except (requests.RequestException, OSError, ValueError, RecursionError) as error:
            raise ApiServerUnavailableError(type(error).__name__) from error
        if not isinstance(found, dict):
            raise ApiServerUnavailableError("a response that is no object")
        return found


def _names(subject: dict[str, Any], found: Reviewed) -> bool:
    kind, name = subject.get("kind"), subject.get("name")
    if account := found.service_account:
        return kind == "ServiceAccount" and (subject.get("namespace"), name) == account
    return (kind == "User" and name == found.username) or (kind == "Group" and name in found.groups)
