"""Explanations of entities against a platform's oracle."""

from datetime import datetime
from fractions import Fraction
from typing import Any

import numpy as np
from feast import FeatureStore

from extensions.asof import Computation
from extensions.asof.computation import HistorySource
from extensions.explain import Explanation, Limits, explain
from extensions.explain.report import SourceEvents
from tests.platforms.description import Keys, Row
from tests.platforms.truth import Truth

# So that every event of these histories is listed.
ALL = Limits(events=1_000, seconds=60)


def explained(
    store: FeatureStore, computation: Computation, keys: Keys, as_of: datetime | None
) -> Explanation:
    """As the command does, of this very version."""
    return explain(store, computation.name, [*map(str, keys)], "a test", as_of, ALL)


def assert_explained(truth: Truth, computation: Computation, found: Explanation) -> None:
    """The recomputed value is the oracle's, and so are the events; contributions add up."""
    keys = tuple(found.entity[name] for name in computation.join_keys)
    true = truth.answer(computation, keys, found.as_of)
    assert found.recomputed is not None
    kinds = [feature.pg_type for feature in computation.features]
    told = tuple(
        _exact(found.recomputed[feature.name], kind)
        for feature, kind in zip(computation.features, kinds, strict=True)
    )
    assert truth.platform.agrees(computation.view, told, true), (computation.name, told, true)
    assert [each.source for each in found.sources] == [*computation.tables]
    by_table = {source.table: source for source in computation.reads}
    for source in found.sources:
        if source.how in ("own", "shared"):
            assert_known(truth, computation, found, by_table[source.source], source)
    own = [event for each in found.sources if each.how == "own" for event in each.events]
    for name, adds_up in found.additive.items():
        value = found.recomputed[name]
        if not isinstance(value, int | float) or isinstance(value, bool):
            assert adds_up is False
            continue
        without = [event.effects[name].without for event in own]
        total = sum((Fraction(value) - Fraction(each) for each in without), Fraction(0))
        assert adds_up is (bool(own) and total == Fraction(value)), (name, adds_up)
        for event in own:
            effect = event.effects[name]
            assert effect.difference == value - effect.without
            assert effect.changed == (effect.without != value)


def assert_known(
    truth: Truth,
    computation: Computation,
    found: Explanation,
    source: HistorySource,
    told: SourceEvents,
) -> None:
    """The events are the rows of the entity that had happened and were known, late ones too."""
    rows = [
        row
        for row in truth.rows[source.table]
        if all(row[key] == found.entity[key] for key in source.keys if key in found.entity)
        and row[source.time] <= found.as_of
        and row[source.arrival] <= found.as_of
    ]
    if told.how == "own" and computation.horizon is not None:
        rows = [row for row in rows if row[source.time] > found.as_of - computation.horizon]
    assert told.known == len(rows)
    assert sorted(_identity(source, row) for row in rows) == sorted(
        (event.time, event.arrival, *map(str, event.keys.values())) for event in told.events
    )


def _identity(source: HistorySource, row: Row) -> tuple[Any, ...]:
    return (row[source.time], row[source.arrival], *(str(row[key]) for key in source.keys))


def _exact(value: Any, pg_type: str) -> Any:
    if isinstance(value, list):
        return tuple(_exact(part, pg_type.removesuffix("[]")) for part in value)
    return np.float32(value) if pg_type == "real" else value
