"""Servers whose disk or memory is used up under load: the stream waits, and loses nothing."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from extensions.local import apache_kafka
from extensions.operations.database_setup import prepare_database
from streaming.settings import Settings
from tests.faults.full_servers import (
    backends_killed,
    cannot_save,
    full,
    no_memory,
    small_disk,
    squeezed,
)
from tests.faults.report import record
from tests.streaming.conftest import REPO_ROOT, Addresses
from tests.streaming.fleet import Fleet, wait_until
from tests.streaming.load import Producer
from tests.streaming.outages import Killed, under_load
from tests.streaming.truth import Stream

SECONDS = 4.0


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def server(stack: ExitStack, kind: str, folder: Path) -> Killed:
    made = Killed(kind, folder)
    stack.callback(_stop, made)
    return made


def _stop(server: Killed) -> None:
    """Whichever process it is by now."""
    server.server.stop()


def prepared(stack: ExitStack, postgres: str, redis: str, kafka: str) -> Settings:
    stack.enter_context(Addresses(postgres, redis))
    prepare_database(postgres)
    config = load_repo_config(REPO_ROOT, REPO_ROOT / "feature_store.yaml")
    apply_total(config, REPO_ROOT, skip_source_validation=False)
    return Settings(
        postgres, kafka, topic="full", group="full", session_timeout=1.5, sweep_every=0.5,
        idle_every=0.3, report_every=0.5,
    )  # fmt: skip


@pytest.mark.timeout(900)
def test_postgres_and_redis_used_up_under_load(
    stack: ExitStack, tmp_path: Path, kafka_server: str
) -> None:
    data = stack.enter_context(small_disk(tmp_path / "postgres", 500))
    files = stack.enter_context(small_disk(tmp_path / "redis", 100))
    data.chmod(0o755)
    postgres = server(stack, "postgres", data / "data")
    redis = server(stack, "redis", files / "data")
    settings = prepared(stack, postgres.server.url, redis.server.url, kafka_server)
    faults: dict[str, AbstractContextManager[None]] = {
        "PostgreSQL: disk full": full(data, postgres),
        "PostgreSQL: three backends killed": backends_killed(postgres.server.url),
        "Redis: no memory": no_memory(redis.server.url),
        "Redis: disk full, append-only file": full(files, redis),
        "Redis: disk full, snapshot": cannot_save(files, redis),
    }
    load = under_load(settings, [*faults.values()], SECONDS, rate=100)
    record(
        "used up under load", faults=[*faults], events=len(load.events), letters=load.bad,
        seconds_each=SECONDS, revived={"postgres": postgres.revived, "redis": redis.revived},
    )  # fmt: skip


@pytest.mark.apache_kafka
@pytest.mark.timeout(900)
def test_a_brokers_disk_is_full_under_load(
    stack: ExitStack, tmp_path: Path, postgres_server: str, settings: Settings
) -> None:
    if reason := apache_kafka.available():
        pytest.skip(reason)
    disk = stack.enter_context(small_disk(tmp_path / "kafka", 120))
    kafka = server(stack, "kafka", disk / "data")
    used = replace(settings, kafka_bootstrap=kafka.server.url, session_timeout=6.0)
    load = under_load(used, [full(disk, kafka)], 2 * SECONDS, rate=100)
    record(
        "Apache Kafka: disk full under load", events=len(load.events), letters=load.bad,
        seconds=2 * SECONDS, revived=kafka.revived,
    )  # fmt: skip


@pytest.mark.timeout(600)
def test_a_worker_that_gets_no_memory_waits_or_ends_and_nothing_is_lost(
    settings: Settings, fleet: Fleet
) -> None:
    stream = Stream(settings)
    worker = fleet.start()
    wait_until(stream.at_rest, 60, "a worker has every partition")
    producer = Producer(settings, seed=6, rate=150)
    producer.start()
    time.sleep(1)
    with squeezed(lambda: worker.pid, 1):
        time.sleep(SECONDS)
    ended = not worker.is_alive()
    if ended:
        assert worker.exitcode != 0
        fleet.start()
    load = producer.stop()
    wait_until(
        lambda: stream.stored() >= len(load.events) and stream.at_rest(), 120, "all is stored"
    )
    time.sleep(4)
    wait_until(stream.at_rest, 30, "at rest")
    stream.assert_served()
    stream.assert_events(load)
    stream.assert_dead_letters(load)
    assert stream.assert_logged() > 0
    record("a worker without memory", events=len(load.events), ended=ended)
