"""What is declared otherwise is noticed, cheaply; nothing is taken as it was declared before."""

import copy
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import KafkaSource
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)

from extensions.database import connect
from streaming import declaration_watch
from streaming.declaration_watch import DeclarationWatch, _stamp
from streaming.settings import Settings
from streaming.worker import Worker
from tests.online.repository import applied
from tests.streaming.fleet import wait_until
from tests.streaming.test_worker import event, send
from tests.streaming.truth import Stream


def test_the_stamp_changes_with_sources_columns_defaults_and_domains(
    database: str, redis_server: str, repo_root: Path
) -> None:
    with (
        applied(database, redis_server, repo_root) as store,
        connect(database, autocommit=True) as conn,
    ):
        conn.execute("CREATE DOMAIN small AS integer; CREATE TABLE own (x small)")
        stamps = [_stamp(store, conn)]
        assert _stamp(store, conn) == stamps[0]
        for change in (
            "ALTER TABLE own ADD COLUMN y text",
            "ALTER TABLE own ALTER COLUMN y SET DEFAULT 'a'",
            "ALTER TABLE own ALTER COLUMN y SET DEFAULT 'b'",
            "ALTER TABLE own ALTER COLUMN y SET NOT NULL",
            "ALTER DOMAIN small SET NOT NULL",
            "ALTER TABLE own DROP COLUMN y",
        ):
            conn.execute(change)
            stamps.append(_stamp(store, conn))
        source = PostgreSQLSource(name="own", table="own", timestamp_field="x", tags={"keys": "x"})
        store.registry.apply_data_source(source, store.project)
        stamps.append(_stamp(store, conn))
        assert len(set(map(str, stamps))) == len(stamps)
        conn.execute("INSERT INTO own VALUES (1)")
        assert _stamp(store, conn) == stamps[-1]


def test_a_glance_sees_a_stream_that_is_declared_otherwise(
    database: str, redis_server: str, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    declarations = declaration_watch.declarations

    def counted(*arguments: Any) -> Any:
        looks.append("look")
        return declarations(*arguments)

    monkeypatch.setattr(declaration_watch, "declarations", counted)
    with applied(database, redis_server, repo_root) as store:
        watch = DeclarationWatch(Settings(database, "", repo_root), threading.Event())
        assert looks == ["look"]
        assert watch.unchanged()
        # Another source is written: one look, and it is no stream.
        source = PostgreSQLSource(name="own", table="own", timestamp_field="x")
        store.registry.apply_data_source(source, store.project)
        assert watch.unchanged()
        assert watch.unchanged()
        assert looks == ["look"] * 2
        # A stream is declared otherwise, and as before again.
        sources = store.registry.list_data_sources(store.project)
        [before] = [each for each in sources if isinstance(each, KafkaSource)]
        changed = copy.deepcopy(before)
        changed.kafka_options.watermark_delay_threshold = timedelta(minutes=77)
        store.registry.apply_data_source(changed, store.project)
        assert not watch.unchanged()
        assert not watch.unchanged()
        store.registry.apply_data_source(before, store.project)
        assert watch.unchanged()


def test_nothing_is_taken_by_a_declaration_that_was_replaced(settings: Settings) -> None:
    as_read, stopping = threading.Event(), threading.Event()
    worker = Worker(settings, declared_as_read=as_read.is_set)
    stream = Stream(settings)
    thread = threading.Thread(target=worker.run, args=[stopping])
    thread.start()
    try:
        wait_until(stream.at_rest, 30, "the worker has every partition")
        send(settings, [event(number, eventId=str(number)) for number in range(20)])
        stopping.wait(1.5)
        assert stored(settings) == 0
        as_read.set()
        wait_until(lambda: stored(settings) == 20, 30, "what was left is read after all")
    finally:
        stopping.set()
        thread.join()


def stored(settings: Settings) -> int:
    with connect(settings.postgres_url) as conn:
        row = conn.execute("SELECT count(*) FROM watch_events").fetchone()
    assert row is not None
    return int(row[0])
