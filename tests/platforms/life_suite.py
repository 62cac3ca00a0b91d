"""The life of a platform, in order: seeded, served, streamed, learned from, moved, looked after.

``KILLS`` workers die (2); ``SEED`` (1) chooses where, and what is sent; ``SAMPLE`` (120) how
much is compared with the oracle.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from psycopg import sql

from extensions.asof import Computation, FeatureColumn, Freshness
from extensions.asof.backfill import backfill
from extensions.asof.feature_log_tables import ensure_log_tables
from extensions.asof.tick import tick
from extensions.database import connect_arrow
from extensions.feature_types import arrow_of_postgres
from extensions.local import apache_kafka
from extensions.stores.log_publishing import publish
from extensions.training import Labels, take
from extensions.versions.promotion import promote, rollback
from monitoring.audit.skew_audit import AuditReport, audit
from monitoring.baseline import take_baseline
from monitoring.checks.drift_check import check
from monitoring.checks.drift_store import Run, bind
from monitoring.checks.serving_log_window import Window
from monitoring.verdicts import CRITICAL, OK, WARNING
from tests.asof.asking import ask_rows
from tests.oracle.answers import bits
from tests.platforms.description import Platform
from tests.platforms.explanations import assert_explained, explained
from tests.platforms.streams import Sent, Streams
from tests.platforms.truth import Truth, latest, logged, online
from tests.platforms.world import World, world
from tests.served import logged as logged_requests
from tests.served import wait_for

KILLS = int(os.environ.get("KILLS", "2"))
SEED = int(os.environ.get("SEED", "1"))
# Of each view: entities, and rows of its log, that are compared with the oracle.
SAMPLE = int(os.environ.get("SAMPLE", "120"))
# Of each view: entities at times at which they were served that are explained.
EXPLAINED = 2
HOSTILE = ["<script>alert(1)</script>", "'; DROP TABLE x; --", '"', "", "a\nb", "%s {} \\"]
# Of a window. The rows of one request share what the request brings: they would not be so many.
REQUESTS = 400
_ON_THE_GRID: dict[Freshness, dict[str, Any]] = {
    Freshness.REALTIME: {},
    Freshness.HOURLY: {"minute": 0, "second": 0, "microsecond": 0},
    Freshness.DAILY: {"hour": 0, "minute": 0, "second": 0, "microsecond": 0},
}
# A version that is nobody's: its log is what a backfill alone writes.
_SPARE = 99


@pytest.fixture(scope="module")
def lived(
    platform: Platform,
    repo_root: Path,
    database: str,
    redis_server: str,
) -> Iterator[World]:
    redis_url = redis_server.rpartition("/")[0] + "/7"
    with world(platform, repo_root, database, redis_url) as made:
        yield made


@dataclass(frozen=True)
class Streamed:
    streams: Streams
    sent: Sent


@pytest.fixture(scope="module")
def streamed(lived: World, request: pytest.FixtureRequest) -> Streamed:
    """On genuine Apache Kafka; without it on the broker in memory, where no worker is killed."""
    genuine = apache_kafka.available() is None
    bootstrap = request.getfixturevalue("apache_kafka_server" if genuine else "kafka_server")
    streams = Streams(lived, bootstrap, SEED)
    sent = streams.run(KILLS if genuine else 0)
    lived.refresh()
    settle()
    return Streamed(streams, sent)


def settle() -> None:
    """A server follows writes, promotions and its near copies within a second."""
    time.sleep(1.5)


def test_a_seeded_history_is_computed_and_online(lived: World) -> None:
    truth = lived.truth()
    for name, load in lived.simulated.loads.items():
        assert load.inserted > 0
        assert len(truth.rows[name]) == load.inserted
    lived.refresh()
    settle()
    assert_online_is_log_is_oracle(lived, truth)
    lived.ask(truth)


def test_killed_workers_lose_and_double_nothing(streamed: Streamed) -> None:
    streamed.streams.assert_stored(streamed.sent)
    streamed.streams.assert_dead_letters()


def test_workers_were_killed(streamed: Streamed) -> None:
    if reason := apache_kafka.available():
        pytest.skip(reason)
    assert len(streamed.sent.places) == KILLS
    assert streamed.sent.hit > 0


def test_stream_is_batch_is_backfill_is_oracle(lived: World, streamed: Streamed) -> None:
    truth = lived.truth()
    with connect_arrow(lived.url) as arrow:
        for computation in lived.realtime():
            rows = logged(lived.conn, computation, streamed.sent.since)
            assert rows
            sample = lived.rng.sample(rows, min(SAMPLE, len(rows)))
            truth.assert_agrees(computation, sample)
            # All of them once more, at once.
            told = {(row.keys, row.as_of): bits(row.answer) for row in rows}
            asked = ask_rows(arrow, computation, [*told])
            assert {question: bits(answer) for question, answer in asked} == told
    for computation in lived.live().values():
        assert_backfill_ends_on_the_same(lived, truth, computation, streamed.sent)
    assert_online_is_log_is_oracle(lived, truth)
    lived.ask(truth)


def assert_backfill_ends_on_the_same(
    lived: World, truth: Truth, computation: Computation, sent: Sent
) -> None:
    """The log that would exist had nobody streamed or refreshed."""
    conn = lived.conn
    processed = sent.views.get(computation.name, sent.through)
    spare = replace(computation, version=_SPARE)
    ensure_log_tables(conn, [spare])
    try:
        backfill(conn, spare, lived.begun - timedelta(days=2), processed)
        filled = logged(conn, spare)
    finally:
        for table in ("watermarks", "backfills"):
            conn.execute(f"DELETE FROM {table} WHERE version = {_SPARE}")
        conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(spare.log_table)))
    sample = lived.rng.sample(filled, min(SAMPLE, len(filled)))
    assert truth.assert_agrees(computation, sample) > 0
    # As of the last time at which both must have asked: an hour may have ended since the refresh.
    through = processed.replace(**_ON_THE_GRID[computation.freshness])
    if computation.freshness is not Freshness.REALTIME:
        tick(conn, computation, through)
        publish(lived.store(), conn, computation)
        mine = latest(row for row in logged(conn, computation) if row.as_of <= through)
    else:
        mine = latest(logged(conn, computation))
    ended = latest(row for row in filled if row.as_of <= through)
    assert mine
    assert ended.keys() <= mine.keys()
    for keys, row in mine.items():
        # What was produced by the mark is in the log, as of the moment at which it was computed.
        # Who is not in the backfill has nothing in the horizon.
        at = max(through, row.as_of)
        there = keys in ended and at == through
        answer = ended[keys].answer if there else truth.answer(computation, keys, at)
        assert bits(row.answer) == bits(answer), (computation.name, keys, row, ended.get(keys))


def assert_online_is_log_is_oracle(lived: World, truth: Truth) -> None:
    store, now = lived.store(), datetime.now(UTC)
    for computation in lived.live().values():
        keys = truth.entities(computation.join_keys)
        keys = lived.rng.sample(keys, min(SAMPLE, len(keys)))
        held = online(store, computation, keys, now)
        truth.assert_agrees(computation, held)
        rows = logged(lived.conn, computation)
        there, last = {(row.keys, row.as_of) for row in rows}, latest(rows)
        assert any(row.keys in last for row in held)
        for row in held:
            if row.keys in last:
                # Of a message that came twice the values are logged once more; a worker that ends
                # then need not publish what is there already.
                assert (row.keys, row.as_of) in there
                assert bits(row.answer) == bits(last[row.keys].answer)


def test_versions_and_drift(lived: World, streamed: Streamed, tmp_path: Path) -> None:
    truth, second = lived.truth(), lived.platform.second
    bind(
        lived.conn, take_baseline(lived.store(), training_set(lived, truth, tmp_path), rank(lived))
    )
    assert findings(window(lived, truth)) == set()

    lived.stage()
    lived.refresh()
    settle()
    # Computed and online beside the first, and served to nobody.
    assert_online_is_log_is_oracle(lived, truth)
    assert lived.served_version(second.view) == 1
    first = lived.ask(truth)
    assert served_as(lived, truth, 1, first)

    promote(lived.conn, lived.project, second.view, 2, reason="to see it")
    wait_for(lambda: lived.served_version(second.view) == 2)
    settle()
    assert served_as(lived, truth, 2, lived.ask(truth))
    moved = findings(window(lived, truth))
    assert f"{second.view}:{second.feature}" in moved

    rollback(lived.conn, lived.project, second.view, reason="enough")
    wait_for(lambda: lived.served_version(second.view) == 1)
    settle()
    assert served_as(lived, truth, 1, lived.ask(truth))


def served_as(lived: World, truth: Truth, version: int, asked: list[Any]) -> bool:
    """Whether the moved feature was served as the oracle has it in that version."""
    second = lived.platform.second
    computation = lived.live()[f"{second.view}.v{version}"]
    names = [feature.name for feature in computation.features]
    ranked = [each for each in asked if each.service == rank(lived)]
    for each in ranked:
        keys = tuple(each.entity[key] for key in computation.join_keys)
        answer = dict(zip(names, truth.answer(computation, keys, each.at), strict=True))
        assert each.features[second.feature] == answer[second.feature]
    return bool(ranked)


def rank(lived: World) -> str:
    return lived.platform.routes.rank


def training_set(lived: World, truth: Truth, folder: Path) -> Path:
    """Labels of now, drawn as requests are drawn."""
    leading, others = lived.ids(truth)
    name, _, largest = lived.platform.routes.context
    rng, now, rows = lived.rng, datetime.now(UTC), 4_000
    labels = pa.table(
        {
            lived.pair[0]: rng.choices(leading, k=rows),
            lived.pair[1]: rng.choices(others, k=rows),
            name: [rng.randint(0, largest) for _ in range(rows)],
            "event_timestamp": pa.array([now] * rows, pa.timestamp("us", "UTC")),
        }
    )
    return take(
        lived.store(), rank(lived), Labels(labels, None, ""), folder / "train.parquet"
    ).manifest_path


def window(lived: World, truth: Truth) -> Run:
    """Serve some hundred rows, and compare the window that they fill with the baseline."""
    leading, others = lived.ids(truth)
    start, before = datetime.now(UTC), logged_requests(lived.conn)
    for _ in range(REQUESTS):
        lived.rank_only(lived.rng.choice(leading), [lived.rng.choice(others)])
    wait_for(lambda: logged_requests(lived.conn) >= before + REQUESTS)
    end = datetime.now(UTC) + timedelta(milliseconds=100)
    wait_for(lambda: datetime.now(UTC) > end + timedelta(milliseconds=50))
    return check(lived.url, Window(rank(lived), start, end), least_rows=300)


def findings(run: Run) -> set[str]:
    """The features that moved, by the check; it compared at least one."""
    assert run.error is None
    assert any(each.verdict == OK for each in run.findings)
    return {each.feature for each in run.findings if each.verdict in (WARNING, CRITICAL)}


def test_training_gives_what_http_told(lived: World) -> None:
    """At the time of each answer, through what was streamed, promoted and rolled back."""
    store = lived.store()
    ordered = sorted(lived.asked, key=lambda each: each.service)
    for service, answers in groupby(ordered, key=lambda each: each.service):
        told = list(answers)
        assert len(told) > 20
        labels = pd.DataFrame([{**each.entity, "event_timestamp": each.at} for each in told])
        joined = store.get_historical_features(labels, store.get_feature_service(service))
        trained = joined.to_arrow()
        assert trained.num_rows == len(told)
        for number, each in enumerate(told):
            for key, value in each.entity.items():
                assert trained[key][number].as_py() == value
            for name, value in each.features.items():
                assert same(trained[name][number], value), (each, name, trained[name][number])


def same(trained: pa.Scalar, told: Any) -> bool:
    """JSON's numbers are the shortest that are the same in single precision."""
    value = trained.as_py()
    kind = trained.type.value_type if pa.types.is_list(trained.type) else trained.type
    if pa.types.is_float32(kind):
        return np.array_equal(np.float32(value), np.float32(told))
    return bool(value == told)


def test_explanations_are_the_oracles_and_what_http_told(lived: World) -> None:
    """Of entities and times that were served, of others, and of names that are nobody's."""
    store, truth, second = lived.store(), lived.truth(), lived.platform.second
    compared = 0
    for computation in lived.live().values():
        served = [each for each in lived.asked if {*computation.join_keys} <= {*each.entity}]
        for each in lived.rng.sample(served, min(EXPLAINED, len(served))):
            keys = tuple(each.entity[key] for key in computation.join_keys)
            found = explained(store, computation, keys, each.at)
            assert_explained(truth, computation, found)
            told = found.to_json()["logged"]
            if computation.view == second.view:
                continue  # its pointer moved meanwhile
            for feature in computation.features:
                if feature.name in each.features:
                    logged_value = told["values"][feature.name] if told else feature.default
                    assert same(
                        pa.scalar(logged_value, _arrow(feature)), each.features[feature.name]
                    )
                    compared += 1
        for keys in lived.rng.sample(truth.entities(computation.join_keys), 1):
            at = datetime.now(UTC) - lived.rng.random() * timedelta(days=2)
            assert_explained(truth, computation, explained(store, computation, keys, at))
        if computation.key_types == ("text", "text"):
            for hostile in HOSTILE:
                found = explained(store, computation, (hostile, hostile), None)
                assert found.equal
                assert not any(each.events for each in found.sources if each.how == "own")
    assert compared >= 5


def _arrow(feature: FeatureColumn) -> pa.DataType:
    return arrow_of_postgres(feature.pg_type)


def test_an_audit_finds_nothing_and_then_what_was_changed(lived: World) -> None:
    lived.refresh()
    clean = audited(lived)
    assert clean.compared > 1_000
    assert (clean.bugs, clean.apart, clean.overdue) == (0, 0, 0), worst(clean)
    assert not clean.blind
    second, asked = lived.platform.second, [x for x in lived.asked if x.service == rank(lived)]
    label = f"{second.view}:{second.feature}"
    computation = lived.live()[f"{second.view}.v1"]
    rows = latest(logged(lived.conn, computation))
    # One that was served, and is in the log: behind the engine's back it gets another value.
    keys = [tuple(each.entity[key] for key in computation.join_keys) for each in asked]
    row = next(rows[each] for each in keys if each in rows)
    names = [feature.name for feature in computation.features]
    value = row.answer[names.index(second.feature)]
    lived.conn.execute(
        sql.SQL("UPDATE {} SET {} = %s WHERE {} = %s").format(
            *map(sql.Identifier, (computation.log_table, second.feature, lived.pair[1]))
        ),
        [value + 1 if isinstance(value, int) else f"{value}?", *row.keys],
    )
    red = audited(lived)
    assert red.bugs > 0
    views = {each.view for each in lived.live().values()}
    bugs = {each.feature for each in red.features if each.bug}
    # A transform that reads it is wrong with it.
    assert {each for each in bugs if each.partition(":")[0] in views} == {label}
    assert red.apart > 0


def worst(report: AuditReport) -> list[Any]:
    return [each.worst[:2] for each in report.features if each.bug] + [
        (view.name, view.worst) for view in report.views if view.findings
    ]


def audited(lived: World) -> AuditReport:
    return audit(lived.store(), lived.live(), lived.begun, datetime.now(UTC), entities=SAMPLE)
