"""The verdict on real history: what is asked and recorded, and that nothing can go wrong by it."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from time import monotonic

import psycopg
import pytest

from extensions.asof import Computation
from extensions.asof.definition_fingerprint import Definition
from extensions.database import connect, connect_arrow
from extensions.database.connection import conninfo_of
from extensions.engines import dialect, portability, questions
from extensions.engines.portability import judge, verdicts
from extensions.engines.questions import questions_of, slice_for
from extensions.engines.verdict import recorded
from tests.asof.dense import dense_history
from tests.asof.loading import clear, load
from tests.engines.constructs import CONSTRUCTS, computation


@pytest.fixture(scope="module")
def dense(database: str) -> Iterator[psycopg.Connection]:
    load(database, dense_history(), batches=1)
    with connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture(autouse=True)
def nothing_recorded(dense: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: time enough on a busy machine, since fewer questions are asked where there is less."""
    dense.execute("TRUNCATE engine_verdicts")
    monkeypatch.setattr(portability, "SECONDS", 100.0)


def definition(made: Computation) -> Definition:
    content = {
        "sql": made.sql, "join_keys": list(made.join_keys), "key_types": list(made.key_types),
        "features": [f.__dict__ for f in made.features], "freshness": made.freshness.value,
        "horizon": made.horizon and made.horizon.total_seconds(), "decays": made.decays,
        "reads": [{**s.__dict__, "keys": list(s.keys)} for s in made.reads], "types": {},
    }  # fmt: skip
    return Definition(made.view, made.version, "computation", content)


STDDEV = CONSTRUCTS["stddev"]


def test_every_registered_text_is_portable(
    dense: psycopg.Connection, computations: dict[str, Computation]
) -> None:
    definitions = [definition(each) for each in computations.values()]
    found = verdicts(dense, definitions, seconds=600)
    assert {verdict.outcome for verdict in found.values()} == {"portable"}, found
    # Of the catalogue, with its few rows, there are few questions.
    assert sum(verdict.questions for verdict in found.values()) > 6_000
    assert recorded(dense) == found


def test_a_text_that_differs_has_an_example_and_a_hint(
    dense: psycopg.Connection, counts: Computation
) -> None:
    made = computation(counts, STDDEV.expression, STDDEV.kind)
    [verdict] = verdicts(dense, [definition(made)]).values()
    assert verdict.outcome == "not portable"
    assert verdict.example is not None
    # The example is the engines' own answer to that question.
    keys, as_of = verdict.example.keys["user_id"], verdict.example.as_of
    [[value]] = dense.execute(
        "SELECT stddev(duration_ms)::float8 FROM watch_events WHERE user_id = %s "
        "AND watched_at <= %s AND ingested_at <= %s",
        [keys, as_of, as_of],
    ).fetchall()
    assert (value, verdict.example.feature) == (verdict.example.postgresql, "value")
    told = verdict.sentence()
    for part in ("not portable: user_id ", "in PostgreSQL and", "in DuckDB", "two passes"):
        assert part in told
    [[kept]] = dense.execute("SELECT example FROM engine_verdicts").fetchall()
    assert kept["keys"] == {"user_id": str(keys)}
    assert kept["postgresql"] == repr(value)


def test_a_verdict_is_of_the_versions_that_it_was_made_with(
    dense: psycopg.Connection, counts: Computation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = portability.judge

    def counted(conn, made, **more):
        asked.append(made.name)
        return ask(conn, made, **more)

    monkeypatch.setattr(portability, "judge", counted)
    one = definition(counts)
    verdicts(dense, [one])
    verdicts(dense, [one])
    assert len(asked) == 1
    monkeypatch.setattr(dialect, "PRELUDE", (*dialect.PRELUDE, "SET memory_limit = '900MB'"))
    verdicts(dense, [one])
    assert len(asked) == 2
    dense.execute("UPDATE engine_verdicts SET engine_version = '0.1'")
    verdicts(dense, [one])
    dense.execute("UPDATE engine_verdicts SET postgresql = '9.6'")
    verdicts(dense, [one])
    # One of few questions, and one that could not be asked, are asked again.
    dense.execute("UPDATE engine_verdicts SET questions = 20")
    verdicts(dense, [one])
    dense.execute("UPDATE engine_verdicts SET verdict = 'not asked', questions = 9999")
    verdicts(dense, [one])
    assert len(asked) == 6
    # Another text of the same number is another text.
    verdicts(dense, [definition(replace(counts, sql=counts.sql.replace("168", "169")))])
    assert len(asked) == 7


def test_without_history_nothing_is_asked(fresh_database: str, counts: Computation) -> None:
    with connect(fresh_database, autocommit=True) as conn:
        clear(conn)
        [verdict] = verdicts(conn, [definition(counts)]).values()
        assert (verdict.outcome, verdict.questions) == ("not asked", 0)
        assert verdict.sentence() == "not asked: there is no history to ask about"
        assert [each.outcome for each in recorded(conn).values()] == ["not asked"]


def test_asking_is_bounded_in_time(dense: psycopg.Connection, counts: Computation) -> None:
    slow = computation(counts, "(SELECT count(*) FROM pg_sleep(30))", "bigint")
    began = monotonic()
    verdict = judge(dense, slow, seconds=1)
    assert monotonic() - began < 5
    assert verdict.outcome == "not asked"
    assert "took longer than 1 seconds" in verdict.sentence()
    heavy = "(SELECT sum(a.i * b.i) FROM range(1000000) AS a (i), range(1000000) AS b (i))"
    with connect_arrow(conninfo_of(dense)) as arrow:
        asking = portability._Judge(arrow, counts, portability.versions_of(dense), monotonic() + 1)
        found = questions_of(arrow, counts, 10)
        with pytest.raises(portability.UnavailableError):
            asking._computation = computation(counts, f"({heavy})::bigint", "bigint")
            asking._by_duckdb(found, slice_for(arrow, counts, found) or {})
    began = monotonic()
    found_late = verdicts(dense, [definition(slow), definition(counts)], seconds=0)
    assert {each.outcome for each in found_late.values()} == {"not asked"}
    assert monotonic() - began < 1


def test_whatever_fails_is_a_verdict(
    dense: psycopg.Connection, counts: Computation, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(counts, sql="SELECT nothing FROM spine")
    verdict = judge(dense, broken)
    assert verdict.outcome == "not asked"
    assert "nothing" in verdict.sentence()
    gone = replace(counts, reads=(replace(counts.reads[0], table="no_such_table"),))
    assert judge(dense, gone).outcome == "not asked"

    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(portability, "slice_for", fails)
    assert "MemoryError" in judge(dense, counts, seconds=100).sentence()


def test_a_role_that_only_reads_gets_a_verdict(
    dense: psycopg.Connection, database: str, counts: Computation
) -> None:
    with connect(database, autocommit=True) as reader:
        reader.execute("SET default_transaction_read_only = on")
        [verdict] = verdicts(reader, [definition(counts)]).values()
        assert verdict.outcome == "portable"
    assert not recorded(dense)


def test_a_database_without_the_table_gets_a_verdict(
    fresh_database: str, counts: Computation
) -> None:
    load(fresh_database, dense_history(), batches=1)
    with connect(fresh_database, autocommit=True) as conn:
        conn.execute("DROP TABLE engine_verdicts")
        [verdict] = verdicts(conn, [definition(counts)]).values()
        assert verdict.outcome == "portable"


def test_questions_lie_where_answers_change(dense: psycopg.Connection, counts: Computation) -> None:
    with connect_arrow(conninfo_of(dense)) as arrow:
        asked = questions_of(arrow, counts, 400).rows
        again = questions_of(arrow, counts, 400).rows
    assert asked == again
    assert len(set(asked)) == len(asked) > 200
    known = {
        (user, instant): None
        for user, watched, arrived in dense.execute(
            "SELECT user_id, watched_at, ingested_at FROM watch_events"
        ).fetchall()
        for instant in (max(watched, arrived), watched + timedelta(days=7))
    }
    assert sum(row in known for row in asked) > len(asked) / 3


def test_a_slice_that_is_too_large_is_asked_of_fewer_entities(
    dense: psycopg.Connection, counts: Computation, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = judge(dense, counts, seconds=100)
    monkeypatch.setattr(questions, "MOST_ROWS", 600)
    fewer = judge(dense, counts, seconds=100)
    assert fewer.outcome == whole.outcome == "portable"
    assert 0 < fewer.questions < whole.questions
    monkeypatch.setattr(questions, "MOST_ROWS", 3)
    assert "too large" in judge(dense, counts, seconds=100).sentence()


def test_a_large_table_is_sampled_by_pages(
    dense: psycopg.Connection, counts: Computation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "SAMPLED_FROM", 100)
    with connect_arrow(conninfo_of(dense)) as arrow:
        part = questions._part_of(arrow, counts.reads[0], 7).as_string(None)
        assert re.fullmatch(r"TABLESAMPLE SYSTEM \(\S+\) REPEATABLE \(7\)", part)
        assert questions_of(arrow, counts, 400).rows


@pytest.mark.parametrize("key", ["text", "uuid", "integer", "timestamptz"])
def test_keys_of_every_type(database: str, key: str, counts: Computation) -> None:
    made = {
        "text": "('{a,B,ä,\"q\\\"''{},\",É}'::text[])[1 + n % 5]",
        "uuid": "md5((n % 5)::text)::uuid",
        "integer": "n % 5",
        "timestamptz": "timestamptz '2026-01-01' + n % 5 * interval '1 day'",
    }[key]
    with connect(database, autocommit=True) as conn:
        conn.execute("DROP TABLE IF EXISTS typed_events")
        collation = ' COLLATE "C"' if key == "text" else ""
        conn.execute(
            f"CREATE TABLE typed_events (k {key}{collation} NOT NULL, at timestamptz, "
            "known timestamptz, v real)"
        )
        conn.execute(
            f"INSERT INTO typed_events SELECT {made}, t, t + n % 3 * interval '1 hour', n % 7 "
            "FROM generate_series(1, 200) AS n, "
            "LATERAL (SELECT timestamptz '2026-01-01' + n * interval '1 hour' AS t) AS x"
        )
        text = (
            "SELECT s.k, s.as_of, w.n FROM spine AS s CROSS JOIN LATERAL (SELECT {} AS n "
            "FROM typed_events AS e WHERE e.k = s.k AND e.at > s.as_of - interval '48 hours' "
            "AND e.at <= s.as_of AND e.known <= s.as_of) AS w"
        )
        source = replace(
            counts.reads[0], table="typed_events", keys=("k",), time="at", arrival="known"
        )
        typed = replace(
            counts, join_keys=("k",), key_types=(key,), reads=(source,),
            horizon=timedelta(hours=48), sql=text.format("count(*)"),
            features=(replace(counts.features[0], name="n"),),
        )  # fmt: skip
        verdict = judge(conn, typed, seconds=100)
        assert verdict.outcome == "portable", verdict
        assert verdict.questions > 100
        odd = replace(typed, sql=text.format("round(count(*)::double precision / 2)::bigint"))
        assert judge(conn, odd, seconds=100).outcome == "not portable"
