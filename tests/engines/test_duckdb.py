"""The engine: what a session sees, what it answers, and how it fails."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adbc_driver_postgresql import dbapi

from extensions.asof import Computation, FeatureColumn, Freshness, Spine, compute
from extensions.database import connect, connect_arrow
from extensions.engines import dialect
from extensions.engines.duckdb import (
    Limits,
    answers,
    interrupted_after,
    session,
    use_history,
)
from extensions.engines.postgresql import compute_as_logged, fetched, history_rows
from extensions.errors import DefinitionError, UnavailableError

AT = datetime(2026, 1, 1, tzinfo=UTC)
UTC_US = pa.timestamp("us", "UTC")


def view(value: str, kind: str, *, source: str = "spine AS s", key: str = "bigint") -> Computation:
    return Computation(
        view="made", version=1, sql=f"SELECT s.k, s.as_of, {value} AS x FROM {source}",
        join_keys=("k",), key_types=(key,), features=(FeatureColumn("x", kind, None),),
        horizon=timedelta(days=1), freshness=Freshness.HOURLY, decays=False, reads=(),
    )  # fmt: skip


def spine(keys: list[int] | None = None) -> pa.Table:
    keys = [1] if keys is None else keys
    return pa.table({"k": pa.array(keys, pa.int64()), "as_of": pa.array([AT] * len(keys), UTC_US)})


def answer(value: str, kind: str) -> pa.Array:
    with session() as conn:
        return answers(conn, view(value, kind), spine()).read_all()["x"]


@pytest.fixture(scope="module")
def arrow(database: str) -> dbapi.Connection:
    with connect_arrow(database) as conn:
        yield conn


# What the prelude is for: PostgreSQL's own answer to the same expression.
PRELUDE = {
    "array_fill(0.5::real, ARRAY[3])": "real[]",
    "date_bin(interval '1 hour', timestamptz '1969-12-31 23:30:00+00', "
    "timestamptz '1970-01-01 00:00:00+00')": "timestamptz",
    "extract(EPOCH FROM interval '37 days 0.000001 seconds')::double precision": "double precision",
    "extract(EPOCH FROM s.as_of)::double precision": "double precision",
    "extract(SECOND FROM timestamp '2026-01-01 00:00:01.25')::double precision": "double precision",
    "extract(HOUR FROM s.as_of AT TIME ZONE 'UTC')::bigint": "bigint",
    "(date '2026-03-29' + time '02:30')::timestamptz": "timestamptz",
    "(7 / 2)::bigint": "bigint",
    "(-7 / 2)::bigint": "bigint",
    "(SELECT array_agg(v ORDER BY v DESC) FROM unnest(ARRAY[1, NULL, 3]::bigint[]) AS u (v))":
        "bigint[]",
    "(SELECT array_agg(v ORDER BY v) FROM unnest(ARRAY['ä', 'B', 'a', '😀', 'ｅ']) AS u (v))":
        "text[]",
    "('NaN'::double precision)": "double precision",
    "('Infinity'::real)": "real",
    "('a' || k::text)": "text",
    "(0::real * -1)": "real",
    "(ARRAY[0::real * -1, 1::real])": "real[]",
}  # fmt: skip


@pytest.mark.parametrize("expression", PRELUDE)
def test_an_expression_is_read_as_postgresql_reads_it(
    expression: str, arrow: dbapi.Connection
) -> None:
    made = view(expression, PRELUDE[expression])
    expected = compute_as_logged(arrow, made, Spine.of([(1, AT)], made))["x"].to_pylist()
    got = answer(expression, PRELUDE[expression]).to_pylist()
    assert repr(got) == repr(expected)  # repr tells -0.0 from 0.0, and NaN is NaN


@pytest.mark.parametrize("left_out", range(len(dialect.PRELUDE)))
def test_each_part_of_the_prelude_is_needed(
    left_out: int, arrow: dbapi.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, some expression above is answered otherwise, or not at all."""
    if "TimeZone" in dialect.PRELUDE[left_out]:  # this machine's zone may be UTC anyway
        monkeypatch.setenv("TZ", "America/New_York")
    kept = [text for place, text in enumerate(dialect.PRELUDE) if place != left_out]
    whole = dialect.prelude_hash()
    monkeypatch.setattr(dialect, "PRELUDE", tuple(kept))
    assert dialect.prelude_hash() != whole
    differing = 0
    for expression, kind in PRELUDE.items():
        made = view(expression, kind)
        expected = compute_as_logged(arrow, made, Spine.of([(1, AT)], made))["x"].to_pylist()
        try:
            differing += repr(answer(expression, kind).to_pylist()) != repr(expected)
        except DefinitionError:
            differing += 1
    assert differing


def test_a_session_sees_its_relations_and_nothing_else(tmp_path: Path) -> None:
    secret = pa.table({"k": [1]})  # noqa: F841 - what a session must not find
    pq.write_table(spine(), tmp_path / "s.parquet")
    for source in ("secret AS s", f"read_parquet('{tmp_path}/s.parquet') AS s"):
        with session() as conn, pytest.raises(DefinitionError, match="cannot be run by DuckDB"):
            answers(conn, view("k", "bigint", source=source), spine()).read_all()
    with session() as conn, pytest.raises(duckdb.Error):
        conn.execute("SET TimeZone = 'Europe/Berlin'")


def test_history_may_be_files_where_they_are_allowed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"k": [1, 1, 2], "n": [3, 4, 5]}), tmp_path / "h.parquet")
    made = view("(SELECT sum(h.n) FROM history AS h WHERE h.k = s.k)::bigint", "bigint")
    with session(Limits(threads=1, memory="200MB", spill=tmp_path, files=True)) as conn:
        use_history(conn, {"history": f"SELECT * FROM read_parquet('{tmp_path}/h.parquet')"})
        got = answers(conn, made, spine([1, 2, 1])).read_all()
    assert sorted(got["x"].to_pylist()) == [5, 7, 7]


def test_what_fails_on_data_or_limits_says_which(tmp_path: Path) -> None:
    numbers = "(SELECT sum(a.i * b.i) FROM range(1000000) AS a (i), range(1000000) AS b (i))"
    with session() as conn:
        with pytest.raises(DefinitionError, match=r"made\.v1 cannot be run by DuckDB: Conversion"):
            answers(conn, view("('x' || k::text)::bigint", "bigint"), spine()).read_all()
        with pytest.raises(UnavailableError, match="was ended"), interrupted_after(conn, 0.2):
            answers(conn, view(f"{numbers}::double precision", "double precision"),
                    spine()).read_all()  # fmt: skip
        # The session is as it was.
        assert answers(conn, view("k", "bigint"), spine()).read_all()["x"].to_pylist() == [1]
    large = "(SELECT array_agg(i ORDER BY i % 7) FROM range(30000000) AS a (i))::bigint[]"
    with (
        session(Limits(memory="50MB")) as conn,
        pytest.raises(UnavailableError, match="was ended in DuckDB: Out of Memory"),
    ):
        answers(conn, view(large, "bigint[]"), spine()).read_all()


TYPES = {
    "smallint": "7", "integer": "-7", "bigint": "9007199254740993", "real": "0.1",
    "double precision": "-0.0", "boolean": "true", "text": "'ü'", "character varying(9)": "'v'",
    "timestamptz": "'2026-03-29 01:59:59.999999+00'", "date": "'2026-03-29'",
    "timestamp": "'2026-03-29 02:30:00.000001'", "uuid": "'00000000-0000-4000-8000-00000000000a'",
    "bytea": "'\\x00ff'", "numeric(12, 2)": "1234567.89", "numeric": "0.10",
    "integer[]": "ARRAY[1, NULL]", "text[]": "ARRAY['a', 'ü']", "real[]": "ARRAY[0.5, NULL]",
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_a_column_of_every_type_arrives_as_it_is(kind: str, database: str) -> None:
    with connect(database, autocommit=True) as conn:
        conn.execute("DROP TABLE IF EXISTS typed")
        conn.execute(f"CREATE TABLE typed (k bigint, v {kind})")
        conn.execute(f"INSERT INTO typed VALUES (1, {TYPES[kind]}), (2, NULL)")
    given = {
        "character varying(9)": "text",
        "date": "text",
        "timestamp": "text",
        "numeric(12, 2)": "text",
        "numeric": "double precision",
        "smallint": "integer",
    }
    made = view(
        f"(SELECT t.v FROM typed AS t WHERE t.k = s.k)::{given.get(kind, kind)}",
        given.get(kind, kind),
    )  # fmt: skip
    made = replace(made, reads=())
    with connect_arrow(database) as arrow, session() as conn:
        asked = Spine.of([(1, AT), (2, AT)], made)
        expected = compute_as_logged(arrow, made, asked).sort_by("k")["x"].to_pylist()
        source = type("Source", (), {"table": "typed"})()
        use_history(conn, {"typed": history_rows(arrow, source)})
        got = answers(conn, made, fetched(arrow, asked.query)).read_all().sort_by("k")
    assert repr(got["x"].to_pylist()) == repr(expected)
    assert expected[0] is not None


def test_a_numeric_that_no_decimal_holds_is_refused(database: str) -> None:
    source = type("Source", (), {"table": "typed"})()
    for value, fits in (("1e30", True), ("1e40", False), ("'NaN'", False)):
        with connect(database, autocommit=True) as conn:
            conn.execute("DROP TABLE IF EXISTS typed")
            conn.execute(f"CREATE TABLE typed AS SELECT {value}::numeric AS v")
        with connect_arrow(database) as arrow:
            if fits:
                assert history_rows(arrow, source)["v"].to_pylist() == [Decimal(10) ** 30]
            else:
                with pytest.raises(DefinitionError, match=r"typed\.v holds a numeric"):
                    history_rows(arrow, source)


def test_the_engine_of_now_answers_in_the_same_types(arrow: dbapi.Connection) -> None:
    """`compute` gives a text's own types; what a log holds is cast."""
    made = view("7", "real")
    spine_of_one = Spine.of([(1, AT)], made)
    assert compute(arrow, made, spine_of_one)["x"].type == pa.int32()
    assert compute_as_logged(arrow, made, spine_of_one)["x"].type == pa.float32()
    assert answer("7", "real").type == pa.float32()
