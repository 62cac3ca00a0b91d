"""The mapping of servers' failures: from the classes that drivers raise, and codes, never words."""

import errno
import pickle
import subprocess
import sys
from typing import Any

import adbc_driver_manager
import kafka.errors
import psycopg
import pytest
import redis.exceptions
from adbc_driver_postgresql import dbapi

from extensions.database.adbc_connections import record_batches
from extensions.errors import SkewlessError, UnavailableError
from extensions.failure_classification import Outage, first_line, of_a_server, outage
from tests.databases import cut

STATES = {
    "08006": Outage.LOST, "57P01": Outage.LOST, "57P02": Outage.LOST, "57P03": Outage.NOT_READY,
    "53100": Outage.FULL, "53200": Outage.FULL, "53300": Outage.FULL, "58030": Outage.FULL,
    "40001": Outage.CONFLICT, "40P01": Outage.CONFLICT, "55P03": Outage.CONFLICT,
    "57014": Outage.TIMEOUT, "25P03": Outage.TIMEOUT, "25006": Outage.NOT_READY,
    "42P01": None, "22012": None, "23505": None, "42501": None, "25P02": None, "54001": None,
}  # fmt: skip
REPLIES = {
    "LOADING Redis is loading the dataset in memory": Outage.NOT_READY,
    "MISCONF Redis is configured to save RDB snapshots": Outage.FULL,
    "OOM command not allowed when used memory > 'maxmemory'.": Outage.FULL,
    "READONLY You can't write against a read only replica.": Outage.NOT_READY,
    "CLUSTERDOWN Hash slot not served": Outage.NOT_READY,
    "BUSY Redis is busy running a script.": Outage.TIMEOUT,
    "WRONGTYPE Operation against a key": None,
    "NOPERM this user has no permissions": None,
    "ERR a reply that speaks of LOADING and OOM": None,
}


@pytest.mark.parametrize("state", STATES)
def test_a_condition_means_the_same_from_either_driver(state: str, fresh_database: str) -> None:
    raising = f"DO $$ BEGIN RAISE EXCEPTION 'überall' USING ERRCODE = '{state}'; END $$"
    with psycopg.connect(fresh_database) as conn, pytest.raises(psycopg.Error) as caught:
        conn.execute(raising)
    assert outage(caught.value) is STATES[state]
    with dbapi.connect(fresh_database) as arrow, arrow.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error) as told:
            cursor.execute(raising)
        assert outage(told.value) is STATES[state]
    assert of_a_server(caught.value)
    assert of_a_server(told.value)


def test_a_connection_that_is_cut_is_lost(postgres_server: str, fresh_database: str) -> None:
    name = fresh_database.rpartition("/")[2]
    found: list[Any] = []
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        conn = psycopg.connect(fresh_database)
        with dbapi.connect(fresh_database) as arrow, arrow.cursor() as cursor:
            cursor.execute("SELECT repeat('x', 999) FROM generate_series(1, 3000000)")
            reader = record_batches(cursor)
            cut(admin, name)
            for _ in range(2):
                with pytest.raises(psycopg.Error) as caught:
                    conn.execute("SELECT 1")
                found.append(caught.value)
            with pytest.raises(adbc_driver_manager.Error) as broke:
                list(reader)
            found.append(broke.value)
            with pytest.raises(adbc_driver_manager.Error) as gone:
                cursor.execute("SELECT 1")
            found.append(gone.value)
    assert [outage(one) for one in found] == [Outage.LOST] * len(found), found


def test_what_a_statement_does_wrong_while_its_rows_are_read_is_no_outage(
    fresh_database: str,
) -> None:
    """The division fails in the last of many rows, long after the first ones were read."""
    query = "SELECT 1 / (400000 - n), repeat('x', 99) FROM generate_series(1, 400000) AS n"
    with dbapi.connect(fresh_database) as arrow, arrow.cursor() as cursor:
        cursor.execute(query)
        with pytest.raises(adbc_driver_manager.Error, match="division by zero") as caught:
            list(record_batches(cursor))
    assert caught.value.sqlstate == "22012"
    assert outage(caught.value) is None
    assert outage(OSError("an error without a number says nothing of a server")) is None


@pytest.mark.parametrize("text", REPLIES)
def test_redis_is_told_by_the_code_of_its_reply(text: str) -> None:
    error = redis.exceptions.ResponseError(text)
    assert outage(error) is REPLIES[text]
    assert of_a_server(error)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (redis.exceptions.BusyLoadingError("loading"), Outage.LOST),
        (redis.exceptions.ReadOnlyError("no"), Outage.NOT_READY),
        (redis.exceptions.SlotNotCoveredError("slot"), Outage.LOST),
        (redis.exceptions.CrossSlotTransactionError("slots"), None),
        (redis.exceptions.DataError("not a number"), None),
        (kafka.errors.KafkaConnectionError("closed"), Outage.LOST),
        (kafka.errors.KafkaTimeoutError(), Outage.TIMEOUT),
        (kafka.errors.CommitFailedError(), Outage.NOT_READY),
        (kafka.errors.TopicAuthorizationFailedError(), None),
        (kafka.errors.MessageSizeTooLargeError(), None),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Outage.LOST),
        (OSError(errno.ENOSPC, "no space"), Outage.FULL),
        (FileNotFoundError(errno.ENOENT, "no file"), None),
        (PermissionError(errno.EACCES, "denied"), None),
        (MemoryError(), Outage.FULL),
        (KeyError("a mistake"), None),
        (SkewlessError("a person's mistake"), None),
        (UnavailableError("Other transactions stay open."), Outage.CONFLICT),
    ],
)
def test_other_classes(error: BaseException, meaning: Outage | None) -> None:
    assert outage(error) is meaning
    assert first_line(error)
    if meaning is not None:
        assert of_a_server(error)


def test_a_sentence_means_what_it_was_raised_from() -> None:
    sentence = SkewlessError("PostgreSQL does not answer.")
    sentence.__cause__ = psycopg.OperationalError("refused")
    assert outage(sentence) is Outage.LOST


def test_no_driver_is_imported_for_it() -> None:
    code = (
        "import sys, extensions.failure_classification as o; assert o.outage(KeyError()) is None;"
        "print([m for m in ('psycopg','redis','kafka','pyarrow','sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert pickle.loads(pickle.dumps(Outage.LOST)) is Outage.LOST
