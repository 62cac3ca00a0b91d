"""A server whose own clock is wrong: the database's clock says what lies in the future."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from feast import FeatureStore

from extensions.serving.observability import registry_and_watermark_watcher
from extensions.serving.settings import Settings
from tests.served import serving

HOUR_NS = 3_600 * 1_000_000_000
BY_FEAST = {"feature_service": "home_page", "entities": {"user_id": [2, 3]}}
RANKING = {"userId": 2, "itemIds": [1, 2, 3], "context": {"requestHour": 7}}


@contextmanager
def served(feast_store: FeatureStore, repo_root: Path) -> Iterator[httpx.Client]:
    for url in serving(Settings(repo=repo_root), feast_store):
        with httpx.Client(base_url=url, timeout=10) as client:
            yield client


def answers(http: httpx.Client) -> dict[str, Any]:
    """What is served, without what each request measures."""
    user = http.get("/v1/features/user/2?include=meta").json()
    ranking = http.post("/v1/features/rank", json=RANKING).json()
    by_feast = http.post("/get-online-features", json=BY_FEAST).json()
    return {
        "user": user["features"],
        "status": {view: each["status"] for view, each in user["meta"].items()},
        "ranking": {name: value for name, value in ranking.items() if name != "latencyMs"},
        "by Feast's route": by_feast["results"],
    }


@pytest.fixture(scope="module")
def expected(http: httpx.Client) -> dict[str, Any]:
    """The answers of a server whose clock is right."""
    return answers(http)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_an_hour_off_changes_no_answer(
    feast_store: FeatureStore, repo_root: Path, expected: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch, hours: int,
) -> None:  # fmt: skip
    off = SimpleNamespace(
        time_ns=lambda: time.time_ns() + hours * HOUR_NS, monotonic=time.monotonic
    )
    monkeypatch.setattr(registry_and_watermark_watcher, "time", off)
    with served(feast_store, repo_root) as client:
        assert answers(client) == expected
