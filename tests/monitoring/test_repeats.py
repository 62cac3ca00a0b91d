"""Users who ask again and again are no more users: quiet where nothing changed, and not deaf."""

import dataclasses
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from benchmarks import drift_platform as platform
from benchmarks.drift_families import measured
from extensions.database import connect
from monitoring.baseline import Feature, baseline_of
from monitoring.checks.drift_check import for_window
from monitoring.checks.serving_log_window import Window
from monitoring.statistics.repeated_entities import (
    BUCKETS,
    entity_counts,
    independent_share,
    live_counts,
)
from monitoring.suite import Rules, expectations_of
from monitoring.verdicts import WARNING, at_least

USERS = 20_000
FEATURES = [
    Feature("users", name, dtype, 1, ("user_id",))
    for name, dtype in (
        ("level", "DOUBLE"), ("amount", "DOUBLE"), ("group", "STRING"), ("vector", "DOUBLE_LIST"),
    )
]  # fmt: skip
KINDS = {one.name: one.kind for one in FEATURES}


class Population:
    """Users with one value each, and a training set of some of them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.values = {
            "level": rng.normal(5, 2, USERS),
            "amount": np.where(rng.random(USERS) < 0.9, 0, rng.lognormal(3, 1.5, USERS)),
            "group": rng.choice(list("abcdefghij"), USERS),
            "vector": rng.normal(size=(USERS, 8)),
        }
        asked = rng.integers(0, USERS, 10_000)
        columns: dict[str, Any] = {"user_id": asked}
        for name, values in self.values.items():
            columns[name] = list(values[asked])
        self.baseline = baseline_of("users", {}, "none", pa.table(columns), FEATURES, {})

    def bad(self, users: Any, *, factor: float = 1.0) -> tuple[set[str], float]:
        """Which features alarm in a window of these users' requests, and what a row is worth."""
        live = entity_counts(pa.table({"user_id": users}), ["user_id"])
        features = []
        for one in self.baseline.features:
            assert live is not None
            share = independent_share(live, one.content["entities"]["counts"])
            features.append(dataclasses.replace(one, content={**one.content, "independent": share}))
        base = dataclasses.replace(self.baseline, features=tuple(features))
        bad = set()
        for asked in expectations_of(base, "users", Rules.of(base), set(KINDS)):
            if not hasattr(asked, "judged") or asked.column not in KINDS:
                continue
            values = self.values[asked.column][users]
            if asked.column == "level":
                values = values * factor
            found = asked.judged(measured(asked, KINDS[asked.column], values))
            if any(at_least(one.verdict, WARNING) for one in found):
                bad.add(asked.column)
        return bad, share


@pytest.fixture(scope="module")
def population() -> Population:
    return Population(np.random.default_rng(1))


@pytest.mark.parametrize("requests", [1, 5, 20])
def test_few_users_who_ask_often_raise_no_alarm(population: Population, requests: int) -> None:
    """Each row counted for itself, 79 % of windows alarmed with 5 requests to a user."""
    rng = np.random.default_rng(requests)
    windows = [
        np.repeat(rng.integers(0, USERS, 1_000), rng.geometric(1 / requests, 1_000))[:1_000]
        for _ in range(40)
    ]
    alarms = [bad for bad, _ in map(population.bad, windows) if bad]
    assert len(alarms) <= 1, alarms
    shares = [share for _, share in map(population.bad, windows)]
    assert np.mean(shares) == pytest.approx(1.07 / (0.07 + 2 * requests - 1), rel=0.25)


def test_a_change_of_all_users_is_seen_all_the_same(population: Population) -> None:
    rng = np.random.default_rng(2)
    seen = 0
    for _ in range(20):
        users = np.repeat(rng.integers(0, USERS, 1_000), rng.geometric(0.2, 1_000))[:1_000]
        seen += "level" in population.bad(users, factor=1.25)[0]
    assert seen >= 18


def test_entities_that_come_as_often_as_in_training_cost_nothing() -> None:
    """A catalogue of 200 items: they are asked for thousands of times, here as there."""
    rng = np.random.default_rng(3)
    shares = 1 / np.arange(1, 201)
    drawn = [rng.choice(200, n, p=shares / shares.sum()) for n in (5_000, 20_000)]
    live, base = (entity_counts(pa.table({"item": one}), ["item"]) for one in drawn)
    assert live is not None
    assert base is not None
    assert independent_share(live, base) > 0.8
    assert independent_share(live, [0] * BUCKETS) == 1
    other = entity_counts(pa.table({"item": drawn[0] + 1_000}), ["item"])
    assert other is not None
    assert independent_share(other, base) < 0.05


def test_buckets_are_the_same_in_postgresql(fresh_database: str) -> None:
    rng = np.random.default_rng(4)
    numbers, texts = rng.integers(-(1 << 62), 1 << 62, 500), rng.choice(["ä", "b|c", ""], 500)
    table = pa.table({"a": numbers, "b": texts.tolist()})
    with psycopg.connect(fresh_database, autocommit=True) as conn:
        conn.execute("CREATE TABLE asked (a bigint, b text)")
        for a, b in zip(numbers.tolist(), texts.tolist(), strict=True):
            conn.execute("INSERT INTO asked VALUES (%s, %s)", [a, b])
        found = live_counts(conn, ["a", "b"], "asked", sql.SQL("true"))
    assert found == entity_counts(table, ["a", "b"])
    assert entity_counts(table, []) is None
    assert entity_counts(table, ["missing"]) is None


def test_a_window_is_told_what_its_rows_are_worth(fresh_database: str) -> None:
    with connect(fresh_database, autocommit=True) as conn:
        base = platform.baseline()
        platform.serve(conn, fresh_database, platform.STATIONARY, 1_000, 1, seed=1)
        hour = platform.START + platform.HOUR
        window = Window(platform.SERVICE, hour, hour + platform.HOUR)
        compared, _ = for_window(conn, window, base)
        worth = {one.content["independent"] for one in compared.features}
        assert all(share > 0.85 for share in worth), worth
        conn.execute("UPDATE served_features SET user_id = user_id %% 5", {})
        compared, _ = for_window(conn, window, base)
        worth = {one.feature.view: one.content["independent"] for one in compared.features}
    assert worth["user_stats"] < 0.05 < 0.85 < worth["item_stats"]


def test_a_transform_belongs_to_the_entities_of_the_views_that_it_reads() -> None:
    rng = np.random.default_rng(5)
    columns: dict[str, Any] = {name: rng.integers(0, 9, 200) for name in ("user_id", "item_id")}
    features = [
        Feature("users", "a", "DOUBLE", 1, ("user_id",)),
        Feature("items", "b", "DOUBLE", 1, ("item_id",)),
        Feature("match", "c", "DOUBLE", 0, (), ("users", "items")),
        Feature("hours", "d", "DOUBLE", 0, (), ("users",)),
        Feature("other", "e", "DOUBLE", 0, (), ("users", "somewhere")),
    ]
    columns |= {one.name: rng.normal(size=200) for one in features}
    base = baseline_of("all", {}, "none", pa.table(columns), features, {})
    held = {one.feature.name: one.content.get("entities", {}).get("keys") for one in base.features}
    assert held == {
        "a": ["user_id"], "b": ["item_id"], "c": ["user_id", "item_id"], "d": ["user_id"],
        "e": None,
    }  # fmt: skip
