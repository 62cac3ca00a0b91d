"""Values come back from the statement that logs them as the log has them, of every type."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from extensions.asof import Computation
from extensions.asof.computation import FeatureColumn
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.spine import entities
from extensions.database import connect
from extensions.errors import SkewlessError
from streaming.processing.feature_computation import log_values, logged_values
from streaming.settings import Settings
from streaming.worker import _next_limit

AT = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)
OLD = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
TYPES = {
    "small": ("integer", "7", 7),
    "large": ("bigint", "-9223372036854775808", -(2**63)),
    "real": ("real", "0.1::real", 0.10000000149011612),
    "double": ("double precision", "0.1::float8", 0.1),
    "words": ("text", "'a''b ü'", "a'b ü"),
    "flag": ("boolean", "true", True),
    "octets": ("bytea", "'\\x00ff'::bytea", b"\x00\xff"),
    "moment": ("timestamptz", "'1969-12-31 23:59:59.999999+00'::timestamptz", OLD),
    "moments": ("timestamptz[]", "ARRAY[s.as_of, NULL]", [AT, None]),
    "reals": ("real[]", "ARRAY[0.5, NULL]::real[]", [0.5, None]),
    "nothing": ("timestamptz", "NULL::timestamptz", None),
    "no_list": ("timestamptz[]", "NULL::timestamptz[]", None),
}


@pytest.fixture
def every_type(computations: dict[str, Computation]) -> Computation:
    columns = ", ".join(f"{text} AS {name}" for name, (_, text, _) in TYPES.items())
    return replace(
        computations["user_item_progress.v1"],
        view="every_type",
        sql=f"SELECT s.user_id, s.item_id, s.as_of, {columns} FROM spine AS s",
        features=tuple(FeatureColumn(name, kind, None) for name, (kind, _, _) in TYPES.items()),
    )


def test_rows_come_back_as_the_log_has_them(fresh_database: str, every_type: Computation) -> None:
    keys = {(2**62, 3), (5, -1), (5, 2)}
    with connect(fresh_database, autocommit=True) as conn:
        ensure_log_tables(conn, [every_type])
        began = datetime.now(UTC)
        table = log_values(conn, every_type, entities(every_type, keys, AT))
        [read_back] = logged_values(conn, every_type, AT)
        columns = ", ".join(table.column_names)
        rows = conn.cursor(binary=True).execute(f"SELECT {columns} FROM every_type_v1").fetchall()
    assert {(row["user_id"], row["item_id"]) for row in table.to_pylist()} == keys
    for row in table.to_pylist():
        assert {name: row[name] for name in TYPES} == {n: v for n, (_, _, v) in TYPES.items()}
        assert row["event_timestamp"] == AT
        assert began <= row["created_timestamp"] <= datetime.now(UTC)
    assert sorted(map(tuple, (row.values() for row in table.to_pylist())), key=lambda r: r[:2]) == (
        sorted(rows, key=lambda row: row[:2])
    )
    assert read_back.schema == table.schema
    order = [("user_id", "ascending"), ("item_id", "ascending")]
    assert read_back.sort_by(order) == table.sort_by(order)


def test_an_answer_too_few_logs_nothing(fresh_database: str, every_type: Computation) -> None:
    short = replace(every_type, sql=every_type.sql + " WHERE s.user_id > 1")
    with connect(fresh_database, autocommit=True) as conn:
        ensure_log_tables(conn, [short])
        with pytest.raises(SkewlessError, match="returned 1 rows for 2 questions"):
            log_values(conn, short, entities(short, {(1, 1), (2, 1)}, AT))
        assert conn.execute("SELECT FROM every_type_v1").rowcount == 0


def test_steps_grow_while_the_worker_is_behind_and_shrink_when_it_is_not() -> None:
    settings = Settings("", "", batch_records=100, catch_up_records=350)
    limit, limits = 100, []
    for taken in (100, 200, 350, 120, 99, 100):
        limit = _next_limit(settings, limit, taken)
        limits.append(limit)
    assert limits == [200, 350, 350, 350, 100, 200]
    # An operator's larger step is never cut.
    assert _next_limit(Settings("", "", batch_records=20_000), 20_000, 20_000) == 20_000
