"""The repository's own features as aggregations: bit for bit what the hand-written texts give."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import Aggregation, BatchFeatureView, Entity, Field
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)
from feast.repo_contents import RepoContents
from feast.types import Float32, Int64

from extensions.asof import Computation, Spine
from extensions.asof.aggregations.completion import complete_contents
from extensions.asof.computation_loading import computations_in
from extensions.database import connect, connect_arrow
from extensions.history.simulate import simulate
from feature_repo.entities import item, user
from feature_repo.simulator import Simulation
from tests.asof.asking import ask
from tests.asof.dense import dense_history
from tests.asof.loading import clear, load, media_sources
from tests.oracle.answers import bits

DAY = timedelta(days=1)
events = PostgreSQLSource(
    name="watch_events",
    table="watch_events",
    timestamp_field="watched_at",
    created_timestamp_column="ingested_at",
    tags={"keys": "user_id,item_id", "id": "event_id"},
)


def aggregated(
    entities: Sequence[Entity], feature: str, dtype: Any, tags: dict[str, str], **how: Any
) -> Computation:
    view = BatchFeatureView(
        name=f"declared_{feature}",
        version="v1",
        entities=list(entities),
        source=events,
        online=True,
        schema=[Field(name=feature, dtype=dtype, tags=tags)],
        aggregations=[Aggregation(name=feature, **how)],
        tags={"freshness": "daily"},
    )
    contents = RepoContents(
        projects=[], data_sources=[events], entities=[user, item], feature_services=[],
        feature_views=[view], on_demand_feature_views=[], stream_feature_views=[],
        permissions=[], label_views=[],
    )  # fmt: skip
    [computation] = computations_in(complete_contents(contents), Path("/nonexistent")).values()
    return computation


# (The hand-written computation, its feature, the same by declaration.)
PAIRS = [
    (
        "user_watch_stats.v1",
        aggregated(
            [user], "user_watch_count_7d", Int64, {"default": "0"},
            function="count", time_window=7 * DAY,
        ),
    ),
    (
        "user_habits.v1",
        aggregated(
            [user], "user_avg_watch_duration_min", Float32,
            {"default": "0.0", "divide_by": "60000"},
            column="duration_ms", function="mean", time_window=30 * DAY,
        ),
    ),
    (
        "item_stats.v1",
        aggregated(
            [item], "item_popularity_score", Float32,
            {"default": "0.0", "decay_rate": "0.1 per day", "divide_by": "1000"},
            function="decayed_count", time_window=14 * DAY,
        ),
    ),
    (
        "user_item_progress.v1",
        aggregated(
            [user, item], "user_item_watch_progress", Float32, {"default": "0.0"},
            column="progress", function="last",
        ),
    ),
]  # fmt: skip
IDS = [declared.features[0].name for _, declared in PAIRS]


@pytest.fixture(scope="module", params=["dense", "simulated"])
def history(request: pytest.FixtureRequest, database: str) -> str:
    """A database with a history: hostile by hand, or a small platform's."""
    if request.param == "dense":
        load(database, dense_history(), batches=1)
    else:
        with connect(database) as conn:
            clear(conn)
        history = Simulation(users=60, items=40, events=6_000, days=40, seed=5)
        simulate(database, history, media_sources(database))
    return database


@pytest.mark.parametrize(("name", "declared"), PAIRS, ids=IDS)
def test_a_declared_feature_is_the_hand_written_one(
    name: str, declared: Computation, history: str, computations: dict[str, Computation]
) -> None:
    written = computations[name]
    [feature] = declared.features
    at = list(written.columns).index(feature.name) - len(written.join_keys) - 1
    with connect(history) as conn:
        keys = ", ".join(written.join_keys)
        rows = conn.execute(
            f"SELECT DISTINCT {keys}, watched_at + g * interval '5 days' "
            "FROM watch_events, generate_series(0, 6) AS g "
            "ORDER BY 2, 1 LIMIT 20000"
        ).fetchall()
    assert len(rows) > 5_000
    spine = Spine.of(rows, written)
    with connect_arrow(history) as arrow:
        expected = {
            question: bits((answer[at],)) for question, answer in ask(arrow, written, spine)
        }
        got = {question: bits(answer) for question, answer in ask(arrow, declared, spine)}
    assert len(set(expected.values())) > 5
    assert got == expected
    if name == "user_watch_stats.v1":
        assert declared.horizon == written.horizon
