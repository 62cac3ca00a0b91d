"""A stream replayed: training rows of past moments are what was served at those moments."""

import contextlib
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore, RepoConfig
from feast.data_source import PushMode
from feast.repo_config import RegistryConfig
from feast.repo_operations import parse_repo

from extensions.asof import Computation, Spine, compute
from extensions.asof.refresh import tick
from extensions.database import connect, connect_arrow
from extensions.database.events import INSERT_BATCH, take_ingest_lock
from extensions.stores.online import connection_string
from tests.point_in_time.views import OURS, address

USERS, ITEMS = 12, 8
ROUNDS, REQUESTS, ROWS = 12, 7, 12
GENRES = ("drama", "comedy", "horror")


@dataclass(frozen=True)
class Served:
    at: datetime
    rows: list[dict[str, int]]
    answer: dict[str, list[Any]]


@pytest.fixture
def store(fresh_database: str, redis_server: str, repo_root: Path, tmp_path: Path) -> FeatureStore:
    """The repository's own views over a fresh database."""
    with contextlib.chdir(repo_root):
        contents = parse_repo(repo_root)
    made = FeatureStore(
        config=RepoConfig(
            project="replay",
            provider="local",
            registry=RegistryConfig(
                path=str(tmp_path / "registry.db"),
                cache_ttl_seconds=600,
                enable_online_feature_view_versioning=True,
            ),
            offline_store={"type": OURS, **address(fresh_database)},
            online_store={
                "type": "extensions.stores.online.SkewlessRedisOnlineStore",
                "connection_string": connection_string(redis_server),
            },
            entity_key_serialization_version=3,
        )
    )
    made.apply(
        [
            *contents.entities,
            *contents.data_sources,
            *contents.feature_views,
            *contents.on_demand_feature_views,
            *contents.feature_services,
        ]
    )
    return made


class Stream:
    """Events in, the real-time views pushed, the others ticked and materialized."""

    def __init__(
        self, store: FeatureStore, url: str, computations: dict[str, Computation], seed: int
    ) -> None:
        self.store = store
        self.url = url
        self.computations = computations
        self.random = random.Random(seed)
        self.conn = connect(url, autocommit=True)
        self.events = 0
        vector = [0.0] * 31
        for i, genre in enumerate(GENRES):
            self.conn.execute(
                "INSERT INTO genres (genre, embedding) VALUES (%s, %s)", [genre, [i + 0.1, *vector]]
            )
        for item in range(1, ITEMS):
            self.conn.execute(
                "INSERT INTO items (item_id, genre, valid_from) VALUES (%s, %s, now())",
                [item, GENRES[item % 3]],
            )

    def now(self) -> datetime:
        row = self.conn.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        at: datetime = row[0]
        return at

    def arrive(self) -> list[tuple[int, int]]:
        """A few events, some of them days late."""
        pairs = []
        with self.conn.transaction():
            take_ingest_lock(self.conn)
            for _ in range(self.random.randint(1, 4)):
                pair = (self.random.randrange(USERS), self.random.randrange(ITEMS))
                late = timedelta(seconds=self.random.choice([0, 1, 60, 86_400 * 6, 86_400 * 40]))
                self.events += 1
                self.conn.execute(
                    "WITH batch AS (SELECT %s AS event_id, %s::bigint AS user_id, %s::bigint AS "
                    "item_id, clock_timestamp() - %s AS watched_at, NULL::timestamptz AS "
                    "ingested_at, %s AS duration_ms, %s::real AS progress, 0 AS arrival), "
                    + INSERT_BATCH.strip().removeprefix("WITH "),
                    [
                        f"e{self.events}",
                        *pair,
                        late,
                        self.random.randrange(10**7),
                        self.random.random(),
                    ],
                )
                pairs.append(pair)
        return pairs

    def push(self, pairs: list[tuple[int, int]]) -> None:
        """What the stream does: values of the touched entities as of now, online and logged."""
        users = sorted({(user,) for user, _ in pairs})
        for name, keys in (("user_watch_stats", users), ("user_item_progress", sorted(set(pairs)))):
            computation = self.computations[f"{name}.v1"]
            at = self.now()
            with connect_arrow(self.url) as arrow:
                spine = Spine.of([(*key, at) for key in keys], computation)
                values = compute(arrow, computation, spine).to_pandas()
            frame = values.rename(columns={"as_of": "event_timestamp"})
            frame["created_timestamp"] = pd.Timestamp(self.now())
            self.store.push(f"{name}_push", frame, to=PushMode.ONLINE_AND_OFFLINE)

    def batch(self) -> None:
        """The ticks of the other views, and Feast's materialization of what they logged."""
        names = ["user_preferences", "user_habits", "item_stats", "item_profile"]
        for name in names:
            tick(self.conn, self.computations[f"{name}.v1"])
        self.store.materialize_incremental(self.now(), feature_views=names)

    def request(self) -> Served:
        rows = [
            {
                "user_id": self.random.randrange(USERS + 1),
                "item_id": self.random.randrange(ITEMS + 1),
                "request_hour": self.random.randrange(24),
            }
            for _ in range(ROWS)
        ]
        at = self.now()
        service = self.store.get_feature_service("ranking")
        return Served(at, rows, self.store.get_online_features(service, rows).to_dict())


def replay(stream: Stream) -> list[Served]:
    answers = []
    for i in range(ROUNDS):
        for _ in range(REQUESTS):
            answers.append(stream.request())
            if stream.random.random() < 0.5:
                stream.push(stream.arrive())
        if i % 3 == 1:
            stream.batch()
    return answers


def test_training_rows_are_what_was_served(
    store: FeatureStore, fresh_database: str, computations: dict[str, Computation]
) -> None:
    stream = Stream(store, fresh_database, computations, seed=20)
    served = replay(stream)
    random.Random(1).shuffle(served)
    labels = pd.DataFrame([{**row, "event_timestamp": s.at} for s in served for row in s.rows])
    assert len(labels) >= 1000
    service = store.get_feature_service("ranking")
    trained = store.get_historical_features(entity_df=labels, features=service).to_arrow()
    names = [n for n in served[0].answer if n not in {"user_id", "item_id", "request_hour"}]
    assert len(names) == 10
    for name in names:
        online = [value for s in served for value in s.answer[name]]
        offline = trained[name].to_pylist()
        assert len(set(map(str, online))) > 1, name
        if isinstance(online[0], float):
            # The wire holds float32; Python shows it widened on both sides.
            online, offline = np.float32(online).tolist(), np.float32(offline).tolist()
        pairs = zip(online, offline, strict=True)
        differing = [i for i, (was, is_) in enumerate(pairs) if was != is_]
        assert not differing, (name, len(differing), labels.iloc[differing[0]].to_dict())

    # The same labels, dated now, are other rows: the comparison above is not idle.
    today = store.get_historical_features(
        entity_df=labels.assign(event_timestamp=stream.now()),
        features=["user_watch_stats:user_watch_count_7d"],
    ).to_arrow()
    assert today["user_watch_count_7d"].to_pylist() != (trained["user_watch_count_7d"].to_pylist())
    stream.conn.close()
