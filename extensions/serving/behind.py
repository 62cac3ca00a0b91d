"""Feast's own application behind ours, and the permission that it would ask for."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from feast import FeatureService, FeatureStore
from feast.errors import FeastError
from feast.feature_server import get_app
from feast.permissions.action import AuthzedAction
from feast.permissions.security_manager import (
    assert_permissions,
    get_security_manager,
    is_auth_necessary,
)
from feast.permissions.server.rest import inject_user_details
from feast.permissions.server.utils import (
    ServerType,
    init_auth_manager,
    init_security_manager,
    str_to_auth_manager_type,
)
from redis.exceptions import RedisError

from extensions.serving.asking import RefusedError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def feast_app(store: FeatureStore) -> FastAPI:
    """Feast's routes; what its clients do wrong is answered 4xx instead of 500.

    The registry is refreshed by our watcher, so Feast's own timer is off.
    """
    kind = str_to_auth_manager_type(store.config.auth_config.type)
    init_security_manager(auth_type=kind, fs=store)
    init_auth_manager(
        auth_type=kind, server_type=ServerType.REST, auth_config=store.config.auth_config
    )
    app: FastAPI = get_app(store, registry_ttl_sec=0)
    for mistake in (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError):
        app.add_exception_handler(mistake, _client_error)
    app.add_exception_handler(RedisError, _unavailable)
    app.add_exception_handler(FeastError, _feast_error)
    return app


async def permit(scope: Scope, service: FeatureService) -> None:
    """Demand the same token and permission as Feast's routes, where `auth` is configured.

    Raises:
        RefusedError: 401 or 403.
    """
    if not is_auth_necessary(get_security_manager()):
        return
    details: Any = inject_user_details(Request(dict(scope)))
    try:
        await anext(details)
        assert_permissions(resource=service, actions=[AuthzedAction.READ_ONLINE])
    except HTTPException as error:
        raise RefusedError(error.status_code, str(error.detail)) from None
    except FeastError as error:
        raise RefusedError(403, str(error)) from None
    except Exception as error:  # a token that cannot be read
        raise RefusedError(401, "The token is not valid.") from error
    finally:
        await details.aclose()


async def _client_error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": {"message": str(error) or type(error).__name__}}, 422)


async def _feast_error(_: Request, error: Exception) -> JSONResponse:
    status = error.http_status_code() if isinstance(error, FeastError) else 500
    detail = error.to_error_detail() if isinstance(error, FeastError) else str(error)
    return JSONResponse(detail, 422 if status == 500 else status)


async def _unavailable(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse(
        {"error": {"message": "Redis does not answer."}}, 503, headers={"Retry-After": "1"}
    )
