"""Who asks, and may they: Feast's tokens and permissions, or a key, without waiting in the loop.

Feast's own check asks PostgreSQL for the permissions on each request, and the issuer for its
keys now and then, both while the event loop waits. Here a thread does both: permissions are
held in memory, and a token that was found valid is known until it ends.
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
from feast.permissions.auth.auth_manager import AuthManager, get_auth_manager
from feast.permissions.enforcer import enforce_policy
from feast.permissions.permission import Permission
from feast.permissions.security_manager import (
    SecurityManager,
    is_auth_necessary,
    no_security_manager,
    set_security_manager,
)
from feast.permissions.server.utils import (
    AuthManagerType,
    ServerType,
    init_auth_manager,
    str_to_auth_manager_type,
)
from feast.permissions.user import User

from extensions.serving.auth import bearer_tokens
from extensions.serving.auth.api_keys import ApiKeys
from extensions.serving.http.request_validation import RefusedError
from extensions.serving.lru_byte_cache import ByteCache
from extensions.serving.settings import Settings
from extensions.thread_supervision import Lasting, Living

logger = logging.getLogger(__name__)

# In a request's scope: who asks; and that it needs no permission (a service with the key, or the
# server itself when it warms up).
USER, TRUSTED = "skewless.user", "skewless.trusted"
# Bytes of tokens known to be valid, about; those used longest ago are forgotten first.
REMEMBERED, PER_TOKEN = 32_000_000, 1_000
# Threads that verify tokens; more requests with unknown tokens wait for one of them, and beyond
# so many, or for longer than so many seconds, they are answered 503.
ASKING, MOST_ASKING, ASKING_SECONDS = 4, 128, 10.0
SAY_AWAY_SECONDS = 30.0


class Permissions(SecurityManager):
    """The permissions of the one project that is served, as they were last read.

    Feast would take the project from the query (``?project=``), and where that has no
    permissions grants everything; this server knows one project only.
    """

    def __init__(self, store: FeatureStore, period: float) -> None:
        super().__init__(project=store.project, registry=store.registry)
        self._store, self._period = store, period
        self._stop = threading.Event()
        self.threads: list[Lasting] = []
        self._held = self._read()

    @property
    def permissions(self) -> list[Permission]:
        """As of the last look; PostgreSQL being away changes nothing."""
        return self._held

    def start(self) -> None:
        """Look again and again, in the background."""
        self.threads.append(Lasting("permissions", self._run, self._stop))
        self.threads[-1].start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _read(self) -> list[Permission]:
        found: list[Permission] = self._store.registry.list_permissions(self._store.project)
        return found

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self._held = self._read()
            except Exception as error:  # noqa: BLE001 - whatever it is, those held stay in force
                logger.warning("Permissions cannot be read: %s", type(error).__name__)


class Guard:
    """Admits callers, and permits them what they ask for.

    Without `auth` in feature_store.yaml everybody is admitted, or, where a key is set, who has
    it. With `auth`, who has a valid token; a service may show the key instead, on ``/v1``.
    """

    def __init__(self, store: FeatureStore, settings: Settings) -> None:
        period = settings.poll
        config = store.config.auth_config
        kind = str_to_auth_manager_type(config.type)
        init_auth_manager(auth_type=kind, server_type=ServerType.REST, auth_config=config)
        self._keys = ApiKeys(settings.api_key, settings.api_key_file, period)
        self._permissions: Permissions | None = None
        self._manager: AuthManager = get_auth_manager()
        if kind == AuthManagerType.NONE:
            no_security_manager()  # type: ignore[no-untyped-call]
        else:
            self._permissions = Permissions(store, period)
            set_security_manager(self._permissions)
            bearer_tokens.harden(self._manager.token_parser, config)
        lifespan = getattr(config, "jwks_cache_lifespan_seconds", 0)
        self._oidc = kind == AuthManagerType.OIDC
        self._remember = lifespan if self._oidc else 0
        self._known: ByteCache[bytes, tuple[User, float]] = ByteCache(REMEMBERED)
        self._asking, self._said_away = 0, float("-inf")
        self._threads = ThreadPoolExecutor(ASKING, thread_name_prefix="tokens")

    @property
    def threads(self) -> list[Living]:
        """Those that follow the permissions and the keys."""
        return [*self._keys.threads, *(self._permissions.threads if self._permissions else ())]

    def start(self) -> None:
        """Follow the permissions and the keys."""
        self._keys.start()
        if self._permissions:
            self._permissions.start()

    def stop(self) -> None:
        """Let go."""
        self._keys.stop()
        if self._permissions:
            self._permissions.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def open(self) -> bool:
        """Whether nobody needs a permission."""
        return self._permissions is None

    @property
    def open_to_all(self) -> bool:
        """Whether nobody is asked anything: neither tokens nor keys are configured."""
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
        """Find out who asks. ``by_key``: whether the key is enough where `auth` is configured.

        Raises:
            RefusedError: 401 without a valid token or key, 503 where the issuer is away.
        """
        keyed = self._keys.demanded
        if (self._permissions is None and not keyed) or scope.get(TRUSTED):
            return
        if scope.get(USER):  # admitted before its body was read
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
        """Demand that who was admitted may read these (a service, or views) online.

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
        """What stands in for Feast's dependency `inject_user_details`."""
        try:
            await self.admit(request.scope, by_key=False)
        except RefusedError as error:
            headers = {"Retry-After": "1"} if error.status == 503 else None
            raise HTTPException(error.status, str(error), headers) from None
        yield request.scope.get(USER)

    async def _user(self, token: str) -> User:
        name = blake2b(token.encode(), digest_size=16).digest()
        known = self._known.get(name)
        if known and time.time() < known[1]:
            return known[0]
        if why := bearer_tokens.refused_at_sight(token, oidc=self._oidc):
            raise RefusedError(401, why, "Authorization")
        if self._asking >= MOST_ASKING:
            raise RefusedError(503, "Too many unknown tokens wait to be verified.")
        self._asking += 1
        try:
            user = await self._verified(token)
        finally:
            self._asking -= 1
        if until := self._until(token):
            self._known.put(name, (user, until), len(token) + PER_TOKEN)
        return user

    async def _verified(self, token: str) -> User:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ASKING_SECONDS):
                return await loop.run_in_executor(self._threads, self._asked, token)
        except Exception as error:  # noqa: BLE001 - whatever a token's reader raises
            if isinstance(error, TimeoutError) or _issuer_is_away(error):
                self._say_away(error)
                raise RefusedError(503, "The issuer of tokens does not answer.") from None
            raise RefusedError(401, "Invalid or expired access token", "Authorization") from None

    def _say_away(self, error: BaseException) -> None:
        """Log why tokens cannot be verified, once in a while."""
        if time.monotonic() - self._said_away > SAY_AWAY_SECONDS:
            self._said_away = time.monotonic()
            causes = []
            cause: BaseException | None = error
            while cause is not None:
                causes.append(type(cause).__name__)
                cause = cause.__cause__ or cause.__context__
            logger.warning("Tokens cannot be verified: %s.", ", from ".join(causes))

    def _asked(self, token: str) -> User:
        return asyncio.run(self._manager.token_parser.user_details_from_access_token(token))

    def _until(self, token: str) -> float:
        """When a valid token must be looked at again; 0 where at once (it may be withdrawn)."""
        claims = jwt.decode(token, options={"verify_signature": False})
        if not self._remember or "kubernetes.io" in claims:
            return 0
        return float(min(time.time() + self._remember, claims.get("exp", float("inf"))))


def _issuer_is_away(error: BaseException | None) -> bool:
    """Whether a token could not be verified, rather than was found invalid."""
    while error is not None:
        if isinstance(error, jwt.exceptions.PyJWKClientError):
            return "Unable to find a signing key" not in str(error)
        if isinstance(error, (jwt.exceptions.PyJWKSetError, json.JSONDecodeError)):
            return True
        if isinstance(error, RuntimeError) and "OIDC discovery" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
