"""A change of the registry: seen by notification, whole, by every reply one plan."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from feast import FeatureService, FeatureStore

from extensions.serving.settings import Settings
from tests.served import serving
from tests.serving.redis_nodes import until


@pytest.fixture(scope="module")
def http(feast_store: FeatureStore, repo_root: Path) -> Iterator[httpx.Client]:
    """A server that polls so rarely that only a notification can tell it."""
    for url in serving(Settings(repo=repo_root, poll=60.0), feast_store):
        with httpx.Client(base_url=url, timeout=10) as client:
            yield client


def apply(store: FeatureStore, features: list[str]) -> None:
    view = store.get_feature_view("user_habits")
    service = FeatureService(name="switching", features=[view[features]])
    store.registry.apply_feature_service(service, store.project)


def ask(http: httpx.Client) -> httpx.Response:
    asked = {"service": "switching", "entities": [{"user_id": 1}]}
    return http.post("/v1/features?include=meta", json=asked)


ONE, BOTH = ["user_preferred_hour"], ["user_avg_watch_duration_min", "user_preferred_hour"]


def test_a_change_is_served_within_a_second_and_no_reply_is_mixed(
    http: httpx.Client, feast_store: FeatureStore
) -> None:
    apply(feast_store, ONE)
    until(lambda: ask(http).status_code == 200)
    seen: dict[int, set[tuple[str, ...]]] = {}
    failed: list[int] = []
    stop = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=http.base_url, timeout=10) as mine:
            while not stop.is_set():
                answer = ask(mine)
                if answer.status_code != 200:
                    failed.append(answer.status_code)
                    continue
                body = answer.json()
                [row] = body["results"]
                seen.setdefault(body["plan"], set()).add(tuple(sorted(row["features"])))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    took = []
    for i in range(6):
        wanted = BOTH if i % 2 == 0 else ONE
        apply(feast_store, wanted)
        took.append(
            until(lambda w=wanted: set(ask(http).json()["results"][0]["features"]) == set(w))
        )
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert max(took) < 1.0
    assert len(seen) >= 6
    assert all(len(shapes) == 1 for shapes in seen.values())


def test_without_the_triggers_polling_finds_it(
    feast_store: FeatureStore, repo_root: Path, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("ALTER TABLE feature_services DISABLE TRIGGER skewless_registry_changed")
        try:
            for url in serving(Settings(repo=repo_root, poll=0.2), feast_store):
                with httpx.Client(base_url=url, timeout=10) as client:
                    apply(feast_store, BOTH)
                    until(lambda: ask(client).status_code == 200)
                    apply(feast_store, ONE)
                    found = until(lambda: list(ask(client).json()["results"][0]["features"]) == ONE)
                    assert found < 2.0
        finally:
            conn.execute("ALTER TABLE feature_services ENABLE TRIGGER skewless_registry_changed")
