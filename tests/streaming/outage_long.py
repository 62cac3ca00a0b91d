"""Each server killed for a minute under load, run by `make test-crash`.

``SKEWLESS_AWAY`` changes the seconds.
"""

import os
from pathlib import Path

import pytest
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from extensions.local import apache_kafka
from extensions.operations.database_setup import prepare_database
from streaming.settings import Settings
from tests.streaming.conftest import REPO_ROOT, Addresses
from tests.streaming.outages import Killed, under_load

AWAY = float(os.environ.get("SKEWLESS_AWAY", "60"))


@pytest.mark.apache_kafka
@pytest.mark.timeout(1800)
def test_each_server_dies_for_a_minute_under_load(tmp_path: Path) -> None:
    if reason := apache_kafka.available():
        pytest.skip(reason)
    killed = {kind: Killed(kind, tmp_path / kind) for kind in ("postgres", "redis", "kafka")}
    try:
        url = killed["postgres"].server.url
        with Addresses(url, killed["redis"].server.url):
            prepare_database(url)
            config = load_repo_config(REPO_ROOT, REPO_ROOT / "feature_store.yaml")
            apply_total(config, REPO_ROOT, skip_source_validation=False)
            settings = Settings(
                url, killed["kafka"].server.url, topic="outages", group="outages",
                session_timeout=6.0,
            )  # fmt: skip
            load = under_load(settings, [one.away() for one in killed.values()], AWAY, rate=200)
        assert len(load.events) > 2 * AWAY * 100
    finally:
        for one in killed.values():
            one.server.stop()
