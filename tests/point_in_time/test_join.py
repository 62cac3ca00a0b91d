"""Ours, stock Feast and a naive oracle on one suite; stock's known faults are expected failures.

An expected failure is strict: if Feast mends one, the suite says so.
"""

import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore
from hypothesis import HealthCheck, given, settings

from tests.point_in_time import histories as strategies
from tests.point_in_time.histories import NOON, TICK, History
from tests.point_in_time.oracle import Label, LogRow, answers
from tests.point_in_time.views import NAMES, OURS, PAIRS, TTL, store_at

PAIR_DEFAULTS = (0, -1.5, 'it\'s \\ "none"', [0.5, -0.5])
NO_DEFAULTS = (None, None, None)
ONCE = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def write(conn: psycopg.Connection, table: str, log: Sequence[LogRow]) -> None:
    conn.execute(f"TRUNCATE {table}")
    rows = [(*row.keys, row.event, row.created, *row.features) for row in log]
    if rows:
        with conn.cursor() as cursor:
            places = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f"INSERT INTO {table} VALUES ({places})", rows)


def ask(
    store: FeatureStore, keys: Sequence[str], labels: Sequence[Label], features: list[str]
) -> list[tuple[Any, ...]]:
    frame = pd.DataFrame(
        {
            "label": range(len(labels)),
            **{key: [label.keys[i] for label in labels] for i, key in enumerate(keys)},
            "event_timestamp": [label.at for label in labels],
        }
    )
    table = store.get_historical_features(entity_df=frame, features=features).to_arrow()
    # Stock returns rows in any order; ours in the labels', which test_frames.py checks.
    table = table.sort_by("label")
    assert table["label"].to_pylist() == list(range(len(labels))), "one row per label"
    columns = [table[ref.partition(":")[2]].to_pylist() for ref in features]
    return list(zip(*columns, strict=True))


def bits(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Floats as their bits, so that NaN is NaN and 0.0 is not -0.0."""

    def bit(value: Any) -> Any:
        if isinstance(value, float):
            return "nan" if value != value else struct.pack("d", value)
        return [bit(part) for part in value] if isinstance(value, list) else value

    return [tuple(bit(value) for value in row) for row in rows]


def log_row(
    keys: tuple[Any, ...], event: datetime, created: datetime | None = None, seen: int = 1
) -> LogRow:
    return LogRow(keys, event, created or event, (seen, None, None, None))


@given(
    history=strategies.histories(
        strategies.st.tuples(strategies.whole, strategies.whole),
        strategies.pair_values,
        may_repeat=True,
    )
)
@ONCE
def test_composite_keys(ours: FeatureStore, conn: psycopg.Connection, history: History) -> None:
    write(conn, "pairs_v1", history.log)
    expected = answers(history.log, history.labels, PAIR_DEFAULTS)
    assert bits(ask(ours, ["user_id", "item_id"], history.labels, PAIRS)) == bits(expected)


@given(
    history=strategies.histories(
        strategies.st.tuples(strategies.text), strategies.name_values, may_repeat=False
    )
)
@ONCE
def test_text_keys_and_a_ttl(
    ours: FeatureStore, conn: psycopg.Connection, history: History
) -> None:
    write(conn, "names_log", history.log)
    expected = answers(history.log, history.labels, NO_DEFAULTS, ttl=TTL)
    assert bits(ask(ours, ["name"], history.labels, NAMES)) == bits(expected)


@given(
    history=strategies.histories(
        strategies.st.tuples(strategies.text), strategies.name_values, may_repeat=False
    )
)
@ONCE
def test_stock_agrees_where_it_can(
    stock: FeatureStore, logs: str, registry: str, conn: psycopg.Connection, history: History
) -> None:
    """One key, distinct rows and labels, arrival ignored: all three say the same."""
    labels = list(dict.fromkeys(history.labels))
    write(conn, "names_log", history.log)
    relaxed = store_at(logs, registry, OURS, bitemporal=False)
    expected = bits(answers(history.log, labels, NO_DEFAULTS, ttl=TTL, bitemporal=False))
    assert bits(ask(relaxed, ["name"], labels, NAMES)) == expected
    assert bits(ask(stock, ["name"], labels, NAMES)) == expected


# Each case: a log, labels, and what a request at the label's time would have been served.
CASES = {
    "keys whose digits run together": (
        [log_row((1, 23), NOON, seen=1), log_row((12, 3), NOON, seen=2)],
        [Label((1, 23), NOON), Label((12, 3), NOON)],
    ),
    "a row that came three times": (
        [log_row((1, 2), NOON)] * 3,
        [Label((1, 2), NOON)],
    ),
    "a label asked twice": (
        [log_row((1, 2), NOON)],
        [Label((1, 2), NOON), Label((1, 2), NOON)],
    ),
    "a row that was published after the label": (
        [log_row((1, 2), NOON, seen=1), log_row((1, 2), NOON + TTL, NOON + 3 * TTL, seen=2)],
        [Label((1, 2), NOON + 2 * TTL)],
    ),
    "a correction of the same event time": (
        [log_row((1, 2), NOON, seen=1), log_row((1, 2), NOON, NOON + TTL, seen=2)],
        [Label((1, 2), NOON + 2 * TTL)],
    ),
    "the label's own moment counts": (
        [log_row((1, 2), NOON - TTL, seen=1), log_row((1, 2), NOON, seen=2)],
        [Label((1, 2), NOON), Label((1, 2), NOON - TICK)],
    ),
    "an entity without a row": (
        [log_row((1, 2), NOON)],
        [Label((2, 1), NOON)],
    ),
    "years ago": (
        [log_row((1, 2), datetime(1969, 7, 20, tzinfo=NOON.tzinfo))],
        [Label((1, 2), datetime(1969, 7, 20, tzinfo=NOON.tzinfo) + timedelta(days=1))],
    ),
}
STOCK_FAULTS = {
    "keys whose digits run together": "the row id joins the keys without a delimiter",
    "a row that came three times": "duplicates fan out",
    "a row that was published after the label": "arrival is not asked about by default",
    "an entity without a row": "declared defaults are not filled",
}


def cases(faults: dict[str, str]) -> list[Any]:
    """A fault must show as the wrong answer, not as just any error."""
    return [
        pytest.param(
            *case,
            id=title,
            marks=[pytest.mark.xfail(strict=True, raises=AssertionError, reason=faults[title])]
            if title in faults
            else [],
        )
        for title, case in CASES.items()
    ]


@pytest.mark.parametrize(("log", "labels"), cases({}))
def test_cases_ours(
    ours: FeatureStore, conn: psycopg.Connection, log: list[LogRow], labels: list[Label]
) -> None:
    check(ours, conn, log, labels)


@pytest.mark.parametrize(("log", "labels"), cases(STOCK_FAULTS))
def test_cases_stock(
    stock: FeatureStore, conn: psycopg.Connection, log: list[LogRow], labels: list[Label]
) -> None:
    check(stock, conn, log, labels)


def check(
    store: FeatureStore, conn: psycopg.Connection, log: list[LogRow], labels: list[Label]
) -> None:
    write(conn, "pairs_v1", log)
    expected = answers(log, labels, PAIR_DEFAULTS)
    got = ask(store, ["user_id", "item_id"], labels, PAIRS)
    assert bits(got) == bits(expected)


def test_rows_of_one_moment_that_differ_have_one_answer(
    ours: FeatureStore, conn: psycopg.Connection
) -> None:
    log = [log_row((1, 2), NOON, seen=seen) for seen in (3, 9, 5)]
    found = set()
    for order in (log, log[::-1], [log[1], log[0], log[2]]):
        write(conn, "pairs_v1", order)
        found.add(str(ask(ours, ["user_id", "item_id"], [Label((1, 2), NOON)], PAIRS)))
    assert len(found) == 1
