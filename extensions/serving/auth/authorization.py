"""Authentication and authorisation of requests: Feast's tokens and permissions, or an API key.

Feast's own check reads the permissions from PostgreSQL on each request, and the issuer's keys now
and then, both blocking the event loop. Here threads do both: permissions are kept in memory, and a
valid token is cached until it expires.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

import jwt
from fastapi import HTTPException, Request
from feast import FeatureStore
from feast.errors import FeastPermissionError
from feast.permissions.action import AuthzedAction
from feast.permissions.auth.auth_manager import (
    AuthManager,
    get_auth_manager,
    set_auth_manager,
)
from feast.permissions.enforcer import enforce_policy
from feast.permissions.permission import Permission
from feast.permissions.security_manager import (
    SecurityManager,
    is_auth_necessary,
    no_security_manager,
    set_security_manager,
)
from feast.permissions.server.rest_token_extractor import RestTokenExtractor
from feast.permissions.server.utils import (
    AuthManagerType,
    ServerType,
    init_auth_manager,
    str_to_auth_manager_type,
)
from feast.permissions.user import User

from extensions.serving.auth import bearer_token_prechecks
from extensions.serving.auth.api_keys import ApiKeys
from extensions.serving.auth.kubernetes_tokens import (
    CACHE_SECONDS,
    ApiServerUnavailableError,
    KubernetesTokens,
)
from extensions.serving.http.request_validation import RefusedError
from extensions.serving.lru_byte_cache import ByteCache
from extensions.serving.settings import Settings
from extensions.thread_supervision import Lasting, Living

logger = logging.getLogger(__name__)

# Keys in a request's scope: the authenticated user; that no permission is needed (a caller with
# the API key, or the server's own warm-up).
USER, TRUSTED = "skewless.user", "skewless.trusted"
# Estimated bytes of cached valid tokens (least recently used are dropped), and of each.
TOKEN_CACHE_BYTES, TOKEN_OVERHEAD_BYTES = 32_000_000, 1_000
# Threads that verify tokens; requests with unknown tokens that may wait for them, and seconds that
# each may take: beyond it they are answered 503.
VERIFIER_THREADS, MAX_VERIFYING, VERIFY_SECONDS = 4, 128, 10.0
LOG_AGAIN_SECONDS = 30.0


class Permissions(SecurityManager):
    """The permissions of the served project, as last read.

    Feast would take the project from the query (``?project=``), and where that has no
    permissions grants everything; this server knows one project only.
    """

    def __init__(self, store: FeatureStore, period: float) -> None:
        super().__init__(project=store.project, registry=store.registry)
        self._store, self._period = store, period
        self._stop = threading.Event()
        self.threads: list[Lasting] = []
        self._current = self._read()

    @property
    def permissions(self) -> list[Permission]:
        """The permissions as last read; unchanged while PostgreSQL is unreachable."""
        return self._current

    def start(self) -> None:
        """Read the permissions periodically in the background."""
        self.threads.append(Lasting("permissions", self._run, self._stop))
        self.threads[-1].start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()

    def _read(self) -> list[Permission]:
        found: list[Permission] = self._store.registry.list_permissions(self._store.project)
        return found

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self._current = self._read()
            except Exception as error:  # noqa: BLE001 - those held stay in force
                logger.warning("Permissions cannot be read: %s", type(error).__name__)


class Guard:
    """Authenticates callers and checks their permissions.

    Without `auth` in feature_store.yaml everybody is admitted, or, where a key is set, callers with
    the key. With `auth`, callers with a valid token; on ``/v1`` the key is enough.
    """

    def __init__(self, store: FeatureStore, settings: Settings) -> None:
        period = settings.poll
        config = store.config.auth_config
        kind = str_to_auth_manager_type(config.type)
        if kind == AuthManagerType.KUBERNETES:
            reviews = KubernetesTokens(getattr(config, "audience", None))
            set_auth_manager(AuthManager(reviews, RestTokenExtractor()))
        else:
            init_auth_manager(auth_type=kind, server_type=ServerType.REST, auth_config=config)
        self._keys = ApiKeys(settings.api_key, settings.api_key_file, period)
        self._permissions: Permissions | None = None
        self._manager: AuthManager = get_auth_manager()
        if kind == AuthManagerType.NONE:
            no_security_manager()  # type: ignore[no-untyped-call]
        else:
            self._permissions = Permissions(store, period)
            set_security_manager(self._permissions)
            bearer_token_prechecks.harden(self._manager.token_parser, config)
        self._oidc = kind == AuthManagerType.OIDC
        # Seconds that a reviewed token is believed, and one whose signature was verified.
        self._remember_reviewed = float(getattr(config, "cache_seconds", CACHE_SECONDS))
        self._remember = float(getattr(config, "jwks_cache_lifespan_seconds", 0.0))
        self._valid_tokens: ByteCache[bytes, tuple[User, float]] = ByteCache(TOKEN_CACHE_BYTES)
        self._verifying, self._logged_unavailable_at = 0, float("-inf")
        self._threads = ThreadPoolExecutor(VERIFIER_THREADS, thread_name_prefix="tokens")

    @property
    def threads(self) -> list[Living]:
        """The threads that read permissions and keys."""
        return [*self._keys.threads, *(self._permissions.threads if self._permissions else ())]

    def start(self) -> None:
        """Start to follow permissions and keys."""
        self._keys.start()
        if self._permissions:
            self._permissions.start()

    def stop(self) -> None:
        """Stop all threads."""
        self._keys.stop()
        if self._permissions:
            self._permissions.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def open(self) -> bool:
        """Whether no permissions are configured."""
        return self._permissions is None

    @property
    def open_to_all(self) -> bool:
        """Whether neither tokens nor keys are configured."""
        return self._permissions is None and not self._keys.demanded

    def security(self, *, by_key: bool) -> list[dict[str, list[str]]]:
        """OpenAPI's security requirements, each an alternative; none where everybody may ask.

        Args:
            by_key: whether the key is enough where tokens are configured, as on ``/v1``.
        """
        tokens = self._permissions is not None
        found: list[dict[str, list[str]]] = []
        if self._keys.demanded and (by_key or not tokens):
            found.append({"key": []})
        if tokens:
            found.append({"token": []})
        return found

    async def admit(self, scope: MutableMapping[str, Any], *, by_key: bool = True) -> None:
        """Authenticate a request. ``by_key``: whether the key is enough where `auth` is configured.

        Raises:
            RefusedError: 401 without a valid token or key, 503 where the issuer is away.
        """
        keyed = self._keys.demanded
        if (self._permissions is None and not keyed) or scope.get(TRUSTED):
            return
        if scope.get(USER):  # already authenticated
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-api-key")
        if keyed and (self._permissions is None or (by_key and given is not None)):
            if not self._keys.valid(given):
                raise RefusedError(401, "The header X-Api-Key is missing or wrong.", "X-Api-Key")
            scope[TRUSTED] = True
            return
        if self._permissions is None:
            return
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise RefusedError(401, "Missing authentication token", "Authorization")
        scope[USER] = user = await self._user(token.strip().decode("latin-1"))
        self._permissions.set_current_user(user)

    def permit(self, scope: MutableMapping[str, Any], *resources: Any) -> None:
        """Check that the caller may read these resources (a service, or views) online.

        Raises:
            RefusedError: 403.
        """
        held = self._permissions
        if held is None or scope.get(TRUSTED) or not is_auth_necessary(held):
            return
        try:
            enforce_policy(
                held.permissions,
                scope.get(USER) or User("", []),
                list(resources),
                [AuthzedAction.READ_ONLINE],
            )
        except FeastPermissionError as error:
            raise RefusedError(403, str(error)) from None

    async def inject(self, request: Request) -> AsyncIterator[Any]:
        """Replaces Feast's dependency `inject_user_details`."""
        try:
            await self.admit(request.scope, by_key=False)
        except RefusedError as error:
            headers = {"Retry-After": "1"} if error.status == 503 else None
            raise HTTPException(error.status, str(error), headers) from None
        yield request.scope.get(USER)

    async def _user(self, token: str) -> User:
        name = blake2b(token.encode(), digest_size=16).digest()
        known = self._valid_tokens.get(name)
        if known and time.time() < known[1]:
            return known[0]
        if why := bearer_token_prechecks.refused_at_sight(token, oidc=self._oidc):
            raise RefusedError(401, why, "Authorization")
        if self._verifying >= MAX_VERIFYING:
            raise RefusedError(503, "Too many unknown tokens wait to be verified.")
        self._verifying += 1
        try:
            user = await self._verify(token)
        finally:
            self._verifying -= 1
        if until := self._cache_until(token):
            self._valid_tokens.put(name, (user, until), len(token) + TOKEN_OVERHEAD_BYTES)
        return user

    async def _verify(self, token: str) -> User:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(VERIFY_SECONDS):
                return await loop.run_in_executor(self._threads, self._read_token, token)
        except Exception as error:  # noqa: BLE001 - whatever a token's reader raises
            if isinstance(error, TimeoutError) or _issuer_unavailable(error):
                self._log_issuer_unavailable(error)
                raise RefusedError(503, "The issuer of tokens does not answer.") from None
            raise RefusedError(401, "Invalid or expired access token", "Authorization") from None

    def _log_issuer_unavailable(self, error: BaseException) -> None:
        """Log why tokens cannot be verified, at most every `LOG_AGAIN_SECONDS`."""
        if time.monotonic() - self._logged_unavailable_at > LOG_AGAIN_SECONDS:
            self._logged_unavailable_at = time.monotonic()
            causes = []
            cause: BaseException | None = error
            while cause is not None:
                causes.append(type(cause).__name__)
                cause = cause.__cause__ or cause.__context__
            logger.warning("Tokens cannot be verified: %s.", ", from ".join(causes))

    def _read_token(self, token: str) -> User:
        return asyncio.run(self._manager.token_parser.user_details_from_access_token(token))

    def _cache_until(self, token: str) -> float:
        """Until when a valid token may be cached (Unix time); 0: not at all."""
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.exceptions.PyJWTError:  # one that only the API server can read
            claims = {}
        reviewed = not self._oidc or "kubernetes.io" in claims
        seconds = self._remember_reviewed if reviewed else self._remember
        until = claims.get("exp")
        ends = float(until) if isinstance(until, (int, float)) else float("inf")
        return min(time.time() + seconds, ends) if seconds else 0


def _issuer_unavailable(error: BaseException | None) -> bool:
    """Whether a token could not be verified, as opposed to being invalid."""
    while error is not None:
        if isinstance(error, ApiServerUnavailableError):
            return True
        if isinstance(error, jwt.exceptions.PyJWKClientError):
            return "Unable to find a signing key" not in str(error)
        if isinstance(error, (jwt.exceptions.PyJWKSetError, json.JSONDecodeError)):
            return True
        if isinstance(error, RuntimeError) and "OIDC discovery" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
