"""What fails in a repository's own code names the view and its file, and keeps the code's error."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from extensions.asof import active, compute
from extensions.asof.engine import append
from extensions.asof.safe_time import settled_now
from extensions.database import connect_arrow
from extensions.errors import DefinitionError, InputError
from extensions.stores.registry.version_store import find
from extensions.user_code_errors import user_transform
from tests.versions.conftest import World


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [("exp(", "1 / 0 * exp(", "division by zero"), ("exp(", "exq(", "function exq")],
)
def test_sql_that_fails_is_named(world: World, old: str, new: str, says: str) -> None:
    definition = find(world.conn, "item_stats", 1).definition.computation()
    assert old in definition.sql
    computation = replace(definition, sql=definition.sql.replace(old, new))
    spine = active(computation, settled_now(world.conn))
    with pytest.raises(DefinitionError, match=rf"The SQL of item_stats\.v1: .*{says}") as failed:
        append(world.conn, computation, spine)
    assert isinstance(failed.value.__cause__, psycopg.Error)
    assert failed.value.file == Path("feature_repo/computations/item_stats.v1.sql")
    assert "feature_repo/computations/item_stats.v1.sql" in str(failed.value)
    with (
        connect_arrow(world.database) as arrow,
        pytest.raises(DefinitionError, match=rf"The SQL of item_stats\.v1: .*{says}"),
    ):
        compute(arrow, computation, spine)


def test_a_server_that_cancels_is_not_the_sqls_fault(world: World) -> None:
    computation = find(world.conn, "item_stats", 1).definition.computation()
    world.conn.execute("SET statement_timeout = '200ms'")
    slow = replace(computation, sql=f"SELECT * FROM ({computation.sql}) AS x, pg_sleep(9)")
    spine = active(slow, settled_now(world.conn) - timedelta(minutes=1))
    with pytest.raises(psycopg.errors.QueryCanceled):
        append(world.conn, slow, spine)


def test_a_transform_that_raises_is_named() -> None:
    def fails(error: Exception) -> None:
        with user_transform("ranking_signals v1"):
            raise error

    with pytest.raises(DefinitionError, match="ranking_signals v1 raised ZeroDivisionError: of 0"):
        fails(ZeroDivisionError("of 0"))
    with pytest.raises(InputError, match="a label"):
        fails(InputError("a label"))
    with pytest.raises(ConnectionResetError):
        fails(ConnectionResetError("by peer"))
