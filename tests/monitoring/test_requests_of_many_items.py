"""A few requests of many items are a few requests: what they bring is theirs, not their items'."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from feast.types import Float64, Int32, Int64, String

from benchmarks.drift_families import measured
from extensions.database import connect, connect_arrow
from extensions.stores.offline.writes import serving_log_table
from monitoring.baseline import Baseline, Feature, baseline_of
from monitoring.checks.drift_check import for_window
from monitoring.checks.serving_log_window import Window
from monitoring.suite import Rules, expectations_of
from monitoring.verdicts import WARNING, at_least

SERVICE, VIEW = "shown", "signals"
START, HOUR = datetime(2026, 5, 4, tzinfo=UTC), timedelta(hours=1)
USERS, ITEMS = 20_000, 2_000
# What a request brings: a number that has no strata, and a text that has some.
BROUGHT = ("pace", "device")
FEATURES = [
    Feature("users", "level", "DOUBLE", 1, ("user_id",)),
    Feature("items", "price", "DOUBLE", 1, ("item_id",)),
    Feature("pairs", "seen", "DOUBLE", 1, ("user_id", "item_id")),
    Feature(VIEW, "hurry", "DOUBLE", 0, (), (), BROUGHT),
    Feature(VIEW, "kind", "STRING", 0, (), (), BROUGHT),
    Feature(VIEW, "closeness", "DOUBLE", 0, (), ("users",), BROUGHT),
    Feature(VIEW, "worth_it", "DOUBLE", 0, (), ("items",), BROUGHT),
    Feature(VIEW, "match", "DOUBLE", 0, (), ("users", "items"), ()),
    Feature(VIEW, "all", "DOUBLE", 0, (), ("users", "items"), BROUGHT),
]
KINDS = {one.name: one.kind for one in FEATURES}
ONCE_PER_REQUEST = ("level",)


@dataclass(frozen=True)
class Shape:
    """A window: so many requests of so many items each."""

    requests: int
    items: int


class Service:
    """Users, items and requests that stay what they are."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.levels = rng.normal(5, 2, USERS)
        self.prices = rng.lognormal(2, 0.5, ITEMS)

    def rows(self, shape: Shape, rng: np.random.Generator, shift: float = 0.0) -> dict[str, Any]:
        """One column for each key, each field of the request and each feature.

        ``shift``: by how much what requests bring has moved.
        """
        n = shape.requests * shape.items
        each = np.repeat(np.arange(shape.requests), shape.items)
        users, items = rng.integers(0, USERS, shape.requests)[each], rng.integers(0, ITEMS, n)
        pace = rng.normal(shift, 1, shape.requests)[each]
        device = rng.choice(["phone", "tablet", "tv"], shape.requests, p=[0.6, 0.3, 0.1])[each]
        level, price = self.levels[users], self.prices[items]
        noise = rng.normal(0, 0.2, n)
        return {
            "request": each, "user_id": users, "item_id": items, "pace": pace, "device": device,
            "level": level, "price": price, "seen": level + noise, "hurry": pace,
            "kind": np.where(pace > 0.5, "late", device), "closeness": level - 2 * pace,
            "worth_it": pace + price / 10, "match": level - price / 10, "all": level * pace - price,
        }  # fmt: skip

    def baseline(self, shape: Shape, rng: np.random.Generator, **of: Any) -> Baseline:
        """The baseline of labels of so many requests; ``of``: columns in place of their own."""
        columns = {**self.rows(shape, rng), **of}
        moments = START - timedelta(days=30) + HOUR * 0
        spread = rng.integers(0, 28 * 86_400_000_000, shape.requests)[columns.pop("request")]
        at = np.datetime64(moments.replace(tzinfo=None), "us") + spread.astype("timedelta64[us]")
        columns.setdefault("event_timestamp", pa.array(at, pa.timestamp("us", "UTC")))
        return baseline_of(SERVICE, {}, "none", pa.table(columns), FEATURES, {})


def log_requests(conn: psycopg.Connection, url: str, columns: dict[str, Any]) -> None:
    """The window's rows in the serving log, without the features."""
    types = {
        "user_id": Int64, "item_id": Int64, "request__pace": Float64, "request__device": String,
        **{f"{view}__version": Int32 for view in ("users", "items", "pairs")},
    }  # fmt: skip
    serving_log_table.ensure_columns(conn, types)
    serving_log_table.ensure_partitions(conn, START, START)
    each = columns["request"]
    n = len(each)
    first = np.concatenate([[True], each[1:] != each[:-1]])
    ones = np.ones(n, np.int32)
    rows = {
        "served_at": pa.array([START] * n, pa.timestamp("us", "UTC")),
        "service": pa.array([SERVICE] * n),
        "request_id": each * 7_919,
        "row_number": np.zeros(n, np.int32),
        "user_id": columns["user_id"],
        "item_id": columns["item_id"],
        "request__pace": columns["pace"],
        "request__device": columns["device"],
        "users__version": pa.array(ones, mask=~first),
        "items__version": ones,
        "pairs__version": ones,
    }
    conn.execute("DELETE FROM served_features")
    with connect_arrow(url) as arrow:
        serving_log_table.append_rows(arrow, pa.table(rows))


def alarms(conn: psycopg.Connection, base: Baseline, columns: dict[str, Any]) -> set[str]:
    """Which features alarm in the window of the rows that are logged."""
    compared, unwatched = for_window(conn, Window(SERVICE, START, START + HOUR), base)
    assert not unwatched
    each = columns["request"]
    first = np.concatenate([[True], each[1:] != each[:-1]])
    bad = set()
    for view in ("users", "items", "pairs", VIEW):
        for asked in expectations_of(compared, view, Rules.of(compared), set(KINDS)):
            if not hasattr(asked, "judged") or asked.column not in KINDS:
                continue
            values = columns[asked.column]
            values = values[first] if asked.column in ONCE_PER_REQUEST else values
            found = asked.judged(measured(asked, KINDS[asked.column], values))
            if any(at_least(one.verdict, WARNING) for one in found):
                bad.add(asked.column)
    return bad


@pytest.mark.parametrize(
    "shape", [Shape(50, 20), Shape(20, 50), Shape(200, 10), Shape(1_000, 1)],
    ids=lambda shape: f"{shape.requests} requests of {shape.items}",
)  # fmt: skip
@pytest.mark.parametrize(
    "trained", [Shape(10_000, 1), Shape(500, 20)], ids=["labels apart", "labels of requests"]
)
def test_a_stationary_service_is_quiet(fresh_database: str, shape: Shape, trained: Shape) -> None:
    """At most 0.5 % of windows, all features together: of 24, more than 1 has p = 0.007."""
    rng = np.random.default_rng([shape.requests, trained.requests])
    service = Service(rng)
    found = []
    with connect(fresh_database, autocommit=True) as conn:
        for _ in range(4):
            base = service.baseline(trained, rng)
            for _ in range(6):
                columns = service.rows(shape, rng)
                log_requests(conn, fresh_database, columns)
                found.append(alarms(conn, base, columns))
    assert sum(map(bool, found)) <= 1, found


@pytest.mark.parametrize("instant", [False, True], ids=["labels of a month", "labels of a moment"])
@pytest.mark.parametrize("shape", [Shape(1_000, 1), Shape(1_000, 20)], ids=["alone", "ranking"])
def test_what_a_thousand_requests_bring_is_seen_to_move(
    fresh_database: str, shape: Shape, instant: bool
) -> None:
    """95 % of windows: of 20, fewer than 17 has p = 0.003."""
    rng = np.random.default_rng([shape.items, instant])
    service = Service(rng)
    one = {"event_timestamp": pa.array([START - HOUR] * 10_000, pa.timestamp("us", "UTC"))}
    seen = dict.fromkeys(("hurry", "closeness"), 0)
    with connect(fresh_database, autocommit=True) as conn:
        base = service.baseline(Shape(10_000, 1), rng, **one if instant else {})
        for _ in range(20):
            columns = service.rows(shape, rng, shift=0.4)
            log_requests(conn, fresh_database, columns)
            bad = alarms(conn, base, columns)
            assert not bad & {"level", "price", "seen", "match"}
            for name in seen:
                seen[name] += name in bad
    assert min(seen.values()) >= 17, seen


def test_rows_that_bring_something_each_are_worth_a_row(fresh_database: str) -> None:
    """A field that has a value for each item is not its request's."""
    rng = np.random.default_rng(8)
    service = Service(rng)
    worth = {}
    with connect(fresh_database, autocommit=True) as conn:
        base = service.baseline(Shape(10_000, 1), rng)
        for name, pace in (("shared", None), ("own", rng.normal(size=1_000))):
            columns = service.rows(Shape(50, 20), rng)
            log_requests(conn, fresh_database, columns | ({} if pace is None else {"pace": pace}))
            compared, _ = for_window(conn, Window(SERVICE, START, START + HOUR), base)
            worth[name] = {
                one.feature.name: one.content["independent"] for one in compared.features
            }
    assert worth["shared"]["hurry"] == pytest.approx(0.0545, rel=0.05)
    assert worth["own"]["hurry"] == pytest.approx(1, rel=0.05)
    assert worth["own"]["all"] < 0.1  # its user is one for all items all the same
    assert worth["shared"]["price"] > 0.7


def test_a_window_without_rows_or_keys_is_no_error(fresh_database: str) -> None:
    rng = np.random.default_rng(9)
    base = Service(rng).baseline(Shape(1_000, 1), rng)
    with connect(fresh_database, autocommit=True) as conn:
        compared, _ = for_window(conn, Window(SERVICE, START, START + HOUR), base)
        assert {one.content.get("independent", 1.0) for one in compared.features} == {1.0}
        conn.execute("ALTER TABLE served_features ADD COLUMN item_id bigint")
        compared, _ = for_window(conn, Window(SERVICE, START, START + HOUR), base)
    assert {one.content.get("independent", 1.0) for one in compared.features} == {1.0}
