"""A server with `auth` configured, and who may read what of it."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from feast import FeatureService, FeatureStore, RepoConfig
from feast.permissions.action import AuthzedAction
from feast.permissions.auth.auth_manager import AllowAll, set_auth_manager
from feast.permissions.permission import Permission
from feast.permissions.policy import RoleBasedPolicy
from feast.permissions.security_manager import no_security_manager

from extensions.serving.settings import Settings
from tests.served import serving

HOME, RANK = "/v1/features/user/1", "/v1/features/rank"


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def ask(http: httpx.Client, token: str) -> int:
    return http.get(HOME, headers=bearer(token)).status_code


def permit(store: FeatureStore, name: str, role: str, service: str) -> None:
    """Who has the role may read the services whose names match."""
    store.registry.apply_permission(
        Permission(
            name=name,
            types=[FeatureService],
            name_patterns=[service],
            actions=[AuthzedAction.READ_ONLINE],
            policy=RoleBasedPolicy(roles=[role]),
        ),
        store.project,
    )


def permit_reader_and_ranker(store: FeatureStore) -> None:
    """The home page and the rankings, to a role each."""
    permit(store, "home", "reader", "^home_page$")
    permit(store, "rank", "ranker", "^ranking")


@contextmanager
def serving_with(
    auth: Mapping[str, Any], settings: Settings, timeout: float = 20
) -> Iterator[httpx.Client]:
    """A server of the repository with this ``auth``, until the block ends."""
    text = yaml.safe_load((Path(settings.repo) / "feature_store.yaml").read_text())
    text["auth"] = dict(auth)
    store = FeatureStore(config=RepoConfig(**text, repo_path=settings.repo))
    for url in serving(settings, store):
        with httpx.Client(base_url=url, timeout=timeout) as client:
            yield client
    no_security_manager()
    set_auth_manager(AllowAll())


def assert_only_these_wait(http: httpx.Client, tokens: Iterable[str]) -> None:
    """While tokens cannot be verified, others are answered at once, and these in the end."""
    taken: list[tuple[int, float]] = []

    def hang(token: str) -> None:
        began = time.monotonic()
        with httpx.Client(base_url=http.base_url, timeout=40) as own:
            status = ask(own, token)
        taken.append((status, time.monotonic() - began))

    threads = [threading.Thread(target=hang, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    assert http.get("/health").status_code == 200
    assert http.get(HOME).status_code == 401
    assert time.monotonic() - began < 1
    for thread in threads:
        thread.join()
    assert len(taken) == len(threads)
    assert {status for status, _ in taken} == {503}
    assert max(seconds for _, seconds in taken) < 13
