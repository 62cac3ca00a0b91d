"""What breaks leaves nothing behind: no temporary table, no half-written dataset."""

import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    SavedDatasetPostgreSQLStorage,
)

from extensions.errors import SkewlessError
from tests.databases import cut
from tests.point_in_time.views import PAIRS

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TABLES = (
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND (relpersistence = 't' OR relname LIKE "
    "'labels%' OR relname LIKE 'feast_entity%' OR relname LIKE 'push%' OR relname LIKE 'saved%')"
)
# Reads the first batch of a large answer and then waits, its connection open.
CLIENT = """
import sys, time
from datetime import UTC, datetime
import pandas as pd
from tests.point_in_time.views import OURS, PAIRS, store_at
store = store_at(sys.argv[1], sys.argv[2], OURS)
labels = pd.DataFrame({"user_id": range(200_000), "item_id": 1,
                       "event_timestamp": datetime(2026, 3, 1, tzinfo=UTC)})
batches = store.get_historical_features(labels, PAIRS).to_batches()
next(batches)
print("reading", flush=True)
time.sleep(60)
"""


def left_behind(conn: psycopg.Connection) -> list[tuple[str]]:
    return conn.execute(TABLES).fetchall()


def labels(count: int = 200_000) -> pd.DataFrame:
    return pd.DataFrame({"user_id": range(count), "item_id": 1, "event_timestamp": NOON})


def test_a_killed_client_leaves_no_table(
    logs: str, registry: str, conn: psycopg.Connection
) -> None:
    client = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CLIENT), logs, registry],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "reading\n"
    client.kill()
    client.wait()
    deadline = time.monotonic() + 20
    while left_behind(conn) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_behind(conn) == []


def test_a_lost_connection_is_one_clear_error(ours: FeatureStore, conn: psycopg.Connection) -> None:
    batches = ours.get_historical_features(labels(), PAIRS).to_batches()
    next(batches)
    cut(conn, conn.info.dbname)
    with pytest.raises(SkewlessError, match="connection broke while joining features to labels"):
        list(batches)
    assert left_behind(conn) == []


def test_a_dataset_appears_whole_or_not_at_all(
    ours: FeatureStore, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ours.get_historical_features(labels(), PAIRS)
    whole = type(job).to_batches

    def broken(self: object, timeout: float | None = None) -> object:
        for i, piece in enumerate(whole(self, timeout)):  # type: ignore[arg-type]
            if i == 1:
                cut(conn, conn.info.dbname)
            yield piece

    monkeypatch.setattr(type(job), "to_batches", broken)
    with pytest.raises(SkewlessError, match="connection broke"):
        job.persist(SavedDatasetPostgreSQLStorage("saved_broken"))
    assert left_behind(conn) == []


def test_an_abandoned_answer_closes_its_connection(
    ours: FeatureStore, conn: psycopg.Connection
) -> None:
    batches = ours.get_historical_features(labels(), PAIRS).to_batches()
    next(batches)
    batches.close()
    deadline = time.monotonic() + 10
    others = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    while conn.execute(others).fetchone() != (0,) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert conn.execute(others).fetchone() == (0,)
