"""A process reads a database's types once, and notices when they are others."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from extensions.database import adbc_connections, connect, connect_arrow
from extensions.errors import SkewlessError


def column(url: str, expression: str) -> pa.ChunkedArray:
    with connect_arrow(url) as conn, conn.cursor() as cursor:
        cursor.execute(f"SELECT {expression} AS c")
        return cursor.fetch_arrow_table()["c"]


def execute(url: str, *statements: str) -> None:
    with connect(url, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs whose types were read, in order."""
    done: list[str] = []
    opened: Callable[[str], Any] = adbc_connections.open_database

    def noted(url: str) -> Any:
        done.append(url)
        return opened(url)

    monkeypatch.setattr(adbc_connections, "open_database", noted)
    return done


def test_types_are_read_once(fresh_database: str, reads: list[str]) -> None:
    for _ in range(3):
        assert column(fresh_database, "1").to_pylist() == [1]
    assert reads == [fresh_database]
    with connect(fresh_database) as conn:  # its rows alone, and a session's own tables, are none
        conn.execute("CREATE TEMPORARY TABLE mine (a integer, b text[])")
        conn.execute("INSERT INTO watch_events SELECT * FROM watch_events")
        conn.commit()
        conn.execute("ANALYZE")
        column(fresh_database, "1")
        assert reads == [fresh_database]
        rows = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        ).fetchone()
        assert rows == (1,)  # what is kept is no connection


def test_a_type_that_came_later_is_known(fresh_database: str, reads: list[str]) -> None:
    assert column(fresh_database, "1").to_pylist() == [1]
    execute(
        fresh_database,
        "CREATE TYPE mood AS ENUM ('calm', 'wild')",
        "CREATE DOMAIN percent AS integer CHECK (value <= 100)",
    )
    assert column(fresh_database, "'calm'::mood").type == pa.string()
    assert column(fresh_database, "ARRAY['calm', 'wild']::mood[]").to_pylist() == [["calm", "wild"]]
    assert column(fresh_database, "ARRAY[5]::percent[]").to_pylist() == [[5]]
    execute(fresh_database, "DROP TYPE mood", "CREATE TYPE mood AS (level integer, name text)")
    assert column(fresh_database, "(1, 'a')::mood").to_pylist() == [{"level": 1, "name": "a"}]
    for change in ("ALTER ATTRIBUTE level TYPE bigint", "RENAME ATTRIBUTE name TO said"):
        execute(fresh_database, f"ALTER TYPE mood {change}")
    many = column(fresh_database, f"({2**40}, 'a')::mood")
    assert many.to_pylist() == [{"level": 2**40, "said": "a"}]
    assert len(reads) == 4


def test_many_threads_while_types_change(fresh_database: str) -> None:
    def ask(number: int) -> Any:
        execute(fresh_database, f"CREATE TYPE kind_{number} AS ENUM ('x')")
        return column(fresh_database, f"'x'::kind_{number}").to_pylist()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(12))) == [["x"]] * 12


def test_the_caller_begins_the_transaction(fresh_database: str) -> None:
    for _ in range(2):
        with connect_arrow(fresh_database) as conn, conn.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT current_setting('transaction_isolation') AS level")
            assert cursor.fetch_arrow_table()["level"].to_pylist() == ["repeatable read"]


def test_a_fork_goes_on(fresh_database: str) -> None:
    assert column(fresh_database, "1").to_pylist() == [1]
    if not (child := os.fork()):
        code = 1
        try:
            code = int(column(fresh_database, "2").to_pylist() != [2])
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert column(fresh_database, "3").to_pylist() == [3]


def test_a_database_that_is_gone(postgres_server: str, fresh_database: str) -> None:
    assert column(fresh_database, "1").to_pylist() == [1]
    name = fresh_database.rpartition("/")[2]
    with connect(postgres_server, autocommit=True) as conn:
        conn.execute(f'ALTER DATABASE "{name}" RENAME TO "{name}_away"')
        with pytest.raises(SkewlessError, match="does not answer"):
            column(fresh_database, "1")
        conn.execute(f'ALTER DATABASE "{name}_away" RENAME TO "{name}"')
    assert column(fresh_database, "1").to_pylist() == [1]
